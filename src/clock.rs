//! The only place that reads a clock; everything else is given the time.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The time of day, and a monotonic time since the clock was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The monotonic time since the clock was made; it goes on when the time of day is set.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn moment(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }

    /// The time of day.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// The time of day in nanoseconds since the Unix epoch, as file times are given.
    pub fn now_ns(&self) -> i64 {
        i64::try_from(self.now().as_nanosecond()).unwrap_or(i64::MAX)
    }
}
