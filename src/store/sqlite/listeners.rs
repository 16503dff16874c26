//! Stores *listeners*: the webhooks that the events of a project were routed to.
//!
//! Constraint: a listener that subscribes to deletes receives the delete of the project, even if
//! the project was renamed and the webhook's filters no longer select it. The listeners are deleted
//! once no further delete of the project can follow.

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

/// Removes the listeners if `is_deleted`. Then adds the arriving ones.
///
/// `arriving` has the listeners of the change's `moved_from`.
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
