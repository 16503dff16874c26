//! The operations of a store and their promises.
//!
//! Every implementation keeps them; `tests/store` tests the one it opens.
//!
//! - *Atomic*: an operation that changes something does it whole or not at all.
//! - *Durable*: when it returns, its change survives a power cut.
//! - *Repeatable*: after an error nothing has changed, and the caller may retry. The exception is
//!   [`Fault::Stale`](super::Fault::Stale).
//! - *Consistent*: one call reads one state.
//!
//! No operation reads a clock: time is an argument.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::batch::{Batch, Committed, MetaKey};
use super::delivery::{AttemptLog, Claims, Finish};
use super::error::StoreError;
use super::listing::{
    Collected, EventFilter, ListedDelivery, ListedEvent, RecordedProblem, Selector, WebhookState,
};
use crate::config::Retention;
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, Identity, Mark, ProjectKey, Recorded};

/// The answer to an operation of the delivery side.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The operations of inference. They block: call them from a thread that may.
pub trait Recording: Send + Sync {
    /// Reads the record of each of these projects, in their order; empty if there is none.
    ///
    /// Ask for some hundreds at once, not for all.
    fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError>;

    /// Reads the record of a project; empty if there is none.
    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        let recorded = self.recorded_many(std::slice::from_ref(key))?;
        Ok(recorded.into_iter().next().unwrap_or_default())
    }

    /// Reads the file metadata of each of these projects, for detecting unchanged files.
    ///
    /// Ask for some hundreds at once, not for all.
    fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError>;

    /// Lists the projects with a record, sorted.
    fn keys(&self) -> Result<Vec<ProjectKey>, StoreError>;

    /// Lists the projects of an organization with a record, sorted.
    fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError>;

    /// Lists for each of these organizations and identities the projects whose definition has it,
    /// sorted.
    fn with_identities(
        &self,
        wanted: &[(&str, &Identity)],
    ) -> Result<Vec<Vec<ProjectKey>>, StoreError>;

    /// Reads a fact about the repository as a whole.
    fn meta(&self, key: MetaKey) -> Result<Option<String>, StoreError>;

    /// Lists the first `limit` ignored files, by project and path.
    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError>;

    /// Records a batch. Atomic, durable, repeatable.
    ///
    /// The new record, its events, their payloads and their deliveries commit together. A recorded
    /// definition keeps its payload for as long as it is recorded, so that a delete can send it. An
    /// event whose id is that of an event on record, or of one that was removed, gets the id of a
    /// later repetition. No id and no place in the order of recording is ever used again.
    ///
    /// Returns the ids of the events, and the first of the deliveries that lead their lanes and are
    /// due. [`Fault::Stale`](super::Fault::Stale) means that the record changed after the batch
    /// was inferred from it: read it again, and infer again.
    fn record(&self, batch: Batch) -> Result<Committed, StoreError>;
}

/// The operations of delivery and of its upkeep.
///
/// A *lane* is a webhook and a project. Its pending deliveries go strictly in the order of
/// recording: only the oldest, its head, is ever claimed. Across the lanes of a webhook, a delivery
/// waits for earlier pending deletes of the same project id: a project that moves to another
/// organization is deleted there before it is imported here.
pub trait Delivering: Send + Sync {
    /// Claims the due heads of a webhook's lanes, at most `limit`, the longest due first and among
    /// equals the oldest.
    ///
    /// Changes nothing: the caller passes the projects in flight as `excluding`. A webhook that is
    /// off has nothing due. The cost does not depend on the number of pending deliveries.
    fn claim_due<'a>(
        &'a self,
        webhook: &'a str,
        now: Timestamp,
        limit: usize,
        excluding: HashSet<ProjectKey>,
    ) -> Answer<'a, Claims>;

    /// Returns the earliest due time of a webhook's lanes, without those in flight.
    fn next_due<'a>(
        &'a self,
        webhook: &'a str,
        excluding: HashSet<ProjectKey>,
    ) -> Answer<'a, Option<Timestamp>>;

    /// Records attempts and their verdicts. Atomic, durable, repeatable and idempotent: a recorded
    /// attempt is not recorded twice.
    ///
    /// A delivery that was removed meanwhile is ignored. One that was cancelled meanwhile stays so,
    /// unless it was delivered.
    fn finish(&self, finished: Arc<[Finish]>) -> Answer<'_, ()>;

    /// Makes deliveries due now whose time came from a clock that was later set back. Returns their
    /// number.
    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize>;

    /// Returns the state of each webhook that ever had a delivery or a fingerprint, by name.
    ///
    /// Counts all deliveries, without delaying other callers.
    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>>;

    /// Switches a webhook on, even if an operator switched it off. Returns whether it was off.
    fn switch_on<'a>(&'a self, webhook: &'a str) -> Answer<'a, bool>;

    /// Saves the fingerprints of the webhooks' configurations.
    ///
    /// Atomic, durable, idempotent. It writes nothing if none changed, so it works on a full disk.
    ///
    /// If a webhook's fingerprint changed, its failed deliveries become due now, except those that
    /// the receiver deferred (`Retry-After`). A webhook that its receiver had switched off (410) is
    /// switched on again. Returns the webhooks that were switched on.
    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>>;

    /// Removes rows that are older than their retention, at most `limit` of each kind.
    ///
    /// Keeps pending deliveries, and events and payloads that are still needed. Repeat until
    /// [`Collected::is_empty`].
    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected>;
}

/// A store that a daemon has open. No other daemon can open it meanwhile.
pub trait Backend: Recording + Delivering {
    /// Where the state is, for messages.
    fn location(&self) -> &str;

    /// Whether a restart would find the open state. If it was removed or moved away, commits still
    /// succeed, and are lost at the next start.
    fn is_in_place(&self) -> bool;

    /// Commits queued writes and releases the state. Blocks. Every later call fails with
    /// [`Fault::Closed`](super::Fault::Closed).
    fn close(&self);
}

/// The reads of the command line, with or without a running daemon. They block.
pub trait Listing {
    /// Lists the last `limit` events, the newest first.
    fn events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>, StoreError>;

    /// Returns an event with its deliveries in the order of the webhooks it was routed to.
    fn event(&self, id: &EventId)
    -> Result<Option<(ListedEvent, Vec<ListedDelivery>)>, StoreError>;

    /// Lists the first `limit` ids of events that begin with this prefix, sorted.
    fn event_ids(&self, prefix: &str, limit: usize) -> Result<Vec<EventId>, StoreError>;

    /// Lists the last `limit` deliveries, the newest first. An empty selector means all.
    fn deliveries(
        &self,
        selector: &Selector,
        limit: usize,
    ) -> Result<Vec<ListedDelivery>, StoreError>;

    /// Returns a delivery with its event and its attempts in order.
    fn delivery(
        &self,
        id: i64,
    ) -> Result<Option<(ListedDelivery, Event, Vec<AttemptLog>)>, StoreError>;

    /// Returns the bytes of a payload.
    fn payload(&self, hash: &ContentHash) -> Result<Option<Bytes>, StoreError>;

    /// Returns the state of each webhook, by name.
    fn webhook_states(&self) -> Result<Vec<WebhookState>, StoreError>;

    /// Lists the first `limit` ignored files, by project and path.
    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError>;

    /// Lists the projects with a record, sorted.
    fn keys(&self) -> Result<Vec<ProjectKey>, StoreError>;

    /// Reads the record of a project.
    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError>;

    /// Reads a fact about the repository as a whole.
    fn meta(&self, key: MetaKey) -> Result<Option<String>, StoreError>;
}

/// Receives the number of deliveries handled since the last call.
pub type Progress = Box<dyn FnMut(u64)>;

/// An operator's changes to the queue, while a daemon may be running. They block.
///
/// A command for many deliveries works in batches, and the daemon continues between them. Each
/// batch is atomic and durable. If one fails, earlier ones stay, and the same command does the
/// rest. An empty selector changes nothing and is
/// [`Fault::EmptySelector`](super::Fault::EmptySelector).
pub trait Operating {
    /// Sets the callback for progress.
    fn on_progress(&mut self, progress: Progress);

    /// Counts the selected deliveries.
    fn count(&self, selector: &Selector) -> Result<u64, StoreError>;

    /// Makes deliveries due now, with a fresh schedule, in their old order. A pending one is
    /// retried now. Returns how many.
    fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Gives up pending deliveries. Returns how many.
    fn cancel(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Removes deliveries that are not pending, with their log; their events go with the next
    /// collection. Returns how many.
    fn purge(&mut self, selector: &Selector) -> Result<u64, StoreError>;

    /// Switches a webhook on, even if an operator switched it off. Returns whether it was off.
    fn switch_on(&mut self, webhook: &str) -> Result<bool, StoreError>;

    /// Switches a webhook off until an operator switches it on. Returns whether it was on.
    fn switch_off(
        &mut self,
        webhook: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}
