//! The seven events, and what is kept of each.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::project::{ContentHash, FileState, ProjectKey, Stamp};

/// One of the seven project-level webhook events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A project is deleted.
    ProjectDelete,
    /// A project is deleted and all its published copies with it.
    ProjectDeleteAndUnpublish,
    /// A specific project is imported.
    ProjectImport,
    /// Any project is imported.
    ProjectImportAny,
    /// A project is published.
    ProjectPublish,
    /// A snapshot of a project is taken.
    SnapshotCreate,
    /// A project is rolled back to a snapshot.
    SnapshotRestore,
}

/// A parameter of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Parameter {
    /// Who did it.
    Username,
    /// The project's name.
    ProjectName,
    /// The name of the organization in which the project is.
    OrganizationName,
    /// The organization's id.
    OrganizationId,
    /// The description of a publish or a snapshot.
    VersionTag,
    /// The project's id.
    ProjectId,
}

impl Parameter {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Parameter::Username => "username",
            Parameter::ProjectName => "projectName",
            Parameter::OrganizationName => "organizationName",
            Parameter::OrganizationId => "organizationId",
            Parameter::VersionTag => "versionTag",
            Parameter::ProjectId => "projectId",
        }
    }
}

impl EventKind {
    /// All seven, in the order of the reference's table.
    pub const ALL: [EventKind; 7] = [
        EventKind::ProjectDelete,
        EventKind::ProjectDeleteAndUnpublish,
        EventKind::ProjectImport,
        EventKind::ProjectImportAny,
        EventKind::ProjectPublish,
        EventKind::SnapshotCreate,
        EventKind::SnapshotRestore,
    ];

    /// The name in headers, configuration and listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            EventKind::ProjectDelete => "project-delete",
            EventKind::ProjectDeleteAndUnpublish => "project-delete-and-unpublish",
            EventKind::ProjectImport => "project-import",
            EventKind::ProjectImportAny => "project-import-any",
            EventKind::ProjectPublish => "project-publish",
            EventKind::SnapshotCreate => "snapshot-create",
            EventKind::SnapshotRestore => "snapshot-restore",
        }
    }

    /// The label that people know it by.
    pub const fn label(self) -> &'static str {
        match self {
            EventKind::ProjectDelete => "Project Delete",
            EventKind::ProjectDeleteAndUnpublish => "Project Delete and Unpublish",
            EventKind::ProjectImport => "Project Import",
            EventKind::ProjectImportAny => "Project Import - Any",
            EventKind::ProjectPublish => "Project Publish",
            EventKind::SnapshotCreate => "Snapshot Create",
            EventKind::SnapshotRestore => "Snapshot Restore",
        }
    }

    /// The event that [`EventKind::as_str`] names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The parameters of its callback, in their order (contract section 3).
    pub const fn parameters(self) -> &'static [Parameter] {
        use Parameter::{
            OrganizationId, OrganizationName, ProjectId, ProjectName, Username, VersionTag,
        };
        match self {
            EventKind::ProjectDelete
            | EventKind::ProjectDeleteAndUnpublish
            | EventKind::ProjectImport
            | EventKind::ProjectImportAny => &[
                Username,
                ProjectName,
                OrganizationName,
                OrganizationId,
                ProjectId,
            ],
            EventKind::ProjectPublish => &[
                Username,
                ProjectName,
                OrganizationName,
                OrganizationId,
                VersionTag,
                ProjectId,
            ],
            EventKind::SnapshotCreate => &[
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

/// How an event, or an attempt to deliver it, came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Seen while the daemon watched.
    Live,
    /// InferredEvent at start, from what changed while the daemon was down.
    CatchUp,
    /// Sent again by an operator.
    Redelivery,
    /// Sent by an operator to try a webhook.
    Test,
}

impl Origin {
    /// The word in headers and listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Live => "live",
            Origin::CatchUp => "catch-up",
            Origin::Redelivery => "redelivery",
            Origin::Test => "test",
        }
    }

    /// The origin that [`Origin::as_str`] names.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Origin::Live,
            Origin::CatchUp,
            Origin::Redelivery,
            Origin::Test,
        ]
        .into_iter()
        .find(|origin| origin.as_str() == word)
    }
}

/// The id of an event: `evt_` and 32 hexadecimal digits; never a dot, which the signature uses to
/// separate its parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub String);

impl EventId {
    /// The id of a happening, a function of what happened alone: inferring the same happening
    /// again, after a power cut for one, gives the same id.
    ///
    /// `repetition` is 0. It counts up only where an equal happening is on record already and so
    /// a new one, told apart by nothing on disk, must not borrow its id.
    pub fn of(
        kind: EventKind,
        key: &ProjectKey,
        tag: Option<&str>,
        stamp: &Stamp,
        hash: &ContentHash,
        repetition: u32,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Each part goes in with its length, so that no two different lists of parts can run
        // together into the same bytes.
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

/// What a look inferred, before names and parameters are given to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferredEvent {
    /// What happened.
    pub kind: EventKind,
    /// The file the event is about; its bytes are the payload.
    pub subject: FileState,
    /// The file that was recorded there before, if any.
    pub before: Option<FileState>,
    /// The rule that led to it, for a person.
    pub because: String,
}

/// One side of an event's explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSummary {
    /// Where it is or was, below the repository's root.
    pub path: String,
    /// The hash of its bytes, in hexadecimal digits.
    pub hash: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time.
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

/// The timestamp of nanoseconds since the Unix epoch; what no calendar can hold becomes its end.
pub fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::MAX)
}

/// Why an event was inferred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rule, for a person.
    pub because: String,
    /// The file that was recorded before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<FileSummary>,
    /// The file that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<FileSummary>,
    /// What made the daemon look.
    pub hint: String,
}

/// An event as it is recorded and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its id; stable over attempts, restarts and inferring it again.
    pub id: EventId,
    /// What happened.
    pub kind: EventKind,
    /// Where.
    pub key: ProjectKey,
    /// How it came about.
    pub origin: Origin,
    /// When it happened, as far as the file tells; for a delete, when it was inferred.
    pub occurred_at: Timestamp,
    /// The parameters in their order.
    pub parameters: Vec<(Parameter, String)>,
    /// The hash of the payload, which the store keeps.
    pub payload: ContentHash,
    /// Why it was inferred.
    pub explanation: Explanation,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const STAMP: Stamp = Stamp {
        inode: 42,
        size: 2048,
        modified_ns: 1_777_000_000_000_000_000,
        changed_ns: 1_777_000_000_123_456_789,
    };

    fn id(tag: Option<&str>, stamp: &Stamp, repetition: u32) -> EventId {
        EventId::of(
            EventKind::SnapshotCreate,
            &ProjectKey::new("sales", "orders"),
            tag,
            stamp,
            &ContentHash::of(b"<schema/>"),
            repetition,
        )
    }

    #[test]
    fn an_id_is_the_same_for_ever() {
        // Another value here would send again, under a new id, what was inferred before an update
        // of the program and is inferred once more after it.
        assert_eq!(
            id(Some("v1"), &STAMP, 0).to_string(),
            "evt_b0972af8f3820422190274b562e3750e"
        );
    }

    #[test]
    fn an_id_is_a_function_of_what_happened() {
        let key = |organization: &str, project: &str| ProjectKey::new(organization, project);
        let hash = ContentHash::of(b"<schema/>");
        let restore = EventKind::SnapshotRestore;
        let later = Stamp {
            changed_ns: STAMP.changed_ns + 1,
            ..STAMP
        };
        let elsewhere = Stamp { inode: 43, ..STAMP };
        let ids: Vec<EventId> = vec![
            id(Some("v1"), &STAMP, 0),
            id(Some("v2"), &STAMP, 0),
            id(Some(""), &STAMP, 0),
            id(None, &STAMP, 0),
            id(Some("v1"), &later, 0),
            id(Some("v1"), &elsewhere, 0),
            id(Some("v1"), &STAMP, 1),
            EventId::of(
                restore,
                &key("sales", "orders"),
                Some("v1"),
                &STAMP,
                &hash,
                0,
            ),
            EventId::of(
                restore,
                &key("sale", "sorders"),
                Some("v1"),
                &STAMP,
                &hash,
                0,
            ),
            EventId::of(
                restore,
                &key("sales", "ordersv1"),
                Some(""),
                &STAMP,
                &hash,
                0,
            ),
            EventId::of(
                restore,
                &key("sales", "orders"),
                Some("v1"),
                &STAMP,
                &ContentHash::of(b""),
                0,
            ),
        ];
        let different: BTreeSet<&EventId> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        for id in &ids {
            let digits = id.0.strip_prefix("evt_").unwrap_or_default();
            assert_eq!(digits.len(), 32);
            // A dot in particular would end the id early in what is signed.
            assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        }

        // Size and modification time follow from the content and the change time.
        let touched = Stamp {
            size: 1,
            modified_ns: 1,
            ..STAMP
        };
        assert_eq!(id(Some("v1"), &touched, 0), id(Some("v1"), &STAMP, 0));
    }

    #[test]
    fn names_and_labels_are_those_of_the_contract() {
        let table = [
            ("project-delete", "Project Delete"),
            (
                "project-delete-and-unpublish",
                "Project Delete and Unpublish",
            ),
            ("project-import", "Project Import"),
            ("project-import-any", "Project Import - Any"),
            ("project-publish", "Project Publish"),
            ("snapshot-create", "Snapshot Create"),
            ("snapshot-restore", "Snapshot Restore"),
        ];
        let found = EventKind::ALL.map(|kind| (kind.as_str(), kind.label()));
        assert_eq!(found, table);
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.as_str()), Some(kind));
            // The store and the listings use the same word as the headers.
            let json = serde_json::to_value(kind).ok();
            assert_eq!(json, Some(kind.as_str().into()));
        }
        assert_eq!(EventKind::from_name("Project Delete"), None);

        for origin in ["live", "catch-up", "redelivery", "test"] {
            let found = Origin::from_word(origin);
            assert_eq!(found.map(Origin::as_str), Some(origin));
            let json = serde_json::to_value(found).ok();
            assert_eq!(json, Some(origin.into()));
        }
        assert_eq!(Origin::from_word("Live"), None);
    }

    #[test]
    fn parameters_are_written_alike_everywhere() {
        for kind in EventKind::ALL {
            for parameter in kind.parameters() {
                let json = serde_json::to_value(parameter).ok();
                assert_eq!(json, Some(parameter.as_str().into()));
            }
        }
    }

    #[test]
    fn every_time_of_a_file_is_a_timestamp() {
        assert_eq!(timestamp(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(-1).to_string(), "1969-12-31T23:59:59.999999999Z");
        assert!(timestamp(i64::MIN) < timestamp(0) && timestamp(0) < timestamp(i64::MAX));
    }
}
