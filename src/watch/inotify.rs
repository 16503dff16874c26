//! Linux: the thread that reads inotify(7) itself.
//!
//! Constraint: as in the module above. A queue that overflowed is answered by a walk over
//! everything, which keeps the watches that are right, sets those that are missing, and corrects
//! places that went stale; then everything is compared. How many watches there are is always true.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader};
use rustix::io::Errno;
use tracing::{debug, error, info, warn};

pub(super) use super::orders::Control;
use super::orders::Orders;
use super::report::Reporter;
use super::tree::{Tree, Wd};
use super::walk::Walk;
use super::{Coverage, SharedCoverage, WatchSettings, limits};
use crate::config::WatchMode;
use crate::domain::rescan::RescanReason;
use crate::hint::{Hint, HintSender};
use crate::layout::Cursor;
use crate::observe::{is_absent, join, unnamed};

/// The bytes that are read from the kernel's queue at once: some hundred reports.
const BUFFER: usize = 16 * 1024;
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

/// What the thread and its handle share.
pub(super) fn prepare(
    settings: WatchSettings,
    hints: HintSender,
    coverage: SharedCoverage,
) -> io::Result<(Control, Thread)> {
    let orders = Arc::new(Orders::new()?);
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

pub(super) struct Thread {
    pub(super) orders: Arc<Orders>,
    pub(super) reporter: Reporter,
    pub(super) inotify: Option<Arc<OwnedFd>>,
    pub(super) tree: Tree,
    overflowed: bool,
    /// Whether no inotify instance could be had, though one is wanted.
    lacks_instance: bool,
    /// The limit of watches when it was reached; 0 where it is not known.
    pub(super) limited_at: Option<usize>,
    pub(super) n_limit_checks: usize,
    /// How many directories were passed by since then.
    pub(super) n_beyond_limit: usize,
    /// The directories that cannot be watched for another reason, as a rule a permission.
    pub(super) unwatchable: BTreeSet<String>,
    /// Why everything is compared on a timer although watches can be had.
    note: Option<String>,
    /// What was told last of how well changes are noticed.
    told: Option<(usize, usize, usize, Option<String>)>,
    pub(super) walk: Option<Walk>,
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
                error!(%error, "cannot wait for file events; it is tried again, and everything is compared on a timer");
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
    pub(super) fn read_reports(&mut self) -> bool {
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

    /// Has an inotify instance where one is wanted and can be had.
    pub(super) fn choose_mode(&mut self) {
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
    pub(super) fn tell_coverage(&mut self) {
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
    pub(super) fn let_go(&mut self) {
        self.inotify = None;
        self.tree.clear();
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
