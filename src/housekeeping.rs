//! Removes deliveries and events after their retention.
//!
//! Constraint: the removal works in small batches with pauses, so that it never delays recording or
//! delivery. A clock that is temporarily wrong must not remove anything too early.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::{Clock, Reading};
use crate::config::Retention;
use crate::store::Store;

/// The time between two runs.
const INTERVAL: Duration = Duration::from_secs(60);
/// The pause between two batches of one run.
const PAUSE: Duration = Duration::from_millis(20);
/// The maximum number of rows of each kind that one transaction removes.
const BATCH: usize = 500;
/// How long the time of day must agree with the monotonic clock after somebody set it.
const STEADY_FOR: Duration = Duration::from_secs(60 * 60);

/// Removes rows that are older than `retention`, regularly until `stop`.
pub(crate) async fn run(
    store: Store,
    clock: Clock,
    mut retention: watch::Receiver<Retention>,
    stop: CancellationToken,
) {
    let mut steadiness = Steadiness::new(clock.reading());
    loop {
        let kept = *retention.borrow_and_update();
        let reading = clock.reading();
        let was_steady = steadiness.is_steady();
        if !steadiness.observe(reading) {
            if was_steady {
                info!(
                    hours = STEADY_FOR.as_secs() / 3600,
                    "the clock was set; old deliveries and events are kept until it is steady for an hour"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => continue,
                () = stop.cancelled() => return,
            }
        }
        let pause = match store.collect(kept, reading.now(), BATCH).await {
            Ok(collected) if collected.is_empty() => INTERVAL,
            Ok(collected) => {
                debug!(?collected, "removed old deliveries and events");
                PAUSE
            }
            Err(error) => {
                warn!(%error, "cannot remove old deliveries and events; retrying");
                INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = retention.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Decides whether the time of day is reliable enough to remove old rows.
///
/// It is reliable at the start. After a jump, it must be steady for [`STEADY_FOR`].
struct Steadiness {
    last: Reading,
    /// The first reading after the last jump of the time of day.
    jumped_at: Option<Reading>,
}

impl Steadiness {
    fn new(reading: Reading) -> Self {
        Self {
            last: reading,
            jumped_at: None,
        }
    }

    fn is_steady(&self) -> bool {
        self.jumped_at.is_none()
    }

    /// Handles a reading of the clock. Returns whether its time may be used.
    fn observe(&mut self, reading: Reading) -> bool {
        if self.last.was_set_until(&reading) {
            self.jumped_at = Some(reading);
        } else if let Some(jumped) = self.jumped_at
            && jumped.passed_until(&reading) >= STEADY_FOR
        {
            self.jumped_at = None;
        }
        self.last = reading;
        self.is_steady()
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    #[test]
    fn nothing_is_old_by_a_clock_that_is_not_steady() {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let reading = |minute: i64, ahead_s: i64| {
            let passed = SignedDuration::from_mins(minute);
            let now = start + passed + SignedDuration::from_secs(ahead_s);
            Reading::of(now, passed.unsigned_abs())
        };
        const YEAR: i64 = 365 * 24 * 3600;
        let mut steadiness = Steadiness::new(reading(0, 0));
        for (minute, ahead_s, expected) in [
            (1, 0, true),
            // The clock is slewed.
            (2, 1, true),
            // The clock is ahead for a minute.
            (3, YEAR, false),
            (4, 0, false),
            (63, 0, false),
            (64, 0, true),
            // The clock is set back, and then forward.
            (65, -YEAR, false),
            (66, YEAR, false),
            (125, YEAR, false),
            (126, YEAR, true),
        ] {
            let is_steady = steadiness.observe(reading(minute, ahead_s));
            assert_eq!(is_steady, expected, "minute {minute}");
        }
    }
}
