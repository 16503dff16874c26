//! The state in PostgreSQL as the source or the target of a transfer.
//!
//! Constraint: no daemon may watch the repository during the transfer. So this process has the
//! lease on the repository, and each write checks the epoch of the lease. An operator's command may
//! still change the source. [`Side::version`] shows such a change.

use std::time::Duration;

use tokio_postgres::Row as Found;

use super::moved_rows::{cell, insert, key_of, kind_of, select};
use super::session::{LOCK_AS_HOLDER, Session, Statement, statement};
use super::{FingerprintKey, PostgresStore, Purpose, Shared, names, row, sender};
use crate::config::Postgres;
use crate::store::contract::Backend;
use crate::store::error::{Fault, OpenError, StoreError};
use crate::store::transfer::{Cell, MARK, Mark, Numbers, Row, Rows, Side, TABLES, Table};

/// The state of a repository that no daemon uses.
pub(in crate::store) struct PostgresSide {
    store: PostgresStore,
    settings: Postgres,
}

impl PostgresSide {
    /// Opens the state to move. Its tables must exist.
    pub(in crate::store) fn source(settings: &Postgres) -> Result<Self, OpenError> {
        // This fails if the tables or the repository are missing. `open` would create them.
        drop(super::client::Client::connect_for_transfer(settings)?);
        Self::open(settings, Purpose::MoveAway)
    }

    /// Opens the state to move to. Creates or migrates the tables.
    pub(in crate::store) fn target(settings: &Postgres) -> Result<Self, OpenError> {
        Self::open(settings, Purpose::MoveHere)
    }

    fn open(settings: &Postgres, purpose: Purpose) -> Result<Self, OpenError> {
        Ok(Self {
            store: PostgresStore::connect_for(settings, purpose)?,
            settings: settings.clone(),
        })
    }

    fn repository(&self) -> i32 {
        self.store.shared.lease.repository
    }

    fn rows(&self, statement: Statement) -> Result<Vec<Found>, StoreError> {
        self.store.run_blocking(|shared| async move {
            let mut session = session(&shared).await?;
            // A slow link needs a long time for a large page. The transaction does not idle during
            // that time, because its `COMMIT` is sent together with the statement.
            let unlimited = statement!("SET LOCAL statement_timeout = 0");
            let mut answers = session.transact(vec![unlimited, statement]).await?;
            answers.truncate(2);
            Ok(answers.pop().unwrap_or_default())
        })
    }

    /// Sets the mark, which reserves the names of repositories that it contains.
    ///
    /// Fails if one of these repositories is in use alone. This is a separate transaction, because
    /// it locks the names of all repositories. The removal of a large state takes long, and
    /// starting daemons would wait for the lock.
    fn reserve(&self, mark: &Mark) -> Result<(), StoreError> {
        let Mark::Arriving { names, .. } = mark else {
            return Ok(());
        };
        let (repository, names) = (self.repository(), names.clone());
        let mark = write_mark(repository, mark).map_err(|fault| self.store.error(fault))?;
        self.store.run_blocking(|shared| async move {
            let mut session = session(&shared).await?;
            let epoch = shared.lease.epoch;
            let result = names::reserve(&mut session, repository, epoch, &names, mark).await;
            session.end(result).await
        })
    }

    /// Commits these statements. Fails if this process no longer has the lease.
    fn write(&self, statements: Vec<Statement>) -> Result<(), StoreError> {
        self.store.run_blocking(|shared| async move {
            let mut session = session(&shared).await?;
            let result = write(&shared, &mut session, statements).await;
            session.end(result).await
        })
    }
}

/// The time limit for statements of a transfer that are sent together.
const ANSWER_MAX: Duration = Duration::from_secs(60 * 60);

async fn session(shared: &Shared) -> Result<Session, Fault> {
    Ok(Session::of(&shared.pool).await?.answers_within(ANSWER_MAX))
}

/// Begins a transaction. Fails if this process no longer has the lease.
async fn begin(shared: &Shared, session: &mut Session) -> Result<(), Fault> {
    let lock = statement!(LOCK_AS_HOLDER, shared.lease.repository, shared.lease.epoch);
    // Removing a large state takes long, and so does sending a large page over a slow link.
    let answers = session
        .begin(
            "BEGIN",
            vec![
                statement!("SET LOCAL statement_timeout = 0"),
                statement!("SET LOCAL idle_in_transaction_session_timeout = '10min'"),
                lock,
            ],
        )
        .await?;
    match answers.get(2) {
        Some(found) if !found.is_empty() => Ok(()),
        _ => Err(Fault::Fenced),
    }
}

async fn write(
    shared: &Shared,
    session: &mut Session,
    statements: Vec<Statement>,
) -> Result<(), Fault> {
    begin(shared, session).await?;
    session.commit(statements).await?;
    Ok(())
}

/// Returns an error if the state was moved away, or is an incomplete copy.
pub(super) async fn refuse(
    session: &mut Session,
    repository: i32,
    location: &str,
) -> Result<Result<(), OpenError>, Fault> {
    let rows = session.rows(read_mark(repository)).await?;
    Ok(match rows.first() {
        Some(found) => OpenError::of_mark(&row::text(found, 0)?, location),
        None => Ok(()),
    })
}

/// Returns an error if a transfer forbids changes. Takes the rows of [`read_mark`].
///
/// The transaction must have locked the repository before it read the mark.
pub(super) fn unless_moved(mark: Option<&Vec<Found>>) -> Result<(), Fault> {
    let mark = mark.and_then(|rows| rows.first());
    mark.map_or(Ok(()), |found| Fault::of_mark(&row::text(found, 0)?))
}

pub(super) fn read_mark(repository: i32) -> Statement {
    statement!(
        "SELECT value FROM meta WHERE repository = $1 AND key = $2",
        repository,
        MARK
    )
}

fn write_mark(repository: i32, mark: &Mark) -> Result<Statement, Fault> {
    Ok(statement!(
        "INSERT INTO meta (repository, key, value) VALUES ($1, $2, $3) \
         ON CONFLICT (repository, key) DO UPDATE SET value = excluded.value",
        repository,
        MARK,
        row::to_json("the mark of `migrate-store`", mark)?
    ))
}

impl Side for PostgresSide {
    fn location(&self) -> String {
        // When an interrupted move continues, it compares this text. A list may have changed by
        // then, so the text leaves out its repositories.
        let repository = match self.settings.repositories.is_empty() {
            true => format!("repository {}", self.settings.repository),
            false => "its list of repositories".to_owned(),
        };
        format!("{} ({repository})", self.store.location())
    }

    fn mark(&mut self) -> Result<Option<Mark>, StoreError> {
        let rows = self.rows(read_mark(self.repository()))?;
        let mark = |found: &Found| {
            let text = row::text(found, 0)?;
            row::from_json("the mark of `migrate-store`", &text)
        };
        let mark = rows.first().map(mark).transpose();
        mark.map_err(|fault| self.store.error(fault))
    }

    fn is_empty(&mut self) -> Result<bool, StoreError> {
        for table in TABLES {
            let sql = format!("SELECT 1 FROM {} WHERE repository = $1 LIMIT 1", table.name);
            let found = self.rows(statement!(sql, self.repository()))?;
            if !found.is_empty() {
                return Ok(false);
            }
        }
        Ok(self.numbers()?.next_event <= 1 && self.numbers()?.next_delivery <= 1)
    }

    fn clear(&mut self, mark: &Mark) -> Result<(), StoreError> {
        if !self.settings.repositories.is_empty() {
            self.reserve(mark)?;
        }
        let repository = self.repository();
        let mut statements: Vec<Statement> = TABLES
            .iter()
            .map(|table| {
                let sql = format!("DELETE FROM {} WHERE repository = $1", table.name);
                statement!(sql, repository)
            })
            .collect();
        let mark = write_mark(repository, mark).map_err(|fault| self.store.error(fault))?;
        statements.push(mark);
        self.write(statements)
    }

    fn page(&mut self, table: &Table, after: Option<&[Cell]>) -> Result<Rows, StoreError> {
        let found = self.rows(select(self.repository(), table, after))?;
        let n_columns = table.columns.len();
        let row = |one: &Found| -> Result<(Vec<Cell>, Row), Fault> {
            let columns = table.columns.iter().enumerate();
            let row = columns
                .map(|(at, (_, kind))| cell(one, at, *kind))
                .collect::<Result<Row, Fault>>()?;
            let key = key_of(table)
                .iter()
                .enumerate()
                .map(|(at, name)| {
                    let at = n_columns.saturating_add(at);
                    cell(one, at, kind_of(table, name))
                })
                .collect::<Result<Vec<Cell>, Fault>>()?;
            Ok((key, row))
        };
        let rows = found.iter().map(row).collect::<Result<Rows, Fault>>();
        rows.map_err(|fault| self.store.error(fault))
    }

    fn put(&mut self, table: &Table, rows: &[Row], mark: &Mark) -> Result<(), StoreError> {
        let repository = self.repository();
        let statements = || -> Result<Vec<Statement>, Fault> {
            let mut statements = Vec::new();
            if !rows.is_empty() {
                statements.push(insert(repository, table, rows)?);
            }
            statements.push(write_mark(repository, mark)?);
            Ok(statements)
        };
        let statements = statements().map_err(|fault| self.store.error(fault))?;
        self.write(statements)
    }

    fn numbers(&mut self) -> Result<Numbers, StoreError> {
        let rows = self.rows(statement!(
            "SELECT next_event, next_delivery, first_repetition, last_swept_event \
             FROM repositories WHERE id = $1",
            self.repository()
        ))?;
        let Some(found) = rows.first() else {
            return Ok(Numbers::default());
        };
        let numbers = || -> Result<Numbers, Fault> {
            Ok(Numbers {
                next_event: row::number(found, 0)?,
                next_delivery: row::number(found, 1)?,
                first_repetition: row::number(found, 2)?,
                last_swept_event: row::number(found, 3)?,
            })
        };
        numbers().map_err(|fault| self.store.error(fault))
    }

    fn complete(&mut self, numbers: Numbers) -> Result<(), StoreError> {
        self.write(vec![statement!(
            "UPDATE repositories SET next_event = $2, next_delivery = $3, first_repetition = $4, \
             last_swept_event = $5, last_batch = NULL WHERE id = $1",
            self.repository(),
            numbers.next_event,
            numbers.next_delivery,
            numbers.first_repetition,
            numbers.last_swept_event
        )])
    }

    fn fingerprint_key(&self) -> [u8; 32] {
        self.store.shared.key.bytes()
    }

    fn set_fingerprint_key(&mut self, key: &[u8; 32]) -> Result<(), StoreError> {
        let stored = FingerprintKey::of_bytes(*key).stored(&self.settings);
        self.write(vec![statement!(
            "UPDATE repositories SET fingerprint_key = $2 WHERE id = $1",
            self.repository(),
            stored
        )])
    }

    fn version(&mut self) -> Result<i64, StoreError> {
        let sql = "SELECT changes FROM repositories WHERE id = $1";
        let rows = self.rows(statement!(sql, self.repository()))?;
        super::client::number(&rows).map_err(|fault| self.store.error(fault))
    }

    fn set_mark(&mut self, mark: &Mark, version: i64) -> Result<bool, StoreError> {
        let repository = self.repository();
        let mark = write_mark(repository, mark).map_err(|fault| self.store.error(fault))?;
        self.store.run_blocking(|shared| async move {
            let mut session = session(&shared).await?;
            let result = async {
                begin(&shared, &mut session).await?;
                let sql = "SELECT changes FROM repositories WHERE id = $1";
                let rows = session.rows(statement!(sql, repository)).await?;
                // A sender that starts later finds the mark.
                let is_sent = sender::running(&mut session, repository).await?.is_some();
                let is_same = super::client::number(&rows)? == version && !is_sent;
                if is_same {
                    // A sender may have been stopped until its lease expired. When it continues, it
                    // must find the mark, and neither its lease nor its claims.
                    let claims = statement!("DELETE FROM claims WHERE repository = $1", repository);
                    let senders =
                        statement!("DELETE FROM senders WHERE repository = $1", repository);
                    session.pipeline(vec![claims, senders, mark]).await?;
                }
                Ok(is_same)
            }
            .await;
            session.end(result).await
        })
    }
}
