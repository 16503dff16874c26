//! Converts between rows and the types of the domain.
//!
//! Constraint: a value that cannot be parsed is an error, never a panic or a guess. SQLite's
//! integers are signed, so an inode number of 2^63 or more is stored as a negative number.

use rusqlite::Row;

use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{FileState, ProjectKey, Role, Stamp};
use crate::store::error::Fault;
pub(super) use crate::store::values::*;

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

/// Reads an event from a row, whose [`EVENT_COLUMNS`] start at the index `first`.
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
