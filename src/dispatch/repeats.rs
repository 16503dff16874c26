//! What the log says of attempts.
//!
//! Constraint: a dead endpoint, or ten thousand deliveries that all fail, must not fill the log; and
//! nobody may take silence for health. So the first of a minute are said in full, and the rest as
//! one number. All of them are in the store, and in the log at level debug.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::attempt::Landed;
use crate::domain::delivery::Verdict;

/// How many are said in full within one [`WINDOW`].
const IN_FULL: u32 = 5;
/// How long the rest is counted before the number is said.
const WINDOW: Duration = Duration::from_secs(60);

/// The failures of one webhook.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// When the window began, as a monotonic time; none where there was no failure since the last.
    began: Option<Duration>,
    n_said: u32,
    n_unsaid: u32,
}

impl Repeats {
    /// There is one more. Returns whether it is to be said in full.
    fn add(&mut self, now: Duration) -> bool {
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
    fn summary(&mut self, now: Duration) -> Option<u32> {
        let began = self.began?;
        if now.saturating_sub(began) < WINDOW {
            return None;
        }
        let n_unsaid = self.n_unsaid;
        *self = Self::default();
        (n_unsaid > 0).then_some(n_unsaid)
    }
}

impl Repeats {
    /// Says what came of an attempt: each that arrived, and of many failures the first ones and
    /// their number.
    pub(super) fn say(&mut self, webhook: &str, landed: &Landed, now: Duration) {
        let attempt = &landed.finish.attempt;
        let (event_id, project, number) = (&landed.event, &landed.lane, attempt.number);
        let ms = u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX);
        let status = attempt.status;
        let reason = attempt.error.as_deref().unwrap_or("no reason given");
        let is_failure = !matches!(
            landed.finish.verdict,
            Verdict::Delivered | Verdict::SwitchOff
        );
        if is_failure {
            self.sum_up(webhook, now);
            if !self.add(now) {
                debug!(
                    webhook, %event_id, %project, attempt = number, ms, status,
                    "failed: {reason}"
                );
                return;
            }
        }
        match landed.finish.verdict {
            Verdict::Delivered => info!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "delivered: {}", landed.kind.label()
            ),
            Verdict::SwitchOff => error!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "the receiver answered 410 Gone: the webhook is switched off until its \
                 configuration changes or it is enabled; what waits for it is kept"
            ),
            Verdict::Retry(next) => warn!(
                webhook, %event_id, %project, attempt = number, ms, status, %next,
                "failed: {reason}; it is tried again"
            ),
            Verdict::Dead => error!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "dead after the last attempt: {reason}; the delivery is kept and can be redelivered"
            ),
        }
    }

    /// Says how many failures were not said one by one, when it is time to.
    pub(super) fn sum_up(&mut self, webhook: &str, now: Duration) {
        if let Some(n_failed) = self.summary(now) {
            warn!(
                webhook,
                n_failed,
                "more attempts failed within a minute than are said one by one; \
                 `project-webhooks deliveries --webhook {webhook}` lists them"
            );
        }
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
