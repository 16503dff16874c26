//! Sends commands to the watch thread and wakes it.
//!
//! Constraint: sending a command never blocks. A new command replaces a pending command of its
//! kind.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::WatchSettings;
use crate::domain::rescan::RescanReason;

/// The commands that the watch thread has not received yet.
#[derive(Debug)]
pub(super) struct Commands {
    pending: Mutex<Pending>,
    /// The sending end of a socket pair. A byte in it wakes the thread.
    wake: UnixStream,
    woken: UnixStream,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Walk the whole tree with these settings.
    pub(super) walk: Option<(WatchSettings, RescanReason)>,
    pub(super) stop: bool,
}

impl Commands {
    pub(super) fn new() -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(Self {
            pending: Mutex::default(),
            wake,
            woken,
        })
    }

    /// Whether a command is pending. If so, a walk in progress ends early.
    pub(super) fn has_pending(&self) -> bool {
        let pending = self.lock();
        pending.stop || pending.walk.is_some()
    }

    /// Changes the pending commands and wakes the thread.
    pub(super) fn give(&self, command: impl FnOnce(&mut Pending)) {
        command(&mut self.lock());
        self.wake();
    }

    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) {
        // If the socket is full, unread bytes already wake the thread.
        let _ = (&self.wake).write(&[0]);
    }

    /// Reads all wake-up bytes. The thread does this before it takes commands, so it misses none.
    pub(super) fn clear_wake_ups(&self) {
        let mut buffer = [0; 512];
        while (&self.woken).read(&mut buffer).is_ok_and(|n| n > 0) {}
    }
}

impl AsFd for Commands {
    /// The file descriptor that becomes readable after a wake-up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}
