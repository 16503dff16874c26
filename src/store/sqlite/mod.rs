//! The implementation of the store: a SQLite database in the state directory.
//!
//! # Format
//!
//! The state directory (created with mode 0700) contains `state.db`, a SQLite database with its
//! write-ahead log, `lock` and `key`. The files have mode 0600. `schema/` has the tables, one file for
//! each version. Migrations update the state of an earlier released version.
//!
//! # Operation
//!
//! One thread commits queued writes in shared transactions, and another thread reads; see `writer`
//! and `reader`. Inference has its own thread and uses the same connections.
//!
//! Modules:
//!
//! - `schema` opens and migrates the database. `lock` prevents a second daemon. `key` has the key of
//!   the fingerprints of settings.
//! - `writer` and `reader` run jobs in a `transaction`.
//! - `record` and `problems` write and read the record, `payload` the contents of files,
//!   `answer` the bodies of answers.
//! - `queue` claims and finishes the deliveries of `lanes`. `listeners` has the receivers of deletes.
//!   `webhooks` keeps the state of webhooks.
//! - `retention` removes old rows. `expiry` gives up pending deliveries.
//! - `listing`, `select`, `operations` and `replay` are for the command line.
//! - All of them use `row` and `error`.

mod answer;
mod error;
mod expiry;
mod key;
mod lanes;
mod listeners;
mod listing;
pub(crate) mod lock;
mod operations;
mod payload;
mod problems;
mod queue;
mod reader;
mod record;
mod replay;
mod retention;
mod row;
mod schema;
mod select;
#[cfg(test)]
mod tests;
mod transaction;
mod webhooks;
mod writer;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use super::batch::{Batch, Change, Committed, MetaKey};
use super::contract::{Answer, Backend, Delivering, Recording};
use super::delivery::{Claims, Finish};
use super::error::{Fault, OpenError, StoreError};
use super::listing::{Collected, RecordedProblem, Space, WebhookState};
use crate::config::Retention;
use crate::domain::project::{ContentHash, Identity, Mark, ProjectKey, Recorded};
use key::FingerprintKey;
pub(super) use listing::SqliteListings;
pub(super) use operations::SqliteOperations;
use reader::Reader;
use retention::Garbage;
use writer::Writer;

/// The open database.
pub(super) struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: Box<Path>,
    location: Arc<str>,
    /// The device and the inode of the database file when it was opened.
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
        // Close the reader first. The last connection to close removes the write-ahead log, and a
        // read-only connection cannot do that.
        self.reader.close();
        end(&self.reader_thread);
        self.writer.close();
        end(&self.writer_thread);
    }
}

/// Locks a mutex, even after a panic of another holder.
///
/// That is safe: a job leaves its queue before it runs, and SQLite rolls back.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of a thread.
fn end(thread: &Mutex<Option<JoinHandle<()>>>) {
    if let Some(thread) = guard(thread).take() {
        // If the thread panicked, the panic was already reported.
        let _ = thread.join();
    }
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
        let for_checkpoints = schema::open_for_checkpoints(state_dir)?;
        let for_reading = schema::open_for_reading(state_dir)?;
        let (reader, reads) = Reader::new(
            schema::open_for_reading(state_dir)?,
            schema::open_for_reading(state_dir)?,
        );
        let path = schema::database(state_dir);
        let identity = schema::identity(&path)?;
        let writer = Arc::new(Writer::new(for_writing));
        // If the second thread cannot be started, `reader` is dropped and the first thread ends.
        let reader_thread = start("store-reader", state_dir, move || {
            reader::run(&for_reading, reads);
        })?;
        let writer_thread = start("store-writer", state_dir, {
            let writer = Arc::clone(&writer);
            let log = schema::log(state_dir);
            move || {
                // Release the lock last, after the connections are closed. Otherwise the next
                // daemon could start while this one still has the write-ahead log open.
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

    /// Reads on a thread and a connection of its own, so that claims do not wait for a long read.
    async fn read_slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || shared.reader.read_slowly(work));
        let result = read.await.unwrap_or(Err(Fault::Closed));
        result.map_err(|fault| self.error(fault))
    }

    /// Collects by `retention`, and makes these pending deliveries dead for a reason.
    async fn collect_and_expire(
        &self,
        retention: Retention,
        expiring: (Vec<i64>, String),
        now: Timestamp,
        limit: usize,
    ) -> Result<Collected, StoreError> {
        let garbage = guard(&self.shared.garbage).take();
        let before = garbage.clone();
        let (ids, reason) = expiring;
        let result = self
            .write(move |connection| {
                let mut garbage = before.clone();
                let expired = expiry::expire(connection, &ids, &reason, now)?;
                let collected =
                    retention::collect(connection, &mut garbage, &retention, now, limit)?;
                Ok((
                    Collected {
                        expired,
                        ..collected
                    },
                    garbage,
                ))
            })
            .await;
        match result {
            Ok((collected, rest)) => {
                guard(&self.shared.garbage).put_back(rest);
                if collected.n_payloads > 0 {
                    // The log still has the removed contents.
                    self.shared.writer.truncate_log();
                }
                Ok(collected)
            }
            Err(error) => {
                guard(&self.shared.garbage).put_back(garbage);
                Err(error)
            }
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.shared.writer.write(work).await;
        result.map_err(|fault| self.error(fault))
    }

    fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.shared.writer.write_here(work);
        result.map_err(|fault| self.error(fault))
    }

    /// Moves the payloads out of a batch, and checks and compresses them.
    fn prepare(&self, batch: &mut Batch) -> Result<Vec<payload::Given>, StoreError> {
        let payloads = std::mem::take(&mut batch.payloads);
        let hashes: Vec<ContentHash> = payloads.iter().map(|(hash, _)| *hash).collect();
        let size: usize = payloads.iter().map(|(_, bytes)| bytes.len()).sum();
        let stored = if size <= payload::UNASKED_MAX {
            vec![false; hashes.len()]
        } else {
            self.read_blocking(move |connection| payload::stored(connection, &hashes))?
        };
        payloads
            .into_iter()
            .zip(stored)
            .map(|((hash, bytes), stored)| payload::Given::prepare(hash, bytes, stored))
            .collect::<Result<Vec<_>, Fault>>()
            .map_err(|fault| self.error(fault))
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

impl Recording for SqliteStore {
    fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError> {
        let read = |connection: &Connection| {
            keys.iter()
                .map(|key| record::recorded(connection, key))
                .collect()
        };
        self.read_blocking(read)
    }

    fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError> {
        self.read_blocking(move |connection| record::marks(connection, &keys))
    }

    fn keys(&self) -> Result<Vec<ProjectKey>, StoreError> {
        self.read_blocking(|connection| record::keys(connection, None))
    }

    fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError> {
        let organization = organization.to_owned();
        self.read_blocking(move |connection| record::keys(connection, Some(&organization)))
    }

    fn n_defined(&self) -> Result<usize, StoreError> {
        self.read_blocking(record::n_defined)
    }

    fn with_identities(&self, wanted: &[Identity]) -> Result<Vec<Vec<ProjectKey>>, StoreError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let read = |connection: &Connection| {
            let wanted = wanted.iter();
            wanted
                .map(|identity| record::with_identity(connection, identity))
                .collect()
        };
        self.read_blocking(read)
    }

    fn kept_ids(&self) -> Result<Vec<(ProjectKey, String)>, StoreError> {
        self.read_blocking(record::kept_ids)
    }

    fn meta(&self, key: MetaKey) -> Result<Option<String>, StoreError> {
        self.read_blocking(move |connection| record::meta(connection, key))
    }

    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.read_blocking(move |connection| problems::list(connection, limit))
    }

    fn record(&self, mut batch: Batch) -> Result<Committed, StoreError> {
        let payloads = self.prepare(&mut batch)?;
        let replaced: Vec<ContentHash> =
            batch.changes.iter().filter_map(Change::replaced).collect();
        let committed =
            self.write_blocking(move |connection| record::record(connection, &batch, &payloads))?;
        guard(&self.shared.garbage).add(replaced);
        Ok(committed)
    }
}

impl Delivering for SqliteStore {
    fn claim_due<'a>(
        &'a self,
        webhook: &'a str,
        now: Timestamp,
        limit: usize,
        excluding: HashSet<ProjectKey>,
    ) -> Answer<'a, Claims> {
        let webhook = webhook.to_owned();
        Box::pin(
            self.read(move |connection| {
                queue::claim_due(connection, &webhook, now, limit, &excluding)
            }),
        )
    }

    fn next_due<'a>(
        &'a self,
        webhook: &'a str,
        excluding: HashSet<ProjectKey>,
    ) -> Answer<'a, Option<Timestamp>> {
        let webhook = webhook.to_owned();
        Box::pin(self.read(move |connection| queue::next_due(connection, &webhook, &excluding)))
    }

    fn finish(&self, finished: Arc<[Finish]>) -> Answer<'_, ()> {
        let key = self.shared.key;
        Box::pin(self.write(move |connection| queue::finish(connection, &finished, &key)))
    }

    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize> {
        let webhook = webhook.to_owned();
        Box::pin(self.write(move |connection| queue::correct_times(connection, &webhook, now)))
    }

    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>> {
        // Counting takes 0.15 s or more for a million deliveries.
        Box::pin(self.read_slowly(webhooks::states))
    }

    fn switch_on<'a>(&'a self, webhook: &'a str) -> Answer<'a, bool> {
        let webhook = webhook.to_owned();
        Box::pin(self.write(move |connection| webhooks::switch_on(connection, &webhook)))
    }

    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>> {
        let key = self.shared.key;
        Box::pin(async move {
            let changed = self
                .read(move |connection| {
                    let mut changed = Vec::new();
                    for (webhook, fingerprint) in fingerprints {
                        let fingerprint = key.keyed(&fingerprint);
                        if !webhooks::has_fingerprint(connection, &webhook, &fingerprint)? {
                            changed.push((webhook, fingerprint));
                        }
                    }
                    Ok(changed)
                })
                .await?;
            if changed.is_empty() {
                return Ok(Vec::new());
            }
            self.write(move |connection| {
                let mut switched_on = Vec::new();
                for (webhook, fingerprint) in &changed {
                    if webhooks::set_fingerprint(connection, webhook, fingerprint, now)? {
                        switched_on.push(webhook.clone());
                    }
                }
                Ok(switched_on)
            })
            .await
        })
    }

    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected> {
        Box::pin(async move {
            let expiring = match retention.pending {
                Some(age) => {
                    let before = row::milliseconds(now).saturating_sub(row::duration(age));
                    let ids = self
                        .read_slowly(move |connection| expiry::older(connection, before, limit))
                        .await?;
                    let age = humantime::format_duration(age);
                    (
                        ids,
                        format!("pending for longer than retention.pending ({age})"),
                    )
                }
                None => Default::default(),
            };
            self.collect_and_expire(retention, expiring, now, limit)
                .await
        })
    }

    fn make_room<'a>(
        &'a self,
        reason: &'a str,
        now: Timestamp,
        limit: usize,
    ) -> Answer<'a, Collected> {
        Box::pin(async move {
            let mut retention = Retention {
                delivered: Duration::ZERO,
                dead: Duration::MAX,
                pending: None,
                max_state_size: None,
            };
            for dead in [Duration::MAX, Duration::ZERO] {
                retention.dead = dead;
                let none = Default::default();
                let collected = self.collect_and_expire(retention, none, now, limit).await?;
                if !collected.is_empty() {
                    return Ok(collected);
                }
            }
            let ids = self
                .read_slowly(move |connection| expiry::oldest_of_largest_backlog(connection, limit))
                .await?;
            let expiring = (ids, reason.to_owned());
            self.collect_and_expire(retention, expiring, now, limit)
                .await
        })
    }

    fn space(&self) -> Answer<'_, Space> {
        let path = self.shared.path.clone();
        Box::pin(self.read(move |connection| schema::space(connection, &path)))
    }
}

impl Backend for SqliteStore {
    fn location(&self) -> &str {
        &self.shared.location
    }

    fn is_in_place(&self) -> bool {
        schema::identity(&self.shared.path).is_ok_and(|found| found == self.shared.identity)
    }

    fn close(&self) {
        self.shared.close();
    }
}
