//! Commits jobs in transactions, and makes space for them if the disk is full.
//!
//! If a transaction of several jobs fails, it is rolled back, and each job runs again in its own
//! transaction. So a job that is too large for the disk does not make the other jobs fail. If
//! another process keeps the database locked, all jobs fail, because each would wait for the lock
//! again. Savepoints would avoid running jobs twice. But they halved the speed of writes, because
//! SQLite then saves each changed page once more.
//!
//! On a full disk, the committer releases the reserve, copies the log into the database, empties
//! the log and restores the reserve. These steps alone often free enough space. If they do not,
//! only jobs that remove rows may use the reserve.

use std::time::Duration;

use rusqlite::{Connection, ffi};

use super::reserve::Reserve;
use super::schema;
use super::transaction::transact;
use super::writer::Write;
use crate::store::error::Fault;

/// How long to wait for readers and other writers, to empty the log on a full disk.
const READERS_WAIT: Duration = Duration::from_secs(1);

/// The writing connection and the space in reserve.
pub(super) struct Committer {
    connection: Connection,
    reserve: Reserve,
}

impl Committer {
    pub(super) fn new(connection: Connection, reserve: Reserve) -> rusqlite::Result<Self> {
        // On a small disk, the reserve is small. Checkpoint as soon as the log is that large.
        let n_pages = i64::try_from(reserve.size() / schema::PAGE_SIZE).unwrap_or(i64::MAX);
        let n_pages = n_pages.clamp(1, schema::LOG_PAGES);
        connection.query_row(
            &format!("PRAGMA wal_autocheckpoint = {n_pages}"),
            [],
            |_| Ok(()),
        )?;
        Ok(Self {
            connection,
            reserve,
        })
    }

    /// Runs jobs, commits them, and sends their results.
    pub(super) fn commit(&mut self, mut group: Vec<Box<dyn Write>>) {
        if !self.reserve.restore() {
            return self.commit_each(group, false);
        }
        match self.attempt(&mut group) {
            Err(fault) if lacks_space(&fault) => {
                let has_space = self.make_space();
                self.commit_each(group, has_space);
            }
            // If another process locks the database, do not run each job again. Each would wait for
            // the lock.
            Err(fault) if group.len() > 1 && !matches!(fault, Fault::Busy(_)) => {
                self.commit_each(group, true);
            }
            committed => {
                for job in group {
                    job.reply(committed.clone());
                }
            }
        }
    }

    /// Commits each job in its own transaction.
    ///
    /// Without `has_space`, commits only jobs that remove rows.
    fn commit_each(&mut self, group: Vec<Box<dyn Write>>, has_space: bool) {
        for mut job in group {
            let committed = if job.removes_rows() {
                self.remove(&mut job)
            } else if has_space {
                self.attempt(std::slice::from_mut(&mut job))
            } else {
                Err(self.reserve.scarce())
            };
            job.reply(committed);
        }
    }

    /// Runs a job that removes rows. Uses the reserve if space is missing.
    fn remove(&mut self, job: &mut Box<dyn Write>) -> Result<(), Fault> {
        let job = std::slice::from_mut(job);
        match self.attempt(job) {
            Err(fault) if lacks_space(&fault) => {
                self.reserve.release();
                let committed = self.attempt(job);
                self.make_space();
                committed
            }
            committed => committed,
        }
    }

    /// Releases the reserve, empties the log if possible, and restores the reserve.
    ///
    /// Returns whether commits are allowed, as [`Reserve::restore`] does.
    fn make_space(&mut self) -> bool {
        self.reserve.release();
        let emptied = self.connection.busy_timeout(READERS_WAIT).and_then(|()| {
            self.connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        // Commits must wait for other processes as before, even if the checkpoint failed.
        let restored = self.connection.busy_timeout(schema::BUSY_TIMEOUT);
        if let Err(error) = emptied.and(restored) {
            tracing::debug!(%error, "cannot copy the write-ahead log into the database");
        }
        self.reserve.restore()
    }

    /// Runs the jobs in one transaction. An error undoes all of them.
    fn attempt(&self, group: &mut [Box<dyn Write>]) -> Result<(), Fault> {
        transact(&self.connection, |connection| {
            for job in group.iter_mut() {
                job.run(connection)?;
            }
            if group.iter().all(|job| job.removes_rows()) {
                return Ok(());
            }
            self.reserve.admit(connection)
        })
    }
}

/// Whether an error may come from a full disk or an exhausted quota.
fn lacks_space(fault: &Fault) -> bool {
    match fault {
        Fault::Full(_) => true,
        Fault::Io(cause) => {
            let code = cause
                .downcast_ref::<rusqlite::Error>()
                .and_then(|error| error.sqlite_error())
                .map(|error| error.extended_code);
            // SQLite reports an exhausted quota as a failed write. If the log's index cannot grow
            // on a full disk, SQLite reports a failed change of the index's size.
            matches!(
                code,
                Some(ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE)
            )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_wait_for_other_processes_after_a_checkpoint_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let connection = schema::open_and_migrate(directory.path()).unwrap();
        let mut committer = Committer::new(connection, Reserve::take(directory.path())).unwrap();
        // Within a transaction, a checkpoint is an error.
        committer
            .connection
            .execute_batch("BEGIN IMMEDIATE")
            .unwrap();
        committer.make_space();
        let timeout: i64 = committer
            .connection
            .query_row("PRAGMA busy_timeout", [], |row| row.get(0))
            .unwrap();
        assert_eq!(
            u128::try_from(timeout),
            Ok(schema::BUSY_TIMEOUT.as_millis())
        );
    }
}
