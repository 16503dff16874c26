//! Implements [`Operating`]: an operator's changes of deliveries and webhooks.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::client::{Client, number};
use super::select::Conditions;
use super::session::{LOCK, Session, statement};
use super::{changes, replay, retention, row, transfer, webhooks};
use crate::config::Postgres;
use crate::store::contract::{CHANGED_MAX, Operating, Progress};
use crate::store::error::{Fault, OpenError, StoreError};
use crate::store::listing::{OffCause, Replay, Selector};

/// A client that changes deliveries and webhooks. It needs no lease.
pub(in crate::store) struct PostgresOperations {
    client: Client,
    progress: Option<Progress>,
}

impl PostgresOperations {
    /// Connects to a database. Does not create or migrate its tables.
    pub(in crate::store) fn connect(settings: &Postgres) -> Result<Self, OpenError> {
        Ok(Self {
            client: Client::connect(settings)?,
            progress: None,
        })
    }

    /// Runs `change` on chunks of the selected deliveries, each in a transaction.
    ///
    /// `change` gets the ids of a chunk, and returns how many deliveries it changed. This function
    /// returns the sum of these numbers.
    fn in_chunks(
        &mut self,
        selector: &Selector,
        change: impl AsyncFn(&mut Session, i32, Vec<i64>) -> Result<u64, Fault>,
    ) -> Result<u64, StoreError> {
        if selector.is_empty() {
            return Err(StoreError::new(&self.client.location, Fault::EmptySelector));
        }
        let mut n_changed = 0_u64;
        let mut after = i64::MIN;
        let mut counted = None;
        loop {
            let (last, n_handled, n) = self.client.block_on(async |session, repository| {
                // Lock first, so that the selected deliveries still match when they are changed.
                begin(session, repository).await?;
                if selector.expected.is_some() && counted.is_none() {
                    let all = all_ids(session, repository, selector).await?;
                    Fault::unless_expected(selector.expected, all.len())?;
                    counted = Some(all);
                }
                let mut ids = chunk(session, repository, selector, after).await?;
                let (last, n_ids) = (ids.last().copied(), ids.len());
                if let Some(counted) = &counted {
                    ids.retain(|id| counted.binary_search(id).is_ok());
                }
                let n = match ids.is_empty() {
                    false => change(session, repository, ids).await?,
                    true => 0,
                };
                Ok((last, n_ids, n))
            })?;
            if let Some(progress) = &mut self.progress {
                progress(n_handled as u64);
            }
            n_changed = n_changed.saturating_add(n);
            match last {
                Some(last) if n_handled == CHANGED_MAX => after = last,
                _ => return Ok(n_changed),
            }
        }
    }
}

/// Begins a transaction and locks the repository.
///
/// Fails if `migrate-store` moved the state, or has not finished copying it here.
async fn begin(session: &mut Session, repository: i32) -> Result<Vec<Vec<Row>>, Fault> {
    let statements = vec![
        statement!(LOCK, repository),
        transfer::read_mark(repository),
    ];
    let answers = session.begin("BEGIN", statements).await?;
    transfer::unless_moved(answers.get(1))?;
    Ok(answers)
}

/// Reads the ids of all selected deliveries, sorted.
async fn all_ids(
    session: &mut Session,
    repository: i32,
    selector: &Selector,
) -> Result<Vec<i64>, Fault> {
    let mut all = Vec::new();
    loop {
        let after = all.last().copied().unwrap_or(i64::MIN);
        let ids = chunk(session, repository, selector, after).await?;
        if ids.is_empty() {
            return Ok(all);
        }
        all.extend(ids);
    }
}

/// Reads the next ids of selected deliveries: the first ids greater than `after`.
async fn chunk(
    session: &mut Session,
    repository: i32,
    selector: &Selector,
    after: i64,
) -> Result<Vec<i64>, Fault> {
    let mut conditions = Conditions::selected(selector, repository);
    conditions.and("d.id > ", after);
    let sql = |conditions: &str, limit: &str| {
        format!("SELECT d.id FROM deliveries d WHERE {conditions} ORDER BY d.id LIMIT {limit}")
    };
    let rows = session
        .rows(conditions.statement(sql, row::limit(CHANGED_MAX)))
        .await?;
    rows.iter().map(|found| row::number(found, 0)).collect()
}

async fn cancel(
    session: &mut Session,
    repository: i32,
    ids: Vec<i64>,
    now: i64,
) -> Result<u64, Fault> {
    let rows = session
        .rows(statement!(
            "UPDATE deliveries SET state = 'cancelled', is_head = FALSE, finished_ms = $3 \
             WHERE repository = $1 AND id = ANY($2) AND state = 'pending' \
             RETURNING webhook, organization, project, CASE WHEN is_delete THEN project_id END",
            repository,
            ids,
            now
        ))
        .await?;
    let mut statements = Vec::new();
    retention::left(&rows)?.promote(repository, &mut statements);
    statements.push(changes::notify(repository));
    session.commit(statements).await?;
    Ok(rows.len() as u64)
}

impl Operating for PostgresOperations {
    fn on_progress(&mut self, progress: Progress) {
        self.progress = Some(progress);
    }

    fn count(&self, selector: &Selector) -> Result<u64, StoreError> {
        self.client.block_on(async |session, repository| {
            let sql =
                |conditions: &str| format!("SELECT count(*) FROM deliveries d WHERE {conditions}");
            let counted = Conditions::selected(selector, repository).statement_without_limit(sql);
            Ok(row::count(number(&session.rows(counted).await?)?))
        })
    }

    fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError> {
        let now = row::milliseconds(now);
        self.in_chunks(selector, async |session: &mut Session, repository, ids| {
            replay::redeliver(session, repository, ids, now).await
        })
    }

    fn count_replay(&self, replay: &Replay) -> Result<u64, StoreError> {
        self.client
            .block_on(async |session, repository| replay::count(session, repository, replay).await)
    }

    fn replay(&mut self, replay: &Replay, now: Timestamp) -> Result<u64, StoreError> {
        // Leave out events that are recorded during the replay. They get deliveries anyway.
        let mut range = self
            .client
            .block_on(async |session, repository| replay::all(session, repository).await)?;
        let mut n_queued = 0_u64;
        let mut counted = None;
        loop {
            let (last, n) = self.client.block_on(async |session, repository| {
                let lock = begin(session, repository).await?;
                if replay.expected.is_some() && counted.is_none() {
                    let all = replay::selected(session, repository, replay).await?;
                    Fault::unless_expected(replay.expected, all.len())?;
                    counted = Some(all);
                }
                let next = number_at(&lock, 1)?;
                let mut found =
                    replay::after(session, repository, replay, &mut range, CHANGED_MAX).await?;
                if let Some(counted) = &counted {
                    found.retain(counted);
                }
                let now = row::milliseconds(now);
                let n = replay::enqueue(session, repository, replay, &found, now, next).await?;
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
        self.in_chunks(selector, async |session: &mut Session, repository, ids| {
            cancel(session, repository, ids, now).await
        })
    }

    fn purge(&mut self, selector: &Selector) -> Result<u64, StoreError> {
        self.in_chunks(selector, async |session: &mut Session, repository, ids| {
            retention::purge(session, repository, ids).await
        })
    }

    fn switch_on(&mut self, webhook: &str) -> Result<bool, StoreError> {
        self.client.block_on(async |session, repository| {
            let mut statements = vec![statement!(LOCK, repository)];
            statements.extend(webhooks::switch_on(repository, webhook));
            statements.push(changes::notify(repository));
            statements.push(transfer::read_mark(repository));
            let answers = session.begin("BEGIN", statements).await?;
            transfer::unless_moved(answers.last())?;
            Ok(answers.get(3).is_some_and(|rows| !rows.is_empty()))
        })
    }

    fn switch_off(
        &mut self,
        webhook: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.client.block_on(async |session, repository| {
            let mut statements = vec![statement!(LOCK, repository)];
            let cause = OffCause::Operator;
            statements.extend(webhooks::switch_off(
                repository, webhook, cause, reason, now,
            ));
            statements.push(changes::notify(repository));
            statements.push(transfer::read_mark(repository));
            let answers = session.begin("BEGIN", statements).await?;
            transfer::unless_moved(answers.last())?;
            let was_on = answers.get(2).and_then(|rows| rows.first());
            was_on.map_or(Ok(false), |found| Ok(found.try_get(0)?))
        })
    }
}

/// Reads a number from the row that the lock returned. Returns 0 without a row.
fn number_at(answers: &[Vec<Row>], column: usize) -> Result<i64, Fault> {
    let lock = answers.first().and_then(|rows| rows.first());
    lock.map_or(Ok(0), |found| row::number(found, column))
}
