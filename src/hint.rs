//! Hints: parts of the repository to observe. A hint does not prove a change.
//!
//! Constraint: the engine never misses a change because of a lost hint. The channel is bounded. If
//! the channel is full, [`HintSender::send`] drops the hint and sets a flag, and the engine then
//! runs a full scan. Only [`Hint::Activity`] may be lost without the flag, because it reports no
//! change of a project. The hints about a walk wait until the channel has room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::domain::project::{Problem, ProjectKey};
use crate::domain::rescan::RescanReason;
use crate::observe::Held;
use crate::repository::RootIdentity;

/// A part of the repository to observe, or the progress of a walk.
#[derive(Debug)]
pub(crate) enum Hint {
    /// Files of a project may have changed.
    Project {
        key: ProjectKey,
        /// The reported change in words, for the explanation of events.
        cause: String,
        /// The reported path and the open file, if the report names a file.
        ///
        /// The inner `None` means that the file is not held open, for instance because it is empty
        /// or too many files are open.
        file: Option<Box<(String, Option<Held>)>>,
        /// Whether the file is probably still being written: it is new and empty.
        ///
        /// Usually, the system reports later that the file was closed.
        unfinished: bool,
    },
    /// An unrelated file next to the files of a project changed.
    ///
    /// So the project is not idle. Editors and synchronisers create such files.
    Activity { key: ProjectKey },
    /// A directory that may contain projects changed.
    Subtree {
        /// The path of the directory below the root.
        path: String,
        /// The reported change in words, for the explanation of events.
        cause: String,
    },
    /// An entry outside any project may have become unusable or usable again.
    Unusable { path: String },
    /// A walk of the whole tree begins. It watches directories and finds projects.
    WalkStarted {
        root: RootIdentity,
        reason: RescanReason,
    },
    /// The walk has found these projects, and has tried to watch their directories.
    ProjectsFound {
        /// The found projects. A project may be found twice.
        keys: Vec<ProjectKey>,
    },
    /// The walk ended, and the engine completes its full scan.
    ///
    /// Or the root is lost: then there is no walk, and no scan follows.
    WalkFinished {
        /// The watched root. `None` if the root is lost.
        root: Option<RootIdentity>,
        reason: RescanReason,
        /// Unusable entries outside any project.
        problems: Vec<Problem>,
    },
}

/// Sends hints to the engine.
pub(crate) struct HintSender {
    channel: Box<dyn Channel>,
    has_lost_hints: Arc<AtomicBool>,
}

impl HintSender {
    /// Makes a sender for a channel that also transports other messages.
    ///
    /// If the channel is full, [`HintSender::send`] sets `has_lost_hints`.
    pub(crate) fn new<Message: From<Hint> + Send + 'static>(
        channel: SyncSender<Message>,
        has_lost_hints: Arc<AtomicBool>,
    ) -> Self {
        Self {
            channel: Box::new(channel),
            has_lost_hints,
        }
    }

    /// Sends a hint. If the channel is full, sets the flag instead.
    pub(crate) fn send(&self, hint: Hint) {
        if self.channel.offer(hint) {
            self.has_lost_hints.store(true, Ordering::Release);
        }
    }

    /// Sends a hint. If the channel is full, drops the hint without setting the flag.
    pub(crate) fn send_if_room(&self, hint: Hint) {
        self.channel.offer(hint);
    }

    /// Sends a hint that must arrive. Waits while the channel is full.
    pub(crate) fn send_waiting(&self, hint: Hint) {
        self.channel.send(hint);
    }
}

/// The sending end of a bounded channel. Drops hints if the receiver is gone.
trait Channel: Send {
    /// Sends a hint without waiting. Returns whether the channel is full.
    fn offer(&self, hint: Hint) -> bool;

    /// Sends a hint. Waits while the channel is full.
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
