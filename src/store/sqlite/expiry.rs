//! Makes pending deliveries dead if they are too old or there is no space for them.
//!
//! Constraint: a million pending deliveries may be checked each minute. So the check reads an index
//! with a separate connection. The writer only changes deliveries that the check found.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::lanes::{self, LaneEntry};
use super::{row, webhooks};
use crate::store::error::Fault;

/// The pending deliveries to make dead.
#[derive(Default)]
pub(super) struct Expiring {
    /// The ids that [`older`] or [`oldest_of_largest_backlog`] listed.
    pub(super) ids: Vec<i64>,
    /// A time in milliseconds. Deliveries that became pending at or after it stay pending.
    pub(super) before: i64,
    /// Why the deliveries become dead.
    pub(super) reason: String,
}

pub(super) const OLDER: &str = "SELECT id FROM deliveries WHERE webhook = ?1 \
     AND state = 'pending' AND waiting_ms < ?2 LIMIT ?3";

/// Lists at most `limit` deliveries that have been pending since before this time.
pub(super) fn older(connection: &Connection, before: i64, limit: usize) -> Result<Vec<i64>, Fault> {
    let mut ids = Vec::new();
    for webhook in webhooks::names(connection)? {
        let room = row::limit(limit.saturating_sub(ids.len()));
        let mut statement = connection.prepare_cached(OLDER)?;
        let found = statement.query_map(params![webhook, before, room], |row| row.get(0))?;
        ids.extend(found.collect::<rusqlite::Result<Vec<i64>>>()?);
    }
    Ok(ids)
}

pub(super) const LARGEST_BACKLOG: &str = "SELECT webhook FROM deliveries \
     WHERE state = 'pending' GROUP BY webhook ORDER BY count(*) DESC LIMIT 1";

/// Lists at most `limit` of the oldest pending deliveries of one webhook.
///
/// It is the webhook with the most pending deliveries.
pub(super) fn oldest_of_largest_backlog(
    connection: &Connection,
    limit: usize,
) -> Result<Vec<i64>, Fault> {
    let webhook: Option<String> = connection
        .prepare_cached(LARGEST_BACKLOG)?
        .query_row([], |row| row.get(0))
        .optional()?;
    // Read the table in the order of ids. This runs only at the limit of the state's size, when
    // nearly all of the oldest rows are pending. With an index, SQLite would sort the backlog.
    let mut statement = connection.prepare_cached(
        "SELECT id FROM deliveries NOT INDEXED WHERE webhook = ?1 AND state = 'pending' \
         ORDER BY id LIMIT ?2",
    )?;
    let ids = statement
        .query_map(params![webhook, row::limit(limit)], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(ids)
}

/// Makes the listed deliveries dead, if they are still pending and were not redelivered.
///
/// Returns the number of deliveries that it made dead, for each webhook.
pub(super) fn expire(
    connection: &Connection,
    expiring: &Expiring,
    now: Timestamp,
) -> Result<BTreeMap<String, usize>, Fault> {
    let mut expired: BTreeMap<String, usize> = BTreeMap::new();
    for id in &expiring.ids {
        // The delivery may have been delivered or cancelled after it was listed.
        let Some(lane) = LaneEntry::pending(connection, *id)? else {
            continue;
        };
        let n_changed = connection
            .prepare_cached(
                "UPDATE deliveries SET state = 'dead', is_head = 0, finished_ms = ?2, \
                 last_error = ?3 || coalesce('; last attempt: ' || (SELECT a.error \
                 FROM attempts a WHERE a.delivery = deliveries.id ORDER BY a.number DESC LIMIT 1), \
                 '') WHERE id = ?1 AND waiting_ms < ?4",
            )?
            .execute(params![
                id,
                row::milliseconds(now),
                expiring.reason,
                expiring.before
            ])?;
        // An operator may have redelivered the delivery after it was listed.
        if n_changed == 0 {
            continue;
        }
        lanes::left(connection, &lane)?;
        *expired.entry(lane.webhook).or_default() += 1;
    }
    Ok(expired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn a_delivery_that_was_redelivered_after_the_listing_stays_pending() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path()).unwrap());
        let connection = Connection::open(directory.path().join("state.db")).unwrap();
        connection
            .execute_batch(
                "INSERT INTO webhooks (name) VALUES ('all'); \
                 INSERT INTO deliveries (id, event, webhook, organization, project, state, is_head, \
                 is_delete, origin, due_ms, created_ms, waiting_ms) VALUES \
                 (1, 1, 'all', 'sales', 'one', 'pending', 1, 0, 'live', 0, 0, 0), \
                 (2, 2, 'all', 'sales', 'two', 'pending', 1, 0, 'live', 0, 0, 0);",
            )
            .unwrap();
        let mut ids = older(&connection, 1_000, 10).unwrap();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
        // Meanwhile the delivery was cancelled, and then redelivered.
        connection
            .execute("UPDATE deliveries SET waiting_ms = 5000 WHERE id = 2", [])
            .unwrap();
        let expiring = Expiring {
            ids,
            before: 1_000,
            reason: "too old".to_owned(),
        };
        let expired = expire(&connection, &expiring, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(expired, BTreeMap::from([("all".to_owned(), 1)]));
        assert_eq!(older(&connection, 10_000, 10).unwrap(), [2]);
    }
}
