//! Keeps the reported files of a project until the project is observed.
//!
//! Constraint: memory is limited for any number of reports.

use std::collections::BTreeSet;

use tracing::debug;

use super::Held;

/// The maximum number of a project's held files, and of its reported paths.
const MAX: usize = 128;

/// The reported files of one project.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    /// The reported files that could be opened.
    held: Vec<Held>,
    paths: BTreeSet<String>,
    /// Whether more than [`MAX`] paths were reported. Then all files are treated as reported.
    is_full: bool,
}

impl Reported {
    /// Adds a reported file, and holds it unless it is already held.
    ///
    /// The kernel reports a new file twice: when it is created and when it is closed.
    pub(crate) fn add(&mut self, path: &str, held: Option<Held>) {
        self.name(path);
        self.hold(held);
    }

    pub(crate) fn hold(&mut self, files: impl IntoIterator<Item = Held>) {
        for held in files {
            let is_held = self.held.iter().any(|other| {
                other.path == held.path && other.stamp == held.stamp && other.home == held.home
            });
            if is_held {
                continue;
            }
            if self.held.len() < MAX {
                self.held.push(held);
            } else {
                debug!(
                    path = held.path,
                    "cannot hold a reported file open, because {MAX} files of its project are open; \
                     if it is removed now, its content is lost"
                );
            }
        }
    }

    fn name(&mut self, path: &str) {
        if self.is_full || self.paths.contains(path) {
            return;
        }
        self.is_full = self.paths.len() >= MAX;
        if !self.is_full {
            self.paths.insert(path.to_owned());
        }
    }

    /// Whether a report named this path.
    pub(crate) fn names(&self, path: &str) -> bool {
        self.is_full || self.paths.contains(path)
    }

    /// Drops all reported paths that are not in `kept`.
    pub(crate) fn keep_paths<'a>(&mut self, kept: impl Iterator<Item = &'a str>) {
        let is_full = std::mem::take(&mut self.is_full);
        let paths = std::mem::take(&mut self.paths);
        for path in kept.filter(|path| is_full || paths.contains(*path)) {
            self.name(path);
        }
    }

    pub(crate) fn take_held(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held)
    }

    /// Adds the reported files of an earlier observation.
    pub(crate) fn merge(&mut self, earlier: Self) {
        for path in &earlier.paths {
            self.name(path);
        }
        self.is_full |= earlier.is_full;
        self.hold(earlier.held);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.paths.is_empty() && !self.is_full
    }
}
