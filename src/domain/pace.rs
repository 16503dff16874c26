//! Decides when the next request to a webhook may start.
//!
//! Constraint: a receiver that limits requests must not get many requests that it refuses, and must
//! not stay idle either. There are two limits, and both space requests evenly. One is the setting
//! `rate`: the maximum number of requests in a period. The other is learned from answers that
//! request a wait ([`RetryAfter::Webhook`]). After the first such answer, the rate of requests
//! doubles about every second. After the next such answer, the rate is reduced and then grows in
//! small steps. Further such answers usually make the steps rarer. After a time without such an
//! answer, the rate doubles again.
//!
//! The store enforces the requested wait. Time is monotonic. The state is only in memory.
//!
//! [`RetryAfter::Webhook`]: super::delivery::RetryAfter::Webhook

use std::time::Duration;

use super::delivery::{Outcome, RetryAfter};

/// The longest interval between requests after the first requested wait.
///
/// Some receivers request a long wait but accept many requests after it, for instance if they count
/// requests per minute. So a longer requested wait is not used as the interval.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// The longest learned time between two requests.
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// The shortest learned time between two requests. Below it, the learned limit is dropped.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// The shortest time between two increases of the rate.
const STEP: Duration = Duration::from_secs(1);

/// The number of accepted requests before a small increase of the rate, at first.
const FIRST_RUN: u32 = 16;

/// The largest number of accepted requests before a small increase of the rate.
const RUN_MAX: u32 = 256;

/// With fewer accepted requests between two requested waits, the rate is halved.
const FEW: u32 = 4;

/// After this time without a requested wait, the rate doubles again.
///
/// Then a receiver that limits requests soon refuses some of them. If a receiver was only busy, it
/// soon gets requests at the full rate again.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// How late a request may start without delaying the requests after it, at high rates.
///
/// A timer of the runtime is late by about 1 ms. Without this allowance, a rate of 1,000/s would
/// become 500/s. At rates of up to 100/s there is no allowance.
const LATE_MAX: Duration = Duration::from_millis(10);

/// A limit: at most `n` requests in the time `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of requests.
    pub n: u32,
    /// The length of the period in which these requests may start.
    pub per: Duration,
}

impl Rate {
    fn interval(self) -> Duration {
        self.per.checked_div(self.n).unwrap_or_default()
    }
}

/// The pace of the requests to one webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    learned: Option<Learned>,
    /// The earliest time of the next request.
    next: Duration,
}

/// The limit of a receiver, learned from its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Learned {
    interval: Duration,
    /// Whether the rate doubles, instead of growing in small steps.
    doubles: bool,
    /// The number of accepted requests since the interval last changed.
    n_accepted: u32,
    /// The number of accepted requests since the last requested wait.
    n_since_wait: u32,
    /// The number of accepted requests before the next small increase.
    run: u32,
    /// The time of the last requested wait.
    waited_at: Duration,
    stepped_at: Duration,
}

impl Pace {
    /// Whether a limit is known, because the receiver requested a wait.
    ///
    /// The limit is dropped when the rate of requests has grown to more than 1,000/s.
    pub fn is_learned(&self) -> bool {
        self.learned.is_some()
    }

    /// Forgets the learned limit, because the settings changed at `now`.
    ///
    /// The next request keeps its time, but starts at most one interval of the new rate after
    /// `now`.
    pub fn reset(&mut self, rate: Option<Rate>, now: Duration) {
        self.learned = None;
        self.next = self.next.min(now.saturating_add(self.interval(rate)));
    }

    /// Returns the earliest time for the next request.
    pub fn next(&self, rate: Option<Rate>) -> Duration {
        if rate.is_none() && self.learned.is_none() {
            Duration::ZERO
        } else {
            self.next
        }
    }

    /// Returns the time between two requests.
    pub fn interval(&self, rate: Option<Rate>) -> Duration {
        let learned = self.learned.as_ref().map(|learned| learned.interval);
        rate.map(Rate::interval).max(learned).unwrap_or_default()
    }

    /// Records the start of a request at `now`.
    pub fn sent(&mut self, rate: Option<Rate>, now: Duration) {
        let interval = self.interval(rate);
        let late = if interval < LATE_MAX {
            LATE_MAX
        } else {
            Duration::ZERO
        };
        self.next = self
            .next
            .max(now.saturating_sub(late))
            .saturating_add(interval);
    }

    /// Records the answer at `now` to a request that started at `began`.
    pub fn answered(&mut self, outcome: Outcome, began: Duration, now: Duration) {
        match outcome {
            Outcome::Failed {
                retry_after: Some(asked @ RetryAfter::Webhook(_)),
                ..
            } => self.was_asked(asked.wait(), began, now),
            Outcome::Accepted => self.was_accepted(began, now),
            Outcome::Gone | Outcome::Unsendable | Outcome::Failed { .. } => {}
        }
    }

    fn was_asked(&mut self, wait: Duration, began: Duration, now: Duration) {
        let Some(learned) = &mut self.learned else {
            let interval = wait.clamp(INTERVAL_MIN, FIRST_INTERVAL);
            self.next = now;
            self.learned = Some(Learned {
                interval,
                doubles: true,
                n_accepted: 0,
                n_since_wait: 0,
                run: FIRST_RUN,
                waited_at: now,
                stepped_at: now,
            });
            return;
        };
        if began <= learned.waited_at {
            // The request started before the wait was known, so its answer is ignored.
            return;
        }
        learned.interval = if learned.doubles || learned.n_since_wait < FEW {
            learned.interval.saturating_mul(2)
        } else {
            learned.run = learned.run.saturating_mul(2).min(RUN_MAX);
            learned.interval.saturating_mul(10) / 9
        }
        // The interval is at most the requested wait, because the receiver accepts a request after
        // that wait.
        .min(wait.max(INTERVAL_MIN))
        .min(INTERVAL_MAX);
        learned.doubles = false;
        learned.n_accepted = 0;
        learned.n_since_wait = 0;
        learned.waited_at = now;
        learned.stepped_at = now;
    }

    fn was_accepted(&mut self, began: Duration, now: Duration) {
        let Some(learned) = &mut self.learned else {
            return;
        };
        if began <= learned.waited_at {
            return;
        }
        learned.n_accepted = learned.n_accepted.saturating_add(1);
        learned.n_since_wait = learned.n_since_wait.saturating_add(1);
        if now.saturating_sub(learned.waited_at) >= FORGET_AFTER {
            learned.doubles = true;
        }
        if now.saturating_sub(learned.stepped_at) < STEP {
            return;
        }
        if learned.doubles && learned.n_accepted > 1 {
            learned.interval /= 2;
        } else if !learned.doubles && learned.n_accepted >= learned.run {
            learned.interval = learned.interval.saturating_mul(9) / 10;
        } else {
            return;
        }
        learned.n_accepted = 0;
        learned.stepped_at = now;
        if learned.interval < INTERVAL_MIN {
            self.learned = None;
        }
    }
}
