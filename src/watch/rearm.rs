//! Retries unwatched directories, and sets watches again where a mount changed.
//!
//! Constraint: once a directory can be watched, the thread watches it without a restart of the
//! daemon. A report, a change of the mounts, a retry or a walk sets the missing watch.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use tracing::{debug, info};

use super::backend::{ABOVE, Directory, NOWHERE, is_at};
use super::coverage::Gap;
use super::limits;
use super::thread::Thread;
use crate::config::WatchMode;
use crate::domain::rescan::RescanReason;
use crate::mounts::{MountList, Mounts};
use crate::observe::is_absent;
use crate::repository::check_key;

/// The time between two retries.
const RETRY: Duration = Duration::from_secs(1);
/// The time between two checks of limits that the operator can raise.
const LIMIT_CHECK: Duration = Duration::from_secs(5);
/// The maximum number of directories in one retry.
const RETRIED: usize = 1_024;

/// The mounts as last read, and signs that they have changed since.
#[derive(Debug, Default)]
pub(super) struct KnownMounts {
    list: MountList,
    known: Mounts,
    /// Whether the mounts could not be read at the last try, on Linux.
    is_unknown: bool,
    /// Whether the list has changed since it was read.
    ///
    /// The flag is necessary, because the kernel reports each change only once.
    pub(super) has_changed: bool,
    /// Whether a mount may have been replaced since `known` was read.
    ///
    /// This is so after a file system was unmounted, or if the list could not be read. Then even a
    /// mount that is listed exactly as in `known` may be a new one.
    pub(super) is_stale: bool,
}

impl KnownMounts {
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.list.descriptor()
    }
}

impl Thread {
    /// Reads the mounts. Sets or clears the note that full scans on a timer are needed.
    pub(super) fn list_mounts(&mut self) {
        self.mounts.has_changed = false;
        let listed = self.mounts.list.read(&self.reporter.settings.root);
        self.mounts.is_unknown = listed.is_none() && cfg!(target_os = "linux");
        if let Some(listed) = listed {
            self.mounts.known = listed;
            self.mounts.is_stale = false;
        }
        let settings = &self.reporter.settings;
        self.gaps.note = match settings.mode {
            WatchMode::Poll => Some("repository.watch is poll".to_owned()),
            WatchMode::Native | WatchMode::Notify => None,
            WatchMode::Auto if self.mounts.is_unknown => Some(limits::unknown_mounts()),
            WatchMode::Auto => {
                let mounts = &self.mounts.known;
                let above = mounts.above.iter().map(|mount| ("", mount));
                let below = mounts.below.iter().filter(|(path, _)| {
                    let cursor = settings.layout.at(path);
                    cursor.is_some_and(|cursor| cursor.leads_on())
                });
                let below = below.map(|(path, mount)| (path.as_str(), mount));
                above.chain(below).find_map(|(path, mount)| {
                    let name = limits::network_file_system(&mount.file_system)?;
                    Some(limits::network(name, path))
                })
            }
        };
    }

    /// Sets watches again where a file system was mounted or unmounted.
    pub(super) fn check_mounts(&mut self) {
        self.mounts.has_changed |= self.mounts.list.has_changed();
        if !(self.mounts.has_changed || self.mounts.is_stale) || self.delayed_walk.is_some() {
            return;
        }
        let before = self.mounts.known.clone();
        let is_stale = std::mem::replace(&mut self.mounts.is_stale, true);
        self.list_mounts();
        self.publish_coverage_of_walk();
        if self.mounts.is_unknown {
            return;
        }
        let now = &self.mounts.known;
        if now.above != before.above {
            debug!("a file system was mounted or unmounted at or above the root");
            return self.walk_everything(RescanReason::Root);
        }
        let has_unmounted = now.lacks_one_of(&before);
        let mut changed = now.changed_since(&before);
        if is_stale {
            changed.extend(now.below.keys().cloned());
            changed.sort_unstable();
            changed.dedup();
        }
        for path in changed {
            self.rearm(&path);
        }
        // A directory that was mounted at two paths may now be at only one.
        self.retry_gaps();
        if has_unmounted {
            // The path of the unmounted file system may be outdated: if a directory above a mount
            // is renamed, the kernel reports no change of the list.
            self.walk_everything(RescanReason::Timer);
        }
    }

    /// Watches all directories at and below a path again.
    fn rearm(&mut self, path: &str) {
        let Some(cursor) = self.reporter.settings.layout.at(path) else {
            return;
        };
        if !cursor.leads_on() {
            return;
        }
        debug!(path, "a file system was mounted or unmounted");
        if let Some(backend) = &mut self.backend {
            backend.forget(path);
        }
        self.gaps.gone(path);
        self.reporter.plain(path, &cursor, "mounted or unmounted");
        self.watch_path(path, "mounted or unmounted");
    }

    /// Watches the directory at a path and those below it, if it exists.
    ///
    /// Returns the error if the directory exists but cannot be opened.
    pub(super) fn watch_path(&mut self, path: &str, cause: &str) -> Option<Errno> {
        let cursor = self.reporter.settings.layout.at(path)?;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = match &self.backend {
            Some(_) if path.is_empty() => ABOVE,
            Some(backend) => backend.at(above),
            None => NOWHERE,
        };
        self.shared.progress.begin(path);
        let root = self.reporter.open_root();
        match root.and_then(|root| root.open_directory(path)) {
            Ok(opened) => {
                let directory = Directory {
                    opened: &opened,
                    parent,
                    name,
                    path,
                };
                let cause = format!("{cause}: {path}/");
                self.watch_tree(directory, &cursor, Some(&cause));
                None
            }
            Err(error) if is_absent(&error) => {
                self.gaps.gone(path);
                None
            }
            Err(error) => {
                if let Some(backend) = &mut self.backend {
                    backend.forget(path);
                }
                let errno = Errno::from_io_error(&error);
                self.gaps.cannot_watch(path, Gap::Failed(error));
                errno
            }
        }
    }

    /// Returns the time until the next retry. `None` if there is nothing to retry.
    pub(super) fn until_retry(&mut self) -> Option<Duration> {
        let needs_retry =
            self.delayed_walk.is_some() || self.gaps.has_to_retry() || self.mounts.is_unknown;
        let period = match (needs_retry, self.gaps.is_limited()) {
            (true, _) => RETRY,
            (false, true) => LIMIT_CHECK,
            (false, false) => {
                self.retry_at = None;
                return None;
            }
        };
        let now = self.clock.moment();
        let at = *self.retry_at.get_or_insert(now.saturating_add(period));
        Some(at.saturating_sub(now))
    }

    /// Runs the retries that are due.
    pub(super) fn retry(&mut self) {
        if self.until_retry() != Some(Duration::ZERO) {
            return;
        }
        self.retry_at = None;
        if let Some(reason) = self.delayed_walk {
            return self.walk_everything(reason);
        }
        if self.mounts.is_unknown {
            self.mounts.is_stale = true;
            self.check_mounts();
        }
        self.retry_gaps();
        self.check_limit();
    }

    fn retry_gaps(&mut self) {
        let paths = self.gaps.to_retry();
        let (first, others) = paths.split_at(paths.partition_point(|path| *path <= self.retried));
        for path in others.iter().chain(first).take(RETRIED) {
            self.retried.clone_from(path);
            // The retry of a parent directory may already have watched this directory.
            if !self.gaps.contains(path) || self.is_useless(path) {
                continue;
            }
            // Without a free file descriptor, the other retries fail as well.
            if let Some(Errno::MFILE | Errno::NFILE) = self.watch_path(path, "readable again") {
                return;
            }
        }
    }

    /// Whether a retry would fail for the same reason as before.
    ///
    /// Checks only two reasons: another path of the same directory, and a missing key. A retry
    /// costs more, because it sends hints for all projects below the directory.
    fn is_useless(&mut self, path: &str) -> bool {
        let other = match self.gaps.reason(path) {
            Some(Gap::SameAs(other)) => Some(self.reporter.settings.root.join(other)),
            Some(gap) if gap.lacks_key() => None,
            _ => return false,
        };
        self.shared.progress.begin(path);
        let root = self.reporter.open_root();
        let Ok(opened) = root.and_then(|root| root.open_directory(path)) else {
            return false;
        };
        match other {
            Some(other) => is_at(&other, &opened).unwrap_or(false),
            None => check_key(opened.as_fd()).is_err(),
        }
    }

    /// Walks the tree again if a limit was raised, or if the backend can be opened now.
    fn check_limit(&mut self) {
        if self.gaps.no_backend.is_some() {
            if self.open_backend(true) {
                info!("file events are available now; setting all watches");
                self.walk_everything(RescanReason::Timer);
            }
            return;
        }
        let Some(then) = self.gaps.limit else { return };
        if let Some((name, now)) = limits::max_watches()
            && now > then
        {
            info!("the limit of watches was raised ({name} = {now}); setting the missing watches");
            self.walk_everything(RescanReason::Timer);
        }
    }
}
