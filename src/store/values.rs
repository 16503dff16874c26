//! Converts between the types of the domain and the values of columns.
//!
//! Constraint: a value that cannot be parsed is an error, not a panic. Only [`project_id_in`]
//! ignores damaged JSON. A number that is out of range is clamped.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Fault;
use crate::domain::delivery::State;
use crate::domain::event::Parameter;
use crate::domain::project::{ContentHash, ProjectKey};

/// The columns from which a file is read, in the table `files`.
pub(super) const FILE_COLUMNS: &str =
    "path, role, tag, inode, size, modified_ns, changed_ns, read_ns, hash, owner, document";

/// The columns from which an event is read, in the table `events` as `e`.
pub(super) const EVENT_COLUMNS: &str = "e.id, e.kind, e.organization, e.project, e.origin, \
     e.occurred_ns, e.parameters, e.explanation, e.payload";

/// The number of [`EVENT_COLUMNS`].
pub(super) const N_EVENT_COLUMNS: usize = 9;

/// Converts a time to milliseconds since the Unix epoch, rounded down: for past times.
pub(super) fn milliseconds(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// Converts a time to milliseconds since the Unix epoch, rounded up: for due times.
pub(super) fn milliseconds_up(time: Timestamp) -> i64 {
    let down = milliseconds(time);
    if from_milliseconds(down) < time {
        down.saturating_add(1)
    } else {
        down
    }
}

/// Converts milliseconds since the Unix epoch to a time, clamped to the valid range.
pub(super) fn from_milliseconds(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(if milliseconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// Converts a duration to milliseconds, clamped to 64 bits.
pub(super) fn duration(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

/// Converts a time to nanoseconds since the Unix epoch, clamped to 64 bits (the year 2262).
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time.as_nanosecond() < 0 {
        i64::MIN
    } else {
        i64::MAX
    })
}

/// Converts a number of rows or bytes. Negative numbers become 0.
pub(super) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Converts a limit or a size for SQL, clamped to 64 signed bits.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Undecodable {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

pub(super) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::Undecodable {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

/// Parses one of a fixed set of words.
pub(super) fn word<T>(
    what: &str,
    text: &str,
    from_word: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Fault> {
    from_word(text).ok_or_else(|| Fault::Undecodable {
        what: what.to_owned(),
        reason: format!("unknown word {text:?}"),
    })
}

/// Converts the value of a hash column.
pub(super) fn hash(what: &str, bytes: &[u8]) -> Result<ContentHash, Fault> {
    bytes
        .try_into()
        .map(ContentHash)
        .map_err(|_| Fault::Undecodable {
            what: what.to_owned(),
            reason: format!("the hash has {} bytes instead of 32", bytes.len()),
        })
}

/// Returns the hash of a text that may be too long for an index.
pub(super) fn indexed(text: &str) -> Vec<u8> {
    ContentHash::of(text.as_bytes()).0.to_vec()
}

/// Returns the hash of a project's id together with the name of its repository.
///
/// Copies of a repository have the same project ids. A delete in one copy must not delay events of
/// another copy.
pub(super) fn project_id(key: &ProjectKey, id: &str) -> Vec<u8> {
    let id = id.to_lowercase();
    match key.repository() {
        Some(repository) => indexed(&format!("{repository}//{id}")),
        None => indexed(&id),
    }
}

/// Returns the hash of the project id in the JSON parameters of an event.
///
/// `key` is the project of the event. Returns `None` if there is no id or the JSON is damaged. A
/// delivery without this hash waits for no delete in another lane.
pub(super) fn project_id_in(key: &ProjectKey, parameters: &str) -> Option<Vec<u8>> {
    let parameters: Vec<(Parameter, String)> = serde_json::from_str(parameters).ok()?;
    let (_, id) = parameters
        .iter()
        .find(|(name, _)| *name == Parameter::ProjectId)?;
    Some(project_id(key, id))
}

pub(super) fn state(what: &str, text: &str) -> Result<State, Fault> {
    word(what, text, State::from_word)
}
