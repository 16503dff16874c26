//! Indexes the recorded projects whose id is not in their definition.
//!
//! Constraint: the store finds a project only by the id or the content of its definition. This
//! module finds a project that was saved without its id, or that was renamed and keeps its
//! generated id.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::project::{Identity, ProjectKey, Recorded};
use crate::store::Batch;

/// The projects with a kept id, by that id in lower case. Few projects have one.
///
/// A kept id is in the record of a project, but not in its definition.
#[derive(Debug, Default)]
pub(super) struct KeptIds(BTreeMap<String, BTreeSet<ProjectKey>>);

impl KeptIds {
    /// Makes the index from pairs of a project and its kept id.
    pub(super) fn of(projects: Vec<(ProjectKey, String)>) -> Self {
        let mut all = Self::default();
        for (key, id) in projects {
            all.add(key, &id);
        }
        all
    }

    fn add(&mut self, key: ProjectKey, id: &str) {
        self.0.entry(id.to_lowercase()).or_default().insert(key);
    }

    /// Whether a project keeps this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.contains_key(&id.to_lowercase())
    }

    /// Returns the projects that keep this id.
    pub(super) fn with(&self, identity: &Identity) -> impl Iterator<Item = &ProjectKey> {
        let keys = match identity {
            Identity::Id(id) => self.0.get(id),
            Identity::Content(_) => None,
        };
        keys.into_iter().flatten()
    }

    /// Applies the changes of a committed batch.
    pub(super) fn apply(&mut self, changes: KeptIdChanges) {
        for (key, id) in changes.removed {
            let id = id.to_lowercase();
            if let Some(keys) = self.0.get_mut(&id) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.0.remove(&id);
                }
            }
        }
        for (key, id) in changes.added {
            self.add(key, &id);
        }
    }
}

/// The kept ids that a batch removes from the record and adds to it.
#[derive(Debug, Default)]
pub(super) struct KeptIdChanges {
    removed: Vec<(ProjectKey, String)>,
    added: Vec<(ProjectKey, String)>,
}

impl KeptIdChanges {
    pub(super) fn of(batch: &Batch) -> Self {
        let kept = |record: &Recorded, key: &ProjectKey| {
            let id = record.last_definition()?.document.kept_id()?;
            Some((key.clone(), id.to_owned()))
        };
        let changes = || batch.changes.iter();
        Self {
            removed: changes()
                .filter_map(|one| kept(&one.before, &one.key))
                .collect(),
            added: changes()
                .filter_map(|one| kept(&one.after, &one.key))
                .collect(),
        }
    }
}
