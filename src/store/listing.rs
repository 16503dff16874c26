//! What listings show, and which deliveries a command is for.

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

/// Which events are listed. Each part that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those of this organization.
    pub organization: Option<String>,
    /// Those of projects with this directory name.
    pub project: Option<String>,
    /// Those of this kind.
    pub kind: Option<EventKind>,
    /// Those recorded at this time or later.
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
    /// What happened.
    pub kind: EventKind,
    /// Where.
    pub key: ProjectKey,
    /// Where it stands.
    pub state: State,
    /// How it came about.
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
    /// What went wrong in the last attempt.
    pub last_error: Option<String>,
}

/// Which deliveries are meant. Each part that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// These ones.
    pub ids: Vec<i64>,
    /// Those of this webhook.
    pub webhook: Option<String>,
    /// Those in this state.
    pub state: Option<State>,
    /// Those recorded at this time or later.
    pub since: Option<Timestamp>,
}

impl Selector {
    /// Whether it says nothing, and so selects everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Who switched a webhook off.
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
    /// Who switched it off.
    pub cause: OffCause,
    /// Why, for a person.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Where a webhook stands. It may be one that is not configured any more, whose deliveries are
/// parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookState {
    /// Its name.
    pub name: String,
    /// Why it is off, where it is.
    pub off: Option<Off>,
    /// The number of pending deliveries.
    pub n_pending: u64,
    /// The number of delivered ones that are still kept.
    pub n_delivered: u64,
    /// The number of dead ones.
    pub n_dead: u64,
    /// The number of cancelled ones.
    pub n_cancelled: u64,
    /// Since when the longest waiting delivery is pending.
    pub oldest_pending: Option<Timestamp>,
    /// When the next attempt is due.
    pub next_attempt: Option<Timestamp>,
    /// The last attempt that failed, and how.
    pub last_error: Option<(Timestamp, String)>,
    /// When an attempt last succeeded.
    pub last_delivered: Option<Timestamp>,
}

/// A file that does not count, as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedProblem {
    /// The project it belongs to; none where it is outside any.
    pub key: Option<ProjectKey>,
    /// What is wrong with it.
    pub problem: Problem,
    /// Since when the path does not count, whatever the reasons were meanwhile.
    pub since: Timestamp,
}

/// The result of one piece of collection.
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
