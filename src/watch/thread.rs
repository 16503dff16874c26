//! The thread that owns the watches.
//!
//! Constraint: as in the module above. A walk over everything answers a queue that overflowed: it
//! sets the missing watches, and a full scan follows. Meanwhile the thread goes on reading.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::{error, info, warn};

use super::backend::{Backend, Change, ChangeKind, Directory, Report};
use super::commands::Commands;
use super::coverage::{Gaps, SharedCoverage};
use super::report::Reporter;
use super::walk::Walk;
use super::{WatchSettings, limits, notify};
use crate::config::WatchMode;
use crate::domain::rescan::RescanReason;
use crate::hint::{Hint, HintSender};
use crate::layout::Cursor;
use crate::observe::{is_absent, join, unnamed};

/// How many reports are handled between two looks at the commands.
const BATCH: usize = 512;
/// How many batches of a queue that never empties may delay the answer to an overflow.
const BATCHES_MAX: usize = 1_024;
/// The time between two checks whether a limit was raised.
const LIMIT_CHECK: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
/// How many checks until a walk tries again anyway: other programs may have released watches.
const LIMIT_CHECKS: usize = 120;

pub(super) struct Thread {
    pub(super) commands: Arc<Commands>,
    pub(super) reporter: Reporter,
    /// None when changes are not to be watched, or cannot be.
    pub(super) backend: Option<Box<dyn Backend>>,
    pub(super) gaps: Gaps,
    /// The walk over everything, in progress.
    pub(super) walk: Option<Walk>,
    coverage: SharedCoverage,
    /// The counts that were published last; none after a walk.
    published: Option<(usize, (usize, usize))>,
    has_overflowed: bool,
}

impl Thread {
    pub(super) fn new(
        commands: Arc<Commands>,
        settings: WatchSettings,
        hints: HintSender,
        coverage: SharedCoverage,
    ) -> Self {
        Self {
            commands,
            reporter: Reporter::new(settings, hints),
            backend: None,
            gaps: Gaps::default(),
            walk: None,
            coverage,
            published: None,
            has_overflowed: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut n_batches = 0_usize;
        loop {
            let pending = self.commands.take();
            if pending.stop {
                return;
            }
            if let Some((settings, reason)) = pending.walk {
                self.reporter.settings = settings;
                self.walk_everything(reason);
            }
            let is_busy = self.handle_reports();
            n_batches = if is_busy { n_batches + 1 } else { 0 };
            if self.has_overflowed && (!is_busy || n_batches > BATCHES_MAX) {
                self.has_overflowed = false;
                warn!(
                    "file events were lost (queue overflow or read error); rescanning everything. \
                     If this recurs on Linux, raise fs.inotify.max_queued_events"
                );
                self.walk_everything(RescanReason::Overflow);
            } else if !is_busy {
                self.wait();
            }
        }
    }

    /// Waits for reports, commands, or the next check of a limit.
    fn wait(&mut self) {
        if let Some(backend) = &mut self.backend {
            backend.release_moved_away();
        }
        self.publish_coverage();
        self.reporter.root = None;
        let timeout = self.gaps.is_limited().then_some(&LIMIT_CHECK);
        let descriptor = self.backend.as_ref().and_then(|b| b.descriptor());
        match wait_for(self.commands.as_fd(), descriptor, timeout) {
            Ok(0) => self.check_limit(),
            Ok(_) | Err(Errno::INTR) => self.commands.clear_wake_ups(),
            Err(error) => {
                error!(%error, "cannot wait for file events; retrying. Timed scans go on");
                // Without a pause the loop would spin.
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// Walks again if a limit was raised.
    fn check_limit(&mut self) {
        if self.gaps.no_backend.is_some() {
            if self.open_backend() {
                info!("file events are available now; watching everything");
                self.walk_everything(RescanReason::Timer);
            }
            return;
        }
        let Some(then) = self.gaps.limit else { return };
        self.gaps.n_limit_checks += 1;
        if let Some((name, now)) = limits::max_watches()
            && now > then
        {
            info!("the limit of watches was raised ({name} = {now}); watching the rest");
            self.walk_everything(RescanReason::Timer);
        } else if self.gaps.n_limit_checks >= LIMIT_CHECKS {
            self.walk_everything(RescanReason::Timer);
        }
    }

    /// Has the backend that the settings ask for, ready for a walk.
    pub(super) fn choose_backend(&mut self) {
        let settings = &self.reporter.settings;
        self.gaps = Gaps::default();
        self.gaps.note = match settings.mode {
            WatchMode::Poll => Some("repository.watch is poll".to_owned()),
            WatchMode::Auto => limits::network_file_system(&settings.root).map(limits::network),
            WatchMode::Native | WatchMode::Notify => None,
        };
        let wanted = settings.mode.resolved();
        if self.backend.as_ref().is_some_and(|b| b.mode() != wanted) {
            self.backend = None;
        }
        if wanted != WatchMode::Poll {
            self.open_backend();
        }
    }

    /// Makes the backend if there is none, and begins its walk. Returns whether it works.
    fn open_backend(&mut self) -> bool {
        let settings = &self.reporter.settings;
        let backend = match self.backend.take() {
            Some(backend) => Ok(backend),
            None => new_backend(settings.mode, &self.commands),
        };
        let opened = backend.and_then(|mut backend| {
            backend.begin_walk(&settings.root)?;
            Ok(backend)
        });
        match opened {
            Ok(backend) => {
                self.backend = Some(backend);
                self.gaps.no_backend = None;
            }
            Err(error) => self.gaps.no_backend = Some(limits::no_events(&error)),
        }
        self.backend.is_some()
    }

    /// Publishes how well changes are noticed, if that is new.
    pub(super) fn publish_coverage(&mut self) {
        let watches = self.backend.as_ref().map_or(0, |b| b.n_watches());
        let counts = Some((watches, self.gaps.counts()));
        // The note of a limit takes reading files.
        if self.published != counts {
            self.published = counts;
            self.coverage.set(self.gaps.coverage(watches));
        }
    }

    /// Publishes the coverage after a walk, which may have changed the note alone.
    pub(super) fn publish_coverage_of_walk(&mut self) {
        self.published = None;
        self.publish_coverage();
    }

    /// Handles the reports up to a batch. Returns whether there were any.
    pub(super) fn handle_reports(&mut self) -> bool {
        for n in 0..BATCH {
            match self.backend.as_mut().and_then(|backend| backend.next()) {
                Some(Report::Change(change)) => self.handle(change),
                Some(Report::Overflow) => {
                    self.has_overflowed = true;
                    return n > 0;
                }
                None => return n > 0,
            }
        }
        true
    }

    fn handle(&mut self, change: Change) {
        let Some(name) = change.name.to_str() else {
            return self.handle_unnamed(&change);
        };
        let path = join(&change.directory, name);
        if change.kind.is_gone() {
            self.gaps.gone(&path);
        }
        let Some(cursor) = self.reporter.settings.layout.at(&path) else {
            return self.reporter.activity(&path);
        };
        let may_be_directory = cursor.leads_on() && change.is_directory != Some(false);
        match change.kind {
            ChangeKind::Written => self.reporter.file(&path, &cursor, change.kind.as_str()),
            ChangeKind::MovedFrom | ChangeKind::Removed => {
                self.reporter.plain(&path, &cursor, change.kind.as_str());
                // Another directory may have the path already. If two directories exchange their
                // paths, the last report of one of them is that it went away.
                if may_be_directory {
                    self.watch_new(&change, name, &path, &cursor);
                }
            }
            ChangeKind::Attributes => {
                self.reporter.plain(&path, &cursor, change.kind.as_str());
                if self.gaps.is_unwatchable(&path) {
                    self.watch_new(&change, name, &path, &cursor);
                }
            }
            ChangeKind::Created | ChangeKind::MovedTo => {
                if !may_be_directory || !self.watch_new(&change, name, &path, &cursor) {
                    self.reporter.file(&path, &cursor, change.kind.as_str());
                }
            }
        }
    }

    /// A name that is not text matches no template, but is listed as unusable.
    fn handle_unnamed(&self, change: &Change) {
        let Some(cursor) = self.reporter.settings.layout.at(&change.directory) else {
            return;
        };
        let path = join(&change.directory, &change.name.to_string_lossy());
        if cursor.project().is_some() {
            self.reporter
                .plain(&path, &cursor, "a name that is not UTF-8");
        } else {
            self.reporter.hints.send(Hint::Unusable {
                problem: unnamed(&path),
                is_gone: change.kind.is_gone(),
            });
        }
    }

    /// Watches a directory that appeared at a path. False if something else is there.
    fn watch_new(&mut self, change: &Change, name: &str, path: &str, cursor: &Cursor) -> bool {
        let is_gone = change.kind.is_gone();
        let cause = if is_gone {
            "replaced"
        } else {
            change.kind.as_str()
        };
        let root = self.reporter.open_root();
        match root.map(|root| root.open_directory(path)) {
            Some(Ok(opened)) => {
                let cause = format!("{cause}: {path}/");
                let directory = Directory {
                    opened: &opened,
                    parent: change.parent,
                    name,
                    path,
                };
                self.watch_tree(directory, cursor, Some(&cause));
                true
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::NotADirectory => {
                change.is_directory == Some(true)
            }
            // Gone again, which is reported too.
            Some(Err(error)) if is_absent(&error) => true,
            failed => {
                if let Some(Err(error)) = failed
                    && error.kind() == io::ErrorKind::PermissionDenied
                {
                    self.gaps.cannot_watch(path, error);
                }
                self.reporter.plain(path, cursor, cause);
                true
            }
        }
    }
}

/// Makes a backend. The mode is not one without.
fn new_backend(mode: WatchMode, commands: &Arc<Commands>) -> io::Result<Box<dyn Backend>> {
    #[cfg(target_os = "linux")]
    if mode.resolved() == WatchMode::Native {
        return Ok(Box::new(super::native::Native::new()?));
    }
    let _ = mode;
    Ok(Box::new(notify::Notify::new(Arc::clone(commands))))
}

/// Waits for one of the descriptors. Returns how many are readable.
fn wait_for(
    commands: BorrowedFd<'_>,
    backend: Option<BorrowedFd<'_>>,
    timeout: Option<&Timespec>,
) -> Result<usize, Errno> {
    let descriptors = [Some(commands), backend].into_iter().flatten();
    let mut descriptors: Vec<PollFd<'_>> = descriptors
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    poll(&mut descriptors, timeout)
}
