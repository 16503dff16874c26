//! Keeps the state in a SQLite database in the state directory.
//!
//! # Format
//!
//! The state directory (created with mode 0700) contains `state.db`, a SQLite database with its
//! write-ahead log, and the files `lock`, `key` and `reserve`. The store creates them with mode
//! 0600. In the source code, the directory `schema` has a file with SQL for each version of the
//! tables. The first file creates the tables. Each further file migrates the state from the version
//! before.
//!
//! # Operation
//!
//! One thread commits queued writes in shared transactions, and another thread reads; see `writer`
//! and `reader`. Inference runs on other threads. It commits with the writer's connection, and
//! reads with a separate connection.
//!
//! Modules:
//!
//! - `schema` opens and migrates the database. `lock` prevents a second daemon. `key` keeps the key
//!   that hashes the fingerprints of settings.
//! - `writer` and `reader` run jobs in a `transaction`. `committer` commits the writer's jobs.
//!   `reserve` keeps disk space for the removal of rows.
//! - `recording` implements the operations of inference, and `delivering` those of sending and
//!   housekeeping.
//! - `record` writes batches, and `files` writes the files in them. `recorded` reads the record.
//!   `problems` has the invalid files, and `payload` has the contents of files.
//! - `queue` claims and finishes the deliveries of `lanes`. `listeners` has the webhooks that
//!   events of a project were routed to. `webhooks` has the state of webhooks.
//! - `retention` removes old rows. `expiry` makes old pending deliveries dead. `room` estimates
//!   how many rows to remove to free some space.
//! - `transfer` reads and writes all rows, to move a state from or to another store.
//! - `listing`, `pages`, `select`, `operations` and `replay` are for operators: the command line
//!   and the admin API.
//! - `row` and `error` convert rows and errors of SQLite to types of the program.

mod committer;
mod delivering;
mod error;
mod expiry;
mod files;
mod key;
mod lanes;
mod listeners;
mod listing;
pub(crate) mod lock;
mod operations;
mod pages;
mod payload;
mod problems;
mod queue;
mod reader;
mod record;
mod recorded;
mod recording;
mod replay;
mod reserve;
mod retention;
mod room;
mod row;
pub(super) mod schema;
mod select;
#[cfg(test)]
mod statement_tests;
#[cfg(test)]
mod tests;
mod transaction;
mod transfer;
mod webhooks;
mod writer;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::watch;

use super::contract::{Backend, Notice};
use super::error::{Fault, OpenError, StoreError};
use super::fleet::LeaseView;
use super::garbage::Garbage;
use committer::Committer;
use key::FingerprintKey;
pub(super) use listing::SqliteListings;
pub(super) use operations::SqliteOperations;
use reader::Reader;
use reserve::Reserve;
pub(super) use transfer::SqliteSide;
use writer::Writer;

/// The open database, for a daemon.
pub(super) struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: Box<Path>,
    location: Arc<str>,
    /// The device and inode numbers of the database file when it was opened.
    identity: (u64, u64),
    key: FingerprintKey,
    writer: Arc<Writer>,
    reader: Reader,
    garbage: Mutex<Garbage>,
    reader_thread: Mutex<Option<JoinHandle<()>>>,
    writer_thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn close(&self) {
        // Close the reader first. The last connection removes the write-ahead log when it closes,
        // and a read-only connection cannot do that.
        self.reader.close();
        end(&self.reader_thread);
        self.writer.close();
        end(&self.writer_thread);
    }
}

/// Locks a mutex, even if another holder panicked.
///
/// The data is still valid: a job that panicked had already left its queue, and its transaction is
/// not committed.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of a thread.
fn end(thread: &Mutex<Option<JoinHandle<()>>>) {
    if let Some(thread) = guard(thread).take() {
        // If the thread panicked, the panic was reported already.
        let _ = thread.join();
    }
}

/// Whether a thread has neither ended nor been joined.
fn runs(thread: &Mutex<Option<JoinHandle<()>>>) -> bool {
    guard(thread)
        .as_ref()
        .is_some_and(|thread| !thread.is_finished())
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl SqliteStore {
    /// Opens the state in a directory: takes the lock and migrates the database.
    ///
    /// Creates the directory and the database if they are missing.
    pub(super) fn open(state_dir: &Path) -> Result<Self, OpenError> {
        schema::prepare_directory(state_dir)?;
        let lock = lock::StateLock::take(state_dir)?;
        let key = FingerprintKey::read_or_create(state_dir)?;
        let for_writing = schema::open_and_migrate(state_dir)?;
        transfer::refuse(&for_writing, &schema::database(state_dir))?;
        let for_checkpoints = schema::open_for_checkpoints(state_dir)?;
        let for_reading = schema::open_for_reading(state_dir)?;
        let (reader, reads) = Reader::new(
            schema::open_for_reading(state_dir)?,
            schema::open_for_reading(state_dir)?,
        );
        let path = schema::database(state_dir);
        let identity = schema::identity(&path)?;
        let reserve = Reserve::take(state_dir);
        let committer = Committer::new(for_writing, reserve)
            .map_err(|source| OpenError::from_sqlite(&path, source))?;
        let writer = Arc::new(Writer::new(committer));
        // If the second thread cannot start, `reader` is dropped, which ends the first thread.
        let reader_thread = start("store-reader", state_dir, move || {
            reader::run(&for_reading, reads);
        })?;
        let writer_thread = start("store-writer", state_dir, {
            let writer = Arc::clone(&writer);
            let log = schema::log(state_dir);
            move || {
                // Release the lock last. Otherwise the next daemon could start while this one
                // still has the write-ahead log open.
                let _lock = lock;
                writer.run(&for_checkpoints, &log);
                drop(for_checkpoints);
            }
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                location: path.to_string_lossy().into(),
                path: path.into(),
                identity,
                key,
                writer,
                reader,
                garbage: Mutex::default(),
                reader_thread: Mutex::new(Some(reader_thread)),
                writer_thread: Mutex::new(Some(writer_thread)),
            }),
        })
    }

    fn error(&self, fault: Fault) -> StoreError {
        StoreError::new(&self.shared.location, fault)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.shared.reader.read(work).await;
        result.map_err(|fault| self.error(fault))
    }

    fn read_blocking<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let result = self.shared.reader.read_here(work);
        result.map_err(|fault| self.error(fault))
    }

    /// Reads on a separate thread and connection.
    ///
    /// So claims do not wait for a long read.
    async fn read_slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || shared.reader.read_slowly(work));
        let result = read.await.unwrap_or(Err(Fault::Closed));
        result.map_err(|fault| self.error(fault))
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.shared.writer.write(work).await;
        result.map_err(|fault| self.error(fault))
    }

    /// Removes rows. If space is missing, uses the space in `reserve`.
    async fn remove<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.shared.writer.remove(work).await;
        result.map_err(|fault| self.error(fault))
    }

    fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.shared.writer.write_here(work);
        result.map_err(|fault| self.error(fault))
    }
}

fn start(
    name: &str,
    state_dir: &Path,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source: io::Error| OpenError::Io {
            what: "start a thread for",
            path: state_dir.to_owned(),
            source,
        })
}

impl Backend for SqliteStore {
    fn location(&self) -> &str {
        &self.shared.location
    }

    fn is_in_place(&self) -> bool {
        schema::identity(&self.shared.path).is_ok_and(|found| found == self.shared.identity)
    }

    fn is_running(&self) -> bool {
        runs(&self.shared.reader_thread) && runs(&self.shared.writer_thread)
    }

    fn notices(&self) -> Option<watch::Receiver<Notice>> {
        None
    }

    fn fleet(&self) -> Option<watch::Receiver<LeaseView>> {
        None
    }

    fn close(&self) {
        self.shared.close();
    }
}
