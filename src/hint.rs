//! Hints: where to look, never what happened.
//!
//! Constraint: no hint is lost unnoticed. The channel is bounded. A hint that finds it full sets a
//! flag, and the engine answers the flag with a full scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::domain::project::{Problem, ProjectKey};
use crate::domain::rescan::RescanReason;
use crate::observe::Held;
use crate::repository::RootIdentity;

/// A part of the repository to observe.
#[derive(Debug)]
pub(crate) enum Hint {
    /// Something happened in a project.
    Project {
        key: ProjectKey,
        /// The report, for a person.
        cause: String,
        /// The path of the reported file, if it is one, and the file if it could be opened.
        file: Option<(String, Option<Held>)>,
        /// Whether the file is still being written, so that its close will be reported too.
        unfinished: bool,
    },
    /// A file that is none of the project's changed beside it.
    ///
    /// Editors and synchronisers make such files. The project is not idle.
    Activity { key: ProjectKey },
    /// Something happened at a directory above projects.
    Subtree {
        /// The directory, as a path below the root.
        path: String,
        /// The report, for a person.
        cause: String,
    },
    /// An entry that cannot be used appeared outside any project, or went away.
    Unusable { problem: Problem, is_gone: bool },
    /// A walk begins that watches every directory.
    WalkStarted {
        root: RootIdentity,
        reason: RescanReason,
    },
    /// The walk passed these projects and watches all their directories, if it can.
    ProjectsFound {
        /// The projects, some of them perhaps twice.
        keys: Vec<ProjectKey>,
    },
    /// Every directory that matters is watched, if possible. Scan everything.
    WalkFinished {
        /// The watched root; none if it could not be opened.
        root: Option<RootIdentity>,
        reason: RescanReason,
        /// Unusable entries outside any project.
        problems: Vec<Problem>,
    },
}

/// Sends hints into the channel of their receiver.
pub(crate) struct HintSender {
    channel: Box<dyn Channel>,
    has_lost_hints: Arc<AtomicBool>,
}

impl HintSender {
    /// A sender into a channel that carries other messages too.
    ///
    /// A hint that finds no room sets `has_lost_hints`.
    pub(crate) fn new<Message: From<Hint> + Send + 'static>(
        channel: SyncSender<Message>,
        has_lost_hints: Arc<AtomicBool>,
    ) -> Self {
        Self {
            channel: Box::new(channel),
            has_lost_hints,
        }
    }

    /// Sends a hint, or sets the flag if there is no room.
    pub(crate) fn send(&self, hint: Hint) {
        if self.channel.offer(hint) {
            self.has_lost_hints.store(true, Ordering::Release);
        }
    }

    /// Sends a hint that may be lost.
    pub(crate) fn send_if_room(&self, hint: Hint) {
        self.channel.offer(hint);
    }

    /// Sends a hint that must arrive, waiting for room.
    pub(crate) fn send_waiting(&self, hint: Hint) {
        self.channel.send(hint);
    }
}

/// A bounded channel, whatever else it carries. A receiver that is gone needs no hints.
trait Channel: Send {
    /// Sends without waiting. Returns whether the channel is full.
    fn offer(&self, hint: Hint) -> bool;

    /// Sends, waiting for room.
    fn send(&self, hint: Hint);
}

impl<Message: From<Hint> + Send> Channel for SyncSender<Message> {
    fn offer(&self, hint: Hint) -> bool {
        matches!(self.try_send(hint.into()), Err(TrySendError::Full(_)))
    }

    fn send(&self, hint: Hint) {
        let _ = SyncSender::send(self, hint.into());
    }
}
