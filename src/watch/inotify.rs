//! Linux: the thread that reads inotify(7) itself.
//!
//! Constraint: as in the module above, and: a watch is set on the directory that was opened beneath
//! the root and not on its path, so that a rename in between cannot put it elsewhere. A queue that
//! overflowed is answered by a walk over everything, which keeps the watches that are right, sets
//! those that are missing, and corrects places that went stale; then everything is compared.
//!
//! A walk takes a while, so reports are read in between. When it has passed a project's directories
//! it tells of the project, and the looks begin while other watches are still being set.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, mem};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tracing::{debug, error, info, warn};

use super::report::Reporter;
use super::tree::{ABOVE, NOWHERE, Tree, Wd};
use super::{Coverage, SharedCoverage, WatchSettings, limits};
use crate::config::WatchMode;
use crate::domain::project::{Problem, ProjectKey};
use crate::hint::{Hint, HintSender, RescanReason};
use crate::layout::{Cursor, Entries};
use crate::observe::{Entry, entries, is_absent, join, unnamed, unreadable};
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
/// The bytes that are read from the kernel's queue at once: some hundred reports.
const BUFFER: usize = 16 * 1024;
/// How many directories a walk passes between two looks at the kernel's queue.
const STRIDE: usize = 64;
/// How many projects a walk tells of at once.
const FOUND: usize = 256;
/// After how many readings of a queue that never empties an overflow is answered all the same.
const READINGS: usize = 1_024;
/// After how many such looks everything is walked again all the same: other programs may have let go
/// of watches.
const LIMIT_CHECKS: usize = 120;
/// How often it is looked whether a limit that was reached has been raised.
const LIMIT_CHECK: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The handle's side: what the thread is told.
#[derive(Debug)]
pub(super) struct Control(Arc<Orders>);

#[derive(Debug)]
struct Orders {
    waiting: Mutex<Waiting>,
    /// Whether anything waits, so that a walk ends early.
    any: AtomicBool,
    /// Wakes the thread.
    bell: OwnedFd,
}

/// The newest order counts; so it can always be given, and nobody waits for room.
#[derive(Debug, Default)]
struct Waiting {
    arm: Option<(WatchSettings, RescanReason)>,
    stop: bool,
}

impl Control {
    pub(super) fn arm(&self, settings: WatchSettings, reason: RescanReason) {
        self.0
            .give(|waiting| waiting.arm = Some((settings, reason)));
    }

    pub(super) fn stop(&self) {
        self.0.give(|waiting| waiting.stop = true);
    }
}

impl Orders {
    fn give(&self, order: impl FnOnce(&mut Waiting)) {
        order(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.any.store(true, Ordering::Release);
        // It can only be full, and then the thread wakes as well.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> Waiting {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Waiting::default();
        }
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the thread and its handle share.
pub(super) fn prepare(
    settings: WatchSettings,
    hints: HintSender,
    coverage: SharedCoverage,
) -> io::Result<(Control, Thread)> {
    let orders = Arc::new(Orders {
        waiting: Mutex::default(),
        any: AtomicBool::new(false),
        bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
    });
    let thread = Thread {
        orders: Arc::clone(&orders),
        reporter: Reporter::new(settings, hints, coverage),
        inotify: None,
        tree: Tree::default(),
        overflowed: false,
        limited_at: None,
        n_limit_checks: 0,
        lacks_instance: false,
        n_beyond_limit: 0,
        unwatchable: BTreeSet::new(),
        note: None,
        told: None,
        walk: None,
    };
    Ok((Control(orders), thread))
}

/// A walk over everything, in progress.
#[derive(Default)]
struct Walk {
    n_passed: usize,
    found: Vec<ProjectKey>,
    problems: Vec<Problem>,
    /// Whether a project's files all lie below one directory, so that it can be told of when that
    /// was passed.
    tells_early: bool,
    /// The device whose directories have a link for each directory in them, if the root's has.
    counts_links_on: Option<u64>,
}

pub(super) struct Thread {
    orders: Arc<Orders>,
    reporter: Reporter,
    inotify: Option<Arc<OwnedFd>>,
    tree: Tree,
    overflowed: bool,
    /// Whether no inotify instance could be had, though one is wanted.
    lacks_instance: bool,
    /// The limit of watches when it was reached; 0 where it is not known.
    limited_at: Option<usize>,
    n_limit_checks: usize,
    /// How many directories were passed by since then.
    n_beyond_limit: usize,
    /// The directories that cannot be watched for another reason, as a rule a permission.
    unwatchable: BTreeSet<String>,
    /// Why everything is compared on a timer although watches can be had.
    note: Option<String>,
    /// What was told last of how well changes are noticed.
    told: Option<(usize, usize, usize, Option<String>)>,
    walk: Option<Walk>,
}

impl Thread {
    pub(super) fn run(mut self) {
        let mut n_readings = 0_usize;
        loop {
            let waiting = self.orders.take();
            if waiting.stop {
                return;
            }
            if let Some((settings, reason)) = waiting.arm {
                self.reporter.settings = settings;
                self.arm_all(reason);
            }
            let is_busy = self.read_reports();
            n_readings = if is_busy { n_readings + 1 } else { 0 };
            if self.overflowed && (!is_busy || n_readings > READINGS) {
                self.overflowed = false;
                warn!(
                    "file events came faster than they could be read; everything is compared \
                     instead (fs.inotify.max_queued_events sets the size of the kernel's queue)"
                );
                self.arm_all(RescanReason::Overflow);
            } else if !is_busy {
                self.rest();
            }
        }
    }

    /// Nothing is left to read: waits.
    fn rest(&mut self) {
        self.drop_orphans();
        self.tell_coverage();
        self.reporter.root = None;
        let mut waited_for = vec![PollFd::new(&self.orders.bell, PollFlags::IN)];
        let inotify = self.inotify.clone();
        if let Some(inotify) = &inotify {
            waited_for.push(PollFd::new(inotify, PollFlags::IN));
        }
        let is_limited = self.limited_at.is_some() || self.lacks_instance;
        let timeout = is_limited.then_some(&LIMIT_CHECK);
        match poll(&mut waited_for, timeout) {
            Ok(0) => self.check_limit(),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                // Not to turn in a circle; the comparison on a timer goes on.
                error!(%error, "cannot wait for file events");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// After the limit was raised the rest is watched, and compared, for nobody reported on it.
    fn check_limit(&mut self) {
        if self.lacks_instance {
            if let Ok(inotify) = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
                info!("an inotify instance can be had now; everything is watched");
                self.inotify = Some(Arc::new(inotify));
                self.arm_all(RescanReason::Timer);
            }
            return;
        }
        let Some(then) = self.limited_at else { return };
        self.n_limit_checks += 1;
        if let Some((name, now)) = limits::max_watches()
            && now > then
        {
            info!("the limit of watches was raised ({name} = {now}); the rest is watched");
            self.arm_all(RescanReason::Timer);
        } else if self.n_limit_checks >= LIMIT_CHECKS {
            self.arm_all(RescanReason::Timer);
        }
    }

    /// Reads what the kernel has to report, once. Returns whether there was anything.
    fn read_reports(&mut self) -> bool {
        let Some(inotify) = self.inotify.clone() else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut any = false;
        loop {
            match reader.next() {
                Ok(report) => {
                    self.report(report.wd(), report.events(), report.file_name());
                    any = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return any,
                Err(error) => {
                    debug!(%error, "reports cannot be read; everything is compared");
                    self.overflowed = true;
                    return any;
                }
            }
            if reader.is_buffer_empty() {
                return any;
            }
        }
    }

    fn report(&mut self, wd: Wd, events: ReadFlags, name: Option<&CStr>) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.overflowed = true;
        } else if events.contains(ReadFlags::IGNORED) {
            self.tree.forget(wd);
        } else if let Some(name) = name
            && let Some(parent) = self.tree.path(wd)
        {
            self.report_entry(wd, &parent, events, name);
        }
    }

    fn report_entry(&mut self, wd: Wd, parent: &str, events: ReadFlags, name: &CStr) {
        let is_gone = events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        let Ok(name) = name.to_str() else {
            return self.report_unnamed(parent, &name.to_string_lossy(), is_gone);
        };
        let path = join(parent, name);
        let is_directory = events.contains(ReadFlags::ISDIR);
        if is_gone && is_directory {
            self.tree.detach(wd, name);
        }
        let Some(cursor) = self.reporter.settings.layout.at(&path) else {
            return self.reporter.activity(&path);
        };
        if events.contains(ReadFlags::CLOSE_WRITE) {
            self.reporter.file(&path, &cursor, "closed after writing");
        } else if events.contains(ReadFlags::MOVED_FROM) {
            self.reporter.plain(&path, &cursor, "renamed away");
        } else if is_gone {
            self.reporter.plain(&path, &cursor, "removed");
        } else if events.contains(ReadFlags::ATTRIB) {
            if is_directory && !self.tree.has(wd, name) {
                self.appeared(wd, name, &path, &cursor, "permissions changed");
            } else {
                self.reporter.plain(&path, &cursor, "attributes changed");
            }
        } else {
            let what = if events.contains(ReadFlags::MOVED_TO) {
                "renamed to"
            } else {
                "created"
            };
            if is_directory && cursor.leads_on() {
                self.appeared(wd, name, &path, &cursor, what);
            } else {
                self.reporter.file(&path, &cursor, what);
            }
        }
    }

    /// A name that is not text matches no template; but it is said.
    fn report_unnamed(&self, parent: &str, name: &str, is_gone: bool) {
        let Some(cursor) = self.reporter.settings.layout.at(parent) else {
            return;
        };
        let path = join(parent, name);
        if cursor.project().is_some() {
            self.reporter
                .plain(&path, &cursor, "a name that is not UTF-8");
        } else {
            let problem = unnamed(&path);
            let hints = &self.reporter.hints;
            hints.send(Hint::Unusable { problem, is_gone });
        }
    }

    /// A directory appeared, or became readable.
    fn appeared(&mut self, parent: Wd, name: &str, path: &str, cursor: &Cursor, what: &str) {
        let opened = self
            .reporter
            .open_root()
            .map(|root| root.open_directory(path));
        match opened {
            Some(Ok(directory)) => {
                let what = format!("{what}: {path}/");
                self.arm(&directory, parent, name, path, cursor, Some(&what));
            }
            // Gone again, which is reported too.
            Some(Err(error)) if is_absent(&error) => {}
            Some(Err(_)) | None => self.reporter.plain(path, cursor, what),
        }
    }

    /// Walks over everything: watches what is not watched, and lets go of what is there no more.
    fn arm_all(&mut self, reason: RescanReason) {
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
                self.reporter.hints.send_waiting(Hint::Armed {
                    root: None,
                    reason,
                    problems: Vec::new(),
                });
                return;
            }
        };
        let identity = root.identity();
        self.choose_mode();
        self.reporter.hints.send_waiting(Hint::Arming {
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
        if self.orders.any.load(Ordering::Acquire) {
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
        hints.send_waiting(Hint::Found { keys: walk.found });
        hints.send_waiting(Hint::Armed {
            root: Some(identity),
            reason,
            problems: walk.problems,
        });
    }

    /// Has an inotify instance where one is wanted and can be had.
    fn choose_mode(&mut self) {
        let settings = &self.reporter.settings;
        self.lacks_instance = false;
        self.note = match settings.mode {
            WatchMode::Poll => Some("repository.watch is poll".to_owned()),
            WatchMode::Native => None,
            WatchMode::Auto => limits::network_file_system(&settings.root).map(limits::network),
        };
        if settings.mode == WatchMode::Poll {
            self.let_go();
        } else if self.inotify.is_none() {
            match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
                Ok(inotify) => self.inotify = Some(Arc::new(inotify)),
                Err(error) => {
                    self.lacks_instance = true;
                    self.note = Some(limits::instance_limit(&error));
                }
            }
        }
    }

    /// Tells how well changes are noticed, where that is new.
    fn tell_coverage(&mut self) {
        let now = Some((
            self.tree.len(),
            self.n_beyond_limit,
            self.unwatchable.len(),
            self.note.clone(),
        ));
        if self.told == now {
            return;
        }
        self.told = now;
        let watches = self.tree.len();
        let uncovered = self.n_beyond_limit.saturating_add(self.unwatchable.len());
        let (polls, note) = if self.limited_at.is_some() {
            (
                true,
                Some(limits::watch_limit(watches, self.n_beyond_limit)),
            )
        } else if self.note.is_some() {
            (true, self.note.clone())
        } else {
            // A change of permissions is reported, and then they are watched.
            let first = self.unwatchable.first();
            let note = first.map(|path| limits::unwatchable(self.unwatchable.len(), path));
            (false, note)
        };
        self.reporter.cover(|coverage| {
            *coverage = Coverage {
                watches,
                uncovered,
                polls,
                note,
            };
        });
    }

    /// Lets go of all watches. Closing the instance frees them at once.
    fn let_go(&mut self) {
        self.inotify = None;
        self.tree.clear();
    }

    /// Watches a directory that is open, then reads it, and so on below it. With `what`, hints for
    /// all that is found there: the directory is new.
    fn arm(
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
            let keys = files.iter().filter_map(|(_, next)| next.place());
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
        if self.orders.any.load(Ordering::Acquire) {
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
            self.reporter.hints.send_waiting(Hint::Found { keys });
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

    /// Removes the watches of directories that went.
    fn drop_orphans(&mut self) {
        let orphans = self.tree.take_orphans();
        if let Some(inotify) = &self.inotify {
            for wd in orphans {
                // Gone already, where it fails.
                let _ = inotify::remove_watch(inotify, wd);
            }
        }
    }
}
