//! Converts between rows and the types of the domain.
//!
//! Constraint: PostgreSQL's integers are signed, so an inode number above the signed range is
//! stored as a negative number. PostgreSQL's text cannot contain NUL. [`values`] has the rules for
//! invalid values.
//!
//! [`values`]: crate::store::values

use tokio_postgres::Row;

use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{ContentHash, FileState, ProjectKey, Role, Stamp};
use crate::store::error::Fault;
pub(super) use crate::store::values::*;

pub(super) fn text(row: &Row, column: usize) -> Result<String, Fault> {
    Ok(row.try_get(column)?)
}

pub(super) fn number(row: &Row, column: usize) -> Result<i64, Fault> {
    Ok(row.try_get(column)?)
}

/// Reads an unsigned number of 32 bits. A value out of range becomes 0.
pub(super) fn small(row: &Row, column: usize) -> Result<u32, Fault> {
    Ok(u32::try_from(number(row, column)?).unwrap_or_default())
}

pub(super) fn status(row: &Row, column: usize) -> Result<Option<u16>, Fault> {
    let status: Option<i32> = row.try_get(column)?;
    Ok(status.and_then(|status| u16::try_from(status).ok()))
}

pub(super) fn hash_in(what: &str, row: &Row, column: usize) -> Result<ContentHash, Fault> {
    hash(what, row.try_get::<_, &[u8]>(column)?)
}

/// Reads a project's key from the two columns that begin with the column `first`.
pub(super) fn key(row: &Row, first: usize) -> Result<ProjectKey, Fault> {
    Ok(ProjectKey::new(
        text(row, first)?,
        text(row, first.saturating_add(1))?,
    ))
}

/// Replaces NUL characters, which the database cannot store.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Collects one value of each row, as an array for a statement.
pub(super) fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Splits keys into two arrays for a statement: organizations and projects.
pub(super) fn arrays<'a>(
    keys: impl IntoIterator<Item = &'a ProjectKey>,
) -> (Vec<String>, Vec<String>) {
    keys.into_iter()
        .map(|key| (key.organization.clone(), key.project.clone()))
        .unzip()
}

/// Reads a file from a row of [`FILE_COLUMNS`].
pub(super) fn file(row: &Row) -> Result<FileState, Fault> {
    let path = text(row, 0)?;
    let what = || format!("the record of {path}");
    Ok(FileState {
        role: word(&what(), &text(row, 1)?, Role::from_word)?,
        tag: row.try_get(2)?,
        stamp: stamp(row, 3)?,
        read_ns: number(row, 7)?,
        hash: hash_in(&what(), row, 8)?,
        owner: text(row, 9)?,
        document: from_json(&what(), &text(row, 10)?)?,
        path,
    })
}

/// Reads a stamp from the four columns that begin with the column `first`.
pub(super) fn stamp(row: &Row, first: usize) -> Result<Stamp, Fault> {
    let column = |offset: usize| number(row, first.saturating_add(offset));
    Ok(Stamp {
        inode: column(0)?.cast_unsigned(),
        size: column(1)?.cast_unsigned(),
        modified_ns: column(2)?,
        changed_ns: column(3)?,
    })
}

/// Reads an event from the [`EVENT_COLUMNS`], which begin with the column `first`.
pub(super) fn event(row: &Row, first: usize) -> Result<Event, Fault> {
    let at = |column: usize| first.saturating_add(column);
    let id = text(row, at(0))?;
    let what = format!("the event {id}");
    Ok(Event {
        kind: word(&what, &text(row, at(1))?, EventKind::from_name)?,
        key: key(row, at(2))?,
        origin: word(&what, &text(row, at(4))?, Origin::from_word)?,
        occurred_at: crate::domain::event::timestamp(number(row, at(5))?),
        parameters: from_json(&what, &text(row, at(6))?)?,
        explanation: from_json(&what, &text(row, at(7))?)?,
        payload: hash_in(&what, row, at(8))?,
        id: EventId(id),
    })
}
