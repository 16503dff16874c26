//! The events, their parameters and their ids.

mod kind;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::kind::{EventKind, Parameter};
use super::actor::Actor;
use super::project::{ContentHash, FileState, ProjectKey, Stamp};

/// The origin of an event, or of an attempt to deliver it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A report of the operating system, or a scan after the first full scan, found the change.
    #[default]
    Live,
    /// The first full scan after a start found the change.
    ///
    /// Usually it was made while the daemon was down.
    CatchUp,
    /// An operator sent the event again.
    Redelivery,
    /// An operator tested the webhook.
    Test,
}

impl Origin {
    /// All origins.
    pub const ALL: [Origin; 4] = [
        Origin::Live,
        Origin::CatchUp,
        Origin::Redelivery,
        Origin::Test,
    ];

    /// The name of this origin in headers and listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Live => "live",
            Origin::CatchUp => "catch-up",
            Origin::Redelivery => "redelivery",
            Origin::Test => "test",
        }
    }

    /// Parses a name returned by [`Origin::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == word)
    }
}

/// The id of an event: `evt_` and 32 hexadecimal digits.
///
/// It never contains a dot, because dots separate the parts of the signed text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub String);

impl EventId {
    /// Computes the id of an event from its properties.
    ///
    /// If the same event is inferred again, for instance after a power cut, it gets the same id.
    /// `repetition` is usually 0. It is higher if another event with the same properties was
    /// recorded before, because different events need different ids.
    pub fn of(
        kind: EventKind,
        key: &ProjectKey,
        tag: Option<&str>,
        stamp: &Stamp,
        hash: &ContentHash,
        repetition: u32,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        // A length precedes each part, so that different lists of parts never hash the same bytes.
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(b"project-webhooks event 1");
        part(kind.as_str().as_bytes());
        part(key.organization.as_bytes());
        part(key.project.as_bytes());
        part(tag.map_or(&[][..], str::as_bytes));
        part(&[u8::from(tag.is_some())]);
        part(&stamp.inode.to_le_bytes());
        part(&stamp.changed_ns.to_le_bytes());
        part(&hash.0);
        part(&repetition.to_le_bytes());
        let hex = hasher.finalize().to_hex();
        Self(format!("evt_{}", &hex[..32]))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An inferred event, before it gets its id and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferredEvent {
    /// The kind of event.
    pub kind: EventKind,
    /// The file that the event is about.
    pub subject: FileState,
    /// The definition to send as the payload, if a published copy or a snapshot was removed.
    ///
    /// The store has the bytes of each recorded definition, but perhaps not those of a recorded
    /// published copy or snapshot.
    pub definition: Option<FileState>,
    /// The key of the project before the move, if the event is a move.
    pub moved_from: Option<ProjectKey>,
    /// The file that was recorded before, if any. For a move, it is at the former path.
    pub before: Option<FileState>,
    /// The rule by which the event was inferred, in words.
    pub because: String,
}

impl InferredEvent {
    /// Makes an event about `subject`, whose bytes are the payload.
    pub fn about(kind: EventKind, subject: FileState, because: String) -> Self {
        Self {
            kind,
            subject,
            definition: None,
            moved_from: None,
            before: None,
            because,
        }
    }

    /// The hash of the payload.
    pub fn payload(&self) -> ContentHash {
        self.definition.as_ref().unwrap_or(&self.subject).hash
    }

    /// Returns the event with its id, time and explanation.
    pub(crate) fn complete(
        &self,
        key: &ProjectKey,
        origin: Origin,
        hint: String,
        parameters: Vec<(Parameter, String)>,
        now: Timestamp,
    ) -> Event {
        let subject = &self.subject;
        let is_removal = self.kind.is_removal();
        // The times of a file do not show when it was removed, or when its project was renamed.
        let has_no_time = is_removal || self.kind == EventKind::ProjectMove;
        Event {
            id: EventId::of(
                self.kind,
                key,
                subject.tag.as_deref(),
                &subject.stamp,
                &self.payload(),
                0,
            ),
            kind: self.kind,
            key: key.clone(),
            origin,
            occurred_at: if has_no_time {
                now
            } else {
                timestamp(subject.stamp.changed_ns)
            },
            parameters,
            payload: self.payload(),
            explanation: Explanation {
                because: self.because.clone(),
                before: self.before.as_ref().map(Into::into),
                after: (!is_removal).then(|| subject.into()),
                hint,
                username_from: None,
                actor: None,
            },
        }
    }
}

/// A file in the explanation of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileSummary {
    /// The path below the repository's root.
    pub path: String,
    /// The hash of the content, in hexadecimal digits.
    pub hash: String,
    /// The size in bytes.
    pub size: u64,
    /// The modification time.
    pub modified: Timestamp,
}

impl From<&FileState> for FileSummary {
    fn from(file: &FileState) -> Self {
        Self {
            path: file.path.clone(),
            hash: file.hash.to_string(),
            size: file.stamp.size,
            modified: timestamp(file.stamp.modified_ns),
        }
    }
}

/// Converts nanoseconds since the Unix epoch to a time in whole microseconds.
///
/// Some parsers accept at most microseconds, for instance `%f` of Python's `strptime`.
pub fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(nanoseconds.div_euclid(1_000)).unwrap_or(Timestamp::MAX)
}

/// The explanation of an inferred event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rule by which the event was inferred, in words.
    pub because: String,
    /// The file that was recorded before, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<FileSummary>,
    /// The file that the event is about, unless it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<FileSummary>,
    /// The reason for the observation, such as a hint or a scan.
    pub hint: String,
    /// The source of the username, if `audit` is one of the configured sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_from: Option<String>,
    /// The user who made the change, if the kernel recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
}

/// An event as it is recorded and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The id. It stays the same over attempts, restarts and repeated inference.
    pub id: EventId,
    /// The kind of event.
    pub kind: EventKind,
    /// The project of the event.
    pub key: ProjectKey,
    /// Whether the change was observed live or found at a start.
    pub origin: Origin,
    /// The change time of the file. For a removal or a move, the time of inference.
    pub occurred_at: Timestamp,
    /// The parameters, in the order in which requests have them.
    pub parameters: Vec<(Parameter, String)>,
    /// The hash of the payload.
    pub payload: ContentHash,
    /// Why the event was inferred.
    pub explanation: Explanation,
}
