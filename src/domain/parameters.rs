//! Computes the parameters of an event.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::event::{InferredEvent, Parameter, timestamp};
use super::names::composed;
use super::project::{FileState, ProjectKey, Role, Stamp};

/// The name and id of an organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// The name.
    pub name: String,
    /// The id, usually a UUID.
    pub id: String,
}

/// A source of usernames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsernameSource {
    /// The user who made the change, from the kernel's audit records with this key.
    Audit(String),
    /// The annotation with this name in the project.xml.
    Annotation(String),
    /// The owner of the file.
    Owner,
    /// A fixed text.
    Value(String),
}

impl UsernameSource {
    /// The names of all sources, and `none` for events without a username.
    pub const WORDS: [&str; 5] = ["audit", "annotation", "owner", "value", "none"];

    /// The name of this source in listings and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            UsernameSource::Audit(_) => "audit",
            UsernameSource::Annotation(_) => "annotation",
            UsernameSource::Owner => "owner",
            UsernameSource::Value(_) => "value",
        }
    }
}

/// The settings for the names in callbacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// The organizations by their names on disk, in the composed form.
    pub organizations: BTreeMap<String, Organization>,
    /// The sources of the username. The first source that has a name is used.
    pub username: Vec<UsernameSource>,
}

impl Naming {
    /// The key of the audit rule, if the kernel's audit records are a source.
    pub fn audit_key(&self) -> Option<&str> {
        self.username.iter().find_map(|source| match source {
            UsernameSource::Audit(key) => Some(key.as_str()),
            _ => None,
        })
    }
}

/// Returns the UUID namespace of generated project ids.
///
/// It is derived from the name of the program, so that every installation generates the same ids.
fn project_namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, b"urn:project-webhooks:project")
}

/// Returns the parameters of an event, in order.
///
/// `definition` is the definition of the project, if any. The `projectId` of a copy usually comes
/// from it; see `project_id`.
pub fn parameters(
    event: &InferredEvent,
    key: &ProjectKey,
    definition: Option<&FileState>,
    naming: &Naming,
) -> Vec<(Parameter, String)> {
    let value = |parameter| value(parameter, event, key, definition, naming);
    let parameters = event.kind.parameters().iter();
    parameters
        .map(|parameter| (*parameter, value(*parameter)))
        .collect()
}

fn value(
    parameter: Parameter,
    event: &InferredEvent,
    key: &ProjectKey,
    definition: Option<&FileState>,
    naming: &Naming,
) -> String {
    let subject = &event.subject;
    let document = &subject.document;
    let organization = naming
        .organizations
        .get(&*composed(key.organization_name()));
    match parameter {
        Parameter::Username => username(subject, &naming.username, None).1,
        Parameter::ProjectName => not_empty(document.name.as_deref())
            .unwrap_or(&key.project)
            .to_owned(),
        Parameter::OrganizationName => organization
            .map_or(key.organization_name(), |known| &known.name)
            .to_owned(),
        Parameter::OrganizationId => organization
            .map_or(key.organization_name(), |known| &known.id)
            .to_owned(),
        Parameter::VersionTag => version_tag(subject),
        Parameter::ProjectId => project_id(key, subject, definition),
        Parameter::PreviousProject => event
            .moved_from
            .as_ref()
            .map_or_else(String::new, |from| from.project.clone()),
    }
}

/// Returns the version tag of a published copy or a snapshot.
fn version_tag(subject: &FileState) -> String {
    subject
        .tag
        .clone()
        .or_else(|| subject.document.version().map(str::to_owned))
        .unwrap_or_else(|| {
            // Whole seconds keep this generated tag short.
            let seconds = subject.stamp.modified_ns.div_euclid(1_000_000_000);
            format!(
                "Published {}",
                timestamp(seconds.saturating_mul(1_000_000_000))
            )
        })
}

/// Returns the name of the source and the username.
///
/// Without a username, these are `none` and an empty text. `actor` is the user who made the change,
/// if the kernel recorded one.
pub fn username(
    subject: &FileState,
    sources: &[UsernameSource],
    actor: Option<&str>,
) -> (&'static str, String) {
    sources
        .iter()
        .find_map(|source| {
            let name = match source {
                UsernameSource::Audit(_) => not_empty(actor),
                UsernameSource::Annotation(name) => subject.document.annotation(name),
                UsernameSource::Owner => not_empty(Some(&subject.owner)),
                UsernameSource::Value(text) => not_empty(Some(text)),
            };
            Some((source.as_str(), name?.to_owned()))
        })
        .unwrap_or(("none", String::new()))
}

fn not_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.trim().is_empty())
}

/// Returns the id of a project.
///
/// It is the engineId, else the root attribute `id`, else a generated id. If `definition` is given,
/// a copy has the id of this definition, so that a publish and the import have the same id. But a
/// copy with a different id belongs to another project and has its own id.
pub(crate) fn project_id(
    key: &ProjectKey,
    subject: &FileState,
    definition: Option<&FileState>,
) -> String {
    let is_copy = subject.role != Role::Definition;
    let of_project = definition.filter(|one| is_copy && !one.is_of_another_project(subject));
    let document = &of_project.unwrap_or(subject).document;
    document
        .engine_id()
        .or_else(|| document.root_id())
        .or_else(|| document.kept_made_up_id())
        .map_or_else(|| made_up_project_id(key), str::to_owned)
}

/// Generates an id: a UUIDv5 of the key without the repository.
pub(super) fn made_up_project_id(key: &ProjectKey) -> String {
    Uuid::new_v5(&project_namespace(), key.path().as_bytes()).to_string()
}

/// Generates an id for a project whose usual generated id belongs to a renamed project.
pub(super) fn another_made_up_id(key: &ProjectKey, stamp: &Stamp) -> String {
    // No key contains a NUL character, so no other project gets this id.
    let name = format!("{}\0{}\0{}", key.path(), stamp.inode, stamp.changed_ns);
    Uuid::new_v5(&project_namespace(), name.as_bytes()).to_string()
}
