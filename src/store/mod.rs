//! The store: the record of projects, events, and deliveries.
//!
//! # Constraints
//!
//! - The new record of a project, its events, their payloads and their deliveries commit together
//!   ([`Recording::record`]). If they cannot, nothing has changed, and the difference is still on
//!   disk for the next observation.
//! - A change is durable when the call returns: it survives a power cut.
//! - Delivery is at least once: only the outcome of an attempt takes a delivery out of the queue.
//! - Pending deliveries are in the store alone. Memory does not grow with them, and neither does
//!   the cost of finding the next one.
//! - Opening reports damaged or newer state and does not change it.
//!
//! Map: `contract` has the operations and their promises, [`batch`](Batch), `delivery`, `listing`
//! and `error` their types; `sqlite` is the implementation. Nothing outside of it knows SQL.
//! Another one implements the traits of `contract`, is opened by [`Store::open`],
//! [`Listings::open`] and [`Operations::open`], and has to pass `tests/store`.

mod batch;
mod contract;
mod delivery;
mod error;
mod listing;
mod sqlite;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;

pub use batch::{
    Batch, Change, Committed, MetaKey, NewDeliveries, NewEvent, READY_BYTES, READY_MAX,
    RecordedEvent,
};
pub use contract::{Answer, Backend, Delivering, Listing, Operating, Progress, Recording};
pub use delivery::{AttemptLog, Claim, Claims, Finish, Unreadable};
pub use error::{Cause, Fault, OpenError, StoreError};
pub use listing::{
    Collected, EventFilter, ListedDelivery, ListedEvent, Off, OffCause, RecordedProblem, Selector,
    WebhookState,
};

/// The daemon's handle to the store. Clones share it.
///
/// Dropping the last one closes the store, as [`Backend::close`] does.
#[derive(Clone)]
pub struct Store(Arc<dyn Backend>);

impl Store {
    /// Opens the state of a directory. Creates both if they are missing, and migrates the state.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(sqlite::SqliteStore::open(state_dir)?)))
    }
}

impl Deref for Store {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// The command line's handle for reading.
pub struct Listings(Box<dyn Listing>);

impl Listings {
    /// Opens the state of a directory for reading, with or without a running daemon.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self(Box::new(sqlite::SqliteListings::open(state_dir)?)))
    }
}

impl Deref for Listings {
    type Target = dyn Listing;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// The command line's handle for changing the queue. [`crate::admin::wake`] makes a running daemon
/// act on the changes.
pub struct Operations(Box<dyn Operating>);

impl Operations {
    /// Opens the state of a directory. Neither creates nor migrates it.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self(Box::new(sqlite::SqliteOperations::open(state_dir)?)))
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
