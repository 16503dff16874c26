//! How much is said of what happens again and again.
//!
//! Constraint: ten thousand failures must not fill the log, and nobody may take silence for health.
//! So the first of a minute are said in full, and the rest as one number.

use std::time::Duration;

/// How many are said in full within one [`WINDOW`].
const IN_FULL: u32 = 5;
/// How long the rest is counted before the number is said.
const WINDOW: Duration = Duration::from_secs(60);

/// Things of one kind that happen again and again.
#[derive(Debug, Default)]
pub struct Repeats {
    /// When the window began, as a monotonic time; none where nothing happened since the last.
    began: Option<Duration>,
    n_said: u32,
    n_unsaid: u32,
}

impl Repeats {
    /// There is one more. Returns whether it is to be said in full.
    pub fn add(&mut self, now: Duration) -> bool {
        self.began.get_or_insert(now);
        if self.n_said < IN_FULL {
            self.n_said = self.n_said.saturating_add(1);
            return true;
        }
        self.n_unsaid = self.n_unsaid.saturating_add(1);
        false
    }

    /// How many were not said, once that is to be said. To be asked before each [`Repeats::add`],
    /// and now and then.
    pub fn summary(&mut self, now: Duration) -> Option<u32> {
        let began = self.began?;
        if now.saturating_sub(began) < WINDOW {
            return None;
        }
        let n_unsaid = self.n_unsaid;
        *self = Self::default();
        (n_unsaid > 0).then_some(n_unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_said_and_the_rest_is_counted_once_a_minute() {
        let at = Duration::from_secs;
        let mut repeats = Repeats::default();
        assert_eq!(repeats.summary(at(0)), None);
        let said = (0..100).filter(|_| repeats.add(at(10))).count();
        assert_eq!(said, 5);
        assert_eq!(repeats.summary(at(69)), None);
        assert_eq!(repeats.summary(at(70)), Some(95));
        // A new minute, in which the first are said again.
        assert_eq!(repeats.summary(at(71)), None);
        assert!(repeats.add(at(71)));
        // What was said in full needs no summary.
        assert_eq!(repeats.summary(at(200)), None);
    }
}
