//! Rules for one delivery: its states, and the verdict that follows an attempt.

use std::time::Duration;

use jiff::Timestamp;

/// The most of an answer's body that is read and kept, in bytes.
pub const ANSWER_MAX: usize = 16 * 1024;

/// The state of a delivery.
///
/// "In flight" is no state: a claim is a lease held in memory, and a restart drops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its first or next attempt is still to come.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// The last attempt of the schedule failed. Kept, listed, can be redelivered.
    Dead,
    /// An operator cancelled it.
    Cancelled,
}

impl State {
    /// All states.
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

/// The result of one attempt, as [`crate::webhook::answer`] derives it from the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took the callback.
    Accepted,
    /// The receiver wants no more callbacks.
    Gone,
    /// The receiver did not take the callback, or there was no answer.
    Failed {
        /// Whose failure it is.
        cause: FailureCause,
        /// The wait that the receiver asked for, counted from its answer.
        retry_after: Option<Duration>,
    },
}

/// Whose failure a failed attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// The endpoint's own: other deliveries to it would fail as well.
    Endpoint,
    /// This delivery's: the endpoint works and refused it.
    Delivery,
}

impl Outcome {
    /// There was no answer, or one of a failing endpoint without a Retry-After.
    pub const NO_ANSWER: Outcome = Outcome::Failed {
        cause: FailureCause::Endpoint,
        retry_after: None,
    };

    /// Whether the attempt failed and the failure is the endpoint's own.
    pub const fn is_endpoint_failure(self) -> bool {
        matches!(
            self,
            Outcome::Failed {
                cause: FailureCause::Endpoint,
                ..
            }
        )
    }
}

/// The next step of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The delivery is done.
    Delivered,
    /// Retry by the schedule, not before this time. New settings make it due at once.
    Retry(Timestamp),
    /// Retry as the receiver asked, not before this time. New settings do not change it.
    RetryAsAsked(Timestamp),
    /// The last attempt of the schedule failed.
    Dead,
    /// Switch the webhook off. The delivery stays pending until it is on again.
    SwitchOff,
}

impl Verdict {
    /// The earliest time of the next attempt, if there is one.
    pub const fn retry_at(self) -> Option<Timestamp> {
        match self {
            Verdict::Retry(at) | Verdict::RetryAsAsked(at) => Some(at),
            Verdict::Delivered | Verdict::Dead | Verdict::SwitchOff => None,
        }
    }
}

/// The longest Retry-After that is obeyed: one day, the last step of the default schedule.
///
/// A receiver that asks for a year cannot hold a delivery that long.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest jitter, as a fraction of the delay.
///
/// Jitter spreads the retries of deliveries that failed together.
pub const JITTER: f64 = 0.1;

/// Returns the verdict on attempt number `attempt` (from 1), which ended with `outcome` at `now`.
///
/// `schedule` holds the delay before each attempt: its first entry is the delay before attempt 1,
/// its length the number of attempts. The caller draws `jitter` from 0 to 1.
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
        Outcome::Failed { retry_after, .. } => {
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
            match retry_after {
                Some(asked) => {
                    Verdict::RetryAsAsked(after(now, delay.max(asked.min(RETRY_AFTER_MAX))))
                }
                None => Verdict::Retry(after(now, delay)),
            }
        }
    }
}

/// Returns the due time of the first attempt of a delivery recorded at `now`.
pub fn first(schedule: &[Duration], now: Timestamp) -> Timestamp {
    after(now, schedule.first().copied().unwrap_or_default())
}

/// Adds a delay to `now`, up to the last representable time.
fn after(now: Timestamp, delay: Duration) -> Timestamp {
    now.saturating_add(delay).unwrap_or(Timestamp::MAX)
}
