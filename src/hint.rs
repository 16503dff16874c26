//! Hints: where to look, never what happened.
//!
//! Constraint: a hint is never lost quietly. The channel is bounded; a hint that finds it full
//! leaves a mark, and the engine answers the mark with a comparison of everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::domain::project::{Problem, ProjectKey};
use crate::engine::Input;
use crate::observe::Held;
use crate::repository::RootIdentity;

/// A place to look at.
#[derive(Debug)]
pub enum Hint {
    /// Something happened in a project.
    Project {
        /// The project.
        key: ProjectKey,
        /// What was reported, for a person.
        what: String,
        /// The file that was named, open, where it could be opened.
        held: Option<Held>,
        /// Whether the file is still being written, so that its close will be reported too.
        unfinished: bool,
    },
    /// Something happened in a project that changes nothing of it: a file that is none of its
    /// files, as editors and synchronisers make them. It shows that the project is not quiet.
    Activity {
        /// The project.
        key: ProjectKey,
    },
    /// Something happened at a directory above projects, as a path below the root.
    Subtree {
        /// The directory.
        path: String,
        /// What was reported, for a person.
        what: String,
    },
    /// Something that cannot be used appeared outside any project, or went.
    Unusable {
        /// What is wrong with it.
        problem: Problem,
        /// Whether it went.
        is_gone: bool,
    },
    /// A walk over everything begins, which sets the watches.
    Arming {
        /// The root that is walked.
        root: RootIdentity,
        /// Why.
        reason: RescanReason,
    },
    /// The walk passed these projects: all their directories are watched, as far as possible.
    Found {
        /// The projects; one may be told of more than once.
        keys: Vec<ProjectKey>,
    },
    /// Every directory that matters is watched, as far as possible; compare everything.
    Armed {
        /// The root that is watched; none where it could not be opened.
        root: Option<RootIdentity>,
        /// Why the watches were set.
        reason: RescanReason,
        /// What the walk found outside any project that cannot be used. Counts only after
        /// [`Hint::Arming`]; without that the projects are still to be found.
        problems: Vec<Problem>,
    },
}

/// Why everything is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RescanReason {
    /// The daemon starts.
    Start,
    /// The system's event queue overflowed, or the daemon's own.
    Overflow,
    /// The time between rescans passed.
    Timer,
    /// The time between comparisons passed where changes are not reported.
    Poll,
    /// SIGUSR1.
    Signal,
    /// The repository's root came back, or is another one.
    Root,
    /// The configuration of the repository changed.
    Reload,
}

impl RescanReason {
    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            RescanReason::Start => "start",
            RescanReason::Overflow => "overflow",
            RescanReason::Timer => "timer",
            RescanReason::Poll => "poll",
            RescanReason::Signal => "signal",
            RescanReason::Root => "root",
            RescanReason::Reload => "reload",
        }
    }
}

/// Sends hints to the engine.
#[derive(Clone, Debug)]
pub struct HintSender {
    sender: SyncSender<Input>,
    lost: Arc<AtomicBool>,
}

impl HintSender {
    /// A sender into the engine's channel; `lost` is the mark that the engine looks at.
    pub fn new(sender: SyncSender<Input>, lost: Arc<AtomicBool>) -> Self {
        Self { sender, lost }
    }

    /// Sends a hint, or leaves the mark. Returns whether the engine is still there.
    pub fn send(&self, hint: Hint) -> bool {
        match self.sender.try_send(Input::Hint(Box::new(hint))) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost.store(true, Ordering::Release);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    /// Sends a hint that may be lost. Returns whether the engine is still there.
    pub fn send_if_room(&self, hint: Hint) -> bool {
        let sent = self.sender.try_send(Input::Hint(Box::new(hint)));
        !matches!(sent, Err(TrySendError::Disconnected(_)))
    }

    /// Wakes the engine, since the first hint after a rest is about to come: to wake a thread takes as
    /// long as to make a hint, and so both happen at once.
    pub fn rouse(&self) {
        // Where there is no room it is awake.
        let _ = self.sender.try_send(Input::Rouse);
    }

    /// Sends a hint that must arrive, waiting for room. Returns whether the engine is still there.
    pub fn send_waiting(&self, hint: Hint) -> bool {
        self.sender.send(Input::Hint(Box::new(hint))).is_ok()
    }
}
