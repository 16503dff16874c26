//! Sends statements on one connection, several at once if possible.
//!
//! Constraint: each round trip to the server takes time. So statements that do not need each
//! other's results are sent together ([`Session::pipeline`]). Recording a batch usually takes two
//! round trips. The first begins the transaction, locks the repository and reads. The second writes
//! and commits.
//!
//! # Isolation
//!
//! A transaction that writes the record or deliveries locks the repository before it reads or
//! writes, and holds the lock until its end. With [`LOCK`], [`LOCK_AS_HOLDER`] or [`LOCK_ALONE`],
//! no other such transaction runs at the same time. At the level READ COMMITTED, each statement
//! after the lock sees all commits of earlier writers. So there are no anomalies and no
//! serialization failures. Reads that must see the same state use REPEATABLE READ.
//!
//! Transactions that claim deliveries or record results of attempts usually take [`LOCK_SHARED`].
//! So senders usually do not wait for each other, and the server can make several commits durable
//! together. These rules prevent conflicts between senders:
//!
//! - A sender records the result of a delivery only while it has claimed the delivery, and locks
//!   the row first. A claim locks the rows of deliveries before it inserts claims. It skips locked
//!   rows. If a row has changed since the snapshot of the statement, the server checks the
//!   conditions again.
//! - Under the shared lock, only the result of a claimed delivery changes the head of its lane. So
//!   a lane without a claim keeps its head.
//! - Other lanes may wait for a delete. So a sender that records the end of a delete takes
//!   [`LOCK_ALONE`].
//! - Under the shared lock, a transaction locks rows that others may lock too in this order:
//!   deliveries, claims, webhooks. It locks deliveries in the order of their ids, or skips locked
//!   ones. It locks webhooks in the order of their names.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object, Pool};
use futures_util::future::{join_all, try_join_all};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::store::error::Fault;

pub(super) type Value = Box<dyn ToSql + Sync + Send>;

/// A statement with its values.
pub(super) type Statement = (Cow<'static, str>, Vec<Value>);

macro_rules! statement {
    ($sql:expr $(, $value:expr)* $(,)?) => {
        (
            std::borrow::Cow::from($sql),
            vec![$(Box::new($value) as crate::store::postgres::session::Value),*],
        )
    };
}
pub(super) use statement;

/// Locks a repository and its row, and returns the columns that writers need.
macro_rules! lock_row {
    ($condition:literal) => {
        concat!(
            "WITH held AS MATERIALIZED (SELECT id, pg_advisory_xact_lock(tableoid::int, id) \
             FROM repositories WHERE id = $1) \
             UPDATE repositories r SET version = r.version + 1 FROM held WHERE r.id = held.id ",
            $condition,
            "RETURNING r.next_event, r.next_delivery, r.first_repetition, r.last_swept_event, \
             r.last_batch, r.fingerprint_key"
        )
    };
}

/// Locks the repository for a transaction that writes.
///
/// It also increases the number that [`Listing::version`](crate::store::Listing::version) returns.
/// The lock is advisory: with row locks, an exclusive lock could wait forever while other
/// transactions keep taking shared locks.
pub(super) const LOCK: &str = lock_row!("");

/// Locks the repository like [`LOCK`], if this process has not lost the lease.
///
/// Otherwise returns no row. The parameter `$2` is the epoch of this process's lease.
pub(super) const LOCK_AS_HOLDER: &str = lock_row!("AND r.epoch = $2 ");

/// Locks the repository like [`LOCK`], but does not increase its version.
pub(super) const LOCK_ALONE: &str =
    "SELECT pg_advisory_xact_lock(tableoid::int, id) FROM repositories WHERE id = $1";

/// Locks the repository in shared mode: other senders may hold this lock too.
pub(super) const LOCK_SHARED: &str =
    "SELECT pg_advisory_xact_lock_shared(tableoid::int, id) FROM repositories WHERE id = $1";

/// Makes the commit of this transaction return before it is durable.
///
/// A crash of the server may undo this commit, but none of the durable commits.
pub(super) const UNHURRIED: &str = "SET LOCAL synchronous_commit = off";

/// Begins a read-only transaction whose statements all see the same state.
pub(super) const CONSISTENTLY: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The maximum size of the rows in one of the [`parts`], in bytes.
///
/// Each part is written by a statement of its own. The server ends a transaction that idles too
/// long: for a quarter of the lease's length, or less if the lease is long. Over a slow link, a
/// larger statement could take longer than that to arrive, and so could each retry.
pub(super) const PART: usize = 64 * 1024;

/// Splits rows into parts of at most [`PART`] bytes. A single row may be larger.
pub(super) fn parts<R>(rows: &[R], size: impl Fn(&R) -> usize) -> impl Iterator<Item = &[R]> {
    let mut total: usize = 0;
    rows.chunk_by(move |row, next| {
        total = total.saturating_add(size(row));
        let is_one_part = total.saturating_add(size(next)) <= PART;
        if !is_one_part {
            total = 0;
        }
        is_one_part
    })
}

/// The default time limit for statements that are sent together.
///
/// By default, the server itself ends a statement after half of this time. This limit is for the
/// case that no answer arrives, because the server is stopped or the network drops all packets.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A connection of the pool.
pub(super) struct Session {
    /// `None` after the database did not answer in time, and during a drop.
    client: Option<Object>,
    is_in_transaction: bool,
    /// The time limit for statements that are sent together.
    answer_max: Duration,
}

impl Session {
    pub(super) async fn of(pool: &Pool) -> Result<Self, Fault> {
        Ok(Self {
            client: Some(pool.get().await?),
            is_in_transaction: false,
            answer_max: ANSWER_MAX,
        })
    }

    /// Sets the time limit for statements that are sent together.
    pub(super) fn answers_within(mut self, limit: Duration) -> Self {
        self.answer_max = limit;
        self
    }

    /// Sends these statements together. Returns their rows, or the first error.
    pub(super) async fn pipeline(
        &mut self,
        statements: Vec<Statement>,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        let client = self.client.as_ref().ok_or_else(no_answer)?;
        let answers = tokio::time::timeout(self.answer_max, send(client, &statements)).await;
        match answers {
            Ok(answers) => answers,
            Err(_) => {
                // The connection is unusable until the answer arrives, so close it.
                drop(self.client.take().map(Object::take));
                Err(no_answer())
            }
        }
    }

    /// Sends one statement. Returns its rows.
    pub(super) async fn rows(&mut self, statement: Statement) -> Result<Vec<Row>, Fault> {
        let mut answers = self.pipeline(vec![statement]).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Sends these reads together. All of them see the same state of the database.
    pub(super) async fn consistently(
        &mut self,
        reads: Vec<Statement>,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        let answers = self.begin(CONSISTENTLY, reads).await?;
        self.undo().await?;
        Ok(answers)
    }

    /// Begins a transaction with these statements. Returns the rows of each statement.
    pub(super) async fn begin(
        &mut self,
        how: &'static str,
        statements: Vec<Statement>,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        self.is_in_transaction = true;
        let all = std::iter::once(statement!(how)).chain(statements);
        let mut answers = self.pipeline(all.collect()).await?;
        answers.remove(0);
        Ok(answers)
    }

    /// Runs these statements as a transaction, all sent together.
    ///
    /// Returns the rows of each statement.
    pub(super) async fn transact(
        &mut self,
        statements: Vec<Statement>,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        self.is_in_transaction = true;
        let all = std::iter::once(statement!("BEGIN")).chain(statements);
        let all = all.chain([statement!("COMMIT")]);
        let mut answers = self.pipeline(all.collect()).await?;
        self.is_in_transaction = false;
        answers.remove(0);
        Ok(answers)
    }

    /// Commits the transaction after these statements. Returns the rows of each.
    pub(super) async fn commit(
        &mut self,
        mut statements: Vec<Statement>,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        statements.push(statement!("COMMIT"));
        let answers = self.pipeline(statements).await?;
        self.is_in_transaction = false;
        Ok(answers)
    }

    /// Rolls back the transaction.
    pub(super) async fn undo(&mut self) -> Result<(), Fault> {
        self.rows(statement!("ROLLBACK")).await?;
        self.is_in_transaction = false;
        Ok(())
    }

    /// Commits an open transaction if `result` is a success. Otherwise rolls it back.
    pub(super) async fn end<T>(mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        match result {
            Ok(value) if self.is_in_transaction => {
                self.commit(Vec::new()).await?;
                Ok(value)
            }
            Err(fault) if self.is_in_transaction => {
                // If this fails too, dropping the session closes the connection.
                let _ = self.undo().await;
                Err(fault)
            }
            result => result,
        }
    }
}

/// Sends these statements on a connection. Returns their rows, or the first error.
async fn send(client: &ClientWrapper, statements: &[Statement]) -> Result<Vec<Vec<Row>>, Fault> {
    // First prepare all statements, in one round trip. A connection prepares each only once.
    let all = statements.iter().map(|(sql, _)| client.prepare_cached(sql));
    let prepared = try_join_all(all).await?;
    let values: Vec<Vec<&(dyn ToSql + Sync)>> = statements
        .iter()
        .map(|(_, values)| values.iter().map(|value| &**value as _).collect())
        .collect();
    // The client sends a request at the first poll of its future. `join_all` polls the futures in
    // the order of the statements.
    let requests = prepared
        .iter()
        .zip(&values)
        .map(|(prepared, values)| client.query(prepared, values));
    let answers = join_all(requests).await;
    Ok(answers.into_iter().collect::<Result<_, _>>()?)
}

fn no_answer() -> Fault {
    let error = io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time");
    Fault::Unreachable(Arc::new(error))
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && self.is_in_transaction
        {
            // Close the connection, which ends the transaction.
            drop(Object::take(client));
        }
    }
}
