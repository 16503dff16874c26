//! The kinds of events: their names, labels and parameters.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of event.
///
/// In the configuration, `"*"` stands for the first seven ([`EventKind::SEVEN`]). A webhook must
/// name the other four to receive them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A project is deleted.
    ProjectDelete,
    /// A project is deleted, and all its published copies are gone.
    ProjectDeleteAndUnpublish,
    /// A project is imported. Only webhooks with `projects` receive this event.
    ProjectImport,
    /// A project is imported. Webhooks without `projects` receive this event too.
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
    /// The name on disk that a moved project had before the move.
    PreviousProject,
}

impl Parameter {
    /// All parameters, in the order in which requests have them.
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
    /// The seven events that `"*"` stands for, in the order of the shipped `config.yaml`.
    ///
    /// Without `projects`, a webhook does not get [`EventKind::ProjectImport`].
    pub const SEVEN: [EventKind; 7] = [
        EventKind::ProjectDelete,
        EventKind::ProjectDeleteAndUnpublish,
        EventKind::ProjectImport,
        EventKind::ProjectImportAny,
        EventKind::ProjectPublish,
        EventKind::SnapshotCreate,
        EventKind::SnapshotRestore,
    ];

    /// All events: the [`EventKind::SEVEN`], and the four that a webhook must name.
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

    /// Parses a name returned by [`EventKind::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether only webhooks that name the event receive it.
    ///
    /// The event is recorded only if such a webhook exists.
    pub fn is_opt_in(self) -> bool {
        !Self::SEVEN.contains(&self)
    }

    /// Whether the file that the event is about is gone.
    pub(super) const fn is_removal(self) -> bool {
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

    /// Whether the event is one of the two imports of a project.
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
