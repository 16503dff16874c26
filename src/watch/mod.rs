//! The operating system's reports, as hints.
//!
//! Constraint: no report proves anything, and no report may be missed without a word. One watch a
//! directory, set before the directory is read: recursive watching loses the files that are written
//! while it walks (of 1,000 files written right after `mkdir -p a/b/c`, 10 to 627 were never
//! reported, in every version of notify that was tried). Where a directory cannot be watched, it
//! is said, and everything is compared on a timer.
//!
//! One thread owns the watches. It opens a file as soon as a hint names it, so that its content
//! survives its name.
//!
//! Map: this file has the handle; `inotify` is the thread on Linux, `walk` sets the watches for it,
//! `tree` is what it knows of the watched directories, `orders` what it is told; `portable` is the
//! thread elsewhere, by way of the crate notify (on Linux with
//! the Cargo feature `portable-watch`); `report` turns paths into hints for both, and `limits` says
//! what stands in the way and what to do about it.

#[cfg(all(target_os = "linux", not(feature = "portable-watch")))]
mod inotify;
mod limits;
#[cfg(all(target_os = "linux", not(feature = "portable-watch")))]
mod orders;
#[cfg(any(not(target_os = "linux"), feature = "portable-watch"))]
mod portable;
mod report;
#[cfg(all(target_os = "linux", not(feature = "portable-watch")))]
mod tree;
#[cfg(all(target_os = "linux", not(feature = "portable-watch")))]
mod walk;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tracing::error;

use crate::config::WatchMode;
use crate::domain::rescan::RescanReason;
use crate::hint::HintSender;
use crate::layout::Layout;

#[cfg(all(target_os = "linux", not(feature = "portable-watch")))]
use inotify as backend;
#[cfg(any(not(target_os = "linux"), feature = "portable-watch"))]
use portable as backend;

/// What is watched, and how.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    /// The repository's root, absolute.
    pub root: PathBuf,
    /// Which directories matter.
    pub layout: Layout,
    /// How changes are noticed.
    pub mode: WatchMode,
}

/// How well changes are noticed now.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Coverage {
    /// How many directories are watched.
    pub watches: usize,
    /// How many directories could not be watched.
    pub uncovered: usize,
    /// Whether changes have to be found by comparison on a timer.
    pub polls: bool,
    /// Why, and what to do about it.
    pub note: Option<String>,
}

/// How well changes are noticed, as the thread tells and others read it.
#[derive(Clone, Debug, Default)]
struct SharedCoverage(Arc<Mutex<Coverage>>);

impl SharedCoverage {
    fn get(&self) -> Coverage {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Coverage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that owns the watches.
#[derive(Debug)]
pub struct Watch {
    control: backend::Control,
    coverage: SharedCoverage,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread and sets the watches;
    /// [`Hint::WalkFinished`](crate::hint::Hint::WalkFinished) tells when they are set.
    pub fn start(settings: WatchSettings, hints: HintSender) -> io::Result<Self> {
        let coverage = SharedCoverage::default();
        let (control, thread) = backend::prepare(settings.clone(), hints, coverage.clone())?;
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || thread.run())?;
        let watch = Self {
            control,
            coverage,
            thread: Some(thread),
        };
        watch.arm(settings, RescanReason::Start);
        Ok(watch)
    }

    /// Sets all watches by these settings; [`Hint::WalkFinished`](crate::hint::Hint::WalkFinished) tells when
    /// they are set. Those that are set already may stay.
    pub fn arm(&self, settings: WatchSettings, reason: RescanReason) {
        self.control.arm(settings, reason);
    }

    /// How well changes are noticed now.
    pub fn coverage(&self) -> Coverage {
        self.coverage.get()
    }

    /// Whether the thread still runs.
    pub fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the watch thread panicked; this is a defect of the program, please report it");
        }
    }
}
