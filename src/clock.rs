//! The only module that reads the time of day of this host.
//!
//! Other modules use a [`Clock`], or take the time as an argument. Some modules also read tokio's
//! monotonic clock.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The largest normal drift between the time of day and the monotonic time.
///
/// The drift has two causes: slewing, and the time that passes between reading the two clocks.
const SLEWED: Duration = Duration::from_secs(1);

/// The time of day and the monotonic time.
///
/// Comparing two readings shows whether the time of day was set in between. After a suspension of
/// the host, the time of day seems to be set forward, because the monotonic time stopped meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    now: Timestamp,
    moment: Duration,
}

impl Reading {
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn of(now: Timestamp, moment: Duration) -> Self {
        Self { now, moment }
    }

    /// The monotonic time between this reading and a later one.
    pub(crate) fn passed_until(&self, later: &Self) -> Duration {
        later.moment.saturating_sub(self.moment)
    }

    /// Whether the time of day was set between this reading and a later one.
    ///
    /// A change of up to [`SLEWED`] may go unnoticed.
    pub(crate) fn was_set_until(&self, later: &Self) -> bool {
        let latest = self.passed_until(later).saturating_add(SLEWED);
        let is_ahead = self
            .now
            .checked_add(latest)
            .is_ok_and(|latest| later.now > latest);
        is_ahead || self.was_set_back_until(later)
    }

    /// Whether the time of day was set back between this reading and a later one.
    ///
    /// A change of up to [`SLEWED`] may go unnoticed.
    pub(crate) fn was_set_back_until(&self, later: &Self) -> bool {
        self.now
            .checked_add(self.passed_until(later).saturating_sub(SLEWED))
            .is_ok_and(|expected| later.now < expected)
    }
}

/// Detects that the time of day was set back, even in several small steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetBack {
    /// The reading whose time of day is furthest ahead of its monotonic time.
    ///
    /// A reading older than [`SetBack::WINDOW`] is replaced.
    furthest: Reading,
}

impl SetBack {
    /// The time within which small steps add up.
    ///
    /// The time of day may be that of a database server, which drifts from the monotonic time of
    /// this host. A quartz drifts by less than half a second an hour, so an hour of drift is less
    /// than [`SLEWED`].
    const WINDOW: Duration = Duration::from_secs(60 * 60);

    pub(crate) fn new(reading: Reading) -> Self {
        Self { furthest: reading }
    }

    /// Whether this reading shows that the time of day was set back.
    pub(crate) fn is_noticed(&mut self, reading: Reading) -> bool {
        if self.furthest.was_set_back_until(&reading) {
            return true;
        }
        let passed = self.furthest.passed_until(&reading);
        let expected = self.furthest.now.checked_add(passed);
        if passed >= Self::WINDOW || expected.is_ok_and(|expected| reading.now > expected) {
            self.furthest = reading;
        }
        false
    }
}

/// Returns the time of day, and the monotonic time since the clock was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// Makes a clock whose monotonic time starts now.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Returns the monotonic time since the clock was made.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub(crate) fn moment(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }

    /// Returns the time of day in whole microseconds, as listings show it.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub(crate) fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_was_set_back_was_set_back() {
        let reading = |now_s: i64, moment_s: u64| Reading {
            now: Timestamp::from_second(1_700_000_000 + now_s).expect("a time"),
            moment: Duration::from_secs(moment_s),
        };
        let before = reading(0, 100);
        for (now_s, moment_s, expected) in [
            (0, 100, false),
            (10, 110, false),
            (9, 110, false),
            (8, 110, true),
            (-3600, 110, true),
            (3600, 110, false),
        ] {
            let later = reading(now_s, moment_s);
            assert_eq!(
                before.was_set_back_until(&later),
                expected,
                "{now_s} {moment_s}"
            );
        }
    }

    #[test]
    fn several_small_steps_back_are_noticed() {
        let reading = |now_ms: i64, moment_s: u64| Reading {
            now: Timestamp::from_millisecond(1_700_000_000_000 + now_ms).expect("a time"),
            moment: Duration::from_secs(moment_s),
        };
        let mut set_back = SetBack::new(reading(0, 100));
        for (now_ms, moment_s, expected) in [
            (10_000, 110, false),
            // The clock is set forward, or the host was suspended.
            (3_620_000, 120, false),
            (3_629_400, 130, false),
            (3_638_800, 140, true),
            (3_648_800, 150, true),
        ] {
            let is_noticed = set_back.is_noticed(reading(now_ms, moment_s));
            assert_eq!(is_noticed, expected, "{now_ms} {moment_s}");
        }
        set_back = SetBack::new(reading(3_648_800, 150));
        // A clock that drifts by half a second an hour.
        for hour in 1..48 {
            let drifted = reading(
                3_648_800 + hour * 3_599_500,
                150 + hour.unsigned_abs() * 3600,
            );
            assert!(!set_back.is_noticed(drifted), "{hour}");
        }
    }
}
