//! What the log says of attempts.
//!
//! Constraint: a dead endpoint, or ten thousand deliveries that all fail, must not fill the log; and
//! nobody may take silence for health. So the first of a minute are said in full, and the rest as
//! one number. All of them are in the store, and in the log at level debug.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::attempt::Landed;
use crate::domain::delivery::Verdict;
use crate::domain::log_limit::LogLimit;

/// The failures of one webhook.
#[derive(Debug, Default)]
pub(super) struct Failures(LogLimit);

impl Failures {
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
            if !self.0.allows(now) {
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
                "delivered: {}", landed.name.label
            ),
            Verdict::SwitchOff => error!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "the receiver answered 410 Gone: the webhook is switched off, and what waits for it \
                 is kept, until its configuration changes or `project-webhooks webhooks enable \
                 {webhook}`"
            ),
            Verdict::Retry(next) | Verdict::RetryAsAsked(next) => warn!(
                webhook, %event_id, %project, attempt = number, ms, status, %next,
                "failed: {reason}; it is tried again"
            ),
            Verdict::Dead => error!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "dead after the last attempt: {reason}; the delivery is kept, and once the reason \
                 is mended `project-webhooks deliveries redeliver --webhook {webhook}` sends it again"
            ),
        }
    }

    /// Says how many failures were not said one by one, when it is time to.
    pub(super) fn sum_up(&mut self, webhook: &str, now: Duration) {
        if let Some(n_failed) = self.0.take_suppressed(now) {
            warn!(
                webhook,
                n_failed,
                "more attempts failed within a minute than are said one by one; \
                 `project-webhooks deliveries --webhook {webhook}` lists them"
            );
        }
    }
}
