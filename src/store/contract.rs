//! The operations of a store and their promises.
//!
//! Every implementation keeps them; `tests/store` proves it of the one that is chosen there.
//!
//! - *Atomic*: an operation that changes something does it whole or not at all.
//! - *Durable*: when it returns, its change survives a power cut.
//! - *Repeatable*: after an error nothing has changed, and the same call may be made again. The
//!   exception is [`Fault::Stale`](super::Fault::Stale).
//! - *Consistent*: what one call reads is one state.
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

/// The operations of inference. They block, so they need a thread that may.
pub trait Recording: Send + Sync {
    /// Reads the record of each of these projects, in their order; empty where there is none.
    ///
    /// Ask for some hundreds at once, not for all.
    fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError>;

    /// Reads the record of a project; empty where there is none.
    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        let recorded = self.recorded_many(std::slice::from_ref(key))?;
        Ok(recorded.into_iter().next().unwrap_or_default())
    }

    /// Reads the metadata by which the files of each of these projects are known to be unchanged.
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
    /// event with an id that is on record gets the next repetition of it.
    ///
    /// Returns the ids of the events, and the first of the deliveries that lead their lanes and are
    /// due. [`Fault::Stale`](super::Fault::Stale) means that the record is not the one that the
    /// batch was inferred from: read it again, and infer again.
    fn record(&self, batch: Batch) -> Result<Committed, StoreError>;
}

/// The operations of delivery, and of those who look after it.
///
/// A *lane* is a webhook and a project. Its pending deliveries go strictly in the order of recording:
/// only the oldest, its head, is ever claimed.
pub trait Delivering: Send + Sync {
    /// Claims the due heads of a webhook's lanes, at most `limit`, the longest due first and among
    /// equals the oldest.
    ///
    /// Changes nothing: the caller gives the projects in flight as `excluding`. Nothing is due of a
    /// webhook that is off. The cost does not depend on the number of pending deliveries.
    fn claim_due<'a>(
        &'a self,
        webhook: &'a str,
        now: Timestamp,
        limit: usize,
        excluding: HashSet<ProjectKey>,
    ) -> Answer<'a, Claims>;

    /// Returns when the first of a webhook's lanes is due, without those in flight.
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

    /// Makes due now what waits for a time that was computed from a clock which has been set back
    /// since. Returns the number of deliveries.
    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize>;

    /// Returns the state of each webhook that ever had a delivery or a fingerprint, by name.
    ///
    /// Counts all deliveries, and keeps nobody else waiting meanwhile.
    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>>;

    /// Switches a webhook on, whoever switched it off. Returns whether it was off.
    fn switch_on<'a>(&'a self, webhook: &'a str) -> Answer<'a, bool>;

    /// Notes the fingerprints of the webhooks' configurations. Atomic, durable, repeatable; writes
    /// nothing if none changed, so that it works on a full disk.
    ///
    /// If a webhook's changed, deliveries that wait after a failure are due now, but for those that
    /// the receiver asked to get later; and it is on again if its receiver had switched it off.
    /// Returns the webhooks that are on again.
    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>>;

    /// Removes a piece of what is older than its retention: at most `limit` rows of each kind.
    ///
    /// Removes no pending delivery, and no event or payload that something needs. To be repeated
    /// until [`Collected::is_empty`].
    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected>;
}

/// A store that a daemon has open. No other daemon can open it meanwhile.
pub trait Backend: Recording + Delivering {
    /// Where the state is, for messages.
    fn location(&self) -> &str;

    /// Whether the open state is still the one that a start would find. If it was removed or moved
    /// away, every commit succeeds and is gone after a restart.
    fn is_in_place(&self) -> bool;

    /// Commits what waits and releases the state. Blocks. Every later call fails with
    /// [`Fault::Closed`](super::Fault::Closed).
    fn close(&self);
}

/// What the command line reads, whether a daemon runs or not. Blocks.
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

/// Is told the number of deliveries that were handled since the last call.
pub type Progress = Box<dyn FnMut(u64)>;

/// What an operator does to the queue, beside a daemon that may be running. Blocks.
///
/// A command for many deliveries works in pieces, between which the daemon goes on. Each piece is
/// atomic and durable; if one fails, those before it stay done, and the same command does the rest.
/// An empty selector changes nothing and is [`Fault::EmptySelector`](super::Fault::EmptySelector).
pub trait Operating {
    /// Has `progress` called from now on.
    fn on_progress(&mut self, progress: Progress);

    /// Counts the selected deliveries.
    fn count(&self, selector: &Selector) -> Result<u64, StoreError>;

    /// Sends deliveries again, now, with a fresh schedule, in their old places. A pending one is
    /// retried now. Returns how many.
    fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Gives up pending deliveries. Returns how many.
    fn cancel(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Removes deliveries that are not pending, with their log; their events go with the next
    /// collection. Returns how many.
    fn purge(&mut self, selector: &Selector) -> Result<u64, StoreError>;

    /// Switches a webhook on, whoever switched it off. Returns whether it was off.
    fn switch_on(&mut self, webhook: &str) -> Result<bool, StoreError>;

    /// Switches a webhook off until an operator switches it on. Returns whether it was on.
    fn switch_off(
        &mut self,
        webhook: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}
