//! Implements [`Operating`]: an operator's changes of deliveries and webhooks.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, params_from_iter};

use super::lanes::{self, LaneEntry};
use super::retention::Removal;
use super::transaction::transact;
use super::{replay, retention, row, schema, transfer, webhooks};
use crate::store::contract::{CHANGED_MAX, Operating, Progress};
use crate::store::error::{Fault, OpenError, StoreError};
use crate::store::listing::{OffCause, Replay, Selector};

/// The maximum number of deliveries that [`Chunk::after`] reads.
const READ_MAX: usize = 10_000;

/// A connection for writing, with or without a running daemon.
pub(in crate::store) struct SqliteOperations {
    connection: Connection,
    location: Arc<str>,
    progress: Option<Progress>,
}

impl SqliteOperations {
    /// Opens the state in a directory. Does not create or migrate the state.
    pub(in crate::store) fn open(state_dir: &Path) -> Result<Self, OpenError> {
        let connection = schema::open_for_writing(state_dir)?;
        transfer::refuse(&connection, &schema::database(state_dir))?;
        let path = schema::database(state_dir);
        Ok(Self {
            connection,
            location: path.to_string_lossy().into(),
            progress: None,
        })
    }

    /// Runs `change` on the selected deliveries in chunks, each in its own transaction.
    ///
    /// Returns the number of changed deliveries.
    fn in_chunks(
        &mut self,
        selector: &Selector,
        change: impl Fn(&Connection, &[i64]) -> Result<u64, Fault>,
    ) -> Result<u64, StoreError> {
        if selector.is_empty() {
            return Err(StoreError::new(&self.location, Fault::EmptySelector));
        }
        let mut n_changed = 0_u64;
        let mut after = i64::MIN;
        let mut counted = None;
        loop {
            let (last, n_handled, n) = self.in_transaction(|connection| {
                if selector.expected.is_some() && counted.is_none() {
                    let all = all_ids(connection, selector)?;
                    Fault::unless_expected(selector.expected, all.len())?;
                    counted = Some(all);
                }
                let mut chunk = Chunk::after(connection, selector, after)?;
                if let Some(counted) = &counted {
                    chunk.ids.retain(|id| counted.binary_search(id).is_ok());
                }
                let n = change(connection, &chunk.ids)?;
                Ok((chunk.last, chunk.ids.len(), n))
            })?;
            if let Some(progress) = &mut self.progress {
                progress(n_handled as u64);
            }
            n_changed = n_changed.saturating_add(n);
            match last {
                Some(last) => after = last,
                None => return Ok(n_changed),
            }
        }
    }

    fn in_transaction<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let checked = |connection: &Connection| {
            transfer::unless_moved(connection)?;
            work(connection)
        };
        transact(&self.connection, checked).map_err(|fault| StoreError::new(&self.location, fault))
    }
}

impl Operating for SqliteOperations {
    fn on_progress(&mut self, progress: Progress) {
        self.progress = Some(progress);
    }

    fn count(&self, selector: &Selector) -> Result<u64, StoreError> {
        count(&self.connection, selector).map_err(|fault| StoreError::new(&self.location, fault))
    }

    fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError> {
        let now = row::milliseconds(now);
        self.in_chunks(selector, |connection, ids| {
            let mut n_changed = 0;
            for id in ids {
                let Some(project) = lanes::present(connection, *id)? else {
                    continue;
                };
                lanes::make_pending(connection, *id, &project, now)?;
                n_changed += 1;
            }
            Ok(n_changed)
        })
    }

    fn count_replay(&self, replay: &Replay) -> Result<u64, StoreError> {
        replay::count(&self.connection, replay)
            .map_err(|fault| StoreError::new(&self.location, fault))
    }

    fn replay(&mut self, replay: &Replay, now: Timestamp) -> Result<u64, StoreError> {
        // Events that are recorded from now on are not replayed, because the daemon routes them
        // anyway.
        let mut range = self.in_transaction(replay::all)?;
        let mut n_queued = 0_u64;
        let mut counted = None;
        loop {
            let (last, n) = self.in_transaction(|connection| {
                if replay.expected.is_some() && counted.is_none() {
                    let all = replay::selected(connection, replay)?;
                    Fault::unless_expected(replay.expected, all.len())?;
                    counted = Some(all);
                }
                let mut found = replay::after(connection, replay, &mut range, CHANGED_MAX)?;
                if let Some(counted) = &counted {
                    found.retain(counted);
                }
                let n = replay::enqueue(connection, replay, &found, row::milliseconds(now))?;
                Ok((found.last, n))
            })?;
            if let Some(progress) = &mut self.progress {
                progress(n);
            }
            n_queued = n_queued.saturating_add(n);
            match last {
                Some(last) => range.after = last,
                None => return Ok(n_queued),
            }
        }
    }

    fn cancel(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError> {
        let now = row::milliseconds(now);
        self.in_chunks(selector, |connection, ids| {
            let mut n_changed = 0;
            for id in ids {
                let Some(lane) = LaneEntry::pending(connection, *id)? else {
                    continue;
                };
                connection
                    .prepare_cached(
                        "UPDATE deliveries SET state = 'cancelled', is_head = 0, finished_ms = ?2 \
                         WHERE id = ?1",
                    )?
                    .execute([*id, now])?;
                lanes::left(connection, &lane)?;
                n_changed += 1;
            }
            Ok(n_changed)
        })
    }

    fn purge(&mut self, selector: &Selector) -> Result<u64, StoreError> {
        self.in_chunks(selector, |connection, ids| {
            let mut removal = Removal::default();
            for id in ids {
                removal.remove(connection, *id)?;
            }
            removal.finish(connection)?;
            if let Some(first) = removal.events.first() {
                retention::check_again_from(connection, *first)?;
            }
            Ok(removal.n_removed as u64)
        })
    }

    fn switch_on(&mut self, webhook: &str) -> Result<bool, StoreError> {
        self.in_transaction(|connection| webhooks::switch_on(connection, webhook))
    }

    fn switch_off(
        &mut self,
        webhook: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let cause = OffCause::Operator;
        self.in_transaction(|connection| {
            webhooks::switch_off(connection, webhook, cause, reason, now)
        })
    }
}

/// Selected deliveries in the order of their ids.
struct Chunk {
    ids: Vec<i64>,
    /// The last delivery that was read. `None` if no delivery was left.
    last: Option<i64>,
}

impl Chunk {
    /// Reads the next selected deliveries after `after`, in the order of their ids.
    ///
    /// If the selector has no ids, the statement uses no index on the columns of the conditions.
    /// With one, SQLite would sort the rows for each chunk.
    fn after(connection: &Connection, selector: &Selector, after: i64) -> Result<Self, Fault> {
        let conditions = selector.conditions();
        let sql = if selector.ids.is_empty() {
            format!(
                "SELECT d.id, {} FROM deliveries d WHERE d.id > ? ORDER BY d.id LIMIT {READ_MAX}",
                conditions.sql()
            )
        } else {
            format!(
                "SELECT d.id, TRUE FROM deliveries d WHERE {} AND d.id > ? \
                 ORDER BY d.id LIMIT {READ_MAX}",
                conditions.sql()
            )
        };
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(conditions.values_and(after)))?;
        let mut chunk = Self {
            ids: Vec::new(),
            last: None,
        };
        while chunk.ids.len() < CHANGED_MAX
            && let Some(found) = rows.next()?
        {
            let id = found.get(0)?;
            chunk.last = Some(id);
            if found.get(1)? {
                chunk.ids.push(id);
            }
        }
        Ok(chunk)
    }
}

/// Returns the ids of all selected deliveries, sorted.
fn all_ids(connection: &Connection, selector: &Selector) -> Result<Vec<i64>, Fault> {
    let conditions = selector.conditions();
    let sql = format!("SELECT d.id FROM deliveries d WHERE {}", conditions.sql());
    let mut ids = connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(conditions.values()), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    ids.sort_unstable();
    Ok(ids)
}

fn count(connection: &Connection, selector: &Selector) -> Result<u64, Fault> {
    let conditions = selector.conditions();
    let sql = format!(
        "SELECT COUNT(*) FROM deliveries d WHERE {}",
        conditions.sql()
    );
    let count = connection
        .prepare_cached(&sql)?
        .query_row(params_from_iter(conditions.values()), |row| row.get(0))?;
    Ok(row::count(count))
}
