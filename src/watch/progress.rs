//! The progress of the watch thread, for other threads.
//!
//! Constraint: a file system may never answer. The watch thread is then blocked, and only another
//! thread can report that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::settle::Moment;

/// The current work of the watch thread.
#[derive(Debug)]
pub(super) struct Progress {
    /// `None` while the thread waits for work or for the engine.
    work: Mutex<Option<Work>>,
    clock: Clock,
}

#[derive(Debug)]
struct Work {
    path: String,
    /// The time of the last progress.
    last: Moment,
}

impl Progress {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            work: Mutex::default(),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the thread begins to work on a path below the root.
    pub(super) fn begin(&self, path: &str) {
        let last = self.clock.moment();
        let path = path.to_owned();
        *self.lock() = Some(Work { path, last });
    }

    /// Records progress of the current work.
    pub(super) fn go_on(&self) {
        if let Some(work) = &mut *self.lock() {
            work.last = self.clock.moment();
        }
    }

    /// Records that the thread waits for work or for the engine, not for a file system.
    pub(super) fn rest(&self) {
        *self.lock() = None;
    }

    /// Returns the path of the current work if there was no progress for `standstill`.
    pub(super) fn stuck_at(&self, standstill: Duration) -> Option<String> {
        let now = self.clock.moment();
        let work = self.lock();
        let work = work.as_ref()?;
        (now.saturating_sub(work.last) >= standstill).then(|| work.path.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_rests_or_goes_on_is_not_stuck() {
        const HOUR: Duration = Duration::from_secs(3600);
        let progress = Progress::new(Clock::start());
        assert_eq!(progress.stuck_at(Duration::ZERO), None);
        progress.begin("sales");
        assert_eq!(progress.stuck_at(Duration::ZERO).as_deref(), Some("sales"));
        assert_eq!(progress.stuck_at(HOUR), None);
        progress.go_on();
        assert_eq!(progress.stuck_at(HOUR), None);
        progress.rest();
        progress.go_on();
        assert_eq!(progress.stuck_at(Duration::ZERO), None);
    }
}
