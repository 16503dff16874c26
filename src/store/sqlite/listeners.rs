//! Stores the *listeners* of a project: the webhooks that its events were routed to.
//!
//! Constraint: listeners that subscribe to the delete of the project receive it, even after the
//! project was renamed. The listeners are deleted once no further delete of the project can follow.

use std::collections::BTreeSet;

use rusqlite::Connection;

use crate::domain::project::ProjectKey;
use crate::store::error::Fault;

pub(super) fn of(connection: &Connection, key: &ProjectKey) -> Result<BTreeSet<String>, Fault> {
    let webhooks = connection
        .prepare_cached("SELECT webhook FROM listeners WHERE organization = ?1 AND project = ?2")?
        .query_map([&key.organization, &key.project], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(webhooks)
}

pub(super) fn add(connection: &Connection, key: &ProjectKey, webhook: &str) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO listeners (organization, project, webhook) VALUES (?1, ?2, ?3) \
             ON CONFLICT DO NOTHING",
        )?
        .execute([&key.organization, &key.project, webhook])?;
    Ok(())
}

/// Deletes the listeners if the project was deleted. Adds the arriving ones.
///
/// The `arriving` listeners are those of a project that moved here.
pub(super) fn replace(
    connection: &Connection,
    key: &ProjectKey,
    is_deleted: bool,
    arriving: BTreeSet<String>,
) -> Result<(), Fault> {
    if is_deleted {
        forget(connection, key)?;
    }
    for webhook in arriving {
        add(connection, key, &webhook)?;
    }
    Ok(())
}

pub(super) fn forget(connection: &Connection, key: &ProjectKey) -> Result<(), Fault> {
    connection
        .prepare_cached("DELETE FROM listeners WHERE organization = ?1 AND project = ?2")?
        .execute([&key.organization, &key.project])?;
    Ok(())
}
