//! The operations of a store and their promises.
//!
//! Every implementation keeps these promises. `tests/store` tests them.
//!
//! - *Atomic*: an operation makes all of its changes or none.
//! - *Durable*: when an operation returns, its changes survive a power cut.
//! - *Repeatable*: after an error nothing has changed, and the caller may retry. The exception is
//!   [`Fault::Stale`](super::Fault::Stale).
//! - *Consistent*: one call reads one state of the database.
//!
//! No operation reads a clock. Time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use super::batch::{Batch, Committed, MetaKey, names_text};
use super::delivery::{AttemptLog, Claims, Finish};
use super::error::StoreError;
use super::fleet::{Fleet, LeaseView};
use super::listing::{
    Collected, EventFilter, ListedDelivery, ListedEvent, Page, PayloadPart, RecordedProblem,
    Replay, Selector, Space, WebhookState,
};
use crate::config::Retention;
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, Identity, Mark, ProjectKey, Recorded};

/// The future result of an operation of [`Delivering`].
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The reads of the record that inference and the command line share. They block.
pub trait Records {
    /// Reads the record of a project. It is empty if nothing is recorded.
    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError>;

    /// Lists the projects with a record, of one of several repositories or of all, sorted.
    fn keys_of(&self, repository: Option<&str>) -> Result<Vec<ProjectKey>, StoreError>;

    /// Lists all projects with a record, sorted.
    fn keys(&self) -> Result<Vec<ProjectKey>, StoreError> {
        self.keys_of(None)
    }

    /// Counts the projects with a recorded definition, of one of several repositories or of all.
    fn n_defined_of(&self, repository: Option<&str>) -> Result<usize, StoreError>;

    /// Reads a fact about one of several repositories, or about the only one.
    fn meta_of(&self, repository: Option<&str>, key: MetaKey)
    -> Result<Option<String>, StoreError>;

    /// Lists the first `limit` invalid files, sorted by project and path.
    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError>;
}

/// The operations of inference. They block the calling thread.
pub trait Recording: Records + Send + Sync {
    /// Reads the records of these projects, in the same order. A record may be empty.
    ///
    /// Pass at most some hundreds of projects.
    fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError>;

    /// Reads the recorded file metadata of these projects, in the same order, sorted by path.
    ///
    /// A full scan reads it for every project, so it has no documents and hashes. If a file's owner is
    /// unknown, its time of reading is 0: the metadata does not prove it unchanged, and it is read
    /// again. Pass at most some hundreds of projects.
    fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError>;

    /// Lists the projects of an organization with a record, sorted.
    fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError>;

    /// Lists, for each of these identities, the projects whose definition has it, sorted.
    ///
    /// Deleted projects whose definition is kept are included, here and in `kept_ids`.
    fn with_identities(&self, wanted: &[Identity]) -> Result<Vec<Vec<ProjectKey>>, StoreError>;

    /// Lists the projects whose id is not in their definition, each with its id.
    ///
    /// It reads all definitions.
    fn kept_ids(&self) -> Result<Vec<(ProjectKey, String)>, StoreError>;

    /// Records a batch. Atomic, durable, repeatable.
    ///
    /// The new record, its events, their payloads and their deliveries commit together. The store
    /// keeps the payload of every recorded definition, also of a deleted project, so that a delete
    /// can send it. Ids of events and positions in the order of recording are never reused. If
    /// another event has or had the id, the new event gets the id of a higher repetition.
    ///
    /// If a project moved, its pending deliveries go to the lanes of its new key. There, all
    /// deliveries keep the order of recording.
    ///
    /// Returns the ids of the events, and due deliveries at the heads of lanes. The error
    /// [`Fault::Stale`](super::Fault::Stale) means that the record changed after the batch was
    /// inferred from it. The caller must then read the record and infer again.
    fn record(&self, batch: Batch) -> Result<Committed, StoreError>;

    /// Records the names of several repositories. Atomic, durable, repeatable.
    ///
    /// The error [`Fault::WatchedTwice`](super::Fault::WatchedTwice) means that the database has a record of
    /// one of them alone. [`Fault::NotYet`](super::Fault::NotYet) means that a process watches one alone, or that
    /// its deliveries there are pending.
    fn name_repositories(&self, names: &[String], now: Timestamp) -> Result<(), StoreError> {
        let mut batch = Batch::new(now);
        batch
            .meta
            .push((MetaKey::HasRepositories, names_text(names)));
        self.record(batch).map(drop)
    }
}

/// The request of a sender for deliveries.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The time of the claim.
    pub now: Timestamp,
    /// The most deliveries to claim. With 0, the claim only returns the next due time.
    pub limit: usize,
    /// The projects whose delivery is being sent.
    pub excluding: HashSet<ProjectKey>,
    /// Whether only this sender may send to the webhook.
    pub alone: Alone,
    /// The deliveries that this sender still has. All its other claims of the webhook end.
    ///
    /// `None` leaves the claims as they are.
    pub keeping: Option<HashSet<i64>>,
}

/// Whether only one sender may send to a webhook, because it has to know of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Others may send too.
    No,
    /// Only this sender may send, if it has a delivery to send now.
    IfDue,
    /// Only this sender may send from now on.
    Yes,
}

/// The operations of delivery and of housekeeping.
///
/// A *lane* has the deliveries of one project to one webhook. They are sent strictly in the order
/// of recording: a claim returns only the oldest pending delivery of a lane, its head.
///
/// A delivery of a project that arrived also waits for earlier deletes with the same project id in
/// other lanes of the webhook. So if a project moves to another organization, a receiver gets its
/// delete before its import. Events of copies do not wait.
pub trait Delivering: Send + Sync {
    /// Claims due heads of a webhook's lanes, the longest overdue first.
    ///
    /// If two are due at the same time, the older one is first. A webhook that is off has no due
    /// deliveries. The cost does not depend on the number of pending deliveries. If the store is
    /// shared, it also tells other senders what this one needs. Otherwise a claim changes nothing.
    fn claim<'a>(&'a self, webhook: &'a str, asking: Asking) -> Answer<'a, Claims>;

    /// Whether other processes send deliveries of the same lanes.
    ///
    /// Then a claim excludes them while its [`Hold`](super::Hold) is valid.
    fn is_shared(&self) -> bool {
        false
    }

    /// Returns the time by the clock that all these processes share. It decides what is due.
    ///
    /// `None` if no other process sends deliveries of the same lanes.
    fn shared_now(&self) -> Option<Timestamp> {
        None
    }

    /// Records attempts and their verdicts. Atomic, durable, repeatable.
    ///
    /// It is idempotent: an attempt is recorded only once. A delivery that was removed in the
    /// meantime is ignored. A delivery that was cancelled in the meantime stays cancelled, unless
    /// the attempt delivered it.
    fn finish(&self, finished: Arc<[Finish]>) -> Answer<'_, ()>;

    /// Makes deliveries due now if they are late because the clock was set back.
    ///
    /// Returns their number.
    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize>;

    /// Returns the state of each webhook that ever had a delivery or a fingerprint, by name.
    ///
    /// Counting all deliveries takes a while, but other callers do not wait.
    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>>;

    /// Stores the fingerprints of the webhooks' settings.
    ///
    /// Atomic, durable, idempotent. If no fingerprint changed, it writes nothing, so it works on a
    /// full disk.
    ///
    /// If a webhook's fingerprint changed, its pause ends and its failed deliveries become due now. This
    /// includes those that the receiver deferred (`Retry-After`), because the new settings may name
    /// another receiver. If the receiver had switched the webhook off (410), it is switched on again.
    /// Returns the webhooks that were switched on.
    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>>;

    /// Removes rows after their retention, at most `limit` of each kind.
    ///
    /// Deliveries that have been pending for longer than `retention.pending` become dead. Other
    /// pending deliveries stay, and so do the events and payloads that are still needed. Repeat
    /// the call until [`Collected::is_empty`].
    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected>;

    /// Removes rows before their retention to free `needed` bytes, at most `limit` of each kind.
    ///
    /// It frees about `needed` bytes at most. Delivered deliveries are removed first, then dead
    /// and cancelled ones. If none are left, the oldest pending deliveries of the webhook with the
    /// most become dead, with this reason.
    fn make_room<'a>(
        &'a self,
        reason: &'a str,
        now: Timestamp,
        needed: u64,
        limit: usize,
    ) -> Answer<'a, Collected>;

    /// Returns the space that the store takes, and the space that is available to it.
    fn space(&self) -> Answer<'_, Space>;
}

/// The acts of other processes that a daemon has to know of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// Increases when another process may have changed deliveries or webhooks.
    pub n_changes: u64,
    /// Grows when there may be more deliveries to claim.
    pub n_more: u64,
    /// Grows when claims of any webhook that are not sent yet may no longer be sent.
    pub n_pauses: u64,
    /// The same for the claims of one webhook, by its name.
    pub n_pauses_of: BTreeMap<String, u64>,
    /// Whether another process has taken over. This process can change nothing any more.
    pub is_superseded: bool,
}

/// The store of a daemon. While it is open, no other daemon can open the same state.
pub trait Backend: Recording + Delivering {
    /// The path of the state, for messages.
    fn location(&self) -> &str;

    /// Whether the open state is still at its path.
    ///
    /// If it was removed or moved away, commits still succeed, but the next start does not find
    /// them.
    fn is_in_place(&self) -> bool;

    /// Subscribes to the acts of other processes. `None` if no other process can use the store.
    fn notices(&self) -> Option<watch::Receiver<Notice>>;

    /// Subscribes to the processes that share the state, as last read. `None` if no other process can.
    fn fleet(&self) -> Option<watch::Receiver<LeaseView>>;

    /// Commits queued writes and closes the store. Blocks.
    ///
    /// Every later call fails with [`Fault::Closed`](super::Fault::Closed).
    fn close(&self);

    /// Makes running and later calls fail with [`Fault::Closed`](super::Fault::Closed). Does not block.
    ///
    /// For a stop while a database on another machine does not answer. Running calls of a store on this
    /// machine end by themselves.
    fn abandon(&self) {}
}

/// The read operations of the command line. They change nothing, and block.
///
/// They work while a daemon runs, without one, and after one was killed. The size of each result is
/// limited.
pub trait Listing: Records {
    /// Returns a number that changes whenever something is recorded.
    ///
    /// This is cheap.
    fn version(&self) -> Result<i64, StoreError>;

    /// Lists the last `limit` events, the newest first.
    fn events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>, StoreError>;

    /// Returns a page of at most `limit` events that were recorded before a position.
    ///
    /// The cost is limited: it reads a limited number of events and returns the selected ones.
    /// Rows that are recorded or removed in between do not shift the pages.
    fn events_page(
        &self,
        filter: &EventFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedEvent>, StoreError>;

    /// Returns an event with its deliveries, in the order of the webhooks in the configuration.
    fn event(&self, id: &EventId)
    -> Result<Option<(ListedEvent, Vec<ListedDelivery>)>, StoreError>;

    /// Lists the first `limit` ids of events that begin with this prefix, sorted.
    fn event_ids(&self, prefix: &str, limit: usize) -> Result<Vec<EventId>, StoreError>;

    /// Lists the last `limit` selected deliveries, the newest first. An empty selector selects all.
    fn deliveries(
        &self,
        selector: &Selector,
        limit: usize,
    ) -> Result<Vec<ListedDelivery>, StoreError>;

    /// Returns a page of at most `limit` selected deliveries whose ids are less than `before`.
    ///
    /// The cost is limited, as for [`Listing::events_page`].
    fn deliveries_page(
        &self,
        selector: &Selector,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedDelivery>, StoreError>;

    /// Returns a delivery with its event and its newest [`ATTEMPTS_MAX`](super::ATTEMPTS_MAX) attempts in order.
    fn delivery(
        &self,
        id: i64,
    ) -> Result<Option<(ListedDelivery, Event, Vec<AttemptLog>)>, StoreError>;

    /// Returns at most `limit` bytes of a payload from a position, and the size of the whole payload.
    ///
    /// Reading the first part checks all bytes against the hash.
    fn payload_part(
        &self,
        hash: &ContentHash,
        position: u64,
        limit: usize,
    ) -> Result<Option<PayloadPart>, StoreError>;

    /// Returns the state of each webhook, by name.
    fn webhook_states(&self) -> Result<Vec<WebhookState>, StoreError>;

    /// Returns the state of each webhook, by name, with counts up to `most`.
    ///
    /// A count that is greater than `most` means only that there are more. Then it may leave out the
    /// oldest pending delivery. Its cost does not depend on the number of deliveries.
    fn webhook_states_up_to(&self, most: u64) -> Result<Vec<WebhookState>, StoreError>;

    /// Counts the pending deliveries of one of several repositories, up to `most`.
    fn n_pending_of(&self, repository: &str, most: u64) -> Result<u64, StoreError>;

    /// Lists those of several repositories that have a record, or ever had a complete one, sorted.
    fn repositories(&self) -> Result<Vec<String>, StoreError>;

    /// Returns the webhooks that events of a project were routed to, by name.
    fn listeners(&self, key: &ProjectKey) -> Result<BTreeSet<String>, StoreError>;

    /// Reads the lease and the processes that wait for it. `None` if the store has no lease.
    fn fleet(&self) -> Result<Option<Fleet>, StoreError>;
}

/// A callback for progress. It gets the number of deliveries that were handled since its last
/// call.
pub type Progress = Box<dyn FnMut(u64)>;

/// The maximum number of deliveries that one batch of a command changes.
///
/// A command may select a million deliveries, and the daemon must keep recording.
pub(super) const CHANGED_MAX: usize = 1_000;

/// The operator's changes of deliveries and webhooks. They block.
///
/// They work without a running daemon too. A command for many deliveries works in batches of at most
/// [`CHANGED_MAX`]. Each batch is atomic and durable. If a batch fails, the earlier
/// ones stay, and repeating the command changes the rest. An empty selector is the error
/// [`Fault::EmptySelector`](super::Fault::EmptySelector).
///
/// If `expected` is set, the first batch selects all deliveries or events. Another number is the error
/// [`Fault::OtherNumber`](super::Fault::OtherNumber), and nothing is changed. Later batches change only
/// those that were selected then.
pub trait Operating {
    /// Sets the callback for progress.
    fn on_progress(&mut self, progress: Progress);

    /// Counts the selected deliveries.
    fn count(&self, selector: &Selector) -> Result<u64, StoreError>;

    /// Makes deliveries pending and due now, with a new schedule. Returns their number.
    ///
    /// They keep their order. If a delivery is pending already, it is retried now.
    fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Counts the recorded events that [`Operating::replay`] would queue.
    fn count_replay(&self, replay: &Replay) -> Result<u64, StoreError>;

    /// Queues recorded events for a webhook, again or for the first time. Returns their number.
    ///
    /// It selects the events that the webhook subscribes to or already has a delivery of. All are
    /// due now, with a new schedule and the origin `redelivery`. A lane sends replayed and pending
    /// events together, in the order of recording. A webhook has only one delivery of an event, so
    /// a pending delivery is kept.
    fn replay(&mut self, replay: &Replay, now: Timestamp) -> Result<u64, StoreError>;

    /// Cancels pending deliveries. Returns their number.
    fn cancel(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Removes deliveries that are not pending, with their attempts. Returns their number.
    ///
    /// The next [`Delivering::collect`] removes their events.
    fn purge(&mut self, selector: &Selector) -> Result<u64, StoreError>;

    /// Switches a webhook on, even if an operator switched it off. Returns whether it was off.
    fn switch_on(&mut self, webhook: &str) -> Result<bool, StoreError>;

    /// Switches a webhook off until an operator switches it on. Returns whether it was on.
    ///
    /// If the webhook is off already, the operator's reason replaces that of a 410. A 410 never replaces
    /// an operator's reason.
    fn switch_off(
        &mut self,
        webhook: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}
