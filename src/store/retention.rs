//! Removing what is old enough.
//!
//! Constraint: it runs beside everything else, so it works in small pieces, and finding the next
//! piece costs nothing where there is none: each kind of garbage has an index of its own. Pending
//! deliveries are never removed, however old, and no event or payload that something needs.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::error::Fault;
use super::{payload, row};
use crate::config::Retention;
use crate::domain::delivery::State;

/// The free pages that are kept for reuse before the file is shrunk: 4 MiB.
const FREE_PAGES_KEPT: i64 = 1024;

/// What one piece of collection removed. When all of it is 0, nothing is left to collect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Deliveries, with their log.
    pub n_deliveries: usize,
    /// Events without deliveries.
    pub n_events: usize,
    /// Payloads without events and projects.
    pub n_payloads: usize,
    /// Pages given back to the file system.
    pub n_pages: u64,
}

impl Collected {
    /// Whether nothing was removed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

pub(super) const FINISHED: &str = "SELECT id FROM deliveries \
     WHERE state = ?1 AND finished_ms IS NOT NULL AND finished_ms < ?2 LIMIT ?3";

pub(super) const EVENTS_FINISHED: &str = "SELECT sequence FROM events \
     WHERE n_deliveries = 0 AND recorded_ms < ?1 LIMIT ?2";

/// Removes at most `limit` deliveries of each state and as many events.
pub(super) fn collect(
    connection: &Connection,
    retention: &Retention,
    now: Timestamp,
    limit: usize,
) -> Result<Collected, Fault> {
    let before = |age: Duration| {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        row::milliseconds(now).saturating_sub(age)
    };
    let mut collected = Collected::default();
    for (state, age) in [
        (State::Delivered, retention.delivered),
        (State::Dead, retention.dead),
        // What an operator gave up is asked about as long as what the schedule gave up.
        (State::Cancelled, retention.dead),
    ] {
        let n = connection
            .prepare_cached(&format!("DELETE FROM deliveries WHERE id IN ({FINISHED})"))?
            .execute(params![state.as_str(), before(age), row::limit(limit)])?;
        collected.n_deliveries = collected.n_deliveries.saturating_add(n);
    }
    collected.n_events = connection
        .prepare_cached(&format!(
            "DELETE FROM events WHERE sequence IN ({EVENTS_FINISHED})"
        ))?
        .execute(params![before(retention.delivered), row::limit(limit)])?;
    collected.n_payloads = payload::collect(connection)?;
    collected.n_pages = shrink(connection, limit)?;
    Ok(collected)
}

/// Gives free pages back to the file system where there are more than will be needed again soon.
fn shrink(connection: &Connection, limit: usize) -> Result<u64, Fault> {
    let free = || connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
    let n_free = free()?;
    let surplus = n_free
        .saturating_sub(FREE_PAGES_KEPT)
        .min(row::limit(limit));
    if surplus <= 0 {
        return Ok(0);
    }
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({surplus})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(row::count(n_free.saturating_sub(free()?)))
}
