//! Finds the projects of a repository.
//!
//! Constraint: an unreadable directory is reported as a problem, and is never treated as empty. The
//! search stops at directories that belong to only one project. An observation of the project reads
//! everything below.

use std::collections::{BTreeMap, BTreeSet};
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
///
/// Calls `on_progress` for each directory and each entry that the layout needs.
pub(super) fn discover(layout: &Layout, root: &Root, on_progress: &dyn Fn()) -> Discovery {
    let mut discovery = Discovery::default();
    match root.open_directory("") {
        Ok(directory) => {
            let cursor = layout.root();
            discover_in(&directory, "", &cursor, &mut discovery, on_progress);
        }
        Err(error) if is_absent(&error) => {}
        Err(error) => discovery.problems.push(unreadable("", &error)),
    }
    discovery.keys.sort_unstable();
    discovery.keys.dedup();
    discovery
}

fn discover_in(
    directory: &OwnedFd,
    path: &str,
    cursor: &Cursor,
    discovery: &mut Discovery,
    on_progress: &dyn Fn(),
) {
    let mut directories = Vec::new();
    on_progress();
    let read = entries(directory.as_fd(), path, cursor, |entry| {
        on_progress();
        match entry {
            Entry::Directory(name, next) if next.leads_on() => match next.project() {
                Some(key) => discovery.keys.push(key),
                None => directories.push((name.to_owned(), next)),
            },
            Entry::Directory(_, next) | Entry::Other(_, next) => {
                discovery.keys.extend(next.file().map(|place| place.key));
            }
            Entry::Problem(problem) => discovery.problems.push(problem),
        }
    });
    if let Err(error) = read {
        discovery.problems.push(unreadable(path, &error));
    }
    for (name, next) in directories {
        let below = join(path, &name);
        match open_directory_at(directory.as_fd(), &name) {
            Ok(opened) => discover_in(&opened, &below, &next, discovery, on_progress),
            Err(error) if is_absent(&error) => {}
            Err(error) => discovery.problems.push(unreadable(&below, &error)),
        }
    }
}

/// Returns the problems of the entries at these paths.
///
/// Lists each parent directory once.
pub(super) fn problems_at(layout: &Layout, root: &Root, paths: &BTreeSet<String>) -> Vec<Problem> {
    let mut by_parent: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in paths {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        by_parent.entry(parent).or_default().insert(path);
    }
    let mut problems = Vec::new();
    for (parent, wanted) in by_parent {
        let cursor = layout.at(parent);
        let cursor = cursor.filter(|cursor| cursor.project().is_none());
        // Skip a parent that the search does not list, or that cannot be opened. The problem of an
        // unreadable parent has the path of the parent.
        let (Some(cursor), Ok(directory)) = (cursor, root.open_directory(parent)) else {
            continue;
        };
        let _unreadable = entries(directory.as_fd(), parent, &cursor, |entry| match entry {
            Entry::Problem(problem) if wanted.contains(problem.path.as_str()) => {
                problems.push(problem);
            }
            Entry::Directory(name, next) if next.leads_on() && next.project().is_none() => {
                let path = join(parent, name);
                if wanted.contains(path.as_str()) {
                    problems.extend(problem_of(root, &path, &next));
                }
            }
            Entry::Problem(_) | Entry::Directory(..) | Entry::Other(..) => {}
        });
    }
    problems
}

/// Returns the problem of a directory that cannot be opened or listed.
fn problem_of(root: &Root, path: &str, cursor: &Cursor) -> Option<Problem> {
    let listed = root
        .open_directory(path)
        .and_then(|directory| entries(directory.as_fd(), path, cursor, |_| {}));
    let error = listed.err().filter(|error| !is_absent(error))?;
    Some(unreadable(path, &error))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;

    /// Progress shows that the engine is alive, so a large repository does not look like a hang.
    #[test]
    fn each_directory_and_entry_of_a_search_is_progress() {
        let temporary = tempfile::tempdir().unwrap();
        let layout = Layout::new(
            &["{organization}/{project}/project.xml".to_owned()],
            &[],
            &[],
        )
        .unwrap();
        for n in 1..=4 {
            fs::create_dir_all(temporary.path().join(format!("o{n}/p"))).unwrap();
            let counted = Cell::new(0);
            let root = Root::open(temporary.path()).unwrap();
            let found = discover(&layout, &root, &|| counted.set(counted.get() + 1));
            assert_eq!(found.keys.len(), n);
            assert_eq!(counted.get(), 1 + 3 * n, "the root, and three for each");
        }
    }
}
