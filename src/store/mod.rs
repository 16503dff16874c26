//! The store: what was recorded, what happened, and what has still to be delivered.
//!
//! # Constraints
//!
//! - The new record of a project, its events, their payloads and their deliveries commit in one
//!   transaction ([`Store::record`]). Where it cannot commit nothing has changed, and the
//!   difference is still on disk for the next look.
//! - What was answered is durable: it survives the power being cut.
//! - Delivery is at least once: a delivery leaves the queue only by the answer to it.
//! - The deliveries that wait are in the database and nowhere else; memory does not grow with
//!   them, and neither does the cost of finding the next one.
//! - State that is damaged or newer than the program is reported and left as it is.
//! - Nothing here reads a clock.
//!
//! # Format
//!
//! The state directory (mode 0700 where it is made here) holds `state.db`, a SQLite database with
//! a write-ahead log beside it, and `lock`. The files have mode 0600. `schema/` has the tables,
//! one file per version; what a released version wrote is migrated, never rewritten by hand.
//!
//! # Operation
//!
//! One thread writes and commits whatever waits as one transaction, another reads; see `writer` and
//! `reader`. [`Store`] is the daemon's handle to both: the inference side blocks on it, the
//! delivery side awaits it. The command line reads by [`Listings`] and writes by [`Operations`],
//! beside a running daemon or without one.
//!
//! Map: `schema` opens and migrates, `lock` keeps a second daemon out, `writer` and `reader` run
//! the jobs, as `transaction` says. `batch` is what is recorded together, `record`, `marks` and
//! `problems` write and read it, `payload` keeps the bytes. `queue` claims and finishes, `webhooks`
//! keeps what is known of a webhook, `retention` removes what is old. `listing`, `select` and
//! `operations` serve the command line, `row` and `error` serve all.

mod batch;
mod error;
mod listing;
mod lock;
mod marks;
mod operations;
mod payload;
mod problems;
mod queue;
mod reader;
mod record;
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

use jiff::Timestamp;
use rusqlite::Connection;

pub use batch::{
    Batch, Change, Committed, MetaKey, NewDeliveries, NewEvent, READY_BYTES, READY_MAX,
    RecordedEvent,
};
pub use error::{Fault, OpenError, StoreError};
pub use listing::{EventFilter, ListedDelivery, ListedEvent, Listings};
pub use operations::Operations;
pub use problems::RecordedProblem;
pub use queue::{AttemptLog, Claim, Claims, Finish, Unreadable};
pub use retention::Collected;
pub use select::Selector;
pub use webhooks::{Off, OffCause, WebhookState};

use crate::config::Retention;
use crate::domain::project::{ContentHash, Identity, Mark, ProjectKey, Recorded};
use reader::Reader;
use retention::Garbage;
use writer::Writer;

/// The daemon's handle to the store. Its clones are the same store.
///
/// The blocking methods do their work on the caller's thread, which must be a plain one, not one of
/// asynchronous tasks; they say so. When the last handle is dropped what waits is committed and the
/// threads end, as with [`Store::close`].
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    path: Arc<Path>,
    /// Of the database's file when it was opened.
    identity: schema::FileIdentity,
    writer: Arc<Writer>,
    reader: Reader,
    garbage: Mutex<Garbage>,
    reader_thread: Mutex<Option<JoinHandle<()>>>,
    writer_thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn close(&self) {
        // The reader first: the last connection to close clears the log away, and one that cannot
        // write cannot do that.
        self.reader.close();
        end(&self.reader_thread);
        self.writer.close();
        end(&self.writer_thread);
    }
}

/// What a panic left behind is good: a job is taken out before it runs, and SQLite rolls back.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a thread that was told to end.
fn end(thread: &Mutex<Option<JoinHandle<()>>>) {
    if let Some(thread) = guard(thread).take() {
        // One that panicked was reported when it did, and answers nobody any more.
        let _ = thread.join();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store {
    /// Opens the state of a directory: makes both where they are missing, takes the lock, and
    /// brings the database up to date.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        schema::prepare_directory(state_dir)?;
        let lock = lock::StateLock::take(state_dir)?;
        let for_writing = schema::open_and_migrate(state_dir)?;
        let for_checkpoints = schema::open_beside(state_dir)?;
        let for_reading = schema::open_for_reading(state_dir)?;
        let (reader, reads) = Reader::new(
            schema::open_for_reading(state_dir)?,
            schema::open_for_reading(state_dir)?,
        );
        let path = schema::database(state_dir);
        let identity = schema::identity(&path)?;
        let writer = Arc::new(Writer::new(for_writing));
        // Where the second thread cannot be started, the reader goes, and the first one ends.
        let reader_thread = start("store-reader", state_dir, move || {
            reader::run(&for_reading, reads);
        })?;
        let writer_thread = start("store-writer", state_dir, {
            let writer = Arc::clone(&writer);
            move || {
                // The lock goes last: the next daemon must not find the log of this one open.
                let _lock = lock;
                writer.run(&for_checkpoints);
                drop(for_checkpoints);
            }
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                path: path.into(),
                identity,
                writer,
                reader,
                garbage: Mutex::default(),
                reader_thread: Mutex::new(Some(reader_thread)),
                writer_thread: Mutex::new(Some(writer_thread)),
            }),
        })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whether the database that is open is still the one in the state directory. One that was
    /// removed or moved away takes every commit, and none of them is there after a restart.
    pub fn is_in_place(&self) -> bool {
        schema::identity(&self.shared.path).is_ok_and(|found| found == self.shared.identity)
    }

    /// Commits what waits, ends the threads and gives the lock back. Blocks. Every later call, on
    /// any handle, fails with [`Fault::Closed`].
    pub fn close(&self) {
        self.shared.close();
    }

    fn error(&self, fault: Fault) -> StoreError {
        StoreError::new(&self.shared.path, fault)
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

/// The side of inference. Every method blocks.
impl Store {
    /// What is recorded of a project; empty where nothing is.
    pub fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        let recorded = self.recorded_many(std::slice::from_ref(key))?;
        Ok(recorded.into_iter().next().unwrap_or_default())
    }

    /// What is recorded of each of these projects, in their order. Claims wait meanwhile, so ask
    /// for some hundreds at once, not for all.
    pub fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError> {
        let read = |connection: &Connection| {
            keys.iter()
                .map(|key| record::recorded(connection, key))
                .collect()
        };
        self.read_blocking(read)
    }

    /// What tells of each of these projects whether its files are unchanged, in their order. Ask for
    /// some hundreds at once, not for all.
    pub fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError> {
        self.read_blocking(move |connection| marks::marks(connection, &keys))
    }

    /// The projects with anything recorded, sorted.
    pub fn keys(&self) -> Result<Vec<ProjectKey>, StoreError> {
        self.read_blocking(|connection| record::keys(connection, None))
    }

    /// The projects of an organization with anything recorded, sorted.
    pub fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError> {
        let organization = organization.to_owned();
        self.read_blocking(move |connection| record::keys(connection, Some(&organization)))
    }

    /// For each of these organizations and identities the projects whose definition has it, sorted.
    pub fn with_identities(
        &self,
        wanted: &[(&str, &Identity)],
    ) -> Result<Vec<Vec<ProjectKey>>, StoreError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let read = |connection: &Connection| {
            wanted
                .iter()
                .map(|(organization, identity)| {
                    record::with_identity(connection, organization, identity)
                })
                .collect()
        };
        self.read_blocking(read)
    }

    /// A fact about the repository as a whole.
    pub fn meta(&self, key: MetaKey) -> Result<Option<String>, StoreError> {
        self.read_blocking(move |connection| record::meta(connection, key))
    }

    /// The first `limit` files that do not count, by project and path.
    pub fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.read_blocking(move |connection| problems::list(connection, limit))
    }

    /// Records a batch, whole or not at all; returns when it is durable. After an error nothing
    /// has changed and the same batch may be tried again, but after [`Fault::Stale`], which asks
    /// for the record to be read and inferred from again.
    pub fn record(&self, mut batch: Batch) -> Result<Committed, StoreError> {
        let payloads = self.prepare(&mut batch)?;
        let replaced: Vec<ContentHash> =
            batch.changes.iter().filter_map(Change::replaced).collect();
        let committed =
            self.write_blocking(move |connection| record::record(connection, &batch, &payloads))?;
        guard(&self.shared.garbage).add(replaced);
        Ok(committed)
    }

    /// Takes the payloads out of a batch and makes them what is stored.
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

/// The side of delivery.
impl Store {
    /// The heads of a webhook's lanes that are due, at most `limit`, the longest due first and
    /// among equals the oldest. `excluding` names the projects in flight. Nothing is due of a
    /// webhook that is off.
    pub async fn claim_due(
        &self,
        webhook: &str,
        now: Timestamp,
        limit: usize,
        excluding: HashSet<ProjectKey>,
    ) -> Result<Claims, StoreError> {
        let webhook = webhook.to_owned();
        self.read(move |connection| queue::claim_due(connection, &webhook, now, limit, &excluding))
            .await
    }

    /// When the first of a webhook's lanes is due, but for those in flight.
    pub async fn next_due(
        &self,
        webhook: &str,
        excluding: HashSet<ProjectKey>,
    ) -> Result<Option<Timestamp>, StoreError> {
        let webhook = webhook.to_owned();
        self.read(move |connection| queue::next_due(connection, &webhook, &excluding))
            .await
    }

    /// Records attempts and what follows from them; returns when that is durable. After an error
    /// it may be tried again: an attempt that is on record is not recorded twice.
    pub async fn finish(&self, finished: impl Into<Arc<[Finish]>>) -> Result<(), StoreError> {
        let finished = finished.into();
        self.write(move |connection| queue::finish(connection, &finished))
            .await
    }

    /// Makes due now what waits for a time that was reckoned by a clock which has been set back
    /// since. Returns how many deliveries that was.
    pub async fn correct_times(&self, webhook: &str, now: Timestamp) -> Result<usize, StoreError> {
        let webhook = webhook.to_owned();
        self.write(move |connection| queue::correct_times(connection, &webhook, now))
            .await
    }

    /// Where each webhook stands that ever had a delivery or a fingerprint, by name.
    pub async fn webhook_states(&self) -> Result<Vec<WebhookState>, StoreError> {
        // A count of a million deliveries takes a tenth of a second, for which claims must not wait.
        let store = self.clone();
        let counted =
            tokio::task::spawn_blocking(move || store.shared.reader.read_apart(webhooks::states));
        let states = counted.await.unwrap_or(Err(Fault::Closed));
        states.map_err(|fault| self.error(fault))
    }

    /// Switches a webhook on, whoever switched it off; says whether it was off.
    pub async fn switch_on(&self, webhook: &str) -> Result<bool, StoreError> {
        let webhook = webhook.to_owned();
        self.write(move |connection| webhooks::switch_on(connection, &webhook))
            .await
    }

    /// Notes the fingerprints of the webhooks' configurations, all or none. Where one changed, what
    /// waits after a failure is due now, and the webhook is on again if its receiver had switched
    /// it off by 410. Returns the webhooks that are on again. Where none changed nothing is written,
    /// so that it works on a full disk.
    pub async fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        let changed = self
            .read(move |connection| {
                let mut changed = Vec::new();
                for (webhook, fingerprint) in fingerprints {
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
    }

    /// Removes a piece of what is older than its retention: at most `limit` rows of each kind. To
    /// be repeated until [`Collected::is_empty`].
    pub async fn collect(
        &self,
        retention: Retention,
        now: Timestamp,
        limit: usize,
    ) -> Result<Collected, StoreError> {
        let garbage = guard(&self.shared.garbage).take();
        let before = garbage.clone();
        let result = self
            .write(move |connection| {
                let mut garbage = before.clone();
                let collected =
                    retention::collect(connection, &mut garbage, &retention, now, limit)?;
                Ok((collected, garbage))
            })
            .await;
        match result {
            Ok((collected, rest)) => {
                guard(&self.shared.garbage).put_back(rest);
                Ok(collected)
            }
            Err(error) => {
                guard(&self.shared.garbage).put_back(garbage);
                Err(error)
            }
        }
    }
}
