//! The store: the recorded state of projects, events and deliveries.
//!
//! # Constraints
//!
//! - The new record of a project, its events, their payloads and their deliveries commit together
//!   ([`Recording::record`]). If the commit fails, nothing has changed. The record still differs
//!   from the disk, so the next observation infers the same events.
//! - A change is durable when its call returns: from then on, it survives a power cut. Only claims
//!   need not be durable.
//! - Delivery is at least once: sending does not end a delivery. Only a recorded outcome, an
//!   operator or housekeeping does.
//! - The store has all pending deliveries. Memory has a limited number of them. The cost of finding
//!   the next delivery does not depend on the number of pending deliveries.
//! - If the state is found to be damaged or of a newer version, opening it fails and leaves the
//!   database as it is.
//!
//! Modules: `contract` has the operations and their promises. `batch`, `delivery`, `listing`,
//! `fleet`, `hold` and `error` have their types. `sqlite` and `postgres` implement the operations.
//! Both share `values`, `payload`, `answer`, `garbage`, `replay` and `retention`. `tests/store`
//! tests both implementations. `transfer` moves a state from one implementation to the other.
//! `scoped` limits a store to one repository. [`Store::open`] opens a state in SQLite, and
//! [`Store::connect`] a state in PostgreSQL. [`Listings`] and [`Operations`] also have `open` and
//! `connect`.

mod answer;
mod batch;
mod contract;
mod delivery;
mod error;
mod fleet;
mod garbage;
mod hold;
mod listing;
mod payload;
mod postgres;
mod replay;
mod retention;
mod scoped;
mod sqlite;
mod transfer;
mod values;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Postgres};
pub(crate) use batch::names_of;
pub use batch::{
    Batch, Change, Committed, MetaKey, NewDeliveries, NewEvent, READY_BYTES, READY_MAX,
    RecordedEvent,
};
pub use contract::{
    Alone, Answer, Asking, Backend, Delivering, Listing, Notice, Operating, Progress, Recording,
    Records,
};
pub use delivery::{AttemptLog, Claim, Claims, Finish, Unreadable};
pub use error::{Cause, Fault, OpenError, StoreError};
pub use fleet::{Fleet, Holder, LeaseView, Process, Sender, Standby};
pub use hold::Hold;
pub use listing::{
    ATTEMPTS_MAX, Collected, EventFilter, ListedDelivery, ListedEvent, Off, OffCause, Page,
    PayloadPart, RecordedProblem, Replay, Selector, Space, WebhookState,
};
pub(crate) use scoped::RepositoryStore;
pub(crate) use sqlite::lock::holder;
pub use transfer::{Copied, TransferError, Transferred};

/// The daemon's handle to the store. All clones use the same store.
///
/// Dropping the last clone closes the store; see [`Backend::close`].
#[derive(Clone)]
pub struct Store(Arc<dyn Backend>);

impl Store {
    /// Opens the state in a directory. Creates or migrates the state if necessary.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(sqlite::SqliteStore::open(state_dir)?)))
    }

    /// Opens the state where the configuration says: in `state_dir` or in PostgreSQL.
    pub(crate) fn of(config: &Config) -> Result<Self, OpenError> {
        match &config.store {
            Some(postgres) => {
                // The control socket needs the directory.
                sqlite::schema::prepare_directory(&config.state_dir)?;
                Self::connect(postgres)
            }
            None => Self::open(&config.state_dir),
        }
    }

    /// Opens the state for a process that only sends.
    ///
    /// Returns `None` for SQLite, because only PostgreSQL can be shared.
    pub(crate) fn of_sender(config: &Config) -> Result<Option<Self>, OpenError> {
        let postgres = config.store.as_ref();
        postgres.map(Self::connect_sender).transpose()
    }

    /// Connects to PostgreSQL for a process that only sends.
    ///
    /// Such a process does not take the lease on the repository.
    pub fn connect_sender(settings: &Postgres) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(postgres::PostgresStore::connect_sender(
            settings,
        )?)))
    }

    /// Connects to PostgreSQL and takes the lease on the repository.
    ///
    /// Creates or migrates the tables if necessary.
    pub fn connect(settings: &Postgres) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(postgres::PostgresStore::connect(settings)?)))
    }
}

/// The handle of a process that waits to take the lease on its repository.
pub(crate) struct Waiting(postgres::PostgresStandby);

impl Waiting {
    /// Prepares to wait for the lease. Returns `None` for SQLite, which has no lease.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, OpenError> {
        let standby = config.store.as_ref().map(postgres::PostgresStandby::new);
        Ok(standby.transpose()?.map(Self))
    }

    /// Returns an error if this process cannot or must not take the lease now.
    ///
    /// This is cheap.
    pub(crate) async fn ask(&self, config: &Config) -> Result<(), OpenError> {
        match &config.store {
            Some(settings) => self.0.ask(settings).await,
            None => Ok(()),
        }
    }
}

impl Deref for Store {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// The handle of the command line and the admin API for reading the store.
pub struct Listings(Box<dyn Listing + Send>);

impl Listings {
    /// Opens the state in a directory for reading, with or without a running daemon.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self(Box::new(sqlite::SqliteListings::open(state_dir)?)))
    }

    /// Opens the state where the configuration says: in `state_dir` or in PostgreSQL.
    pub(crate) fn of(config: &Config) -> Result<Self, OpenError> {
        match &config.store {
            Some(postgres) => Self::connect(postgres),
            None => Self::open(&config.state_dir),
        }
    }

    /// Connects to PostgreSQL for reading, with or without a running daemon.
    pub fn connect(settings: &Postgres) -> Result<Self, OpenError> {
        let listings = postgres::PostgresListings::connect(settings)?;
        Ok(Self(Box::new(listings)))
    }
}

impl Deref for Listings {
    type Target = dyn Listing;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// The handle of operators for changing deliveries and webhooks.
///
/// After a change, a command informs a running daemon by [`crate::admin::control::wake`]. The admin
/// API wakes the queues of its own daemon.
pub struct Operations(Box<dyn Operating>);

impl Operations {
    /// Opens the state in a directory. Does not create or migrate the state.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self(Box::new(sqlite::SqliteOperations::open(state_dir)?)))
    }

    /// Opens the state where the configuration says: in `state_dir` or in PostgreSQL.
    pub(crate) fn of(config: &Config) -> Result<Self, OpenError> {
        match &config.store {
            Some(postgres) => Self::connect(postgres),
            None => Self::open(&config.state_dir),
        }
    }

    /// Connects to PostgreSQL. Does not create or migrate the tables.
    pub fn connect(settings: &Postgres) -> Result<Self, OpenError> {
        let operations = postgres::PostgresOperations::connect(settings)?;
        Ok(Self(Box::new(operations)))
    }
}

impl Deref for Operations {
    type Target = dyn Operating;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl DerefMut for Operations {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

/// Moves the state of a state directory to PostgreSQL.
///
/// Fails if a daemon uses one of the two states.
pub fn move_to_postgres(
    state_dir: &Path,
    settings: &Postgres,
    copied: Copied<'_>,
) -> Result<Transferred, TransferError> {
    let mut source = sqlite::SqliteSide::source(state_dir)?;
    let mut names = transfer::check_form(&mut source, !settings.repositories.is_empty())?;
    names.extend(settings.repositories.iter().cloned());
    let names = names.into_iter().collect();
    let mut target = postgres::PostgresSide::target(settings)?;
    transfer::transfer(&mut source, &mut target, new_id(), names, copied)
}

/// Moves a repository's state in PostgreSQL to a state directory.
///
/// Fails if a daemon uses one of the two states.
pub fn move_to_sqlite(
    settings: &Postgres,
    state_dir: &Path,
    copied: Copied<'_>,
) -> Result<Transferred, TransferError> {
    let mut source = postgres::PostgresSide::source(settings)?;
    transfer::check_form(&mut source, !settings.repositories.is_empty())?;
    let mut target = sqlite::SqliteSide::target(state_dir)?;
    transfer::transfer(&mut source, &mut target, new_id(), Vec::new(), copied)
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
