//! Implements the store in PostgreSQL, for processes on several machines.
//!
//! # Constraints
//!
//! - One process watches a repository: the holder of its `lease`. Each grant of the lease has a
//!   number, the epoch. A commit that changes the record checks the epoch, so a former holder
//!   cannot change the record.
//! - Any number of processes send deliveries at the same time. `sender` lets only one of them
//!   claim a delivery.
//! - Several repositories can share one database. Each row has the id of its repository.
//! - Recording a batch usually costs two round trips to the server. It costs more, for example, if
//!   the payloads of the batch exceed 64 KiB, or if an event id is taken.
//! - A claim usually costs one round trip, and another one if it finds fewer deliveries than it may
//!   claim. Each piece of a large payload costs one more. `session` explains how transactions run
//!   without anomalies.
//! - While the server cannot be reached, operations fail with [`Fault::Unreachable`]. A later
//!   operation connects again.
//!
//! # Modules
//!
//! - `connect` makes connections. `schema` creates the tables. `worker` has the thread that runs a
//!   daemon's work on the database.
//! - `session` sends statements. `row` converts rows. `error` converts errors.
//! - `recording` implements the operations of inference, and `delivering` those of sending and
//!   housekeeping.
//! - `record` records a batch: it reads the `facts`, finds free `event_ids`, computes the
//!   `new_rows`, and commits the statements of `write`. If the result of a commit is unknown,
//!   `doubt` finds it out later. `recorded` reads the record.
//! - `claims` claims deliveries. `lanes` keeps them in order. `queue` records the results of their
//!   attempts. `payloads` reads large payloads in pieces. `webhooks` stores the state of webhooks.
//! - `retention` removes old rows.
//! - `client` connects the command line and the admin server. `listing` implements their reads:
//!   `select` has the conditions, `listed` reads rows, and `pages` reads pages of rows.
//!   `operations` and `replay` implement an operator's changes.
//! - `names` prevents two processes from watching the same repository, one of them alone and the
//!   other in a list of `repositories`.
//! - `fleet` reads the lease with its standbys and senders. `standby` waits for the lease.
//!   `server_time` is the clock of all senders.
//! - `statistics` tells the server to analyze growing tables.
//! - `changes` tells processes that an operator changed something, that there are deliveries to
//!   claim, or that a webhook has a new sole sender (see `sender`).
//! - `transfer` reads and writes a state for `migrate-store`. `moved_rows` makes the statements for
//!   its rows.

mod changes;
mod claims;
mod client;
mod connect;
mod delivering;
mod doubt;
mod error;
mod event_ids;
mod facts;
mod fleet;
mod lanes;
mod lease;
mod listed;
mod listing;
mod moved_rows;
mod names;
mod new_rows;
mod operations;
mod pages;
mod payloads;
mod queue;
mod record;
mod recorded;
mod recording;
mod replay;
mod retention;
mod row;
mod schema;
mod select;
mod sender;
mod server_time;
mod session;
mod standby;
mod statistics;
mod transfer;
mod webhooks;
mod worker;
mod write;

use std::future::Future;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_postgres::Pool;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio_postgres::{Config, NoTls};
use tokio_util::sync::CancellationToken;

use self::connect::{Tls, open_error};
use self::doubt::Doubt;
use self::fleet::LastRead;
use self::lease::{Attempt, Lease, Notices};
pub(super) use self::listing::PostgresListings;
pub(super) use self::operations::PostgresOperations;
use self::sender::Sender;
use self::server_time::ServerTime;
use self::session::{Session, statement};
pub(super) use self::standby::PostgresStandby;
use self::statistics::Statistics;
pub(super) use self::transfer::PostgresSide;
use self::worker::Worker;
use super::contract::{Backend, Notice};
use super::error::{Fault, OpenError, StoreError};
use super::fleet::{LeaseView, Process};
use super::garbage::Garbage;
use crate::config::Postgres;
use crate::error::chain;

/// An open store. A process that watches also has the lease on its repository.
pub(super) struct PostgresStore {
    worker: Worker,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// The state that jobs on the worker's thread share.
struct Shared {
    pool: Pool,
    /// The connections that renew leases.
    renewals: Pool,
    location: Arc<str>,
    lease: Lease,
    last_read: LastRead,
    /// Whether this process got the lease on the repository. Otherwise it only sends.
    ///
    /// This stays true if another process takes over the lease.
    is_watching: bool,
    sender: Sender,
    statistics: Statistics,
    key: FingerprintKey,
    notices: Notices,
    garbage: Mutex<Garbage>,
    doubt: tokio::sync::Mutex<Doubt>,
    /// The lowest repetition for new event ids, as the last recorded batch read it.
    ///
    /// It is 0 before the first batch.
    repetition: AtomicU32,
    finishing: delivering::Finishing,
}

/// Locks a mutex, even if a thread panicked while it held the lock.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The secret key of the fingerprints of webhooks' settings.
///
/// Without a key, somebody with a copy of the database could guess a secret setting and compare its
/// fingerprint. All processes need the same key, so the database stores the key, encrypted with the
/// database password. The stored value is a random salt, then the key XOR a hash of salt and
/// password. If no password is configured, the empty text replaces it.
#[derive(Clone, Copy)]
struct FingerprintKey([u8; 32]);

impl FingerprintKey {
    fn new(stored: &[u8], settings: &Postgres) -> Self {
        let (salt, encrypted) = stored.split_at_checked(SALT).unwrap_or((stored, &[]));
        let mut key = Self::mask(salt, settings);
        for (byte, encrypted) in key.iter_mut().zip(encrypted) {
            *byte ^= encrypted;
        }
        Self(key)
    }

    /// Encrypts the key for the database, with a new salt.
    fn stored(&self, settings: &Postgres) -> Vec<u8> {
        let mut stored = random().to_vec();
        let mask = Self::mask(&stored, settings);
        stored.extend(self.0.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        stored
    }

    fn mask(salt: &[u8], settings: &Postgres) -> [u8; 32] {
        let password = settings.password.as_ref();
        let password = password.map_or("", |password| password.expose_secret());
        let mut hasher =
            blake3::Hasher::new_derive_key("project-webhooks fingerprints of settings");
        hasher.update(&(salt.len() as u64).to_le_bytes());
        hasher.update(salt).update(password.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Returns the keyed hash of a fingerprint, for the database.
    fn keyed(&self, fingerprint: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, fingerprint).as_bytes()
    }

    fn of_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

/// The length of the salt, in bytes.
const SALT: usize = 32;

fn random() -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for _ in 0..3 {
        hasher.update(uuid::Uuid::new_v4().as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The purpose of opening a store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To watch the repository.
    ///
    /// With the role `deliver`, the process also sends deliveries.
    Work,
    /// To send deliveries without watching.
    Send,
    /// To copy a state to this database (`migrate-store`).
    MoveHere,
    /// To copy a state from this database (`migrate-store`).
    MoveAway,
}

impl Purpose {
    fn is_move(self) -> bool {
        matches!(self, Self::MoveHere | Self::MoveAway)
    }
}

impl PostgresStore {
    /// Connects, creates or migrates the tables, and gets the lease on the repository.
    pub(super) fn connect(settings: &Postgres) -> Result<Self, OpenError> {
        Self::connect_for(settings, Purpose::Work)
    }

    /// Connects, and creates or migrates the tables, for a process that only sends.
    pub(super) fn connect_sender(settings: &Postgres) -> Result<Self, OpenError> {
        Self::connect_for(settings, Purpose::Send)
    }

    fn connect_for(settings: &Postgres, purpose: Purpose) -> Result<Self, OpenError> {
        let mut config = connect::config(settings)?;
        connect::plan_once(&mut config);
        let location = connect::location(&config);
        let tls = connect::tls(settings, &location)?;
        let worker = Worker::start(&location)?;
        let opened = worker.run_blocking({
            let (settings, tls) = (settings.clone(), tls.clone());
            let (config, location) = (config.clone(), Arc::clone(&location));
            async move { Ok(open(&settings, &tls, config, location, purpose).await) }
        });
        let shared = opened.map_err(|fault| open_error(&location, fault))??;
        let store = Self {
            worker,
            shared: Arc::new(shared),
            stop: CancellationToken::new(),
        };
        store.start_background(tls, config);
        Ok(store)
    }

    /// Starts the tasks for renewals of leases, analysis of tables, and notifications.
    fn start_background(&self, tls: Tls, config: Config) {
        let shared = Arc::clone(&self.shared);
        let stop = self.stop.clone();
        if shared.is_watching {
            self.start_task(async move {
                let (pool, notices) = (shared.renewals.clone(), shared.notices.clone());
                let last_read = shared.last_read.clone();
                shared.lease.keep(pool, notices, last_read, stop).await;
            });
        }
        let shared = Arc::clone(&self.shared);
        let stop = self.stop.clone();
        self.start_task(async move {
            let pools = (shared.renewals.clone(), shared.pool.clone());
            let notices = shared.notices.clone();
            // A watching process already reads the fleet when it renews the lease on the
            // repository.
            let last_read = (!shared.is_watching).then(|| shared.last_read.clone());
            shared.sender.keep(pools, notices, last_read, stop).await;
        });
        let shared = Arc::clone(&self.shared);
        let stop = self.stop.clone();
        self.start_task(async move {
            tokio::select! {
                () = shared.statistics.keep(&shared.pool) => {}
                () = stop.cancelled() => {}
            }
        });
        let (notices, repository) = (self.shared.notices.clone(), self.shared.lease.repository);
        let stop = self.stop.clone();
        self.start_task(async move {
            let listening = async {
                match tls {
                    Some(tls) => changes::listen(config, tls, repository, notices).await,
                    None => changes::listen(config, NoTls, repository, notices).await,
                }
            };
            tokio::select! {
                () = listening => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Starts a task on the worker's thread.
    ///
    /// The task must end when the store is closed.
    fn start_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        // This cannot fail: the queue of the new thread has room.
        let _ = self.worker.start_job(task);
    }

    fn error(&self, fault: Fault) -> StoreError {
        StoreError::new(&self.shared.location, fault)
    }

    /// Runs a job on the worker's thread.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Shared>) -> F + Send) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let job = work(Arc::clone(&self.shared));
        self.worker
            .run(job)
            .await
            .map_err(|fault| self.error(fault))
    }

    /// Runs a job on the worker's thread, and blocks until it has a result.
    fn run_blocking<T, F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let job = work(Arc::clone(&self.shared));
        let result = self.worker.run_blocking(job);
        result.map_err(|fault| self.error(fault))
    }
}

/// Opens the database for this purpose.
///
/// Creates or migrates the tables, and gets the lease unless the process only sends.
async fn open(
    settings: &Postgres,
    tls: &Tls,
    config: Config,
    location: Arc<str>,
    purpose: Purpose,
) -> Result<Shared, OpenError> {
    let pool = connect::pool(tls, config.clone(), &location)?;
    let renewals = connect::renewals(tls, config, &location, settings.lease)?;
    schema::migrate(&pool, &location).await?;
    let fault = |fault| open_error(&location, fault);
    let (repository, stored_key) = register(&pool, settings).await.map_err(fault)?;
    let name = Process::this().to_string();
    let is_watching = purpose != Purpose::Send;
    if purpose == Purpose::Work && !settings.repositories.is_empty() {
        // Check the names first, so that a conflict is reported at once. Otherwise this process
        // might only report that it waits for the lease.
        let mut session = Session::of(&pool).await.map_err(fault)?;
        let refused = names::refuse_own(&mut session, &settings.repositories).await;
        let refused = refused.map_err(fault)?;
        refused.map_or(Ok(()), |refusal| Err(refusal.error(&location)))?;
    }
    let is_to_watch = purpose != Purpose::MoveAway;
    let attempt = match is_watching {
        true => lease::acquire(&pool, repository, &name, settings, is_to_watch).await,
        false => Ok(Attempt::Got(Lease::none(repository, settings.lease))),
    };
    let lease = match attempt.map_err(fault)? {
        Attempt::Got(lease) => lease,
        Attempt::Refused(refusal) => return Err(refusal.error(&location)),
        Attempt::Held(holder, recorded) => {
            return Err(OpenError::leased(&location, settings, holder, &recorded));
        }
    };
    let started = start(&pool, &location, settings, purpose, &lease).await;
    let (sender, last_read, statistics) = match started {
        Ok(parts) => parts,
        Err(error) => {
            // Release the lease. Otherwise a standby or the next start waits until it expires.
            if let Err(fault) = lease.give_back(&pool).await {
                tracing::debug!(
                    fault = %chain(&fault),
                    "cannot release the lease; it expires by itself"
                );
            }
            return Err(error);
        }
    };
    Ok(Shared {
        last_read,
        statistics,
        pool,
        renewals,
        location,
        lease,
        is_watching,
        sender,
        key: FingerprintKey::new(&stored_key, settings),
        notices: Notices::new(),
        garbage: Mutex::default(),
        doubt: tokio::sync::Mutex::default(),
        repetition: AtomicU32::new(0),
        finishing: delivering::Finishing::default(),
    })
}

/// Checks that the state may be used. Makes the sender and the statistics.
///
/// The process already has the lease on the repository, unless it only sends.
async fn start(
    pool: &Pool,
    location: &Arc<str>,
    settings: &Postgres,
    purpose: Purpose,
    lease: &Lease,
) -> Result<(Sender, LastRead, Statistics), OpenError> {
    let fault = |fault| open_error(location, fault);
    let repository = lease.repository;
    let mut session = Session::of(pool).await.map_err(fault)?;
    if purpose.is_move() {
        let senders = sender::running(&mut session, repository).await;
        if let Some(holder) = senders.map_err(fault)? {
            return Err(OpenError::Delivering {
                location: Arc::clone(location),
                repository: settings.shown(),
                holder,
            });
        }
    } else {
        let marked = transfer::refuse(&mut session, repository, location).await;
        marked.map_err(fault)??;
    }
    let time = ServerTime::read(&mut session).await.map_err(fault)?;
    let name = Process::this().to_string();
    let sender = Sender::new(repository, name, settings.lease, time);
    drop(session);
    let last_read = LastRead::new(lease.fleet(pool).await.map_err(fault)?);
    let statistics = Statistics::read(pool).await.map_err(fault)?;
    if purpose == Purpose::Send {
        // Get the sender's lease now. `migrate-store` must find a sender even before its first
        // claim. No later step may fail, because nobody would then remove the lease.
        let mut session = Session::of(pool).await.map_err(fault)?;
        sender.lease(&mut session).await.map_err(fault)?;
    }
    Ok((sender, last_read, statistics))
}

/// Returns the id and the encrypted fingerprint key of the repository.
///
/// Inserts the row of the repository if it is missing.
async fn register(pool: &Pool, settings: &Postgres) -> Result<(i32, Vec<u8>), Fault> {
    let name = &settings.repository;
    let mut session = Session::of(pool).await?;
    let key = FingerprintKey(random()).stored(settings);
    let answers = session
        .pipeline(vec![
            statement!(
                // Without `NOT EXISTS`, each start would use up an id: the server takes an id
                // before it finds the conflict.
                "INSERT INTO repositories (name, fingerprint_key) SELECT $1, $2 \
                 WHERE NOT EXISTS (SELECT FROM repositories WHERE name = $1) \
                 ON CONFLICT DO NOTHING",
                name.clone(),
                key
            ),
            statement!(
                "SELECT id, fingerprint_key FROM repositories WHERE name = $1",
                name.clone()
            ),
        ])
        .await?;
    let found = answers.get(1).and_then(|rows| rows.first());
    let found = found.ok_or_else(|| Fault::Undecodable {
        what: format!("the repository {name}"),
        reason: "it was removed meanwhile".to_owned(),
    })?;
    Ok((found.try_get(0)?, found.try_get(1)?))
}

impl Backend for PostgresStore {
    fn location(&self) -> &str {
        &self.shared.location
    }

    fn is_in_place(&self) -> bool {
        // There is no path to check, because the server has the files.
        true
    }

    fn is_running(&self) -> bool {
        self.worker.is_running()
    }

    fn notices(&self) -> Option<watch::Receiver<Notice>> {
        Some(self.shared.notices.subscribe())
    }

    fn fleet(&self) -> Option<watch::Receiver<LeaseView>> {
        Some(self.shared.last_read.subscribe())
    }

    fn close(&self) {
        self.stop.cancel();
        self.worker.close();
    }

    fn abandon(&self) {
        self.worker.abandon();
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.close();
    }
}
