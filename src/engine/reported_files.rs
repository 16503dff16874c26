//! Keeps the files that hints named, until their projects are observed.

use std::collections::HashMap;

use crate::domain::project::ProjectKey;
use crate::observe::{Held, Reported};

#[derive(Debug, Default)]
pub(super) struct ReportedFiles(HashMap<ProjectKey, Reported>);

impl ReportedFiles {
    pub(super) fn add(&mut self, key: ProjectKey, path: &str, held: Option<Held>) {
        self.0.entry(key).or_default().add(path, held);
    }

    pub(super) fn take(&mut self, key: &ProjectKey) -> Reported {
        self.0.remove(key).unwrap_or_default()
    }

    pub(super) fn put_back(&mut self, key: &ProjectKey, reported: Reported) {
        if !reported.is_empty() {
            self.0.entry(key.clone()).or_default().merge(reported);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
