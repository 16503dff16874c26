//! The events, their parameters and their ids.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::project::{ContentHash, FileState, ProjectKey, Stamp};

/// A project-level webhook event: one of the seven, or one that a webhook has to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A project is deleted.
    ProjectDelete,
    /// A project is deleted together with all its published copies.
    ProjectDeleteAndUnpublish,
    /// A project that the webhook selects by `projects` is imported.
    ProjectImport,
    /// Any project is imported.
    ProjectImportAny,
    /// A project is published.
    ProjectPublish,
    /// A snapshot of a project is taken.
    SnapshotCreate,
    /// A project is rolled back to a snapshot.
    SnapshotRestore,
    /// The definition of a project is saved.
    ProjectSave,
    /// A published copy is removed, and its project stays.
    ProjectUnpublish,
    /// A snapshot is removed, and its project stays.
    SnapshotDelete,
    /// A project is renamed, or moved inside its organization.
    ProjectMove,
}

/// A parameter of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Parameter {
    /// The user who made the change.
    Username,
    /// The name of the project.
    ProjectName,
    /// The name of the project's organization.
    OrganizationName,
    /// The id of the project's organization.
    OrganizationId,
    /// The version tag of a published copy or a snapshot.
    VersionTag,
    /// The id of the project.
    ProjectId,
    /// The name of the directory that a moved project had before.
    PreviousProject,
}

impl Parameter {
    /// All parameters, in the order of the contract.
    pub const ALL: [Parameter; 7] = [
        Parameter::Username,
        Parameter::ProjectName,
        Parameter::OrganizationName,
        Parameter::OrganizationId,
        Parameter::VersionTag,
        Parameter::ProjectId,
        Parameter::PreviousProject,
    ];

    /// The name of the parameter in requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Parameter::Username => "username",
            Parameter::ProjectName => "projectName",
            Parameter::OrganizationName => "organizationName",
            Parameter::OrganizationId => "organizationId",
            Parameter::VersionTag => "versionTag",
            Parameter::ProjectId => "projectId",
            Parameter::PreviousProject => "previousProject",
        }
    }
}

impl EventKind {
    /// The seven events that `"*"` stands for, in the order of the documentation.
    pub const SEVEN: [EventKind; 7] = [
        EventKind::ProjectDelete,
        EventKind::ProjectDeleteAndUnpublish,
        EventKind::ProjectImport,
        EventKind::ProjectImportAny,
        EventKind::ProjectPublish,
        EventKind::SnapshotCreate,
        EventKind::SnapshotRestore,
    ];

    /// All events, in the order of the documentation.
    pub const ALL: [EventKind; 11] = [
        EventKind::ProjectDelete,
        EventKind::ProjectDeleteAndUnpublish,
        EventKind::ProjectImport,
        EventKind::ProjectImportAny,
        EventKind::ProjectPublish,
        EventKind::SnapshotCreate,
        EventKind::SnapshotRestore,
        EventKind::ProjectSave,
        EventKind::ProjectUnpublish,
        EventKind::SnapshotDelete,
        EventKind::ProjectMove,
    ];

    /// The name of the event in headers, configuration and listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            EventKind::ProjectDelete => "project-delete",
            EventKind::ProjectDeleteAndUnpublish => "project-delete-and-unpublish",
            EventKind::ProjectImport => "project-import",
            EventKind::ProjectImportAny => "project-import-any",
            EventKind::ProjectPublish => "project-publish",
            EventKind::SnapshotCreate => "snapshot-create",
            EventKind::SnapshotRestore => "snapshot-restore",
            EventKind::ProjectSave => "project-save",
            EventKind::ProjectUnpublish => "project-unpublish",
            EventKind::SnapshotDelete => "snapshot-delete",
            EventKind::ProjectMove => "project-move",
        }
    }

    /// The label of the event, such as `Project Publish`.
    pub const fn label(self) -> &'static str {
        match self {
            EventKind::ProjectDelete => "Project Delete",
            EventKind::ProjectDeleteAndUnpublish => "Project Delete and Unpublish",
            EventKind::ProjectImport => "Project Import",
            EventKind::ProjectImportAny => "Project Import - Any",
            EventKind::ProjectPublish => "Project Publish",
            EventKind::SnapshotCreate => "Snapshot Create",
            EventKind::SnapshotRestore => "Snapshot Restore",
            EventKind::ProjectSave => "Project Save",
            EventKind::ProjectUnpublish => "Project Unpublish",
            EventKind::SnapshotDelete => "Snapshot Delete",
            EventKind::ProjectMove => "Project Move",
        }
    }

    /// Parses a name of [`EventKind::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether only webhooks that name the event receive it.
    ///
    /// Such an event is recorded only if there is such a webhook.
    pub fn is_opt_in(self) -> bool {
        !Self::SEVEN.contains(&self)
    }

    /// Whether the file that the event is about is gone.
    const fn is_removal(self) -> bool {
        self.is_delete()
            || matches!(
                self,
                EventKind::ProjectUnpublish | EventKind::SnapshotDelete
            )
    }

    /// Whether the event is one of the two deletes of a project.
    pub(crate) const fn is_delete(self) -> bool {
        matches!(
            self,
            EventKind::ProjectDelete | EventKind::ProjectDeleteAndUnpublish
        )
    }

    /// Whether the event reports that a project appeared.
    pub const fn is_import(self) -> bool {
        matches!(self, EventKind::ProjectImport | EventKind::ProjectImportAny)
    }

    /// The parameters of the event's callback, in order.
    pub const fn parameters(self) -> &'static [Parameter] {
        use Parameter::{
            OrganizationId, OrganizationName, PreviousProject, ProjectId, ProjectName, Username,
            VersionTag,
        };
        match self {
            EventKind::ProjectDelete
            | EventKind::ProjectDeleteAndUnpublish
            | EventKind::ProjectImport
            | EventKind::ProjectImportAny
            | EventKind::ProjectSave => &[
                Username,
                ProjectName,
                OrganizationName,
                OrganizationId,
                ProjectId,
            ],
            EventKind::ProjectMove => &[
                Username,
                ProjectName,
                OrganizationName,
                OrganizationId,
                ProjectId,
                PreviousProject,
            ],
            EventKind::ProjectPublish | EventKind::ProjectUnpublish => &[
                Username,
                ProjectName,
                OrganizationName,
                OrganizationId,
                VersionTag,
                ProjectId,
            ],
            EventKind::SnapshotCreate | EventKind::SnapshotDelete => &[
                Username,
                ProjectName,
                OrganizationName,
                OrganizationId,
                VersionTag,
            ],
            EventKind::SnapshotRestore => {
                &[Username, ProjectName, OrganizationName, OrganizationId]
            }
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The origin of an event, or of an attempt to deliver it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The change was observed while the daemon was running.
    #[default]
    Live,
    /// The change was made while the daemon was down, and found at the start.
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

    /// The word for this value in headers and listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Live => "live",
            Origin::CatchUp => "catch-up",
            Origin::Redelivery => "redelivery",
            Origin::Test => "test",
        }
    }

    /// Parses a word of [`Origin::as_str`].
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
    /// Derives the id of an event from its properties.
    ///
    /// So an event that is inferred again, for instance after a power cut, gets the same id. Usually
    /// `repetition` is 0. It is higher if an event with the same properties is or was recorded,
    /// because the two are different events and need different ids.
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
    /// The definition that is the payload, if the subject is a removed copy.
    ///
    /// The bytes of a copy are not kept, but those of a definition are.
    pub definition: Option<FileState>,
    /// The key that a moved project had before.
    pub moved_from: Option<ProjectKey>,
    /// The file that was recorded at the same path before, if any.
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

    /// Adds the id, the time and the explanation to the event.
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
        // Removing or renaming a file leaves no time in it.
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
/// Some languages parse no finer times, such as Python with `%f` of `strptime`.
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
    /// The file that was observed, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<FileSummary>,
    /// The reason for the observation.
    pub hint: String,
    /// The source of the parameter `username`, if `username:` has the source `audit`.
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
    /// The parameters, in order.
    pub parameters: Vec<(Parameter, String)>,
    /// The hash of the payload. The store has the payload.
    pub payload: ContentHash,
    /// Why the event was inferred.
    pub explanation: Explanation,
}
