//! Commits batches, and reports a store that fails.
//!
//! Constraint: the engine's view of the record changes only after a commit. A failure of the store is
//! logged once, with its consequence, and so is its end.

use std::sync::Arc;

use tracing::{error, info};

use super::status::{Status, Trouble};
use crate::dispatch::QueueHandles;
use crate::domain::event::{EventKind, Origin};
use crate::domain::project::ProjectKey;
use crate::store::{Batch, Fault, Store, StoreError};

/// The way from the engine into the store and the webhooks' queues.
pub(super) struct Recorder {
    store: Store,
    queues: Arc<QueueHandles>,
    status: Arc<Status>,
    /// Whether the open database is not the one in the state directory.
    is_displaced: bool,
    is_closed: bool,
}

impl Recorder {
    pub(super) fn new(store: Store, queues: Arc<QueueHandles>, status: Arc<Status>) -> Self {
        Self {
            store,
            queues,
            status,
            is_displaced: false,
            is_closed: false,
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether the store's threads have ended. They end before the engine only by a panic.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Commits a batch and passes its deliveries to their queues.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            // The store could be read.
            self.works();
            return Ok(());
        }
        let events: Vec<(EventKind, ProjectKey, Origin, usize)> = batch
            .changes
            .iter()
            .flat_map(|change| &change.events)
            .map(|new| {
                let event = &new.event;
                let n_webhooks = new.webhooks.len();
                (event.kind, event.key.clone(), event.origin, n_webhooks)
            })
            .collect();
        let committed = self.store.record(batch)?;
        self.queues.deliver(committed.deliveries);
        self.works();
        for (recorded, (kind, key, origin, webhooks)) in committed.events.iter().zip(events) {
            info!(
                event_id = %recorded.id,
                project = %key,
                origin = origin.as_str(),
                webhooks,
                "{}",
                kind.label()
            );
            self.status.count_event(kind.as_str(), origin.as_str());
        }
        Ok(())
    }

    pub(super) fn failed(&mut self, error: &StoreError) {
        self.is_closed |= matches!(error.fault(), Fault::Closed);
        self.report(format!(
            "{}; inference waits, and nothing is forgotten",
            crate::error::chain(error)
        ));
    }

    /// Checks whether the open database is the one in the state directory, and reports if not.
    pub(super) fn check_in_place(&mut self) -> bool {
        let is_in_place = self.store.is_in_place();
        if !is_in_place {
            self.report(format!(
                "{} was removed, moved or replaced while the daemon runs; inference waits, and \
                 pending deliveries go out. Put it back, or restart the daemon to use the files \
                 that are in the state directory now",
                self.store.location()
            ));
        } else if self.is_displaced {
            self.works();
        }
        self.is_displaced = !is_in_place;
        is_in_place
    }

    fn report(&self, trouble: String) {
        if self
            .status
            .set_trouble(Trouble::Store, Some(trouble.clone()))
        {
            error!("{trouble}");
        }
    }

    fn works(&self) {
        if self.status.set_trouble(Trouble::Store, None) {
            info!("the store works again");
        }
    }
}
