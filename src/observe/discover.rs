//! Finds the projects of a repository.
//!
//! Constraint: an unreadable directory is a problem, and never counts as empty. The walk stops at
//! paths that belong to only one project. An observation reads the rest.

use std::os::fd::{AsFd, OwnedFd};

use super::listing::{Entry, entries, is_absent, join, unreadable};
use crate::domain::project::{Problem, ProjectKey};
use crate::layout::{Cursor, Layout};
use crate::repository::{Root, open_directory_at};

/// The result of finding projects.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    /// The projects that have a directory or a file, sorted.
    pub keys: Vec<ProjectKey>,
    /// Unreadable directories and unusable entries.
    pub problems: Vec<Problem>,
}

/// Finds all projects.
pub(super) fn discover(layout: &Layout, root: &Root) -> Discovery {
    let mut discovery = Discovery::default();
    match root.open_directory("") {
        Ok(directory) => discover_in(&directory, "", &layout.root(), &mut discovery),
        Err(error) if is_absent(&error) => {}
        Err(error) => discovery.problems.push(unreadable("", &error)),
    }
    discovery.keys.sort_unstable();
    discovery.keys.dedup();
    discovery
}

fn discover_in(directory: &OwnedFd, path: &str, cursor: &Cursor, discovery: &mut Discovery) {
    let mut directories = Vec::new();
    let read = entries(directory.as_fd(), path, cursor, |entry| match entry {
        Entry::Directory(name, next) if next.leads_on() => match next.project() {
            Some(key) => discovery.keys.push(key),
            None => directories.push((name.to_owned(), next)),
        },
        Entry::Directory(_, next) | Entry::Other(_, next) => {
            discovery.keys.extend(next.file().map(|place| place.key));
        }
        Entry::Problem(problem) => discovery.problems.push(problem),
    });
    if let Err(error) = read {
        discovery.problems.push(unreadable(path, &error));
    }
    for (name, next) in directories {
        let below = join(path, &name);
        match open_directory_at(directory.as_fd(), &name) {
            Ok(opened) => discover_in(&opened, &below, &next, discovery),
            Err(error) if is_absent(&error) => {}
            Err(error) => discovery.problems.push(unreadable(&below, &error)),
        }
    }
}
