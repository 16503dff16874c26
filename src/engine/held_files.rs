//! Holds files open that hints named, until their projects are observed.

use std::collections::HashMap;

use crate::domain::project::ProjectKey;
use crate::observe::Held;

/// The maximum number of held files of one project.
const PER_PROJECT: usize = 128;

/// The held files of each project.
#[derive(Debug, Default)]
pub(super) struct HeldFiles(HashMap<ProjectKey, Vec<Held>>);

impl HeldFiles {
    /// Adds a file unless it is already held.
    ///
    /// The system reports a file twice: when it is created and when it is closed.
    pub(super) fn add(&mut self, key: ProjectKey, held: Held) {
        let files = self.0.entry(key).or_default();
        let is_held = files
            .iter()
            .any(|other| other.path == held.path && other.stamp == held.stamp);
        if !is_held && files.len() < PER_PROJECT {
            files.push(held);
        }
    }

    pub(super) fn take(&mut self, key: &ProjectKey) -> Vec<Held> {
        self.0.remove(key).unwrap_or_default()
    }

    pub(super) fn put_back(&mut self, key: &ProjectKey, files: impl IntoIterator<Item = Held>) {
        let mut files = files.into_iter().peekable();
        if files.peek().is_some() {
            self.0.entry(key.clone()).or_default().extend(files);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
