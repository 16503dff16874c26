//! What an answer means for a delivery, its webhook and the next attempt.

use std::time::Duration;

use jiff::Timestamp;

/// Where a delivery stands.
///
/// In flight is not a state of the store: a claim is a lease held in memory, so that a restart
/// resolves it by forgetting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its first or next attempt.
    Pending,
    /// A 2xx came.
    Delivered,
    /// The schedule is used up. Kept, listed, can be redelivered.
    Dead,
    /// An operator gave it up.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [State; 4] = [
        State::Pending,
        State::Delivered,
        State::Dead,
        State::Cancelled,
    ];

    /// The word in listings and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Delivered => "delivered",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }

    /// The state that [`State::as_str`] names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Accepted,
    /// 410: the receiver wants no more.
    Gone,
    /// Any other answer, no connection, TLS failure or timeout.
    Failed {
        /// What a Retry-After of 429, 502, 503 or 504 asks for, counted from the answer.
        retry_after: Option<Duration>,
    },
}

/// What follows from an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Delivered,
    /// Try again, not before this time.
    Retry(Timestamp),
    /// The schedule is used up.
    Dead,
    /// The webhook is switched off; the delivery waits for it to be enabled.
    SwitchOff,
}

/// The longest that a Retry-After is obeyed: one day, the last step of the default schedule. A
/// peer that names a year must not be able to hold a delivery for it.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of a delay that jitter may add.
///
/// Jitter keeps deliveries that failed together from coming back together.
pub const JITTER: f64 = 0.1;

/// What `outcome` of attempt number `attempt` (from 1) means at `now`.
///
/// `schedule` holds the delay before each attempt; its first entry is the delay before attempt 1
/// and its length the number of attempts. `jitter` is drawn by the caller from 0 to 1.
pub fn next(
    schedule: &[Duration],
    attempt: u32,
    outcome: Outcome,
    now: Timestamp,
    jitter: f64,
) -> Verdict {
    match outcome {
        Outcome::Accepted => Verdict::Delivered,
        Outcome::Gone => Verdict::SwitchOff,
        Outcome::Failed { retry_after } => {
            let Some(delay) = schedule.get(attempt as usize) else {
                return Verdict::Dead;
            };
            let jitter = if jitter.is_finite() {
                jitter.clamp(0.0, 1.0)
            } else {
                0.0
            };
            let delay = delay
                .checked_add(delay.mul_f64(JITTER * jitter))
                .unwrap_or(*delay);
            let delay = match retry_after {
                Some(asked) => delay.max(asked.min(RETRY_AFTER_MAX)),
                None => delay,
            };
            Verdict::Retry(after(now, delay))
        }
    }
}

/// When the first attempt of a delivery recorded at `now` is due.
pub fn first(schedule: &[Duration], now: Timestamp) -> Timestamp {
    after(now, schedule.first().copied().unwrap_or_default())
}

/// `now` and a delay; what no calendar can hold becomes its end.
fn after(now: Timestamp, delay: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(delay)
        .ok()
        .and_then(|delay| now.checked_add(delay).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The default schedule.
    const SCHEDULE: [Duration; 10] = [
        seconds(0),
        seconds(5),
        seconds(5 * 60),
        seconds(30 * 60),
        seconds(2 * 3600),
        seconds(5 * 3600),
        seconds(10 * 3600),
        seconds(14 * 3600),
        seconds(20 * 3600),
        seconds(24 * 3600),
    ];

    const FAILED: Outcome = Outcome::Failed { retry_after: None };

    const fn asking(delay: Duration) -> Outcome {
        Outcome::Failed {
            retry_after: Some(delay),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_777_000_000).unwrap_or_default()
    }

    fn in_seconds(delay: i64) -> Timestamp {
        Timestamp::from_second(1_777_000_000 + delay).unwrap_or_default()
    }

    #[test]
    fn what_an_answer_means_at_every_attempt() {
        for attempt in 0..=12 {
            let next = |outcome| next(&SCHEDULE, attempt, outcome, now(), 0.0);
            assert_eq!(next(Outcome::Accepted), Verdict::Delivered, "{attempt}");
            assert_eq!(next(Outcome::Gone), Verdict::SwitchOff, "{attempt}");
        }

        let failed_after = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
        for (attempt, delay) in (1..).zip(failed_after) {
            assert_eq!(
                next(&SCHEDULE, attempt, FAILED, now(), 0.0),
                Verdict::Retry(in_seconds(delay)),
                "{attempt}"
            );
            // Sooner than the schedule is not obeyed.
            assert_eq!(
                next(&SCHEDULE, attempt, asking(seconds(4)), now(), 0.0),
                Verdict::Retry(in_seconds(delay)),
                "{attempt}"
            );
            // Nor is longer than a day.
            assert_eq!(
                next(&SCHEDULE, attempt, asking(Duration::MAX), now(), 0.0),
                Verdict::Retry(in_seconds(86_400)),
                "{attempt}"
            );
        }
        for attempt in [10, 11, u32::MAX] {
            for outcome in [FAILED, asking(seconds(60))] {
                assert_eq!(next(&SCHEDULE, attempt, outcome, now(), 0.5), Verdict::Dead);
            }
        }
        // A Retry-After that is later than the schedule and within bounds.
        assert_eq!(
            next(&SCHEDULE, 1, asking(seconds(60)), now(), 1.0),
            Verdict::Retry(in_seconds(60))
        );
    }

    #[test]
    fn a_schedule_of_one_attempt_or_none_gives_up_at_once() {
        assert_eq!(next(&[seconds(0)], 1, FAILED, now(), 0.0), Verdict::Dead);
        assert_eq!(next(&[], 1, FAILED, now(), 0.0), Verdict::Dead);
    }

    #[test]
    fn jitter_adds_up_to_a_tenth() {
        let retry = |jitter| next(&SCHEDULE, 2, FAILED, now(), jitter);
        assert_eq!(retry(0.0), Verdict::Retry(in_seconds(300)));
        assert_eq!(retry(0.5), Verdict::Retry(in_seconds(315)));
        assert_eq!(retry(1.0), Verdict::Retry(in_seconds(330)));
        // What no caller should draw.
        assert_eq!(retry(-1.0), retry(0.0));
        assert_eq!(retry(7.0), retry(1.0));
        assert_eq!(retry(f64::NAN), retry(0.0));
        assert_eq!(retry(f64::INFINITY), retry(0.0));
    }

    #[test]
    fn the_first_attempt_is_due_after_the_first_delay() {
        assert_eq!(first(&SCHEDULE, now()), now());
        assert_eq!(first(&[seconds(30)], now()), in_seconds(30));
        assert_eq!(first(&[], now()), now());
        assert_eq!(first(&[Duration::MAX], now()), Timestamp::MAX);
    }

    #[test]
    fn states_are_known_by_their_words() {
        for state in State::ALL {
            assert_eq!(State::from_word(state.as_str()), Some(state));
        }
        assert_eq!(State::from_word("in-flight"), None);
    }

    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0..200_000_u64, 0..1_000_000_000_u32)
                .prop_map(|(seconds, n)| Duration::new(seconds, n)),
            (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(seconds, n)| Duration::new(seconds, n)),
            Just(Duration::MAX),
        ]
    }

    fn timestamps() -> impl Strategy<Value = Timestamp> {
        (Timestamp::MIN.as_second()..=Timestamp::MAX.as_second())
            .prop_map(|second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX))
    }

    proptest! {
        #[test]
        fn a_retry_is_never_sooner_than_the_schedule_nor_much_later(
            schedule in prop::collection::vec(durations(), 0..12),
            attempt in 0..14_u32,
            retry_after in prop::option::of(durations()),
            now in timestamps(),
            jitter in prop_oneof![0.0..=1.0_f64, any::<f64>()],
        ) {
            let verdict = next(&schedule, attempt, Outcome::Failed { retry_after }, now, jitter);
            let Some(delay) = schedule.get(attempt as usize) else {
                prop_assert_eq!(verdict, Verdict::Dead);
                return Ok(());
            };
            let Verdict::Retry(at) = verdict else {
                return Err(TestCaseError::fail(format!("{verdict:?}")));
            };
            let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            let earliest = after(now, asked.max(*delay));
            // A nanosecond for the rounding of the tenth.
            let tenth = delay.div_f64(10.0).saturating_add(Duration::from_nanos(1));
            let latest = after(now, asked.max(delay.saturating_add(tenth)));
            prop_assert!(earliest <= at && at <= latest, "{earliest} <= {at} <= {latest}");
        }
    }
}
