//! The watch thread, which owns the watches.
//!
//! Constraint: see [`super`]. After an overflow of the queue of reports, a walk of the whole tree
//! sets the missing watches, and a full scan follows. The thread handles reports during the walk.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::{error, warn};

use super::backend::{Backend, Change, ChangeKind, Directory, Report};
use super::commands::Commands;
use super::coverage::{Gap, Gaps, SharedCoverage};
use super::progress::Progress;
use super::rearm::KnownMounts;
use super::report::Reporter;
use super::walk::Walk;
use super::{WatchSettings, limits, notify};
use crate::clock::Clock;
use crate::config::WatchMode;
use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;
use crate::hint::{Hint, HintSender};
use crate::layout::Cursor;
use crate::mounts;
use crate::observe::{is_absent, join};

/// The maximum number of reports that are handled between two checks for commands.
const BATCH: usize = 512;
/// The maximum number of batches in a row while an overflow waits to be handled.
///
/// An overflow is handled when the queue of reports is empty, or after this number.
const BATCHES_MAX: usize = 1_024;

/// The state that the thread shares with its handle.
pub(super) struct Shared {
    pub(super) commands: Arc<Commands>,
    pub(super) coverage: SharedCoverage,
    pub(super) progress: Arc<Progress>,
}

pub(super) struct Thread {
    pub(super) shared: Shared,
    pub(super) reporter: Reporter,
    /// The backend, if it is open.
    ///
    /// None is open in the mode `poll`, before the first walk, while the root is lost, and if the
    /// backend cannot be opened.
    pub(super) backend: Option<Box<dyn Backend>>,
    pub(super) gaps: Gaps,
    /// The walk of the whole tree, if one is in progress.
    ///
    /// `None` while the walk handles reports, whose directories are not part of the walk.
    pub(super) walk: Option<Walk>,
    pub(super) mounts: KnownMounts,
    pub(super) clock: Clock,
    /// The time of the next retry, if it is scheduled.
    pub(super) retry_at: Option<Moment>,
    /// The directory that was retried last. The next retry continues after this directory.
    pub(super) retried: String,
    /// The reason for a walk that could not begin yet.
    pub(super) delayed_walk: Option<RescanReason>,
    /// The counts of the last published coverage. `None` forces publishing.
    published: Option<(usize, usize)>,
    has_overflowed: bool,
}

impl Thread {
    pub(super) fn new(
        shared: Shared,
        settings: WatchSettings,
        hints: HintSender,
        clock: Clock,
    ) -> Self {
        Self {
            shared,
            reporter: Reporter::new(settings, hints),
            backend: None,
            gaps: Gaps::default(),
            walk: None,
            mounts: KnownMounts::default(),
            clock,
            retry_at: None,
            retried: String::new(),
            delayed_walk: None,
            published: None,
            has_overflowed: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut n_batches = 0_usize;
        loop {
            self.shared.progress.begin("");
            let pending = self.shared.commands.take();
            if pending.stop {
                return;
            }
            if let Some((settings, reason)) = pending.walk {
                self.reporter.settings = settings;
                self.walk_everything(reason);
            }
            self.check_mounts();
            self.retry();
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

    /// Waits for reports, commands, a change of the mounts, or the next retry.
    fn wait(&mut self) {
        if let Some(backend) = &mut self.backend {
            backend.release_moved_away();
        }
        for path in self.gaps.take_ended() {
            self.reporter.hints.send(Hint::Unusable { path });
        }
        self.publish_coverage();
        self.reporter.root = None;
        let timeout = self.until_retry();
        self.shared.progress.rest();
        let descriptors = [
            (Some(self.shared.commands.as_fd()), PollFlags::IN),
            (
                self.backend.as_ref().and_then(|b| b.descriptor()),
                PollFlags::IN,
            ),
            (self.mounts.descriptor(), mounts::CHANGED),
        ];
        match wait_for(&descriptors, timeout) {
            Ok(has_mounts_changed) => {
                self.mounts.has_changed |= has_mounts_changed;
                self.shared.commands.clear_wake_ups();
            }
            Err(Errno::INTR) => {}
            Err(error) => {
                error!(%error, "cannot wait for file events; retrying. Full scans (repository.rescan) continue");
                // Without this pause the loop would keep one core busy.
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// Prepares a walk: resets the gaps, reads the mounts, opens the backend.
    pub(super) fn choose_backend(&mut self, reason: RescanReason) {
        self.gaps = Gaps::default();
        self.list_mounts();
        let settings = &self.reporter.settings;
        let wanted = settings.mode.resolved();
        if self.backend.as_ref().is_some_and(|b| b.mode() != wanted) {
            self.backend = None;
        }
        if wanted != WatchMode::Poll {
            // A scan by `repository.rescan` does not mean that reports were lost.
            self.open_backend(reason != RescanReason::Timer);
        }
    }

    /// Opens the backend if necessary, and begins its walk. Returns whether that succeeded.
    pub(super) fn open_backend(&mut self, is_doubtful: bool) -> bool {
        let settings = &self.reporter.settings;
        let backend = match self.backend.take() {
            Some(backend) => Ok(backend),
            None => new_backend(settings.mode, &self.shared.commands),
        };
        let opened = backend.and_then(|mut backend| {
            backend.begin_walk(&settings.root, is_doubtful)?;
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

    /// Publishes the coverage if its counts changed.
    pub(super) fn publish_coverage(&mut self) {
        let watches = self.backend.as_ref().map_or(0, |b| b.n_watches());
        let counts = Some((watches, self.gaps.n_changes()));
        // Making the note about a limit reads files in /proc, so this happens only after a change.
        if self.published != counts {
            self.published = counts;
            self.shared.coverage.set(self.gaps.coverage(watches));
        }
    }

    /// Publishes the coverage even if its counts are unchanged. Its note may differ.
    pub(super) fn publish_coverage_of_walk(&mut self) {
        self.published = None;
        self.publish_coverage();
    }

    /// Handles at most one batch of reports. Returns whether it handled any.
    pub(super) fn handle_reports(&mut self) -> bool {
        for n in 0..BATCH {
            match self.backend.as_mut().and_then(|backend| backend.next()) {
                Some(Report::Change(change)) => self.handle(change),
                Some(Report::Unmounted) => self.mounts.is_stale = true,
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
        self.shared.progress.begin(&path);
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
                // Another directory may be at this path already. If two directories exchange their
                // paths, the last report about one of the paths is that its directory moved away.
                if may_be_directory {
                    self.watch_new(&change, name, &path, &cursor);
                }
            }
            ChangeKind::Attributes => {
                self.reporter.plain(&path, &cursor, change.kind.as_str());
                // After a change of permissions, the directory or one below it may be readable.
                if may_be_directory && self.gaps.is_unwatchable(&path) {
                    self.watch_new(&change, name, &path, &cursor);
                }
            }
            ChangeKind::Created | ChangeKind::MovedTo => {
                if !may_be_directory || !self.watch_new(&change, name, &path, &cursor) {
                    self.reporter.file(&path, &cursor, change.kind.as_str());
                    // The entry may be a link. Inside a project, the observation finds links.
                    let parent = self.reporter.settings.layout.at(&change.directory);
                    let is_outside = parent.is_some_and(|parent| parent.project().is_none());
                    if is_outside && cursor.leads_on() {
                        self.reporter.hints.send(Hint::Unusable { path });
                    }
                }
            }
        }
    }

    /// Handles a name that is not UTF-8. No template matches the name, so the entry is unusable.
    fn handle_unnamed(&self, change: &Change) {
        let Some(cursor) = self.reporter.settings.layout.at(&change.directory) else {
            return;
        };
        let path = join(&change.directory, &change.name.to_string_lossy());
        if cursor.project().is_some() {
            self.reporter
                .plain(&path, &cursor, "a name that is not UTF-8");
        } else {
            self.reporter.hints.send(Hint::Unusable { path });
        }
    }

    /// Watches the new directory at a path, and those below it.
    ///
    /// Returns false if the entry is not a directory and was not reported as one.
    fn watch_new(&mut self, change: &Change, name: &str, path: &str, cursor: &Cursor) -> bool {
        let is_gone = change.kind.is_gone();
        let cause = if is_gone {
            "replaced"
        } else {
            change.kind.as_str()
        };
        let root = self.reporter.open_root();
        match root.and_then(|root| root.open_directory(path)) {
            Ok(opened) => {
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
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                change.is_directory == Some(true)
            }
            // Nothing is there any more. If the entry was removed after this report, a report of
            // its removal follows.
            Err(error) if is_absent(&error) => true,
            Err(error) => {
                // Inside a project, the observation reports unreadable directories.
                if cursor.project().is_none() {
                    let path = path.to_owned();
                    self.reporter.hints.send(Hint::Unusable { path });
                }
                if let Some(backend) = &mut self.backend {
                    backend.forget(path);
                }
                self.gaps.cannot_watch(path, Gap::Failed(error));
                self.reporter.plain(path, cursor, cause);
                true
            }
        }
    }
}

/// Makes the backend for a mode other than `poll`, which has none.
fn new_backend(mode: WatchMode, commands: &Arc<Commands>) -> io::Result<Box<dyn Backend>> {
    #[cfg(target_os = "linux")]
    if mode.resolved() == WatchMode::Native {
        return Ok(Box::new(super::native::Native::new()?));
    }
    let _ = mode;
    Ok(Box::new(notify::Notify::new(Arc::clone(commands))))
}

/// Waits until a descriptor is ready, at most `timeout`.
///
/// Returns whether the last descriptor is ready.
fn wait_for(
    descriptors: &[(Option<BorrowedFd<'_>>, PollFlags)],
    timeout: Option<Duration>,
) -> Result<bool, Errno> {
    let has_last = descriptors.last().is_some_and(|(last, _)| last.is_some());
    let mut descriptors: Vec<PollFd<'_>> = descriptors
        .iter()
        .filter_map(|(descriptor, flags)| {
            descriptor.map(|descriptor| PollFd::from_borrowed_fd(descriptor, *flags))
        })
        .collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    poll(&mut descriptors, timeout.as_ref())?;
    let last = descriptors.last().filter(|_| has_last);
    Ok(last.is_some_and(|last| !last.revents().is_empty()))
}
