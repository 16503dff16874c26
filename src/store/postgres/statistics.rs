//! Tells the server to analyze growing tables.
//!
//! Constraint: the server plans a statement once for each connection, by its statistics of the
//! tables at that time. After an analysis, it plans again. By default, its autovacuum analyzes a
//! table at most once a minute. Within a minute, a first scan or a sender may fill empty tables
//! with a hundred thousand rows. A statement with a plan for an empty table could then read all
//! rows. So a process analyzes the tables whenever the number of its own changes has doubled.

use std::sync::atomic::{AtomicI64, Ordering};

use deadpool_postgres::Pool;
use tokio::sync::Notify;
use tracing::debug;

use super::client;
use super::session::{Session, statement};
use crate::error::chain;
use crate::store::error::Fault;

/// The minimum number of changes before the first analysis.
///
/// [`Statistics::read`] has an exception.
const FIRST: i64 = 500;

/// Analyzes the tables that may become large.
///
/// It skips a table that is locked, for example because another process analyzes it.
const ANALYZE: &str = "ANALYZE (SKIP_LOCKED) attempts, claims, deliveries, events, files, listeners, \
     moves, payloads, problems";

/// Counts the changes of this process, to decide when an analysis is due.
pub(super) struct Statistics {
    n_changed: AtomicI64,
    next_at: AtomicI64,
    is_due: Notify,
}

impl Statistics {
    /// Reads the server's estimates of the numbers of rows, to plan the first analysis.
    ///
    /// The first analysis is due when the number of changes reaches the number of rows in the
    /// smallest of three tables, but not before [`FIRST`]. Large tables can wait for autovacuum.
    /// From version 14 on, the server shows whether a table has no estimate. If such a table has
    /// rows, an analysis is also due at once.
    pub(super) async fn read(pool: &Pool) -> Result<Self, Fault> {
        let mut session = Session::of(pool).await?;
        let sql = "SELECT min(reltuples)::bigint, \
             bool_or(reltuples < 0 AND pg_relation_size(oid) > 0) FROM pg_class \
             WHERE oid IN ('attempts'::regclass, 'deliveries'::regclass, 'files'::regclass)";
        let rows = session.rows(statement!(sql)).await?;
        let is_due = Notify::new();
        let is_unknown = rows.first().map(|found| found.try_get(1)).transpose()?;
        if is_unknown == Some(true) {
            is_due.notify_one();
        }
        Ok(Self {
            n_changed: AtomicI64::new(0),
            next_at: AtomicI64::new(client::number(&rows)?.max(FIRST)),
            is_due,
        })
    }

    /// Counts changed rows.
    pub(super) fn changed(&self, n_rows: usize) {
        if self.count(n_rows) {
            self.is_due.notify_one();
        }
    }

    /// Analyzes the tables whenever an analysis is due. Never ends.
    pub(super) async fn keep(&self, pool: &Pool) {
        loop {
            self.is_due.notified().await;
            if let Err(fault) = analyze(pool).await {
                debug!(
                    fault = %chain(&fault),
                    "cannot analyze the tables; the server does so later"
                );
            }
        }
    }

    /// Counts changed rows. Returns whether an analysis is due.
    fn count(&self, n_rows: usize) -> bool {
        let n_rows = i64::try_from(n_rows).unwrap_or(i64::MAX);
        let before = self.n_changed.fetch_add(n_rows, Ordering::Relaxed);
        let n_changed = before.saturating_add(n_rows);
        let next_at = self.next_at.load(Ordering::Relaxed);
        n_changed >= next_at
            && self
                .next_at
                .compare_exchange(
                    next_at,
                    n_changed.saturating_mul(2),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }
}

/// Analyzes the tables, which usually takes a fraction of a second.
async fn analyze(pool: &Pool) -> Result<(), Fault> {
    let mut session = Session::of(pool).await?;
    session.rows(statement!(ANALYZE)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_analysis_is_due_each_time_that_the_changes_have_doubled() {
        let statistics = Statistics {
            n_changed: AtomicI64::new(0),
            next_at: AtomicI64::new(FIRST),
            is_due: Notify::new(),
        };
        let due: Vec<usize> = (1..=5_000).filter(|_| statistics.count(1)).collect();
        assert_eq!(due, [500, 1_000, 2_000, 4_000]);
    }
}
