//! Creates and migrates the tables.
//!
//! Constraint: several processes may start at once. So each of them takes an advisory lock, runs
//! the missing migrations and stores their numbers, all in one transaction.

use std::sync::Arc;

use deadpool_postgres::Pool;
use tokio_postgres::Client;

use super::row;
use crate::store::error::{Fault, OpenError};

/// The migrations. Number n, counted from 1, migrates schema n - 1 to schema n.
///
/// A released migration never changes.
const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

/// The key of the advisory lock: `pwhooks` in ASCII.
const LOCK: i64 = 0x0070_7768_6f6f_6b73;

/// Creates the table with the number of the schema.
const VERSIONS: &str =
    "CREATE TABLE IF NOT EXISTS project_webhooks_schema (version BIGINT NOT NULL)";

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The schema of the database.
pub(super) enum Found {
    /// The tables have the schema of this program.
    Tables,
    /// The number of another schema. It is 0 if there are no tables.
    Other(i64),
}

/// Reads the number of the schema.
pub(super) async fn found(client: &Client) -> Result<Found, Fault> {
    let exists: bool = client
        .query_one(
            "SELECT to_regclass('project_webhooks_schema') IS NOT NULL",
            &[],
        )
        .await?
        .try_get(0)?;
    let version = if exists { version(client).await? } else { 0 };
    Ok(if version == known() {
        Found::Tables
    } else {
        Found::Other(version)
    })
}

async fn version(client: &Client) -> Result<i64, Fault> {
    let sql = "SELECT coalesce(max(version), 0) FROM project_webhooks_schema";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// Checks the server, and creates or migrates the tables.
pub(super) async fn migrate(pool: &Pool, location: &Arc<str>) -> Result<(), OpenError> {
    let fault = |fault: Fault| super::connect::open_error(location, fault);
    let mut client = pool.get().await.map_err(|error| fault(error.into()))?;
    if let Some(what) = unsuitable(&client).await.map_err(fault)? {
        return Err(OpenError::Unsuitable {
            location: Arc::clone(location),
            what,
        });
    }
    let found = apply(&mut client).await.map_err(fault)?;
    if found > known() {
        return Err(newer(location, found));
    }
    Ok(())
}

pub(super) fn newer(location: &Arc<str>, found: i64) -> OpenError {
    OpenError::Newer {
        path: location.to_string().into(),
        found,
        known: known(),
    }
}

pub(super) fn older(location: &Arc<str>, found: i64) -> OpenError {
    OpenError::Older {
        path: location.to_string().into(),
        found,
        known: known(),
    }
}

/// Whether this program is too old for the schema with this number.
pub(super) fn is_newer(found: i64) -> bool {
    found > known()
}

/// Applies missing migrations. Returns the number of the former schema.
async fn apply(client: &mut Client) -> Result<i64, Fault> {
    let transaction = client.transaction().await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    transaction.batch_execute(VERSIONS).await?;
    let found = version(transaction.client()).await?;
    for (version, migration) in (1_i64..).zip(MIGRATIONS) {
        if version > found {
            transaction.batch_execute(migration).await?;
            transaction
                .execute(
                    "INSERT INTO project_webhooks_schema VALUES ($1)",
                    &[&version],
                )
                .await?;
        }
    }
    transaction.commit().await?;
    Ok(found)
}

/// Returns why the store cannot use the server. `None` if it can.
async fn unsuitable(client: &Client) -> Result<Option<String>, Fault> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::bigint, \
             current_setting('server_encoding'), current_setting('synchronous_commit'), \
             pg_is_in_recovery()",
            &[],
        )
        .await?;
    let version: i64 = row.try_get(0)?;
    if version < 130_000 {
        let what = format!(
            "its server has PostgreSQL {}, but 13 or later is needed",
            version / 10_000
        );
        return Ok(Some(what));
    }
    let encoding = row::text(&row, 1)?;
    if encoding != "UTF8" {
        let what = format!("its encoding is {encoding}; create it with the encoding UTF8");
        return Ok(Some(what));
    }
    if row::text(&row, 2)? == "off" {
        let what = "synchronous_commit is off, so a crash of the server could lose events; switch \
                    it on for this database or user";
        return Ok(Some(what.to_owned()));
    }
    if row.try_get(3)? {
        let what = "this server is a replica; set the primary server in store.postgres, or \
                    target_session_attrs=read-write";
        return Ok(Some(what.to_owned()));
    }
    Ok(None)
}
