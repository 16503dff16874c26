//! The rules for one delivery: its states, and the verdict after an attempt.

use std::time::Duration;

use jiff::Timestamp;

/// The maximum number of bytes that are read of an answer's body.
pub const ANSWER_MAX: usize = 16 * 1024;

/// The state of a delivery.
///
/// There is no state for a delivery that is being sent: it is pending, and the sending process has
/// a claim on it. If the process ends, the claim ends too, in PostgreSQL perhaps some time later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The delivery is due now or later.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// The delivery is given up.
    ///
    /// The last attempt of its schedule failed, it cannot be sent, it was pending for too long, or
    /// the state exceeded its maximum size. An operator can redeliver the delivery.
    Dead,
    /// An operator cancelled the delivery.
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

    /// The name of this state in listings and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Delivered => "delivered",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }

    /// Parses a name returned by [`State::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// The result of one attempt. [`crate::webhook::answer`] derives it from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver accepted the callback (2xx).
    Accepted,
    /// The receiver wants no more callbacks (410).
    Gone,
    /// The request was not sent, because its URL or a header is too long for receivers.
    Unsendable,
    /// The receiver did not accept the callback, or there was no answer.
    Failed {
        /// Whether the endpoint or only this delivery failed.
        cause: FailureCause,
        /// The wait that the receiver requested (Retry-After).
        retry_after: Option<RetryAfter>,
    },
}

/// A wait that the receiver requested (Retry-After), measured from its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// A wait for all deliveries of the webhook, because the receiver is overloaded (429, 503).
    Webhook(Duration),
    /// A wait for this delivery, probably requested by a gateway (502, 504).
    Delivery(Duration),
}

impl RetryAfter {
    /// The duration of the wait, at most [`RETRY_AFTER_MAX`].
    pub fn wait(self) -> Duration {
        let (RetryAfter::Webhook(wait) | RetryAfter::Delivery(wait)) = self;
        wait.min(RETRY_AFTER_MAX)
    }
}

/// Whether the endpoint or only one delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// There was no answer, or perhaps only a gateway answered (502, 503, 504).
    ///
    /// Other deliveries of this process would probably fail as well, but another process may reach
    /// the endpoint.
    Unreachable,
    /// The endpoint failed, so other deliveries to it would probably fail as well.
    Endpoint,
    /// The endpoint works, but rejected this delivery.
    Delivery,
}

impl Outcome {
    /// The outcome without an answer, or with 502, 503 or 504 without Retry-After.
    pub const NO_ANSWER: Outcome = Outcome::Failed {
        cause: FailureCause::Unreachable,
        retry_after: None,
    };

    /// The outcome if the endpoint works, but refuses this delivery.
    pub const REFUSED: Outcome = Outcome::Failed {
        cause: FailureCause::Delivery,
        retry_after: None,
    };

    /// Whether the receiver requested a wait for all deliveries.
    pub const fn asks_webhook_to_rest(self) -> bool {
        matches!(
            self,
            Outcome::Failed {
                retry_after: Some(RetryAfter::Webhook(_)),
                ..
            }
        )
    }

    /// Whether the endpoint failed or was not reached.
    ///
    /// A receiver that requested a wait for all deliveries failed too.
    pub const fn is_endpoint_failure(self) -> bool {
        matches!(
            self,
            Outcome::Failed {
                cause: FailureCause::Endpoint | FailureCause::Unreachable,
                ..
            }
        )
    }

    /// Whether the attempt probably did not reach the endpoint.
    ///
    /// Another process may reach it. A receiver that requested a wait for all deliveries was
    /// reached.
    pub const fn is_unreachable(self) -> bool {
        matches!(
            self,
            Outcome::Failed {
                cause: FailureCause::Unreachable,
                retry_after: None | Some(RetryAfter::Delivery(_)),
            }
        )
    }
}

/// The decision about a delivery after an attempt.
///
/// If the webhook's settings change, a pending retry becomes due immediately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver accepted the callback.
    Delivered,
    /// Retry at this time or later.
    Retry(Timestamp),
    /// Like `Retry`, but the receiver requested a wait, which the time includes.
    ///
    /// Enabling the webhook ends this wait.
    RetryAsAsked(Timestamp),
    /// Like `Retry`, but without using up an attempt. For example, the endpoint is down.
    Repeat(Timestamp),
    /// Like `RetryAsAsked`, but without using up an attempt.
    RepeatAsAsked(Timestamp),
    /// The last attempt of the schedule failed, or the delivery cannot be sent.
    Dead,
    /// Switch the webhook off. The delivery stays pending.
    SwitchOff,
}

impl Verdict {
    /// The earliest time of the next attempt, if there is one.
    pub const fn retry_at(self) -> Option<Timestamp> {
        match self {
            Verdict::Retry(at)
            | Verdict::RetryAsAsked(at)
            | Verdict::Repeat(at)
            | Verdict::RepeatAsAsked(at) => Some(at),
            Verdict::Delivered | Verdict::Dead | Verdict::SwitchOff => None,
        }
    }

    /// Whether the receiver requested the wait before the next attempt.
    pub const fn is_as_asked(self) -> bool {
        matches!(self, Verdict::RetryAsAsked(_) | Verdict::RepeatAsAsked(_))
    }

    /// Whether the delivery is retried without using up an attempt of its schedule.
    pub const fn is_repeat(self) -> bool {
        matches!(self, Verdict::Repeat(_) | Verdict::RepeatAsAsked(_))
    }

    /// Returns the verdict for an attempt during which the webhook's settings changed.
    ///
    /// If the delivery is neither delivered nor dead, its retry is due immediately, at `ended`,
    /// because the new settings may work.
    pub const fn with_changed_settings(self, ended: Timestamp) -> Self {
        match self {
            Verdict::Delivered | Verdict::Dead => self,
            Verdict::Retry(_)
            | Verdict::RetryAsAsked(_)
            | Verdict::Repeat(_)
            | Verdict::RepeatAsAsked(_)
            | Verdict::SwitchOff => Verdict::Retry(ended),
        }
    }
}

/// The longest wait by a Retry-After.
///
/// It is one day, the last delay of the default schedule. Without this limit, a receiver could
/// postpone a delivery by a year.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest jitter, as a fraction of the delay.
///
/// Jitter spreads retries over time if many deliveries failed together.
pub const JITTER: f64 = 0.1;

/// Returns the verdict on an attempt that ended with `outcome` at `now`.
///
/// `attempt` counts from 1. `schedule` has the delay before each attempt: the first entry is the
/// delay before attempt 1, and the length is the number of attempts. `jitter` is a random number
/// from 0 to 1.
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
        Outcome::Unsendable => Verdict::Dead,
        Outcome::Failed { retry_after, .. } => {
            let Some(delay) = schedule.get(attempt as usize) else {
                return Verdict::Dead;
            };
            let at = retry_time(*delay, retry_after, now, jitter);
            match retry_after {
                Some(_) => Verdict::RetryAsAsked(at),
                None => Verdict::Retry(at),
            }
        }
    }
}

/// Returns the time of the next attempt, after the delay and the requested wait.
fn retry_time(
    delay: Duration,
    retry_after: Option<RetryAfter>,
    now: Timestamp,
    jitter: f64,
) -> Timestamp {
    let jitter = if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let delay = delay
        .checked_add(delay.mul_f64(JITTER * jitter))
        .unwrap_or(delay);
    let asked = retry_after.map(RetryAfter::wait).unwrap_or_default();
    after(now, delay.max(asked))
}

/// Returns the verdict on a failure that uses up no attempt.
///
/// See [`super::endpoint::Effect::uses_attempt`]. The retry waits for the delay that the schedule
/// has before the next attempt. After the last attempt, the last delay is used again. If the
/// outcome is not [`Outcome::Failed`], the verdict is that of [`next`].
pub fn repeat(
    schedule: &[Duration],
    attempt: u32,
    outcome: Outcome,
    now: Timestamp,
    jitter: f64,
) -> Verdict {
    let Outcome::Failed { retry_after, .. } = outcome else {
        return next(schedule, attempt, outcome, now, jitter);
    };
    let delay = schedule.get(attempt as usize).or(schedule.last());
    let delay = delay.copied().unwrap_or_default();
    let at = retry_time(delay, retry_after, now, jitter);
    match retry_after {
        Some(_) => Verdict::RepeatAsAsked(at),
        None => Verdict::Repeat(at),
    }
}

/// Returns the time of the next attempt if a 410 does not switch the webhook off.
///
/// The webhook stays on if another process has newer settings. After the last attempt of the
/// schedule, the last delay is used again.
pub fn retry_of_gone(
    schedule: &[Duration],
    attempt: u32,
    now: Timestamp,
    jitter: f64,
) -> Timestamp {
    let failed = Outcome::Failed {
        cause: FailureCause::Endpoint,
        retry_after: None,
    };
    let verdict = repeat(schedule, attempt, failed, now, jitter);
    verdict.retry_at().unwrap_or(now)
}

/// Returns the end of the wait that the receiver requested for the whole webhook.
pub fn rests_until(outcome: Outcome, now: Timestamp) -> Option<Timestamp> {
    match outcome {
        Outcome::Failed {
            retry_after: Some(asked @ RetryAfter::Webhook(_)),
            ..
        } => Some(after(now, asked.wait())),
        _ => None,
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
