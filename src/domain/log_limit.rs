//! Limits the number of similar log lines per minute.
//!
//! Constraint: ten thousand failures must not fill the log, but the log must show that there are
//! failures. So the first lines of each minute are logged in full, and the others are counted.

use std::time::Duration;

/// The number of lines that are logged in full in each [`WINDOW`].
const IN_FULL: u32 = 5;
/// The time after which the number of suppressed lines is logged.
const WINDOW: Duration = Duration::from_secs(60);

/// Limits log lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// The monotonic time when the window began. `None` if no window is open.
    began: Option<Duration>,
    n_logged: u32,
    n_suppressed: u32,
}

impl LogLimit {
    /// Counts one more line. Returns whether to log it in full.
    pub(crate) fn allows(&mut self, now: Duration) -> bool {
        self.began.get_or_insert(now);
        if self.n_logged < IN_FULL {
            self.n_logged = self.n_logged.saturating_add(1);
            return true;
        }
        self.n_suppressed = self.n_suppressed.saturating_add(1);
        false
    }

    /// If the window is over, closes it and returns the number of suppressed lines.
    ///
    /// Returns `None` if the number is zero.
    ///
    /// Call this before each [`LogLimit::allows`], and regularly in between.
    pub(crate) fn take_suppressed(&mut self, now: Duration) -> Option<u32> {
        let began = self.began?;
        if now.saturating_sub(began) < WINDOW {
            return None;
        }
        let n_suppressed = self.n_suppressed;
        *self = Self::default();
        (n_suppressed > 0).then_some(n_suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_are_logged_and_the_rest_counted_once_a_minute() {
        let at = Duration::from_secs;
        let mut limit = LogLimit::default();
        assert_eq!(limit.take_suppressed(at(0)), None);
        let logged = (0..100).filter(|_| limit.allows(at(10))).count();
        assert_eq!(logged, 5);
        assert_eq!(limit.take_suppressed(at(69)), None);
        assert_eq!(limit.take_suppressed(at(70)), Some(95));
        // A new minute, in which the first lines are logged again.
        assert_eq!(limit.take_suppressed(at(71)), None);
        assert!(limit.allows(at(71)));
        // A window without suppressed lines has no count.
        assert_eq!(limit.take_suppressed(at(200)), None);
    }
}
