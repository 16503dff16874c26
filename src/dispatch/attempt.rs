//! One attempt: sent, judged, counted.
//!
//! Constraint: it decides nothing that outlives it. What came of it goes back to the queue, which
//! records it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Shared, Target};
use crate::domain::delivery::{self, Outcome, Verdict};
use crate::domain::event::{EventId, Origin};
use crate::domain::project::ProjectKey;
use crate::metrics::AttemptOutcome;
use crate::store::{AttemptLog, Claim, Finish};
use crate::webhook::{Callback, CallbackContent, EventName};

/// A delivery that is no longer in flight.
pub(super) struct Landed {
    pub(super) lane: ProjectKey,
    pub(super) event: EventId,
    pub(super) name: EventName,
    /// Of the settings that it was sent by.
    pub(super) fingerprint: [u8; 32],
    pub(super) outcome: Outcome,
    pub(super) was_probe: bool,
    pub(super) finish: Finish,
}

/// One attempt: sent, judged, counted.
pub(super) async fn fly(
    shared: Shared,
    target: Arc<Target>,
    settings: watch::Receiver<Arc<Target>>,
    claim: Claim,
    was_probe: bool,
) -> Landed {
    let Claim {
        delivery,
        attempt: number,
        scheduled_attempt,
        event,
        payload,
        origin,
    } = claim;
    let callback = Callback {
        content: CallbackContent::of(event, payload),
        attempt: number,
        origin,
    };
    let at = shared.clock.now();
    let attempt = target.client.send(&callback, at).await;
    let content = callback.content;
    let now = shared.clock.now();
    // Where the clock was set forward meanwhile, the next attempt is reckoned by the time as it was:
    // once it is set back, what began before that is not taken for reckoned by a wrong clock.
    let landed_at = at
        .checked_add(attempt.duration)
        .map_or(now, |by| by.min(now));
    let verdict = judge(
        attempt.outcome,
        scheduled_attempt,
        &target,
        &settings.borrow(),
        landed_at,
        (shared.jitter)(),
    );
    let outcome = attempt.outcome;
    let webhook = target.webhook.name();
    count(
        &shared,
        webhook,
        &content,
        origin,
        &verdict,
        at,
        attempt.duration,
    );
    let finish = Finish {
        delivery,
        attempt: AttemptLog {
            number,
            at,
            duration: attempt.duration,
            status: attempt.status,
            error: attempt.error,
            answer: attempt.answer,
            request_headers: attempt.request_headers,
        },
        verdict,
    };
    Landed {
        lane: content.key,
        event: content.id,
        name: content.event,
        fingerprint: target.fingerprint,
        outcome,
        was_probe,
        finish,
    }
}

/// Counts an attempt.
fn count(
    shared: &Shared,
    webhook: &str,
    content: &CallbackContent,
    origin: Origin,
    verdict: &Verdict,
    at: Timestamp,
    took: Duration,
) {
    let outcome = match verdict {
        Verdict::Delivered => AttemptOutcome::Delivered,
        Verdict::Retry(_) | Verdict::RetryAsAsked(_) => AttemptOutcome::Failed,
        Verdict::Dead => AttemptOutcome::Dead,
        Verdict::SwitchOff => AttemptOutcome::Gone,
    };
    shared.metrics.attempted(webhook, outcome, took);
    if outcome == AttemptOutcome::Delivered && origin == Origin::Live {
        // A file's time may be ahead of the clock.
        let until_sent = Duration::try_from(at.duration_since(content.occurred_at));
        let latency = until_sent.unwrap_or_default().saturating_add(took);
        shared.metrics.delivered_after(latency);
    }
}

/// What follows from an attempt. The settings may have changed while it was under way: then the
/// new schedule counts, what failed with the old settings is tried with the new ones at once, and
/// a 410 was said to a request that is not sent like that again.
fn judge(
    outcome: Outcome,
    scheduled_attempt: u32,
    used: &Target,
    current: &Target,
    now: Timestamp,
    jitter: f64,
) -> Verdict {
    let schedule = &current.webhook.schedule;
    let verdict = delivery::next(schedule, scheduled_attempt, outcome, now, jitter);
    if used.fingerprint == current.fingerprint {
        return verdict;
    }
    match verdict {
        Verdict::SwitchOff | Verdict::Retry(_) => Verdict::Retry(now),
        _ => verdict,
    }
}
