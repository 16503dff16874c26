//! The operations of a store and their promises.
//!
//! Every implementation keeps these promises. `tests/store` tests them. Some promises have a name:
//!
//! - *Atomic*: an operation makes all of its changes or none.
//! - *Durable*: when an operation returns, its changes survive a power cut.
//! - *Repeatable*: after an error nothing has changed, unless the connection to a database was
//!   lost. The caller may retry in both cases. But after [`Fault::Stale`](super::Fault::Stale), the
//!   caller must infer again.
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

/// The reads of the record that inference, commands and the admin API share.
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

    /// Reads a fact about a repository.
    ///
    /// `None` is the only repository. For [`MetaKey::HasRepositories`], it is the whole store.
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

    /// Lists the recorded projects of an organization, sorted.
    fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError>;

    /// Lists the projects with each of these identities, in the same order.
    ///
    /// Each list is sorted. The lists include deleted projects whose definition is kept.
    fn with_identities(&self, wanted: &[Identity]) -> Result<Vec<Vec<ProjectKey>>, StoreError>;

    /// Lists the projects with a kept id, each with this id.
    ///
    /// A kept id is an id of the project that its definition lacks
    /// ([`KeptIds`](crate::domain::project::KeptIds)). Includes deleted projects whose definition
    /// is kept. Reads all definitions.
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
    /// Returns the ids of the events, and some due deliveries at the heads of lanes. A store that
    /// [is shared](Delivering::is_shared) returns no deliveries, because other processes may claim
    /// them. The error [`Fault::Stale`](super::Fault::Stale) means that the record changed after
    /// the batch was inferred from it. The caller must then read the record and infer again.
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
    /// With 0, the claim returns no deliveries, but the next due time if it is known.
    pub limit: usize,
    /// The projects whose lanes the claim skips.
    ///
    /// For instance, this sender is already sending a delivery of such a project.
    pub excluding: HashSet<ProjectKey>,
    /// Whether only this sender may send to the webhook.
    pub alone: Alone,
    /// The ids of claimed deliveries that this sender keeps.
    ///
    /// The store releases the other claims of this sender for the webhook. `None` releases no
    /// claims.
    pub keeping: Option<HashSet<i64>>,
}

/// Whether only one sender may send to a webhook.
///
/// If requests to a webhook are limited to a rate, a sole sender must count all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Other senders may send too.
    No,
    /// Like `Yes`, but this sender becomes the sole one only if a delivery is due.
    IfDue,
    /// Only this sender may send, unless another sender is already the sole one.
    Yes,
}

/// The operations of delivery and of housekeeping.
///
/// A *lane* has the pending deliveries of one project to one webhook. They are sent strictly in the
/// order of recording: a claim returns only the oldest delivery of a lane, its head.
///
/// If a change imports a project, the deliveries of its events, except deletes, also wait for
/// earlier deletes with the same project id in other lanes of the webhook. So if a project moves to
/// another organization, a receiver gets the delete before the import.
pub trait Delivering: Send + Sync {
    /// Claims due heads of a webhook's lanes, the longest overdue first.
    ///
    /// Deliveries with the same due time are sorted by id. A claim ends early when its payloads
    /// reach 1 MiB. It returns no deliveries while the webhook is off or during a wait that the
    /// receiver requested. The cost does not depend on the number of pending deliveries.
    ///
    /// In a shared store, a claim excludes other senders from the claimed lanes, or from the whole
    /// webhook (see [`Asking::alone`]). It need not be durable. In other stores, a claim changes
    /// nothing.
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
    /// in the meantime. A shared store also ignores deliveries of which this sender has no claim. A
    /// delivery that was cancelled in the meantime stays cancelled, unless the attempt delivered
    /// it.
    fn finish(&self, finished: Arc<[Finish]>) -> Answer<'_, ()>;

    /// Corrects due times that were computed before the clock was set back.
    ///
    /// Deliveries with such a due time become due now. Returns their number. Also ends a wait that
    /// the receiver requested before the clock was set back.
    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize>;

    /// Returns the states of all webhooks that the store knows, by name.
    ///
    /// Counts all deliveries. This takes up to seconds for a million deliveries, but does not delay
    /// claims.
    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>>;

    /// Stores the fingerprints of the webhooks' settings.
    ///
    /// Atomic, durable, idempotent. Writes nothing if the same fingerprints are stored already. So
    /// it then works on a full disk.
    ///
    /// If a webhook's fingerprint changed, the wait that its receiver requested ends, and its
    /// pending deliveries that have failed become due now. These include deliveries that the
    /// receiver deferred (`Retry-After`), because the new settings may name another receiver. A
    /// webhook that the receiver switched off (410) is switched on again. Returns the webhooks that
    /// were switched on.
    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>>;

    /// Removes rows whose retention is over.
    ///
    /// `limit` is the maximum number of rows in each step, so one call is short. Repeat the call
    /// until [`Collected::is_empty`].
    ///
    /// Deliveries that have been pending for longer than `retention.pending` become dead. Other
    /// pending deliveries stay, and so do the events and payloads that are still needed.
    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected>;

    /// Removes rows before the end of their retention to free `needed` bytes.
    ///
    /// One call estimates how many rows have this size, and handles about as many, but at most
    /// `limit` in each step. It removes delivered deliveries. If none are left, it removes dead and
    /// cancelled ones. If none of these are left either, the oldest pending deliveries of the
    /// webhook with the most pending ones become dead, with this reason. Repeat the call until
    /// there is enough space.
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

/// Changes that other processes may have made. The counters only increase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// Increases when another process may have changed deliveries or webhooks.
    pub n_changes: u64,
    /// Increases when there may be more deliveries to claim.
    pub n_more: u64,
    /// Increases when this process must drop the claims that it has not sent yet.
    pub n_pauses: u64,
    /// Like `n_pauses`, for the claims of one webhook, by the name of the webhook.
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
    /// find their changes. A state in a database server is always in place.
    fn is_in_place(&self) -> bool;

    /// Whether the threads of the store are running.
    ///
    /// A panic ends a thread, and so does [`Backend::close`]. Operations that need the thread then
    /// fail with [`Fault::Closed`](super::Fault::Closed).
    fn is_running(&self) -> bool;

    /// Subscribes to changes by other processes.
    ///
    /// Returns `None` if no other daemon can use the store.
    fn notices(&self) -> Option<watch::Receiver<Notice>>;

    /// Subscribes to the lease and the processes that share the state, as last read.
    ///
    /// Returns `None` if no other daemon can use the store.
    fn fleet(&self) -> Option<watch::Receiver<LeaseView>>;

    /// Finishes running operations and closes the store. Blocks.
    ///
    /// If a database server does not answer, waits only a few seconds for the operations. Later
    /// operations fail with [`Fault::Closed`](super::Fault::Closed).
    fn close(&self);

    /// Makes all operations on a database server fail, without blocking.
    ///
    /// They fail with [`Fault::Closed`](super::Fault::Closed). A daemon needs this to stop while
    /// the server does not answer. With SQLite, this does nothing, because running operations end
    /// soon.
    fn abandon(&self) {}
}

/// The reads of the command line and the admin API. They block the calling thread.
///
/// They change nothing. They work with a running daemon, without one, and after a daemon was
/// killed.
pub trait Listing: Records {
    /// Returns a number that changes whenever something is recorded.
    ///
    /// This is cheap.
    fn version(&self) -> Result<i64, StoreError>;

    /// Lists the last `limit` selected events, the newest first.
    fn events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>, StoreError>;

    /// Returns a page of at most `limit` selected events.
    ///
    /// The events were recorded before the position `before`. `None` selects the first page, with
    /// the newest events. The cost is limited: one call reads a limited number of events and
    /// returns the selected ones. Rows that are recorded or removed between two calls do not shift
    /// the pages.
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
    /// `None` and the cost are as for [`Listing::events_page`].
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

    /// Returns the state of each webhook that the store knows, by name.
    fn webhook_states(&self) -> Result<Vec<WebhookState>, StoreError>;

    /// Returns the states of [`Listing::webhook_states`], with counts up to `most`.
    ///
    /// A count greater than `most` means only that there are more than `most`. With more than
    /// `most` pending deliveries, `oldest_pending` is `None`. The cost does not depend on the
    /// number of deliveries.
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
/// earlier batches stay. With an empty selector, a change fails with
/// [`Fault::EmptySelector`](super::Fault::EmptySelector).
///
/// A caller can set the expected number: [`Selector::expected`], [`Replay::expected`]. Then the
/// first batch also notes which deliveries or events match. If their number is not the expected
/// one, the change fails with [`Fault::OtherNumber`](super::Fault::OtherNumber), and nothing
/// changes. Later batches change only those that were noted.
pub trait Operating {
    /// Sets the callback for progress.
    fn on_progress(&mut self, progress: Progress);

    /// Counts the selected deliveries. An empty selector selects all.
    fn count(&self, selector: &Selector) -> Result<u64, StoreError>;

    /// Makes deliveries pending and due now, with a new schedule. Returns their number.
    ///
    /// The deliveries of a lane keep their order. A delivery that is already pending becomes due
    /// now, too.
    fn redeliver(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Counts the recorded events that [`Operating::replay`] would queue.
    fn count_replay(&self, replay: &Replay) -> Result<u64, StoreError>;

    /// Queues recorded events for a webhook, again or for the first time.
    ///
    /// Selects the events that the webhook would receive by its subscription, and those with a
    /// delivery to the webhook. Their deliveries become due now, with a new schedule. In a lane,
    /// replayed and pending events are sent together, in the order of recording. A webhook has only
    /// one delivery of an event, so a pending delivery is not duplicated.
    ///
    /// Returns the number of queued events.
    fn replay(&mut self, replay: &Replay, now: Timestamp) -> Result<u64, StoreError>;

    /// Cancels pending deliveries. Returns their number.
    fn cancel(&mut self, selector: &Selector, now: Timestamp) -> Result<u64, StoreError>;

    /// Removes deliveries that are not pending, with their attempts.
    ///
    /// Returns the number of removed deliveries. [`Delivering::collect`] removes their events, once
    /// these are old enough and have no other deliveries.
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
