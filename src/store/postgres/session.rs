//! Statements on one connection, sent together where they do not need each other's results.
//!
//! Constraint: a commit costs round trips to another machine. [`Session::pipeline`] sends its
//! statements without waiting between them, so that a batch needs two round trips: one that begins
//! the transaction, locks the repository and reads, and one that writes and commits.
//!
//! # Isolation
//!
//! Every transaction that writes begins with [`LOCK`], [`LOCK_AS_HOLDER`] or [`LOCK_TO_CLAIM`]: it locks the row of its
//! repository until its end. So the writers of one repository run one after the other, as those of
//! SQLite do. At the level READ COMMITTED each later statement has a new snapshot, which has all
//! commits of earlier writers, and nobody writes meanwhile. So no anomaly is possible, and no
//! transaction is retried for another one. Reads of several statements use REPEATABLE READ.

use std::borrow::Cow;

use deadpool_postgres::{Object, Pool};
use futures_util::future::join_all;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::store::error::Fault;

/// A value of a statement.
pub(super) type Value = Box<dyn ToSql + Sync + Send>;

/// A statement with its values.
pub(super) type Statement = (Cow<'static, str>, Vec<Value>);

/// Makes a [`Statement`].
macro_rules! statement {
    ($sql:expr $(, $value:expr)* $(,)?) => {
        (
            std::borrow::Cow::from($sql),
            vec![$(Box::new($value) as crate::store::postgres::session::Value),*],
        )
    };
}
pub(super) use statement;

/// Locks the repository for a transaction that writes.
///
/// It counts the transaction too, for [`Listing::version`](crate::store::Listing::version).
pub(super) const LOCK: &str = "UPDATE repositories SET version = version + 1 WHERE id = $1 \
     RETURNING next_event, next_delivery, first_repetition, last_swept_event, last_batch, \
     fingerprint_key";

/// Locks the repository, if the process still has the lease of this epoch.
pub(super) const LOCK_AS_HOLDER: &str = "UPDATE repositories SET version = version + 1 \
     WHERE id = $1 AND epoch = $2 RETURNING next_event, next_delivery, first_repetition, \
     last_swept_event, last_batch, fingerprint_key";

/// Locks the repository for a claim, which no listing shows.
pub(super) const LOCK_TO_CLAIM: &str = "SELECT 1 FROM repositories WHERE id = $1 FOR UPDATE";

/// Begins a transaction whose reads all see one state.
pub(super) const CONSISTENTLY: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection of the pool.
pub(super) struct Session {
    /// `None` only while the session is dropped.
    client: Option<Object>,
    is_in_transaction: bool,
}

impl Session {
    pub(super) async fn of(pool: &Pool) -> Result<Self, Fault> {
        Ok(Self {
            client: Some(pool.get().await?),
            is_in_transaction: false,
        })
    }

    /// Sends these statements together. Returns their rows, or the first error.
    pub(super) async fn pipeline(
        &mut self,
        statements: Vec<Statement>,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        let client = self.client.as_ref().ok_or(Fault::Closed)?;
        let mut prepared = Vec::with_capacity(statements.len());
        // Prepare all of them first. A connection prepares each only once.
        for (sql, _) in &statements {
            prepared.push(client.prepare_cached(sql).await?);
        }
        let values: Vec<Vec<&(dyn ToSql + Sync)>> = statements
            .iter()
            .map(|(_, values)| values.iter().map(|value| &**value as _).collect())
            .collect();
        // The client sends a request when its future is polled first, and these are polled in order.
        let requests = prepared
            .iter()
            .zip(&values)
            .map(|(prepared, values)| client.query(prepared, values));
        let answers = join_all(requests).await;
        Ok(answers.into_iter().collect::<Result<_, _>>()?)
    }

    /// Sends one statement. Returns its rows.
    pub(super) async fn rows(&mut self, statement: Statement) -> Result<Vec<Row>, Fault> {
        let mut answers = self.pipeline(vec![statement]).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Sends these reads together. All of them see one state.
    pub(super) async fn consistently(
        &mut self,
        reads: Vec<Statement>,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        let answers = self.begin(CONSISTENTLY, reads).await?;
        self.rows(statement!("ROLLBACK")).await?;
        self.is_in_transaction = false;
        Ok(answers)
    }

    /// Begins a transaction with these statements. Returns the rows of each.
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

    /// Runs these statements as a transaction, in one round trip. Returns the rows of each.
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

    /// Commits if `result` is a success, and otherwise undoes the transaction.
    pub(super) async fn end<T>(mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        match result {
            Ok(value) if self.is_in_transaction => {
                self.commit(Vec::new()).await?;
                Ok(value)
            }
            Err(fault) if self.is_in_transaction => {
                if self.rows(statement!("ROLLBACK")).await.is_ok() {
                    self.is_in_transaction = false;
                }
                Err(fault)
            }
            result => result,
        }
    }
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
