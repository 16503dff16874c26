//! Makes one attempt: sends a claimed delivery and judges the answer.
//!
//! Constraint: this module keeps no state. The queue records the results of attempts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Shared, Target};
use crate::domain::delivery::{self, Outcome, Verdict};
use crate::domain::event::{EventId, Origin};
use crate::domain::project::ProjectKey;
use crate::metrics::AttemptOutcome;
use crate::store::{AttemptLog, Claim, Finish, Hold};
use crate::traces::{AttemptSpan, EndedAttempt};
use crate::webhook::{Attempt, Callback, CallbackContent, EventName, MayBegin};

/// An attempt that has ended.
pub(super) struct Ended {
    content: CallbackContent,
    /// The key of the project when the delivery was claimed.
    project: ProjectKey,
    delivery: i64,
    /// The number of the attempt in the delivery. `scheduled` is its number in the retry schedule.
    number: u32,
    scheduled: u32,
    n_redeliveries: u32,
    origin: Origin,
    /// The settings with which the attempt was made.
    used: Arc<Target>,
    was_probe: bool,
    /// The number of commits with renames before the attempt began.
    n_moves: usize,
    began: Timestamp,
    ended: Timestamp,
    attempt: Attempt,
}

/// An attempt with its verdict.
pub(super) struct AttemptResult {
    pub(super) project: ProjectKey,
    pub(super) event: EventId,
    pub(super) name: EventName,
    pub(super) finish: Finish,
}

/// Sends a claimed delivery, if the claim is still valid when the request begins.
///
/// `n_moves` is the number of commits with renames so far.
pub(super) async fn send(
    shared: Arc<Shared>,
    target: Arc<Target>,
    (claim, hold): (Claim, Hold),
    is_probe: bool,
    n_moves: usize,
) -> Ended {
    let span = AttemptSpan::of(&claim.event.id, claim.delivery, claim.attempt);
    let callback = Callback {
        traceparent: shared.traces.is_some().then(|| span.traceparent()),
        content: CallbackContent::of(claim.event, claim.payload),
        attempt: claim.attempt,
        origin: claim.origin,
    };
    let began = shared.now();
    let may_begin: MayBegin = Arc::new(move || hold.is_valid());
    let attempt = target.client.send_if(&callback, began, &may_begin).await;
    let now = shared.now();
    // The end is the start plus the duration, but at most the current time. If the clock were set
    // forward during the attempt and back later, the current time alone would make the next attempt
    // far too late.
    let ended = began
        .checked_add(attempt.duration)
        .map_or(now, |by| by.min(now));
    if let Some(traces) = &shared.traces
        && !attempt.is_withheld
    {
        let ended = EndedAttempt {
            webhook: target.webhook.name(),
            began,
            ended,
            status: attempt.status,
            error: attempt.error.as_deref(),
            has_failed: attempt.outcome != Outcome::Accepted,
        };
        traces.attempted(&span, &ended);
    }
    Ended {
        content: callback.content,
        project: claim.key,
        delivery: claim.delivery,
        number: claim.attempt,
        scheduled: claim.scheduled_attempt,
        n_redeliveries: claim.n_redeliveries,
        origin: claim.origin,
        used: target,
        was_probe: is_probe,
        n_moves,
        began,
        ended,
        attempt,
    }
}

impl AttemptResult {
    /// Whether the queue must send nothing until this result is recorded.
    ///
    /// This is necessary if the receiver switched the webhook off, or requested a wait for all
    /// deliveries. Once the result is recorded, the store makes the queue wait.
    pub(super) fn pauses_webhook(&self) -> bool {
        self.finish.verdict == Verdict::SwitchOff || self.finish.rests_until.is_some()
    }
}

impl Ended {
    /// The size of the payload, in bytes.
    pub(super) fn n_bytes(&self) -> usize {
        self.content.payload.len()
    }

    pub(super) fn project(&self) -> &ProjectKey {
        &self.project
    }

    pub(super) fn n_moves(&self) -> usize {
        self.n_moves
    }

    /// Whether no request began, because the claim might have ended.
    pub(super) fn was_withheld(&self) -> bool {
        self.attempt.is_withheld
    }

    /// Returns the project's key at the time of the claim, and the id of the delivery.
    pub(super) fn lane(self) -> (ProjectKey, i64) {
        (self.project, self.delivery)
    }

    pub(super) fn was_probe(&self) -> bool {
        self.was_probe
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.attempt.outcome
    }

    pub(super) fn took(&self) -> Duration {
        self.attempt.duration
    }

    /// Whether the attempt was made with settings of this fingerprint.
    pub(super) fn used(&self, fingerprint: &[u8; 32]) -> bool {
        self.used.fingerprint == *fingerprint
    }

    /// Returns the result of the attempt under the current settings. Updates the metrics.
    ///
    /// `uses_attempt` is false for a failure that uses up no attempt of the schedule.
    pub(super) fn judge(
        self,
        current: &Target,
        shared: &Shared,
        uses_attempt: bool,
    ) -> AttemptResult {
        let verdict = self.verdict(current, (shared.jitter)(), uses_attempt);
        self.count(verdict, shared);
        let retry_at = (verdict == Verdict::SwitchOff).then(|| {
            let schedule = &current.webhook.schedule;
            delivery::retry_of_gone(schedule, self.scheduled, self.ended, (shared.jitter)())
        });
        let attempt = self.attempt;
        AttemptResult {
            project: self.project,
            event: self.content.id,
            name: self.content.event,
            finish: Finish {
                delivery: self.delivery,
                attempt: AttemptLog {
                    number: self.number,
                    at: self.began,
                    duration: attempt.duration,
                    status: attempt.status,
                    error: attempt.error,
                    answer: attempt.answer,
                    request_headers: attempt.request_headers,
                },
                verdict,
                n_redeliveries: self.n_redeliveries,
                fingerprint: Some(self.used.fingerprint),
                rests_until: delivery::rests_until(attempt.outcome, self.ended),
                retry_at,
            },
        }
    }

    /// Returns the verdict according to the current schedule.
    ///
    /// If the settings changed during a failed attempt, the next attempt is due immediately. Even
    /// an answer 410 does not switch the webhook off then, because it is about the old settings.
    fn verdict(&self, current: &Target, jitter: f64, uses_attempt: bool) -> Verdict {
        let schedule = &current.webhook.schedule;
        let outcome = self.attempt.outcome;
        let rule = if uses_attempt {
            delivery::next
        } else {
            delivery::repeat
        };
        let verdict = rule(schedule, self.scheduled, outcome, self.ended, jitter);
        if self.used.fingerprint == current.fingerprint {
            verdict
        } else {
            verdict.with_changed_settings(self.ended)
        }
    }

    fn count(&self, verdict: Verdict, shared: &Shared) {
        let outcome = match verdict {
            Verdict::Delivered => AttemptOutcome::Delivered,
            Verdict::Retry(_)
            | Verdict::RetryAsAsked(_)
            | Verdict::Repeat(_)
            | Verdict::RepeatAsAsked(_) => AttemptOutcome::Failed,
            Verdict::Dead => AttemptOutcome::Dead,
            Verdict::SwitchOff => AttemptOutcome::Gone,
        };
        let took = self.attempt.duration;
        let webhook = self.used.webhook.name();
        let moment = shared.clock.moment();
        shared.metrics.attempted(webhook, outcome, took, moment);
        if outcome == AttemptOutcome::Delivered && self.origin == Origin::Live {
            // The change time of a file may be in the future. Then the latency is the duration of
            // the attempt.
            let until_sent =
                Duration::try_from(self.began.duration_since(self.content.occurred_at));
            let latency = until_sent.unwrap_or_default().saturating_add(took);
            shared.metrics.delivered_after(latency, moment);
        }
    }
}
