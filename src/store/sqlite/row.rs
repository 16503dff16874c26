//! Converts between rows and the types of the domain.
//!
//! Constraint: an invalid row is an error that names the row, never a panic or a guess. SQLite's
//! integers are signed, so an inode number above the signed range is stored as a negative number.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::delivery::State;
use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{ContentHash, FileState, ProjectKey, Role, Stamp};
use crate::store::error::Fault;

/// Milliseconds since the Unix epoch, rounded down. For times in the past.
pub(super) fn milliseconds(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// Milliseconds since the Unix epoch, rounded up. For times before which nothing may happen.
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

/// Converts an age to milliseconds, clamped to 64 bits.
pub(super) fn duration(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

/// Nanoseconds since the Unix epoch, clamped to 64 bits (the year 2262).
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time.as_nanosecond() < 0 {
        i64::MIN
    } else {
        i64::MAX
    })
}

/// Converts a number of rows or bytes. A negative number becomes 0.
pub(super) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Converts a limit for SQL, clamped to 64 signed bits.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Converts a value to JSON for a column.
pub(super) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Undecodable {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

/// Parses the value of a JSON column.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::Undecodable {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

/// Parses a word of a closed list.
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
            reason: format!("a hash of {} bytes", bytes.len()),
        })
}

/// The columns that [`file()`] reads.
pub(super) const FILE_COLUMNS: &str =
    "path, role, tag, inode, size, modified_ns, changed_ns, read_ns, hash, owner, document";

/// Reads a file from a row of [`FILE_COLUMNS`].
pub(super) fn file(row: &Row<'_>) -> Result<FileState, Fault> {
    let path: String = row.get(0)?;
    let what = || format!("the record of {path}");
    Ok(FileState {
        role: word(&what(), &row.get::<_, String>(1)?, Role::from_word)?,
        tag: row.get(2)?,
        stamp: Stamp {
            inode: row.get::<_, i64>(3)?.cast_unsigned(),
            size: row.get::<_, i64>(4)?.cast_unsigned(),
            modified_ns: row.get(5)?,
            changed_ns: row.get(6)?,
        },
        read_ns: row.get(7)?,
        hash: hash(&what(), &row.get::<_, Vec<u8>>(8)?)?,
        owner: row.get(9)?,
        document: from_json(&what(), &row.get::<_, String>(10)?)?,
        path,
    })
}

/// The columns that [`event`] reads from the table `events` with the alias `e`.
pub(super) const EVENT_COLUMNS: &str = "e.id, e.kind, e.organization, e.project, e.origin, \
     e.occurred_ns, e.parameters, e.explanation, e.payload";

/// Reads an event from a row. `first` is the index of the first of the [`EVENT_COLUMNS`].
pub(super) fn event(row: &Row<'_>, first: usize) -> Result<Event, Fault> {
    let text = |column: usize| row.get::<_, String>(first.saturating_add(column));
    let id = text(0)?;
    let what = format!("the event {id}");
    Ok(Event {
        kind: word(&what, &text(1)?, EventKind::from_name)?,
        key: ProjectKey::new(text(2)?, text(3)?),
        origin: word(&what, &text(4)?, Origin::from_word)?,
        occurred_at: crate::domain::event::timestamp(row.get(first.saturating_add(5))?),
        parameters: from_json(&what, &text(6)?)?,
        explanation: from_json(&what, &text(7)?)?,
        payload: hash(&what, &row.get::<_, Vec<u8>>(first.saturating_add(8))?)?,
        id: EventId(id),
    })
}

/// The number of columns of [`EVENT_COLUMNS`].
pub(super) const N_EVENT_COLUMNS: usize = 9;

/// Parses the state of a delivery.
pub(super) fn state(what: &str, text: &str) -> Result<State, Fault> {
    word(what, text, State::from_word)
}
