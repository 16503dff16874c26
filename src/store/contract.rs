//! The operations of a store and their promises.
//!
//! Every implementation keeps these promises. `tests/store` tests them.
//!
//! - *Atomic*: an operation makes all of its changes or none.
//! - *Durable*: when an operation returns, its changes survive a power cut. A claim need not be
//!   durable.
//! - *Repeatable*: after an error nothing has changed, and the caller may retry. After
//!   [`Fault::Stale`](super::Fault::Stale), a retry fails too: the caller must infer again. If the
//!   connection to a database was lost, the change may have been committed. A retry is safe in this
//!   case, too.
//! - *Consistent*: one call reads one state of the database.
//!
//! The caller passes the time. Only [`Delivering::shared_now`] and leases read a clock.

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

/// The reads of the record that inference and the command line share.
///
/// They block the calling thread.
pub trait Records {
    /// Reads the record of a project. The record is empty if nothing is recorded.
    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError>;

    /// Lists the projects with a record, sorted. `None` selects all repositories.
    fn keys_of(&self, repository: Option<&str>) -> Result<Vec<ProjectKey>, StoreError>;

    /// Lists all projects with a record, sorted.
    fn keys(&self) -> Result<Vec<ProjectKey>, StoreError> {
        self.keys_of(None)
    }

    /// Counts the projects with a recorded definition. `None` selects all repositories.
    fn n_defined_of(&self, repository: Option<&str>) -> Result<usize, StoreError>;

    /// Reads a fact about a repository. Its name is `None` if there is only one.
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

    /// Reads the recorded file metadata of these projects, in the same order.
    ///
    /// The marks of each project are sorted by path. A full scan reads the marks of every project,
    /// so a [`Mark`] has no document and no hash. If a file's owner is unknown, its mark has the
    /// reading time 0. Such a mark does not prove that the file is unchanged, so the scan reads the
    /// file again.
    ///
    /// Pass at most some hundreds of projects.
    fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError>;

    /// Lists the projects of an organization with a record, sorted.
    fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError>;

    /// Lists the projects with each of these identities, sorted.
    ///
    /// Includes deleted projects whose definition is kept.
    fn with_identities(&self, wanted: &[Identity]) -> Result<Vec<Vec<ProjectKey>>, StoreError>;

    /// Lists the projects whose id is not in their definition, each with its id.
    ///
    /// Includes deleted projects whose definition is kept. Reads all definitions.
    fn kept_ids(&self) -> Result<Vec<(ProjectKey, String)>, StoreError>;

    /// Records a batch. Atomic, durable, repeatable.
    ///
    /// The new record, its events, their payloads and their deliveries commit together. The store
    /// keeps the payload of every recorded definition, because the event of a delete needs this
    /// payload. For a deleted project, this holds while the record keeps the definition. The store
    /// never reuses the id of an event or a position in the order of recording. If another event
    /// has or had the id, the new event gets the id of a higher repetition.
    ///
    /// If a project moved, its pending deliveries move to the lanes of its new key. In these lanes,
    /// all deliveries keep the order of recording.
    ///
    /// Returns the ids of the events, and due deliveries at the heads of lanes. A store that
    /// [is shared](Delivering::is_shared) returns no deliveries, because other processes may claim
    /// them. The error [`Fault::Stale`](super::Fault::Stale) means that the record changed after the
    /// batch was inferred from it. The caller must then read the record and infer again.
    fn record(&self, batch: Batch) -> Result<Committed, StoreError>;

    /// Records the names of several repositories. Atomic, durable, repeatable.
    ///
    /// The error [`Fault::WatchedTwice`](super::Fault::WatchedTwice) means that the database also
    /// has a separate record of one of these repositories. [`Fault::NotYet`](super::Fault::NotYet)
    /// means that another process watches one of them alone, or that a separate record has no
    /// projects but still pending deliveries.
    fn name_repositories(&self, names: &[String], now: Timestamp) -> Result<(), StoreError> {
        let mut batch = Batch::new(now);
        batch
            .meta
            .push((MetaKey::HasRepositories, names_text(names)));
        self.record(batch).map(drop)
    }
}

/// A sender's request for due deliveries of a webhook.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The time of the claim.
    pub now: Timestamp,
    /// The maximum number of deliveries to claim.
    ///
    /// With 0, the claim only returns the next due time.
    pub limit: usize,
    /// The projects with a delivery that this sender is sending.
    ///
    /// The claim skips their lanes.
    pub excluding: HashSet<ProjectKey>,
    /// Whether only this sender may send to the webhook.
    pub alone: Alone,
    /// The ids of claimed deliveries that this sender keeps.
    ///
    /// The sender releases its other claims of the webhook.
    ///
    /// `None` releases no claims.
    pub keeping: Option<HashSet<i64>>,
}

/// Whether only one sender may send to a webhook.
///
/// A webhook with a `rate` needs a sole sender, which counts all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Other senders may send too.
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
/// If a project appears in a change, the deliveries of this change also wait for earlier deletes in
/// other lanes of the webhook: those with the same project id. So if a project moves to another
/// organization, a receiver gets the delete before the import.
pub trait Delivering: Send + Sync {
    /// Claims due heads of a webhook's lanes, the longest overdue first.
    ///
    /// Deliveries with the same due time are sorted by id. A webhook that is off has no due
    /// deliveries. The cost does not depend on the number of pending deliveries.
    ///
    /// In a shared store, a claim excludes other senders from the claimed lanes, and with
    /// [`Asking::alone`] from the whole webhook. In other stores, a claim changes nothing.
    fn claim<'a>(&'a self, webhook: &'a str, asking: Asking) -> Answer<'a, Claims>;

    /// Whether other processes may send deliveries of the same lanes.
    ///
    /// If so, a claim excludes those processes while its [`Hold`](super::Hold) is valid.
    fn is_shared(&self) -> bool {
        false
    }

    /// Returns the time of the database's clock, which decides what is due.
    ///
    /// Returns `None` if the store is not shared ([`Delivering::is_shared`]).
    fn shared_now(&self) -> Option<Timestamp> {
        None
    }

    /// Records attempts and their verdicts. Atomic, durable, repeatable.
    ///
    /// Idempotent: an attempt is recorded only once. The store ignores a delivery that was removed
    /// in the meantime. A delivery that was cancelled in the meantime stays cancelled, unless the
    /// attempt delivered it.
    fn finish(&self, finished: Arc<[Finish]>) -> Answer<'_, ()>;

    /// Corrects due times that were computed before the clock was set back.
    ///
    /// Deliveries with such a due time become due now. Returns their number.
    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize>;

    /// Returns the states of webhooks that ever had a delivery or fingerprint, by name.
    ///
    /// Counts all deliveries. This takes up to seconds for a million deliveries, but does not delay
    /// claims.
    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>>;

    /// Stores the fingerprints of the webhooks' settings.
    ///
    /// Atomic, durable, idempotent. Writes nothing if no fingerprint changed, and so works on a
    /// full disk.
    ///
    /// If a webhook's fingerprint changed, the wait that its receiver requested ends, and its
    /// failed deliveries become due now. These include deliveries that the receiver deferred
    /// (`Retry-After`), because the new settings may name another receiver. A webhook that the
    /// receiver switched off (410) is switched on again. Returns the webhooks that were switched
    /// on.
    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>>;

    /// Removes rows whose retention is over, at most `limit` of each kind.
    ///
    /// Deliveries that have been pending for longer than `retention.pending` become dead. Other
    /// pending deliveries stay, and so do the events and payloads that are still needed. Repeat
    /// the call until [`Collected::is_empty`].
    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected>;

    /// Removes rows before the end of their retention to free `needed` bytes.
    ///
    /// Removes at most `limit` rows of each kind, and frees about `needed` bytes at most. Delivered
    /// deliveries are removed first, then dead and cancelled ones. If none are left, the oldest
    /// pending deliveries of the webhook with the most pending ones become dead, with this reason.
    fn make_room<'a>(
        &'a self,
        reason: &'a str,
        now: Timestamp,
        needed: u64,
        limit: usize,
    ) -> Answer<'a, Collected>;

    /// Returns the space that the store takes, and the space available to it.
    fn space(&self) -> Answer<'_, Space>;
}

/// Changes by other processes, as counters that only increase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// Increases when another process may have changed deliveries or webhooks.
    pub n_changes: u64,
    /// Increases when there may be more deliveries to claim.
    pub n_more: u64,
    /// Increases when this process may no longer send any of its unsent claims.
    pub n_pauses: u64,
    /// Like `n_pauses`, for the unsent claims of one webhook, by the name of the webhook.
    pub n_pauses_of: BTreeMap<String, u64>,
    /// Whether another process has taken over the lease.
    ///
    /// If so, this process can change nothing.
    pub is_superseded: bool,
}

/// The store of a daemon.
///
/// A state in SQLite can be open in only one daemon.
pub trait Backend: Recording + Delivering {
    /// The place of the state, for messages: a path, or a database.
    fn location(&self) -> &str;

    /// Whether the open state is still at its path.
    ///
    /// If the state was removed or moved away, commits still succeed, but the next start does not
    /// find their changes.
    fn is_in_place(&self) -> bool;

    /// Subscribes to changes by other processes.
    ///
    /// Returns `None` if no other daemon can use the store.
    fn notices(&self) -> Option<watch::Receiver<Notice>>;

    /// Subscribes to the list of processes that share the state, as last read.
    ///
    /// Returns `None` if no other daemon can use the store.
    fn fleet(&self) -> Option<watch::Receiver<LeaseView>>;

    /// Commits queued writes and closes the store. Blocks.
    ///
    /// Every later call fails with [`Fault::Closed`](super::Fault::Closed).
    fn close(&self);

    /// Makes running and later calls fail, without blocking.
    ///
    /// They fail with [`Fault::Closed`](super::Fault::Closed).
    ///
    /// A daemon needs this to stop while a remote database does not answer. A local store does
    /// nothing, because its running calls end soon.
    fn abandon(&self) {}
}

/// The read operations of the command line. They block the calling thread.
///
/// They change nothing. They work with a running daemon, without one, and after a daemon was
/// killed. The size of each result is limited.
pub trait Listing: Records {
    /// Returns a number that changes whenever something is recorded.
    ///
    /// This is cheap.
    fn version(&self) -> Result<i64, StoreError>;

    /// Lists the last `limit` events, the newest first.
    fn events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>, StoreError>;

    /// Returns a page of at most `limit` events that were recorded before a position.
    ///
    /// The cost is limited: one call reads a limited number of events and returns the selected
    /// ones. Rows that are recorded or removed between two calls do not shift the pages.
    fn events_page(
        &self,
        filter: &EventFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedEvent>, StoreError>;

    /// Returns an event with its deliveries, sorted by id.
    fn event(&self, id: &EventId)
    -> Result<Option<(ListedEvent, Vec<ListedDelivery>)>, StoreError>;

    /// Lists the first `limit` event ids with this prefix, sorted.
    fn event_ids(&self, prefix: &str, limit: usize) -> Result<Vec<EventId>, StoreError>;

    /// Lists the last `limit` selected deliveries, the newest first.
    ///
    /// An empty selector selects all deliveries.
    fn deliveries(
        &self,
        selector: &Selector,
        limit: usize,
    ) -> Result<Vec<ListedDelivery>, StoreError>;

    /// Returns a page of at most `limit` selected deliveries with ids below `before`.
    ///
    /// The cost is limited, as for [`Listing::events_page`].
    fn deliveries_page(
        &self,
        selector: &Selector,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedDelivery>, StoreError>;

    /// Returns a delivery with its event and its newest attempts, in order.
    ///
    /// Returns at most [`ATTEMPTS_MAX`](super::ATTEMPTS_MAX) attempts.
    fn delivery(
        &self,
        id: i64,
    ) -> Result<Option<(ListedDelivery, Event, Vec<AttemptLog>)>, StoreError>;

    /// Returns at most `limit` bytes of a payload from a position.
    ///
    /// If the position is 0, checks the whole payload against the hash.
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
    /// A count greater than `most` means only that there are more than `most`. The oldest pending
    /// delivery may then be missing. The cost does not depend on the number of deliveries.
    fn webhook_states_up_to(&self, most: u64) -> Result<Vec<WebhookState>, StoreError>;

    /// Counts the pending deliveries of one of several repositories, up to `most`.
    fn n_pending_of(&self, repository: &str, most: u64) -> Result<u64, StoreError>;

    /// Lists the repositories that have a record or completed a full scan, sorted.
    ///
    /// The list is empty if the store has only one repository.
    fn repositories(&self) -> Result<Vec<String>, StoreError>;

    /// Returns the names of the webhooks that events of a project were routed to.
    fn listeners(&self, key: &ProjectKey) -> Result<BTreeSet<String>, StoreError>;

    /// Reads the lease, and the processes that wait for the lease or deliver.
    ///
    /// Returns `None` for a store without a lease.
    fn fleet(&self) -> Result<Option<Fleet>, StoreError>;
}

/// A callback for progress.
///
/// It gets the number of deliveries that were handled since the last call.
pub type Progress = Box<dyn FnMut(u64)>;

/// The maximum number of deliveries that one batch of a command changes.
///
/// A command may select a million deliveries, and the daemon must be able to record between
/// batches.
pub(super) const CHANGED_MAX: usize = 1_000;

/// The operator's changes of deliveries and webhooks. They block the calling thread.
///
/// They also work without a running daemon. A command for many deliveries works in batches of at
/// most [`CHANGED_MAX`]. Each batch is atomic and durable. If a batch fails, the changes of the
/// earlier batches stay, and repeating the command changes the rest. With an empty selector, a
/// change fails with [`Fault::EmptySelector`](super::Fault::EmptySelector).
///
/// If `expected` is set, the first batch selects all deliveries or events. If their number differs,
/// the change fails with [`Fault::OtherNumber`](super::Fault::OtherNumber), and nothing changes.
/// Later batches change only deliveries or events that the first batch selected.
pub trait Operating {
    /// Sets the callback for progress.
    fn on_progress(&mut self, progress: Progress);

    /// Counts the selected deliveries.
    fn count(&self, selector: &Selector) -> Result<u64, StoreError>;

    /// Makes deliveries pending and due now, with a new schedule. Returns their number.
    ///
    /// The deliveries of a lane keep their order. A delivery that is already pending is retried
    /// now.
    fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Counts the recorded events that [`Operating::replay`] would queue.
    fn count_replay(&self, replay: &Replay) -> Result<u64, StoreError>;

    /// Queues recorded events for a webhook, again or for the first time.
    ///
    /// Selects the events that the webhook subscribes to, and those with a delivery to the webhook.
    /// Their deliveries become due now, with a new schedule and the origin `redelivery`. In a lane,
    /// replayed and pending events are sent together, in the order of recording. A webhook has only
    /// one delivery of an event, so a pending delivery is not duplicated.
    ///
    /// Returns the number of queued events.
    fn replay(&mut self, replay: &Replay, now: Timestamp) -> Result<u64, StoreError>;

    /// Cancels pending deliveries. Returns their number.
    fn cancel(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Removes deliveries that are not pending, with their attempts.
    ///
    /// Returns the number of removed deliveries.
    ///
    /// The next [`Delivering::collect`] removes their events.
    fn purge(&mut self, selector: &Selector) -> Result<u64, StoreError>;

    /// Switches a webhook on, even if an operator switched it off.
    ///
    /// Returns whether the webhook was off.
    fn switch_on(&mut self, webhook: &str) -> Result<bool, StoreError>;

    /// Switches a webhook off until an operator switches it on.
    ///
    /// Returns whether the webhook was on.
    ///
    /// The operator's reason replaces the reason of an earlier 410. A 410 never replaces an
    /// operator's reason.
    fn switch_off(
        &mut self,
        webhook: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}
