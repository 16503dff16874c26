//! Setting the watches, on everything or on a directory that is new.
//!
//! Constraint: a directory is watched before it is read, and by the descriptor that is read. A walk
//! over everything takes a while, so reports are read in between, and an order ends it early. When
//! it has passed a project's directories it tells of the project, and the looks begin while other
//! watches are still being set.

use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;
use tracing::{debug, info};

use super::inotify::Thread;
use super::limits;
use super::tree::{ABOVE, NOWHERE, Wd};
use crate::domain::project::{Problem, ProjectKey};
use crate::domain::rescan::RescanReason;
use crate::hint::Hint;
use crate::layout::{Cursor, Entries};
use crate::observe::{Entry, entries, is_absent, join, unreadable};
use crate::repository::{Root, open_directory_at};

/// What is reported of the entries of a directory. The daemon's own reading is not among it.
const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    // Permissions may make readable what was not.
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);
/// How many directories a walk passes between two looks at the kernel's queue.
const STRIDE: usize = 64;
/// How many projects a walk tells of at once.
const FOUND: usize = 256;

/// A walk over everything, in progress.
#[derive(Default)]
pub(super) struct Walk {
    n_passed: usize,
    found: Vec<ProjectKey>,
    problems: Vec<Problem>,
    /// Whether a project's files all lie below one directory, so that it can be told of when that
    /// was passed.
    tells_early: bool,
    /// The device whose directories have a link for each directory in them, if the root's has.
    counts_links_on: Option<u64>,
}

impl Thread {
    /// Walks over everything: watches what is not watched, and lets go of what is there no more.
    pub(super) fn arm_all(&mut self, reason: RescanReason) {
        self.limited_at = None;
        self.n_limit_checks = 0;
        self.n_beyond_limit = 0;
        self.unwatchable.clear();
        self.reporter.root = None;
        let root = match Root::open(&self.reporter.settings.root) {
            Ok(root) => root,
            Err(error) => {
                debug!(%error, "the root cannot be watched yet");
                self.let_go();
                self.tell_coverage();
                self.reporter.hints.send_waiting(Hint::WalkFinished {
                    root: None,
                    reason,
                    problems: Vec::new(),
                });
                return;
            }
        };
        let identity = root.identity();
        self.choose_mode();
        self.reporter.hints.send_waiting(Hint::WalkStarted {
            root: identity,
            reason,
        });
        self.tree.begin_walk();
        let layout = self.reporter.settings.layout.clone();
        self.walk = Some(Walk {
            tells_early: layout.project_directory().is_some(),
            counts_links_on: limits::counts_links(&self.reporter.settings.root),
            ..Walk::default()
        });
        if let Ok(directory) = root.open_directory("") {
            self.reporter.root = Some(root);
            self.arm(&directory, ABOVE, "", "", &layout.root(), None);
        }
        let walk = self.walk.take().unwrap_or_default();
        if self.orders.any() {
            // It was cut short; the order that waits has its own walk.
            return;
        }
        if let Some(inotify) = &self.inotify {
            for wd in self.tree.take_unseen() {
                // Gone already, where it fails.
                let _ = inotify::remove_watch(inotify, wd);
            }
        }
        self.tell_coverage();
        info!(
            watches = self.tree.len(),
            reason = reason.as_str(),
            "watching {}",
            self.reporter.settings.root.display()
        );
        let hints = &self.reporter.hints;
        hints.send_waiting(Hint::ProjectsFound { keys: walk.found });
        hints.send_waiting(Hint::WalkFinished {
            root: Some(identity),
            reason,
            problems: walk.problems,
        });
    }

    /// Watches a directory that is open, then reads it, and so on below it. With `what`, hints for
    /// all that is found there: the directory is new.
    pub(super) fn arm(
        &mut self,
        directory: &OwnedFd,
        parent: Wd,
        name: &str,
        path: &str,
        cursor: &Cursor,
        what: Option<&str>,
    ) {
        if !self.goes_on() {
            return;
        }
        let wd = self.watch(directory, parent, name, path);
        let is_in_project = cursor.project().is_some();
        let is_walk = self.walk.is_some();
        let mut directories = Vec::new();
        let mut files = Vec::new();
        let mut problems = Vec::new();
        match cursor.entries() {
            // Of a project a walk wants only the directories, for the look finds the files; they
            // are opened by their names, if they are there.
            Entries::Only(names) if is_walk && is_in_project => {
                let next = names
                    .into_iter()
                    .filter_map(|name| Some((cursor.enter(&name)?, name)))
                    .filter(|(next, _)| next.leads_on());
                directories.extend(next.map(|(next, name)| (name, next)));
            }
            Entries::Any if is_walk && is_in_project && self.has_no_directories(directory) => {}
            _ => {
                let read = entries(
                    directory.as_fd(),
                    path,
                    cursor,
                    |_| true,
                    |entry| match entry {
                        Entry::Directory(name, next) if next.leads_on() => {
                            directories.push((name.to_owned(), next));
                        }
                        Entry::Directory(name, next) | Entry::Other(name, next) => {
                            files.push((name.to_owned(), next));
                        }
                        Entry::Problem(problem) => problems.push(problem),
                    },
                );
                if let Err(error) = read {
                    problems.push(unreadable(path, &error));
                }
            }
        }
        if let Some(what) = what {
            for (name, next) in &files {
                self.reporter.file(&join(path, name), next, what);
            }
            if let Some(key) = cursor.project() {
                self.reporter.hints.send(Hint::Project {
                    key,
                    what: what.to_owned(),
                    held: None,
                    unfinished: false,
                });
            }
        }
        for (name, next) in directories {
            let below = join(path, &name);
            match open_directory_at(directory.as_fd(), &name) {
                Ok(opened) => self.arm(&opened, wd, &name, &below, &next, what),
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    problems.push(unreadable(&below, &error));
                    self.unwatchable.insert(below);
                }
            }
            if is_walk
                && !is_in_project
                && let Some(key) = next.project()
            {
                self.found([key]);
            }
        }
        if is_walk && !is_in_project {
            let keys = files.iter().filter_map(|(_, next)| next.file());
            self.found(keys.map(|place| place.key));
        }
        // A look at a project finds what is wrong in it.
        if !is_in_project {
            self.tell_problems(problems);
        }
    }

    /// Whether a directory is certain to have no directories in it, by its link count: each has the
    /// entry `..`. It is watched already, so that one made from now on is reported.
    fn has_no_directories(&self, directory: &OwnedFd) -> bool {
        self.walk.as_ref().is_some_and(|walk| {
            rustix::fs::fstat(directory)
                .is_ok_and(|stat| walk.counts_links_on == Some(stat.st_dev) && stat.st_nlink == 2)
        })
    }

    /// Whether a walk goes on; now and then reads the reports that came meanwhile.
    fn goes_on(&mut self) -> bool {
        if self.orders.any() {
            return false;
        }
        let Some(walk) = &mut self.walk else {
            return true;
        };
        walk.n_passed += 1;
        if walk.n_passed.is_multiple_of(STRIDE) {
            let walk = self.walk.take();
            self.read_reports();
            self.walk = walk;
        }
        true
    }

    /// The walk passed projects.
    fn found(&mut self, keys: impl IntoIterator<Item = ProjectKey>) {
        let Some(walk) = &mut self.walk else { return };
        walk.found.extend(keys);
        if walk.tells_early && walk.found.len() >= FOUND {
            let keys = mem::take(&mut walk.found);
            self.reporter
                .hints
                .send_waiting(Hint::ProjectsFound { keys });
        }
    }

    fn tell_problems(&mut self, problems: Vec<Problem>) {
        if let Some(walk) = &mut self.walk {
            walk.problems.extend(problems);
            return;
        }
        for problem in problems {
            self.reporter.hints.send(Hint::Unusable {
                problem,
                is_gone: false,
            });
        }
    }

    /// Watches one directory, which is open. Where that cannot be done, nothing below it has a
    /// place among the watched ones.
    fn watch(&mut self, directory: &OwnedFd, parent: Wd, name: &str, path: &str) -> Wd {
        let Some(inotify) = self.inotify.clone() else {
            return NOWHERE;
        };
        let passes_by = self.limited_at.is_some() && self.walk.is_some();
        if passes_by || parent == NOWHERE {
            self.n_beyond_limit += usize::from(self.limited_at.is_some());
            return NOWHERE;
        }
        // By its descriptor, so that it is this very directory.
        let by_descriptor = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let added = match inotify::add_watch(&inotify, by_descriptor, WANTED) {
            // There is no /proc here.
            Err(Errno::NOENT | Errno::ACCESS) => {
                let path = self.reporter.settings.root.join(path);
                inotify::add_watch(&inotify, path, WANTED)
            }
            added => added,
        };
        match added {
            Ok(wd) if self.tree.put(wd, parent, name) => {
                self.unwatchable.remove(path);
                wd
            }
            // Its parent is not watched any more: it is on its way to somewhere else.
            Ok(wd) => {
                let _ = inotify::remove_watch(&inotify, wd);
                self.tree.forget(wd);
                NOWHERE
            }
            Err(Errno::NOSPC) => {
                self.limited_at = Some(limits::max_watches().map_or(0, |(_, limit)| limit));
                self.n_beyond_limit += 1;
                NOWHERE
            }
            Err(error) => {
                debug!(path, %error, "cannot watch");
                self.unwatchable.insert(path.to_owned());
                NOWHERE
            }
        }
    }
}
