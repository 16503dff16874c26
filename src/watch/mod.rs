//! Watches the repository and turns reports of changes into hints.
//!
//! Constraint: a report proves nothing, and a walk of the whole tree follows lost reports. Each
//! directory has its own watch, which is set before the directory is read. Recursive watches miss
//! files that are written while the watches are being set. Of 1,000 files written right after
//! `mkdir -p a/b/c`, 10 to 627 were never reported, in every version of notify that was tried. The
//! thread counts the directories that it cannot watch. Full scans on a timer then find changes.
//! They are not needed if only permissions are missing, because the kernel reports new permissions.
//!
//! One thread owns the watches. It opens a file of a project as soon as a report names the file, so
//! that the content can be read even if the file is removed.
//!
//! Modules:
//!
//! - This file has the handle. `thread` is the thread, and `commands` sends commands to the thread.
//! - `walk` sets all watches through a `backend`. The backend `native` reads inotify and keeps its
//!   watches in `tree`. The backend `notify` uses the crate notify.
//! - `report` turns reported paths into hints.
//! - `rearm` watches directories that could not be watched before, or where a mount changed.
//! - `progress` shows other threads whether the watch thread waits for a file system.
//! - `coverage` lists unwatched directories. `limits` describes causes and remedies.

mod backend;
mod commands;
mod coverage;
mod limits;
#[cfg(target_os = "linux")]
mod native;
mod notify;
mod progress;
mod rearm;
mod report;
mod thread;
#[cfg(target_os = "linux")]
mod tree;
mod walk;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::error;

use crate::clock::Clock;
use crate::config::WatchMode;
use crate::domain::rescan::RescanReason;
use crate::hint::HintSender;
use crate::layout::Layout;

use commands::Commands;
use coverage::SharedCoverage;
use progress::Progress;
use thread::{Shared, Thread};

pub(crate) use coverage::Coverage;

#[derive(Clone, Debug)]
pub(crate) struct WatchSettings {
    /// The absolute path of the repository's root.
    pub root: PathBuf,
    /// The layout, which determines the directories to watch.
    pub layout: Layout,
    pub mode: WatchMode,
}

/// The handle of the watch thread. Dropping it stops the thread.
#[derive(Debug)]
pub(crate) struct Watch {
    commands: Arc<Commands>,
    coverage: SharedCoverage,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread, which watches the whole tree.
    ///
    /// [`Hint::WalkFinished`](crate::hint::Hint::WalkFinished) reports the end of the walk, unless
    /// a command ends the walk early.
    pub(crate) fn start(
        settings: WatchSettings,
        hints: HintSender,
        clock: Clock,
    ) -> io::Result<Self> {
        let commands = Arc::new(Commands::new()?);
        let coverage = SharedCoverage::default();
        let progress = Arc::new(Progress::new(clock));
        let shared = Shared {
            commands: Arc::clone(&commands),
            coverage: coverage.clone(),
            progress: Arc::clone(&progress),
        };
        let thread = Thread::new(shared, settings.clone(), hints, clock);
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn({
                let span = tracing::Span::current();
                move || span.in_scope(|| thread.run())
            })?;
        let watch = Self {
            commands,
            coverage,
            progress,
            thread: Some(thread),
        };
        watch.watch_everything(settings, RescanReason::Start);
        Ok(watch)
    }

    /// Makes the thread walk the whole tree with these settings.
    ///
    /// [`Hint::WalkFinished`](crate::hint::Hint::WalkFinished) reports the end of the walk, unless
    /// a later command ends the walk early.
    pub(crate) fn watch_everything(&self, settings: WatchSettings, reason: RescanReason) {
        self.commands
            .give(|pending| pending.walk = Some((settings, reason)));
    }

    pub(crate) fn coverage(&self) -> Coverage {
        self.coverage.get()
    }

    /// Returns the path at which the thread made no progress for `standstill`, if any.
    ///
    /// The path is relative to the root.
    pub(crate) fn stuck_at(&self, standstill: Duration) -> Option<String> {
        self.progress.stuck_at(standstill)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.commands.give(|pending| pending.stop = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the watch thread panicked; please report this bug");
        }
    }
}
