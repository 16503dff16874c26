//! Commits batches, and reports failures of the store.
//!
//! Constraint: the engine's view of the record changes only after a commit. The log has one line
//! when the store starts to fail or fails in another way, with the consequence, and one line when
//! it works again.

use std::sync::Arc;

use tracing::{error, info};

use super::status::{Status, Trouble};
use crate::dispatch::QueueHandles;
use crate::domain::event::{Event, EventKind, Origin};
use crate::domain::project::ProjectKey;
use crate::store::{Batch, Fault, RepositoryStore, StoreError};
use crate::traces::Traces;

/// The engine's access to the store and to the queues of the webhooks.
pub(super) struct Recorder {
    store: RepositoryStore,
    queues: Arc<QueueHandles>,
    status: Arc<Status>,
    /// `None` if traces are off.
    traces: Option<Arc<Traces>>,
    /// Whether the state directory lacked the open database in the last check.
    is_displaced: bool,
    is_closed: bool,
}

impl Recorder {
    pub(super) fn new(
        store: RepositoryStore,
        queues: Arc<QueueHandles>,
        status: Arc<Status>,
        traces: Option<Arc<Traces>>,
    ) -> Self {
        Self {
            traces,
            store,
            queues,
            status,
            is_displaced: false,
            is_closed: false,
        }
    }

    pub(super) fn store(&self) -> &RepositoryStore {
        &self.store
    }

    /// Whether a call failed because the store was closed or its thread ended.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Commits a batch and passes its deliveries to their queues.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            // Nothing to commit. The store works, because the caller has read it.
            self.works();
            return Ok(());
        }
        let sources: Vec<String> = batch
            .changes
            .iter()
            .flat_map(|change| &change.events)
            .filter_map(|new| new.event.explanation.username_from.clone())
            .collect();
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
        let moves: Vec<(ProjectKey, ProjectKey)> = batch
            .changes
            .iter()
            .filter_map(|change| Some((change.moved_from.clone()?, change.key.clone())))
            .collect();
        let (due, traced) = (batch.now, self.traced(&batch));
        let epoch = self.queues.epoch();
        let committed = self.store.record(batch)?;
        // Trace the events first. The queues may send at once, and the spans of attempts begin when
        // the spans of their event end.
        for (recorded, event) in committed.events.iter().zip(&traced) {
            if let Some(traces) = &self.traces {
                traces.recorded(&recorded.id, event, due);
            }
        }
        self.queues.moved(&moves);
        self.queues.deliver(committed.deliveries, epoch);
        self.works();
        self.status.count_usernames(&sources);
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

    /// Returns the events of a batch if traces are on, and none otherwise.
    fn traced(&self, batch: &Batch) -> Vec<Event> {
        let events = || batch.changes.iter().flat_map(|change| &change.events);
        match &self.traces {
            Some(_) => events().map(|new| new.event.clone()).collect(),
            None => Vec::new(),
        }
    }

    pub(super) fn failed(&mut self, error: &StoreError) {
        self.is_closed |= matches!(error.fault(), Fault::Closed);
        // If a stop closes the store during a step, this is not a failure: the next start repeats
        // the step.
        if !(self.is_closed && self.status.is_stopping()) {
            report(&self.status, error);
        }
    }

    /// Checks whether the state directory still has the open database. If not, reports it.
    pub(super) fn check_in_place(&mut self) -> bool {
        let is_in_place = self.store.is_in_place();
        if !is_in_place {
            let trouble = format!(
                "{} was removed, moved or replaced while the daemon runs; inference waits, \
                 but pending deliveries are sent. Put the file back, or restart the daemon to use \
                 the files that are in the state directory now",
                self.store.location()
            );
            report_trouble(&self.status, trouble);
        } else if self.is_displaced {
            self.works();
        }
        self.is_displaced = !is_in_place;
        is_in_place
    }

    fn works(&self) {
        if self.status.set_trouble(Trouble::Store, None) {
            info!("the store works again");
        }
    }
}

/// Reports that inference waits because of an error of the store.
pub(super) fn report(status: &Status, error: &StoreError) {
    let reason = crate::error::chain(error);
    let effect = match error.fault() {
        Fault::Fenced => "inference stops",
        _ => "inference waits until the store works again, and no change is lost",
    };
    report_trouble(status, format!("{reason}; {effect}"));
}

fn report_trouble(status: &Status, trouble: String) {
    if status.set_trouble(Trouble::Store, Some(trouble.clone())) {
        error!("{trouble}");
    }
}
