//! The types of listings, and the selectors of events and deliveries.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use crate::domain::delivery::State;
use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{Problem, ProjectKey};
use crate::domain::route::Subscription;

/// An event in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEvent {
    /// The position of the event in the order of recording.
    pub sequence: i64,
    /// The event.
    pub event: Event,
    /// When the event was recorded.
    pub recorded_at: Timestamp,
    /// The number of deliveries of this event in the store.
    pub n_deliveries: u64,
}

/// Selects events to list. An event must match all conditions that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Events of these organizations; see [`Organizations`].
    pub organization: Option<String>,
    /// Events of projects with this directory name.
    pub project: Option<String>,
    /// Events of this kind.
    pub kind: Option<EventKind>,
    /// Events recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Events recorded before this time.
    pub until: Option<Timestamp>,
}

/// The organizations that a filter selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Organizations<'a> {
    /// The organization with this stored name.
    One(&'a str),
    /// All organizations of the repository with this name. The filter is `NAME//`.
    OfRepository(&'a str),
    /// The organizations with this name in any repository.
    ///
    /// The filter and this text are `//ORGANIZATION`, the end of the stored names.
    InAnyRepository(&'a str),
}

impl<'a> Organizations<'a> {
    /// Parses the text of a filter.
    pub(crate) fn of(filter: &'a str) -> Self {
        if let Some(name) = filter.strip_suffix("//") {
            Self::OfRepository(name)
        } else if filter.starts_with("//") {
            Self::InAnyRepository(filter)
        } else {
            Self::One(filter)
        }
    }
}

/// The maximum number of rows that one page reads.
///
/// So a page costs no more with a million deliveries than with this number of them. If the filter
/// selects few of these rows, the page is short, and the next page continues.
pub(super) const PAGE_READ_MAX: usize = 20_000;

/// One page of a listing, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items. There may be few or none, even if more pages follow.
    pub items: Vec<T>,
    /// The position to pass as `before` for the next page. `None` if no page follows.
    pub next: Option<i64>,
}

/// A part of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadPart {
    /// The bytes from the requested position. Empty after the end of the payload.
    pub bytes: Bytes,
    /// The size of the whole payload, in bytes.
    pub size: u64,
}

/// A delivery in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDelivery {
    /// The id of the delivery.
    pub id: i64,
    /// The name of the webhook.
    pub webhook: String,
    /// The id of the event.
    pub event: EventId,
    /// The kind of the event.
    pub kind: EventKind,
    /// The key of the project.
    ///
    /// After a move, the new key, unless the delivery succeeded before the move.
    pub key: ProjectKey,
    /// The state of the delivery.
    pub state: State,
    /// The cause of the delivery: a live change, a catch-up, or a redelivery.
    pub origin: Origin,
    /// The number of attempts so far.
    pub n_attempts: u32,
    /// The due time of the next attempt.
    ///
    /// The last due time if the delivery is not pending.
    pub due: Timestamp,
    /// When the delivery was recorded.
    pub created_at: Timestamp,
    /// When the delivery became delivered, dead or cancelled. `None` if it is pending.
    pub finished_at: Option<Timestamp>,
    /// The HTTP status of the answer to the last attempt, if there was one.
    pub last_status: Option<u16>,
    /// The error message of the last attempt, if it failed.
    ///
    /// If housekeeping made the delivery dead, its reason comes first.
    pub last_error: Option<String>,
}

/// The maximum number of listed attempts of a delivery.
///
/// A delivery may have many more: a redelivery begins the schedule again, and some failures do not
/// use it up.
pub const ATTEMPTS_MAX: usize = 100;

/// Selects deliveries. A delivery must match all conditions that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Deliveries with these ids.
    pub ids: Vec<i64>,
    /// Deliveries of this webhook.
    pub webhook: Option<String>,
    /// Deliveries in this state.
    pub state: Option<State>,
    /// Whether to leave out pending deliveries.
    pub not_pending: bool,
    /// Deliveries of events of this kind.
    pub kind: Option<EventKind>,
    /// Deliveries of these organizations; see [`Organizations`].
    pub organization: Option<String>,
    /// Deliveries of projects with this directory name.
    pub project: Option<String>,
    /// Deliveries recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Deliveries recorded before this time.
    pub until: Option<Timestamp>,
    /// The number of deliveries that a change must select. This is not a condition.
    pub expected: Option<u64>,
}

impl Selector {
    /// Whether no condition is set, apart from `not_pending`.
    ///
    /// Such a selector matches every delivery, or every delivery that is not pending.
    pub fn is_empty(&self) -> bool {
        let conditions = Self {
            not_pending: false,
            expected: None,
            ..self.clone()
        };
        conditions == Self::default()
    }
}

/// Selects events to replay. An event must match all conditions that are set.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The webhook, with the events and projects that it subscribes to.
    ///
    /// An event that already has a delivery to the webhook need not match.
    pub subscription: Subscription,
    /// Events of these organizations; see [`Organizations`].
    pub organization: Option<String>,
    /// Events of projects with this directory name.
    pub project: Option<String>,
    /// Events recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Events recorded before this time.
    pub until: Option<Timestamp>,
    /// The number of events that the replay must select. This is not a condition.
    pub expected: Option<u64>,
}

/// Who switched a webhook off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffCause {
    /// The receiver, by answering 410.
    ///
    /// Changed settings switch the webhook on again.
    Gone,
    /// An operator, who must also switch the webhook on again.
    Operator,
}

impl OffCause {
    /// The name of this cause in listings and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            OffCause::Gone => "gone",
            OffCause::Operator => "operator",
        }
    }

    /// Parses a name returned by [`OffCause::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        [OffCause::Gone, OffCause::Operator]
            .into_iter()
            .find(|cause| cause.as_str() == word)
    }
}

/// How and when a webhook was switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Off {
    /// Who switched the webhook off.
    pub cause: OffCause,
    /// The reason, as `status` prints it.
    pub reason: String,
    /// When the webhook was switched off.
    pub at: Timestamp,
}

/// The state of a webhook, which may no longer be configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookState {
    /// The name of the webhook.
    pub name: String,
    /// How the webhook was switched off. `None` if it is on.
    pub off: Option<Off>,
    /// The number of pending deliveries.
    pub n_pending: u64,
    /// The number of delivered deliveries that are still stored.
    pub n_delivered: u64,
    /// The number of dead deliveries that are still stored.
    pub n_dead: u64,
    /// The number of cancelled deliveries that are still stored.
    pub n_cancelled: u64,
    /// When the oldest pending delivery became pending.
    pub oldest_pending: Option<Timestamp>,
    /// When the newest pending delivery became pending.
    pub newest_pending: Option<Timestamp>,
    /// When the next attempt is due.
    pub next_attempt: Option<Timestamp>,
    /// The time and the error message of the last failed attempt.
    pub last_error: Option<(Timestamp, String)>,
    /// The time of the last successful attempt.
    pub last_delivered: Option<Timestamp>,
}

impl WebhookState {
    /// The latest of three times, if any is known.
    ///
    /// They are those of the newest pending delivery, the last failure and the last success.
    pub(crate) fn last_change(&self) -> Option<Timestamp> {
        let failed = self.last_error.as_ref().map(|(at, _)| *at);
        self.newest_pending.max(failed).max(self.last_delivered)
    }

    /// Sets the number of deliveries that ended in a state. The last one ended at `last`.
    pub(super) fn set_finished(&mut self, state: State, count: u64, last: Option<Timestamp>) {
        match state {
            State::Delivered => {
                self.n_delivered = count;
                self.last_delivered = self.last_delivered.max(last);
            }
            State::Dead => self.n_dead = count,
            State::Cancelled => self.n_cancelled = count,
            State::Pending => {}
        }
    }
}

/// A recorded invalid file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedProblem {
    /// The project of the file.
    ///
    /// A file outside any project has no key. But with several repositories, it has a key that
    /// names its repository, with an empty project name.
    pub key: Option<ProjectKey>,
    /// The path of the file, and why it is invalid.
    pub problem: Problem,
    /// When the file was found invalid. If only the reason changes, the time stays.
    pub since: Timestamp,
}

/// The result of one batch of removals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The number of removed deliveries. Their attempts are removed too.
    pub n_deliveries: usize,
    /// The number of removed events.
    pub n_events: usize,
    /// The number of removed payloads.
    pub n_payloads: usize,
    /// The number of database pages that SQLite returned to the file system.
    pub n_pages: u64,
    /// The number of pending deliveries that became dead, by webhook.
    pub expired: BTreeMap<String, usize>,
    /// Whether there may be more rows to remove.
    pub has_more: bool,
}

/// The space that the store takes, and the space that is available to it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// The size of the database. In SQLite, without the pages that are free for reuse.
    pub used: u64,
    /// The size of SQLite's write-ahead log. 0 if the state is in a database server.
    pub log: u64,
    /// The file system of the state.
    ///
    /// `None` if it or its size is unknown, or if the state is in a database server.
    pub disk: Option<Disk>,
}

/// The file system of the state, with sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The sum of the free space, the store's reserve, and the database's free pages.
    pub available: u64,
    /// The size of the file system.
    pub total: u64,
}

impl Collected {
    /// Whether nothing was removed and nothing remains to be removed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The receiver may have been down for hours before a restart.
    #[test]
    fn the_last_change_may_be_the_recording_of_a_pending_delivery() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut state = WebhookState {
            oldest_pending: Some(at(10)),
            newest_pending: Some(at(40)),
            last_error: Some((at(20), "refused".to_owned())),
            last_delivered: Some(at(5)),
            ..WebhookState::default()
        };
        assert_eq!(state.last_change(), Some(at(40)));
        state.newest_pending = None;
        assert_eq!(state.last_change(), Some(at(20)));
    }
}
