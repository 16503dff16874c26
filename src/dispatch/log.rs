//! Logs attempts.
//!
//! Constraint: ten thousand failing deliveries must not fill the log, but the log must show that
//! attempts fail. So the first failures of each minute are logged in full, and further failures are
//! counted. At level debug, all attempts are logged.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::attempt::AttemptResult;
use crate::domain::delivery::Verdict;
use crate::domain::endpoint::Transition;
use crate::domain::log_limit::LogLimit;

/// Logs the attempts of one webhook.
///
/// Dead deliveries need an operator, so they have their own limit. Retries must not hide them.
#[derive(Debug, Default)]
pub(super) struct AttemptLogger {
    retries: LogLimit,
    dead: LogLimit,
}

impl AttemptLogger {
    /// Logs a result.
    ///
    /// Of the retries and of the dead deliveries, only the first of each minute are logged in full.
    pub(super) fn log(&mut self, webhook: &str, result: &AttemptResult, now: Duration) {
        let attempt = &result.finish.attempt;
        let (event_id, project, number) = (&result.event, &result.project, attempt.number);
        let ms = u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX);
        let status = attempt.status;
        let reason = attempt.error.as_deref().unwrap_or("no reason given");
        let (verdict, delivery) = (result.finish.verdict, result.finish.delivery);
        self.log_count(webhook, now);
        let limit = match verdict {
            Verdict::Delivered | Verdict::SwitchOff => None,
            Verdict::Dead => Some(&mut self.dead),
            _ => Some(&mut self.retries),
        };
        if limit.is_some_and(|limit| !limit.allows(now)) {
            debug!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "failed: {reason}"
            );
            return;
        }
        match verdict {
            Verdict::Delivered => info!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "delivered: {}", result.name.label
            ),
            Verdict::SwitchOff => error!(
                webhook, %event_id, %project, attempt = number, ms, status,
                "the receiver answered 410 Gone, so the webhook is switched off and its deliveries \
                 are kept. To switch the webhook on, change its configuration or run `project-webhooks webhooks enable {webhook}`"
            ),
            Verdict::Retry(next)
            | Verdict::RetryAsAsked(next)
            | Verdict::Repeat(next)
            | Verdict::RepeatAsAsked(next) => warn!(
                webhook, %event_id, %project, attempt = number, ms, status, %next,
                "failed: {reason}; retrying"
            ),
            Verdict::Dead => error!(
                webhook, delivery, %event_id, %project, attempt = number, ms, status,
                "given up: {reason}. After fixing the cause, send the delivery again with \
                 `project-webhooks deliveries redeliver {delivery}`, or all dead deliveries of the \
                 webhook with `--webhook {webhook}` instead of the id"
            ),
        }
    }

    /// Logs once a minute how many failures were not logged in full.
    pub(super) fn log_count(&mut self, webhook: &str, now: Duration) {
        if let Some(n_dead) = self.dead.take_suppressed(now) {
            error!(
                webhook,
                n_dead,
                "further deliveries were given up in the last minute; `project-webhooks deliveries \
                 --webhook {webhook} --state dead` lists the newest dead deliveries"
            );
        }
        if let Some(n_failed) = self.retries.take_suppressed(now) {
            warn!(
                webhook,
                n_failed,
                "further attempts failed in the last minute; `project-webhooks deliveries \
                 --webhook {webhook} --state pending` lists the newest pending deliveries"
            );
        }
    }
}

/// Logs that an endpoint went down or up.
pub(super) fn log_transition(webhook: &str, transition: Transition) {
    match transition {
        Transition::Down(next_probe) => warn!(
            webhook, %next_probe,
            "the endpoint seems to be down. Projects with a failed delivery wait, and one of their \
             deliveries is sent as a test at `next_probe`"
        ),
        Transition::Up(after) => info!(
            webhook,
            down_s = after.as_secs(),
            "the endpoint is up again; sending pending deliveries"
        ),
    }
}
