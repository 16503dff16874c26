//! Decides whether an endpoint is down, and paces the probes while it is.
//!
//! Constraint: an endpoint that is down must not use up the attempts of all pending deliveries,
//! and one project whose deliveries fail must not stop the other projects. So an endpoint is down
//! after consecutive failures of its own ([`FailureCause::Endpoint`]) in several projects. While it
//! is down, the queue sends one delivery at a time as a probe, by the schedule. Each probe takes
//! the delivery that has been due the longest, so that no single delivery pays for all.
//!
//! This state is in memory only: a restart starts without it.
//!
//! [`FailureCause::Endpoint`]: super::delivery::FailureCause::Endpoint

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::delivery::{self, Outcome, Verdict};
use super::project::ProjectKey;

/// The number of projects with consecutive failures that makes an endpoint "down".
pub const DOWN_AFTER: usize = 3;

/// The health of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The projects of the consecutive failures, at most [`DOWN_AFTER`].
    failing: BTreeSet<ProjectKey>,
    /// The latest time that a Retry-After of these failures asked for: no probe before it.
    asked_until: Option<Timestamp>,
    down: Option<Down>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Down {
    since: Timestamp,
    n_failed_probes: u32,
    next_probe: Timestamp,
}

/// The deliveries that the queue may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All due deliveries.
    Everything,
    /// One due delivery, as a probe.
    Probe,
    /// Nothing before the attempts in flight have ended.
    AfterInFlight,
    /// Nothing before this time.
    Nothing(Timestamp),
}

/// A change of the endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The endpoint went down; the next probe is at this time.
    Down(Timestamp),
    /// The endpoint is up again, after being down for this long.
    Up(Duration),
}

impl Endpoint {
    /// Returns what the queue may send now, with `n_in_flight` attempts in flight.
    pub fn admit(&self, now: Timestamp, n_in_flight: usize) -> Admission {
        match self.down {
            None => Admission::Everything,
            Some(_) if n_in_flight > 0 => Admission::AfterInFlight,
            Some(down) if down.next_probe <= now => Admission::Probe,
            Some(down) => Admission::Nothing(down.next_probe),
        }
    }

    /// Makes the next probe of a down endpoint due now, or when its Retry-After allows.
    ///
    /// Called when an operator changed something: the probes may be a day apart by now, and the
    /// reason for the failures may be fixed.
    pub fn probe_soon(&mut self, now: Timestamp) {
        if let Some(down) = &mut self.down {
            let earliest = self.asked_until.map_or(now, |asked| asked.max(now));
            down.next_probe = down.next_probe.min(earliest);
        }
    }

    /// Records the outcome of an attempt; returns whether the endpoint went down or up by it.
    ///
    /// `was_probe` tells a probe from an attempt that was in flight when the endpoint went down.
    pub fn attempt_ended(
        &mut self,
        key: &ProjectKey,
        outcome: Outcome,
        was_probe: bool,
        schedule: &[Duration],
        now: Timestamp,
        jitter: f64,
    ) -> Option<Transition> {
        if !outcome.is_endpoint_failure() {
            self.failing.clear();
            self.asked_until = None;
            return self.down.take().map(|down| {
                let after = Duration::try_from(now.duration_since(down.since));
                Transition::Up(after.unwrap_or_default())
            });
        }
        self.asked_until = self.asked_until.max(asked_until(outcome, now));
        let not_sooner = |at: Timestamp| self.asked_until.map_or(at, |asked| asked.max(at));
        if let Some(down) = &mut self.down {
            if was_probe {
                down.n_failed_probes = down.n_failed_probes.saturating_add(1);
                down.next_probe = probe_time(schedule, down.n_failed_probes, now, jitter);
            }
            down.next_probe = not_sooner(down.next_probe);
            return None;
        }
        if self.failing.len() < DOWN_AFTER {
            self.failing.insert(key.clone());
        }
        if self.failing.len() < DOWN_AFTER {
            return None;
        }
        let next_probe = not_sooner(probe_time(schedule, 0, now, jitter));
        self.down = Some(Down {
            since: now,
            n_failed_probes: 0,
            next_probe,
        });
        Some(Transition::Down(next_probe))
    }
}

/// Returns the time of the next probe after this many failed ones.
///
/// Probes follow the delivery schedule, and repeat its last delay for as long as they fail.
fn probe_time(
    schedule: &[Duration],
    n_failed_probes: u32,
    now: Timestamp,
    jitter: f64,
) -> Timestamp {
    // A schedule of one attempt has no delay. A minute bounds the probes of a dead endpoint.
    const MINUTE: [Duration; 2] = [Duration::ZERO, Duration::from_secs(60)];
    let schedule = if schedule.len() < 2 {
        &MINUTE
    } else {
        schedule
    };
    let last = u32::try_from(schedule.len() - 1).unwrap_or(u32::MAX);
    let attempt = n_failed_probes.saturating_add(1).min(last);
    delivery::next(schedule, attempt, Outcome::NO_ANSWER, now, jitter)
        .retry_at()
        .unwrap_or(now)
}

/// Returns the time that a Retry-After asks for, within its bounds.
fn asked_until(outcome: Outcome, now: Timestamp) -> Option<Timestamp> {
    match delivery::next(&[Duration::ZERO; 2], 1, outcome, now, 0.0) {
        Verdict::RetryAsAsked(at) => Some(at),
        _ => None,
    }
}
