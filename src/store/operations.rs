//! What an operator does to the queue, beside a daemon that may be running.
//!
//! Constraint: a million deliveries may be meant, and the daemon must go on recording meanwhile.
//! So each transaction holds at most [`CHUNK`] deliveries; where one fails, those before it stay
//! done, and doing it again does the rest.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, Params, TransactionBehavior, params, params_from_iter};

use super::error::{Fault, OpenError, StoreError};
use super::select::Selector;
use super::{queue, row, schema, webhooks};
use crate::domain::project::ProjectKey;

/// The most deliveries that one transaction changes.
const CHUNK: usize = 1_000;

/// Is told the number of deliveries that were handled since it was told last.
type Progress = Box<dyn FnMut(u64)>;

/// Write access for the command line, without the lock of the daemon. Blocks. A running daemon
/// acts on it when it is told so, by [`crate::admin::wake`].
pub struct Operations {
    connection: Connection,
    path: Arc<Path>,
    progress: Option<Progress>,
}

impl Operations {
    /// Opens the state of a directory. The daemon makes it and brings it up to date; this does
    /// neither.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        let connection = schema::open_beside(state_dir)?;
        let path = schema::database(state_dir);
        Ok(Self {
            connection,
            path: path.into(),
            progress: None,
        })
    }

    /// Has `progress` told, from now on, how many deliveries more were handled.
    pub fn on_progress(&mut self, progress: impl FnMut(u64) + 'static) {
        self.progress = Some(Box::new(progress));
    }

    /// How many deliveries are meant.
    pub fn count(&self, selector: &Selector) -> Result<u64, StoreError> {
        count(&self.connection, selector).map_err(|fault| StoreError::new(&self.path, fault))
    }

    /// Sends deliveries again, now, with a fresh schedule; says how many. One that is pending
    /// already is tried now.
    pub fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError> {
        let now = row::milliseconds(now);
        self.in_chunks(selector, |connection, id| {
            lane_of(
                connection,
                "UPDATE deliveries SET state = 'pending', \
                 origin = CASE WHEN state <> 'pending' OR n_attempts > 0 THEN 'redelivery' \
                 ELSE origin END, \
                 waiting_ms = CASE WHEN state <> 'pending' THEN ?2 ELSE waiting_ms END, \
                 n_attempts_before = n_attempts, due_ms = ?2, finished_ms = NULL \
                 WHERE id = ?1 RETURNING webhook, organization, project",
                params![id, now],
            )
        })
    }

    /// Gives up pending deliveries; says how many.
    pub fn cancel(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError> {
        let now = row::milliseconds(now);
        self.in_chunks(selector, |connection, id| {
            lane_of(
                connection,
                "UPDATE deliveries SET state = 'cancelled', finished_ms = ?2 \
                 WHERE id = ?1 AND state = 'pending' RETURNING webhook, organization, project",
                params![id, now],
            )
        })
    }

    /// Removes deliveries that are not pending, with their log; says how many. Their events go
    /// with the next collection.
    pub fn purge(&mut self, selector: &Selector) -> Result<u64, StoreError> {
        self.in_chunks(selector, |connection, id| {
            lane_of(
                connection,
                "DELETE FROM deliveries WHERE id = ?1 AND state <> 'pending' \
                 RETURNING webhook, organization, project",
                params![id],
            )
        })
    }

    /// Switches a webhook on, whoever switched it off; says whether it was off.
    pub fn switch_on(&mut self, webhook: &str) -> Result<bool, StoreError> {
        self.in_transaction(|connection| webhooks::switch_on(connection, webhook))
    }

    /// Switches a webhook off until an operator switches it on; says whether it was on.
    pub fn switch_off(
        &mut self,
        webhook: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let cause = webhooks::OffCause::Operator;
        self.in_transaction(|connection| {
            webhooks::switch_off(connection, webhook, cause, reason, now)
        })
    }

    /// Does something to each delivery that is meant. `change` says which lane it touched, or
    /// nothing where it did not apply.
    fn in_chunks(
        &mut self,
        selector: &Selector,
        change: impl Fn(&Connection, i64) -> Result<Option<Lane>, Fault>,
    ) -> Result<u64, StoreError> {
        if selector.is_empty() {
            return Err(StoreError::new(&self.path, Fault::EmptySelector));
        }
        let mut n_changed = 0_u64;
        let mut after = i64::MIN;
        loop {
            let (last, n_handled, n) = self.in_transaction(|connection| {
                let ids = ids_after(connection, selector, after)?;
                let mut lanes = BTreeSet::new();
                let mut n = 0_u64;
                for id in &ids {
                    if let Some(lane) = change(connection, *id)? {
                        lanes.insert(lane);
                        n = n.saturating_add(1);
                    }
                }
                for (webhook, key) in lanes {
                    queue::refresh_lane(connection, &webhook, &key)?;
                }
                Ok((ids.last().copied(), ids.len(), n))
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
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let connection = &mut self.connection;
        let whole = || {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        whole().map_err(|fault| StoreError::new(&self.path, fault))
    }
}

/// A webhook and a project.
type Lane = (String, ProjectKey);

/// Runs a statement on one delivery that returns its lane where it applied.
fn lane_of(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<Option<Lane>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let Some(found) = rows.next()? else {
        return Ok(None);
    };
    let lane = (
        found.get(0)?,
        ProjectKey::new(found.get::<_, String>(1)?, found.get::<_, String>(2)?),
    );
    // A statement with RETURNING is done only when it was read to its end.
    while rows.next()?.is_some() {}
    Ok(Some(lane))
}

fn ids_after(connection: &Connection, selector: &Selector, after: i64) -> Result<Vec<i64>, Fault> {
    let mut conditions = selector.conditions();
    conditions.and("d.id > ?", after);
    let sql = format!(
        "SELECT d.id FROM deliveries d WHERE {} ORDER BY d.id LIMIT {CHUNK}",
        conditions.sql()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let ids = statement
        .query_map(params_from_iter(conditions.values()), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
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
