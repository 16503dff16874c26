//! Checks and records the unusable entries outside any project.
//!
//! Constraint: each commit writes the whole list of these entries. So the checks wait for the next
//! pulse (once a second), and one commit has the changes of all entries.

use std::collections::BTreeMap;

use super::worker::Worker;
use crate::domain::project::{Problem, ProjectKey};
use crate::store::Batch;

impl Worker {
    /// Makes the next pulse check whether this entry outside any project is unusable.
    pub(super) fn doubt_unusable(&mut self, path: String) {
        self.doubted_unusable.insert(path);
    }

    /// Makes the next pulse check the recorded unusable entries at and below a project's path.
    ///
    /// For instance, a link at the path, which is outside any project, may now be a directory.
    pub(super) fn doubt_unusable_of(&mut self, key: &ProjectKey) {
        if self.invalid_files.of(&None).is_empty() {
            return;
        }
        if let Some((path, _)) = self.config.repository.layout.directory_of(key) {
            self.doubt_unusable_below(&path);
        }
    }

    /// Makes the next pulse check the listed unusable entries at a path and below it.
    pub(super) fn doubt_unusable_below(&mut self, path: &str) {
        let listed = self.invalid_files.outside_projects_below(path);
        let listed: Vec<String> = listed.map(|problem| problem.path.clone()).collect();
        self.doubted_unusable.extend(listed);
    }

    /// Records the unusable entries outside any project. If that fails, the next pulse retries.
    pub(super) fn record_unusable(&mut self, problems: Vec<Problem>) {
        let found = problems.into_iter();
        let found: BTreeMap<String, Problem> = found.map(|one| (one.path.clone(), one)).collect();
        let recorded = self.invalid_files.of(&None).iter();
        if found.values().eq(recorded) {
            return;
        }
        let mut batch = Batch::new(self.clock.now());
        batch
            .problems
            .push((None, found.values().cloned().collect()));
        if !self.commit(batch) {
            let listed = self.invalid_files.of(&None).iter();
            self.doubted_unusable
                .extend(listed.map(|one| one.path.clone()));
            self.doubted_unusable.extend(found.into_keys());
        }
    }

    /// Checks the doubted entries, and records which of them are unusable.
    pub(super) fn check_unusable(&mut self) {
        if self.doubted_unusable.is_empty() {
            return;
        }
        // The check of the root reports why this fails.
        let Ok(Some(root)) = self.root.open() else {
            return;
        };
        let doubted = std::mem::take(&mut self.doubted_unusable);
        let found = self.observer.problems_at(&root, &doubted);
        let listed = self.invalid_files.of(&None).iter();
        let listed = listed.filter(|one| !doubted.contains(&one.path)).cloned();
        self.record_unusable(listed.chain(found).collect());
    }
}
