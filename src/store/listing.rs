//! Rows of listings, and the selection of deliveries for a command.

use jiff::Timestamp;

use crate::domain::delivery::State;
use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{Problem, ProjectKey};

/// An event as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEvent {
    /// Its place in the order of recording.
    pub sequence: i64,
    /// The event.
    pub event: Event,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The number of its deliveries that are still kept.
    pub n_deliveries: u64,
}

/// Selects events to list. Each given part must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Events of this organization.
    pub organization: Option<String>,
    /// Events of projects with this directory name.
    pub project: Option<String>,
    /// Events of this kind.
    pub kind: Option<EventKind>,
    /// Events recorded at this time or later.
    pub since: Option<Timestamp>,
}

/// A delivery as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDelivery {
    /// Its id.
    pub id: i64,
    /// Its webhook's name.
    pub webhook: String,
    /// The id of its event.
    pub event: EventId,
    /// The kind of its event.
    pub kind: EventKind,
    /// Its project.
    pub key: ProjectKey,
    /// Its state.
    pub state: State,
    /// Its origin.
    pub origin: Origin,
    /// The number of attempts made.
    pub n_attempts: u32,
    /// When the next attempt is due, or was.
    pub due: Timestamp,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it was delivered, given up or cancelled.
    pub finished_at: Option<Timestamp>,
    /// The status of the last answer.
    pub last_status: Option<u16>,
    /// The error of the last attempt.
    pub last_error: Option<String>,
}

/// Selects deliveries. Each given part must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Deliveries with these ids.
    pub ids: Vec<i64>,
    /// Deliveries of this webhook.
    pub webhook: Option<String>,
    /// Deliveries in this state.
    pub state: Option<State>,
    /// Deliveries recorded at this time or later.
    pub since: Option<Timestamp>,
}

impl Selector {
    /// Whether no part is given, so that it selects everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The party that switched a webhook off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffCause {
    /// The receiver, by answering 410. A changed configuration switches it on again.
    Gone,
    /// An operator. Only an operator switches it on again.
    Operator,
}

impl OffCause {
    /// The word in listings and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            OffCause::Gone => "gone",
            OffCause::Operator => "operator",
        }
    }

    /// The cause that [`OffCause::as_str`] names.
    pub fn from_word(word: &str) -> Option<Self> {
        [OffCause::Gone, OffCause::Operator]
            .into_iter()
            .find(|cause| cause.as_str() == word)
    }
}

/// Why a webhook is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Off {
    /// The party that switched it off.
    pub cause: OffCause,
    /// Why, for a person.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// The state of a webhook. One that is no longer configured has parked deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookState {
    /// Its name.
    pub name: String,
    /// Why it is off, if it is.
    pub off: Option<Off>,
    /// The number of pending deliveries.
    pub n_pending: u64,
    /// The number of delivered ones that are still kept.
    pub n_delivered: u64,
    /// The number of dead ones.
    pub n_dead: u64,
    /// The number of cancelled ones.
    pub n_cancelled: u64,
    /// Since when the oldest pending delivery is pending.
    pub oldest_pending: Option<Timestamp>,
    /// When the next attempt is due.
    pub next_attempt: Option<Timestamp>,
    /// The last attempt that failed, and how.
    pub last_error: Option<(Timestamp, String)>,
    /// When an attempt last succeeded.
    pub last_delivered: Option<Timestamp>,
}

/// An invalid file, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedProblem {
    /// Its project, if it is in one.
    pub key: Option<ProjectKey>,
    /// The problem.
    pub problem: Problem,
    /// Since when the path is ignored, whatever the reasons were since.
    pub since: Timestamp,
}

/// The result of one batch of collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Removed deliveries, with their log.
    pub n_deliveries: usize,
    /// Removed events without deliveries.
    pub n_events: usize,
    /// Removed payloads without events and definitions.
    pub n_payloads: usize,
    /// Pages returned to the file system.
    pub n_pages: u64,
    /// Whether there may be more to remove.
    pub has_more: bool,
}

impl Collected {
    /// Whether nothing was removed and nothing is left to remove.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
