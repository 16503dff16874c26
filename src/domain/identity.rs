//! Identifies projects independently of their directories.
//!
//! Constraint: the `projectId` in callbacks identifies a project. It is the engineId, the root
//! attribute `id`, or a generated id. A project keeps its `projectId` when it is renamed, and when
//! its definition is saved without an id. Moves, copies and replacements are detected by this id.
//! Within an organization, a project whose definition has no id is also recognised by its content.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::parameters::{another_made_up_id, made_up_project_id, project_id};
use super::project::{ContentHash, Document, FileState, ProjectKey, Role};

/// Ids that a project keeps although its current definition lacks them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptIds {
    /// The engineId of an earlier definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_id: Option<String>,
    /// The root attribute `id` of an earlier definition, if the project has no engineId.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_id: Option<String>,
    /// The generated id, if the project has no other id.
    ///
    /// Absent if it equals the id that is generated from the current key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_up: Option<String>,
}

impl KeptIds {
    /// Returns these ids, or `None` if all are absent.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// The identity of a project, independent of its path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// The id of the project, in lower case.
    Id(String),
    /// The hash of the definition, if the project has no id.
    Content(ContentHash),
}

impl Identity {
    /// Whether this is an id. Only projects with an id are recognised in another organization.
    pub(crate) fn is_id(&self) -> bool {
        matches!(self, Identity::Id(_))
    }
}

impl fmt::Display for Identity {
    /// Formats the identity for the store. Different identities have different texts.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Id(id) => write!(formatter, "id {id}"),
            Identity::Content(hash) => write!(formatter, "content {hash}"),
        }
    }
}

impl Document {
    /// The engineId in this content.
    fn own_engine_id(&self) -> Option<&str> {
        self.annotation("engineId")
    }

    /// The root attribute `id` in this content, unless it has only white space.
    pub(crate) fn own_root_id(&self) -> Option<&str> {
        self.id.as_deref().filter(|id| !id.trim().is_empty())
    }

    /// The engineId in this content, else the kept engineId.
    pub fn engine_id(&self) -> Option<&str> {
        self.own_engine_id()
            .or_else(|| self.kept.as_ref()?.engine_id.as_deref())
    }

    /// The root attribute `id` in this content, else the kept attribute.
    pub(crate) fn root_id(&self) -> Option<&str> {
        self.own_root_id()
            .or_else(|| self.kept.as_ref()?.root_id.as_deref())
    }

    /// The kept generated id; see [`KeptIds::made_up`].
    pub(crate) fn kept_made_up_id(&self) -> Option<&str> {
        self.kept.as_ref()?.made_up.as_deref()
    }

    /// The kept id, if this content has no id that replaces it.
    pub(crate) fn kept_id(&self) -> Option<&str> {
        let kept = self.kept.as_ref()?;
        let engine_id = self.own_engine_id().is_none().then_some(&kept.engine_id)?;
        let other = || kept.root_id.as_deref().or(kept.made_up.as_deref());
        let other = || other().filter(|_| self.own_root_id().is_none());
        engine_id.as_deref().or_else(other)
    }

    /// Whether an id has to be generated from the project's key.
    fn needs_made_up_id(&self) -> bool {
        self.engine_id().or(self.root_id()).is_none() && self.kept_made_up_id().is_none()
    }
}

impl FileState {
    /// Returns the identity from the content alone, ignoring kept ids.
    ///
    /// A file observed at a new path has no kept ids, but its recorded state may have some.
    /// Ignoring them makes both identities equal.
    pub fn identity(&self) -> Identity {
        let document = &self.document;
        match document.own_engine_id().or(document.own_root_id()) {
            Some(id) => Identity::Id(id.to_lowercase()),
            None => Identity::Content(self.hash),
        }
    }

    /// Returns the identity of a recorded project: its `projectId`.
    pub fn project_identity(&self, key: &ProjectKey) -> Identity {
        Identity::Id(project_id(key, self, None).to_lowercase())
    }

    /// Returns the identities by which this recorded project is found after a move.
    pub(crate) fn identities(&self, key: &ProjectKey) -> impl Iterator<Item = Identity> + use<> {
        let of_project = self.project_identity(key);
        let of_content = Some(self.identity()).filter(|identity| *identity != of_project);
        std::iter::once(of_project).chain(of_content)
    }

    /// Whether the two files have different ids, and so belong to different projects.
    ///
    /// Only ids of the same kind are compared, ignoring case: the engineIds if both files have one,
    /// and the root attributes `id` if neither file has an engineId. Kept ids count too.
    pub(crate) fn is_of_another_project(&self, other: &FileState) -> bool {
        let (here, there) = (&self.document, &other.document);
        let differ = |one: &str, other: &str| one.to_lowercase() != other.to_lowercase();
        match (here.engine_id(), there.engine_id()) {
            (Some(one), Some(other)) => differ(one, other),
            (None, None) => match (here.root_id(), there.root_id()) {
                (Some(one), Some(other)) => differ(one, other),
                _ => false,
            },
            _ => false,
        }
    }

    /// Returns this definition with the ids that the project keeps from its definition `before`.
    pub(crate) fn succeeding(&self, before: &FileState) -> Self {
        let mut definition = self.clone();
        let (own, before) = (&self.document, &before.document);
        let owned = |id: &str| Some(id.to_owned());
        definition.document.kept = if own.own_engine_id().is_some() {
            None
        } else if let Some(engine_id) = before.engine_id() {
            let engine_id = owned(engine_id);
            KeptIds {
                engine_id,
                ..KeptIds::default()
            }
            .boxed()
        } else if own.own_root_id().is_some() {
            None
        } else if let Some(root_id) = before.root_id() {
            let root_id = owned(root_id);
            KeptIds {
                root_id,
                ..KeptIds::default()
            }
            .boxed()
        } else {
            let made_up = before.kept_made_up_id().and_then(owned);
            KeptIds {
                made_up,
                ..KeptIds::default()
            }
            .boxed()
        };
        definition
    }

    /// Returns this file at its new path. A definition keeps the generated id of its project.
    pub(crate) fn moved(&self, path: &str, from: &ProjectKey, to: &ProjectKey) -> Self {
        let mut file = self.clone();
        path.clone_into(&mut file.path);
        if self.role == Role::Definition {
            let needs_made_up_id = self.document.needs_made_up_id();
            let document = &mut file.document;
            let mut kept = document.kept.take().unwrap_or_default();
            if needs_made_up_id {
                kept.made_up = Some(made_up_project_id(from));
            }
            kept.made_up = kept.made_up.filter(|id| *id != made_up_project_id(to));
            document.kept = kept.boxed();
        }
        file
    }

    /// Changes the generated id of a new definition if a renamed project has that id.
    ///
    /// `is_kept` returns whether a recorded project keeps an id. The different id depends on the
    /// file, so inferring the same import again gives the same id.
    pub(crate) fn avoid_kept_ids(&mut self, key: &ProjectKey, is_kept: impl Fn(&str) -> bool) {
        let is_new = self.role == Role::Definition && self.document.kept.is_none();
        if is_new && self.document.needs_made_up_id() && is_kept(&made_up_project_id(key)) {
            let kept = KeptIds {
                made_up: Some(another_made_up_id(key, &self.stamp)),
                ..KeptIds::default()
            };
            self.document.kept = kept.boxed();
        }
    }
}
