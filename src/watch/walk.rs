//! Walks the whole tree or a new directory, and watches all directories on the way.
//!
//! Constraint: a directory is watched before it is read. A walk of the whole tree takes long. So
//! the thread handles reports during the walk, and a command ends the walk early. If each project
//! has a directory of its own, the walk reports projects once it has passed their directories. So
//! the engine can observe projects while the walk continues.

use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};

use tracing::{debug, info};

use super::backend::{ABOVE, Directory, NOWHERE, Node, WatchError};
use super::coverage::{Gap, Gaps};
use super::limits;
use super::thread::Thread;
use crate::domain::project::{Problem, ProjectKey};
use crate::domain::rescan::RescanReason;
use crate::hint::Hint;
use crate::layout::{Cursor, Entries};
use crate::observe::{Entry, entries, is_absent, join, unreadable};
use crate::repository::{Root, check_key, open_directory_at};

/// The number of directories that a walk passes between two checks for reports.
const STRIDE: usize = 64;
/// A walk that reports projects early sends a hint after this many projects.
const FOUND: usize = 256;

/// The state of a walk of the whole tree.
#[derive(Default)]
pub(super) struct Walk {
    n_passed: usize,
    found: Vec<ProjectKey>,
    problems: Vec<Problem>,
    /// Whether the walk reports projects before its end.
    ///
    /// This needs a layout where all files of a project are below one directory.
    reports_early: bool,
    /// The device of the root, if its file system counts the links of directories.
    counts_links_on: Option<u64>,
}

/// The directory entries that the layout needs.
#[derive(Default)]
struct Listing {
    directories: Vec<(String, Cursor)>,
    files: Vec<(String, Cursor)>,
    problems: Vec<Problem>,
}

impl Thread {
    /// Walks the whole tree: watches all directories, and releases outdated watches.
    pub(super) fn walk_everything(&mut self, reason: RescanReason) {
        self.reporter.root = None;
        self.delayed_walk = None;
        self.shared.progress.begin("");
        let opened = Root::open(&self.reporter.settings.root)
            .and_then(|root| Ok((root.open_directory("")?, root)));
        let (opened, root) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.cannot_walk(reason, error),
        };
        let identity = root.identity();
        self.choose_backend(reason);
        self.send_waiting(Hint::WalkStarted {
            root: identity,
            reason,
        });
        let layout = self.reporter.settings.layout.clone();
        self.walk = Some(Walk {
            reports_early: layout.project_directory().is_some(),
            counts_links_on: limits::counts_links(&self.reporter.settings.root),
            ..Walk::default()
        });
        self.reporter.root = Some(root);
        let directory = Directory {
            opened: &opened,
            parent: ABOVE,
            name: "",
            path: "",
        };
        self.watch_tree(directory, &layout.root(), None);
        drop(opened);
        let walk = self.walk.take().unwrap_or_default();
        if self.shared.commands.has_pending() {
            // The command may have ended the walk. It begins another walk or stops the thread.
            return;
        }
        let lost = self.backend.as_mut().map(|backend| backend.end_walk());
        for path in lost.into_iter().flatten() {
            self.watch_path(&path, "watched again");
        }
        self.publish_coverage_of_walk();
        let watches = self.backend.as_ref().map_or(0, |b| b.n_watches());
        let (root, reason_text) = (self.reporter.settings.root.display(), reason.as_str());
        // Scans on the timer recur, so they are logged at a lower level.
        match reason {
            RescanReason::Timer => debug!(watches, reason = reason_text, "watching {root}"),
            _ => info!(watches, reason = reason_text, "watching {root}"),
        }
        self.send_waiting(Hint::ProjectsFound { keys: walk.found });
        self.send_waiting(Hint::WalkFinished {
            root: Some(identity),
            reason,
            problems: walk.problems,
        });
    }

    /// Handles a root that cannot be opened. The root may be lost, or the error may be temporary.
    fn cannot_walk(&mut self, reason: RescanReason, error: io::Error) {
        let is_lost = error.kind() == io::ErrorKind::PermissionDenied
            || Root::identity_at(&self.reporter.settings.root).is_err();
        debug!(%error, is_lost, "cannot watch the root yet");
        if !is_lost {
            // Existing watches still report changes, so keep them.
            self.delayed_walk = Some(reason);
            self.gaps.cannot_watch("", Gap::Failed(error));
            return self.publish_coverage_of_walk();
        }
        self.backend = None;
        self.gaps = Gaps::default();
        self.publish_coverage_of_walk();
        self.send_waiting(Hint::WalkFinished {
            root: None,
            reason,
            problems: Vec::new(),
        });
    }

    /// Sends a hint that must arrive.
    ///
    /// If the engine's channel is full, this waits. The wait is not reported as a stuck file
    /// system.
    fn send_waiting(&self, hint: Hint) {
        self.shared.progress.rest();
        self.reporter.hints.send_waiting(hint);
        self.shared.progress.begin("");
    }

    /// Watches a directory, reads it, and continues with the directories below it.
    ///
    /// A walk of the whole tree has no `cause`. With a `cause`, also sends hints for the projects
    /// and the files.
    pub(super) fn watch_tree(
        &mut self,
        directory: Directory<'_>,
        cursor: &Cursor,
        cause: Option<&str>,
    ) {
        if !self.may_go_on() {
            return;
        }
        let node = self.watch_directory(directory);
        let Listing {
            directories,
            files,
            mut problems,
        } = self.list(directory, cursor);
        // A walk of the whole tree does this at its end, for all directories that it has not
        // passed.
        if let Some(backend) = &mut self.backend
            && self.walk.is_none()
            && node != NOWHERE
            && !self.gaps.contains(directory.path)
        {
            let names = directories.iter().map(|(name, _)| name.as_str());
            backend.retain(directory, node, &names.collect());
        }
        if let Some(cause) = cause {
            self.report_new(directory.path, cursor, &files, cause);
        }
        let project = cursor.project();
        let mut n_absent = 0;
        let n_directories = directories.len();
        for (name, next) in directories {
            let path = join(directory.path, &name);
            self.shared.progress.begin(&path);
            match open_directory_at(directory.opened.as_fd(), &name) {
                Ok(opened) => {
                    let below = Directory {
                        opened: &opened,
                        parent: node,
                        name: &name,
                        path: &path,
                    };
                    self.watch_tree(below, &next, cause);
                }
                Err(error) if is_absent(&error) => n_absent += 1,
                Err(error) => {
                    // Inside a project, the observation reports unreadable directories.
                    if next.project().is_none() {
                        problems.push(unreadable(&path, &error));
                    }
                    self.gaps.cannot_watch(&path, Gap::Failed(error));
                }
            }
            if project.is_none() {
                self.found(next.project());
            }
        }
        // In a project, the walk may look up names instead of listing them. In an encrypted
        // directory without its key, all names are missing.
        if n_absent > 0
            && n_absent == n_directories
            && let Err(error) = check_key(directory.opened.as_fd())
        {
            self.gaps.cannot_watch(directory.path, Gap::Failed(error));
        }
        // Inside a project, the observation finds files and problems.
        if project.is_none() {
            let places = files.iter().filter_map(|(_, next)| next.file());
            self.found(places.map(|place| place.key));
            self.report_problems(problems);
        }
    }

    /// Lists the directory entries that the layout needs.
    fn list(&mut self, directory: Directory<'_>, cursor: &Cursor) -> Listing {
        let mut listing = Listing::default();
        // Inside a project, a walk needs only the directories.
        if self.walk.is_some() && cursor.project().is_some() {
            match cursor.entries() {
                // The layout has the names of all directories, so the walk need not list them.
                Entries::Only(names) => {
                    let next = names
                        .into_iter()
                        .filter_map(|name| Some((cursor.enter(&name)?, name)))
                        .filter(|(next, _)| next.leads_on());
                    listing
                        .directories
                        .extend(next.map(|(next, name)| (name, next)));
                    return listing;
                }
                Entries::Any if self.has_no_directories(directory.opened) => return listing,
                Entries::Any => {}
            }
        }
        let read = entries(directory.opened.as_fd(), directory.path, cursor, |entry| {
            self.shared.progress.go_on();
            match entry {
                Entry::Directory(name, next) if next.leads_on() => {
                    listing.directories.push((name.to_owned(), next));
                }
                Entry::Directory(name, next) | Entry::Other(name, next) => {
                    listing.files.push((name.to_owned(), next));
                }
                Entry::Problem(problem) => listing.problems.push(problem),
            }
        });
        if let Err(error) = read {
            listing.problems.push(unreadable(directory.path, &error));
            // The listing failed, so directories may be missing from it.
            self.gaps.cannot_watch(directory.path, Gap::Failed(error));
        }
        listing
    }

    /// Whether the link count proves that a directory has no subdirectories.
    ///
    /// The entry `..` of each subdirectory is a link to the directory. If the directory can be
    /// watched, its watch is already set, so the kernel reports later subdirectories.
    fn has_no_directories(&self, directory: &OwnedFd) -> bool {
        self.walk.as_ref().is_some_and(|walk| {
            rustix::fs::fstat(directory)
                .is_ok_and(|stat| walk.counts_links_on == Some(stat.st_dev) && stat.st_nlink == 2)
        })
    }

    /// Sends hints for the files of a new directory and for its project.
    fn report_new(&mut self, path: &str, cursor: &Cursor, files: &[(String, Cursor)], cause: &str) {
        for (name, next) in files {
            self.reporter.file(&join(path, name), next, cause);
        }
        if let Some(key) = cursor.project() {
            self.reporter.hints.send(Hint::Project {
                key,
                cause: cause.to_owned(),
                file: None,
                unfinished: false,
            });
        }
    }

    /// Whether the walk may continue.
    ///
    /// A walk of the whole tree handles reports here, after every [`STRIDE`] directories.
    fn may_go_on(&mut self) -> bool {
        if self.shared.commands.has_pending() {
            return false;
        }
        let Some(walk) = &mut self.walk else {
            return true;
        };
        walk.n_passed += 1;
        if walk.n_passed.is_multiple_of(STRIDE) {
            let walk = self.walk.take();
            self.handle_reports();
            self.walk = walk;
        }
        true
    }

    /// Records projects that the walk has passed. Reports them if there are many.
    fn found(&mut self, keys: impl IntoIterator<Item = ProjectKey>) {
        let Some(walk) = &mut self.walk else { return };
        walk.found.extend(keys);
        if walk.reports_early && walk.found.len() >= FOUND {
            let keys = mem::take(&mut walk.found);
            self.send_waiting(Hint::ProjectsFound { keys });
        }
    }

    fn report_problems(&mut self, problems: Vec<Problem>) {
        if let Some(walk) = &mut self.walk {
            walk.problems.extend(problems);
            return;
        }
        for problem in problems {
            let path = problem.path;
            self.reporter.hints.send(Hint::Unusable { path });
        }
    }

    /// Watches one directory, unless its parent is unwatched.
    ///
    /// Returns [`NOWHERE`] if the directory has no watch.
    fn watch_directory(&mut self, directory: Directory<'_>) -> Node {
        let Some(backend) = &mut self.backend else {
            return NOWHERE;
        };
        if directory.parent == NOWHERE {
            if self.gaps.limit.is_some() {
                self.gaps.beyond_limit(directory.path);
            }
            return NOWHERE;
        }
        match backend.watch(directory) {
            Ok(node) => {
                self.gaps.watched(directory.path);
                return node;
            }
            Err(WatchError::Limit) => self.gaps.beyond_limit(directory.path),
            Err(WatchError::SameAs(other)) => {
                let gap = Gap::SameAs(other);
                self.gaps.cannot_watch(directory.path, gap);
            }
            Err(WatchError::Other(error)) => {
                debug!(path = directory.path, %error, "cannot watch");
                self.gaps.cannot_watch(directory.path, Gap::Failed(error));
            }
        }
        NOWHERE
    }
}
