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
