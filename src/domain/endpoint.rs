//! Decides whether an endpoint is down, and when to probe it.
//!
//! Constraint: an endpoint that is down must not use up the attempts of all pending deliveries. But
//! projects whose deliveries fail must not stop other projects. So an endpoint is down only after
//! failures of the endpoint ([`FailureCause::Endpoint`]) in several projects that had not failed
//! before. One success makes it up again. If a project fails while the endpoint works for another
//! one, it is a *suspect*. Failures of a suspect do not count until it succeeds.
//!
//! While an endpoint is down, the queue sends one delivery at a time as a probe, by the retry
//! schedule. It prefers projects that have not failed, because only they can distinguish an outage
//! from suspects. If there is none, it sends the delivery that has been due the longest. Such a probe
//! does not postpone the probe of a project that has not failed. So a new project never waits for
//! suspects.
//!
//! This state is only in memory. After a restart, all endpoints are up.
//!
//! [`FailureCause::Endpoint`]: super::delivery::FailureCause::Endpoint

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::delivery::{self, Outcome};
use super::project::ProjectKey;

/// The number of projects with consecutive failures after which an endpoint is down.
pub const DOWN_AFTER: usize = 3;

/// The maximum number of suspects, and of projects that failed since the endpoint went down.
///
/// The limit keeps claims fast, because a claim for a probe skips these projects one by one. A
/// project beyond the limit is probed again.
const FAILED_MAX: usize = 1024;

/// The health of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The projects that failed in a row, except suspects. There are at most [`DOWN_AFTER`].
    failing: BTreeSet<ProjectKey>,
    suspects: BTreeSet<ProjectKey>,
    down: Option<Down>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Down {
    since: Timestamp,
    /// The projects that failed since the endpoint went down, and the earlier suspects.
    failed: BTreeSet<ProjectKey>,
    /// The probes by deliveries of projects that had not failed.
    fresh: Probes,
    /// The probes by deliveries of any project.
    all: Probes,
}

/// The number of failed probes, and the time of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probes {
    n_failed: u32,
    next: Timestamp,
}

/// The deliveries that the queue may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send all due deliveries.
    Everything,
    /// Send one due delivery as a probe, of a project that is not in [`Endpoint::failed`].
    ///
    /// If there is none, send one of any project, but not before `any_at`.
    Probe {
        /// The earliest time for a probe with a delivery of a failed project.
        any_at: Timestamp,
    },
    /// Send nothing until the attempts in progress have ended.
    AfterInFlight,
    /// Send nothing before this time.
    Nothing(Timestamp),
}

/// A change of the endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The endpoint went down. The next probe is at this time.
    Down(Timestamp),
    /// The endpoint is up again, after being down for this long.
    Up(Duration),
}

impl Endpoint {
    /// Decides which deliveries the queue may send now. `n_in_flight` attempts are in progress.
    pub fn admit(&self, now: Timestamp, n_in_flight: usize) -> Admission {
        match &self.down {
            None => Admission::Everything,
            Some(_) if n_in_flight > 0 => Admission::AfterInFlight,
            Some(down) if down.fresh.next <= now => Admission::Probe {
                any_at: down.all.next,
            },
            Some(down) => Admission::Nothing(down.fresh.next),
        }
    }

    /// The projects that a probe avoids.
    pub fn failed(&self) -> impl Iterator<Item = &ProjectKey> {
        self.down.iter().flat_map(|down| &down.failed)
    }

    /// Makes the next probe of a down endpoint due now.
    ///
    /// The queue calls it after an operator's command. The operator may have fixed the cause of the
    /// failures, and the next probe may be a day away.
    pub fn probe_soon(&mut self, now: Timestamp) {
        if let Some(down) = &mut self.down {
            for probes in [&mut down.fresh, &mut down.all] {
                probes.next = probes.next.min(now);
            }
        }
    }

    /// Records the outcome of an attempt. Returns the transition if the endpoint went down or up.
    ///
    /// `was_probe` is false for an attempt that was already in progress when the endpoint went down.
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
            return self.works(key, now);
        }
        let next_probe = |n_failed| probe_time(schedule, n_failed, now, jitter);
        if let Some(down) = &mut self.down {
            let is_fresh = !down.failed.contains(key);
            if is_fresh && down.failed.len() < FAILED_MAX {
                down.failed.insert(key.clone());
            }
            if was_probe && is_fresh {
                down.fresh.n_failed = down.fresh.n_failed.saturating_add(1);
                down.fresh.next = next_probe(down.fresh.n_failed);
            }
            if was_probe {
                down.all.n_failed = down.all.n_failed.saturating_add(1);
                down.all.next = next_probe(down.all.n_failed);
            }
            return None;
        }
        if self.suspects.contains(key) {
            return None;
        }
        self.failing.insert(key.clone());
        if self.failing.len() < DOWN_AFTER {
            return None;
        }
        let fresh = Probes {
            n_failed: 0,
            next: next_probe(0),
        };
        let all = Probes {
            n_failed: 1,
            next: next_probe(1),
        };
        let mut failed = std::mem::take(&mut self.failing);
        failed.append(&mut self.suspects);
        self.down = Some(Down {
            since: now,
            failed,
            fresh,
            all,
        });
        Some(Transition::Down(fresh.next))
    }

    /// Records that the endpoint works for this project.
    fn works(&mut self, key: &ProjectKey, now: Timestamp) -> Option<Transition> {
        self.suspects.append(&mut self.failing);
        let transition = self.down.take().map(|mut down| {
            self.suspects.append(&mut down.failed);
            let after = Duration::try_from(now.duration_since(down.since));
            Transition::Up(after.unwrap_or_default())
        });
        self.suspects.remove(key);
        while self.suspects.len() > FAILED_MAX {
            self.suspects.pop_first();
        }
        transition
    }
}

/// Returns the time of the next probe after this many failed probes.
///
/// Probes follow the retry schedule. After its end they repeat the last delay.
fn probe_time(
    schedule: &[Duration],
    n_failed_probes: u32,
    now: Timestamp,
    jitter: f64,
) -> Timestamp {
    // A schedule of one attempt has no retry delay. Then probes are a minute apart.
    const MINUTE: [Duration; 2] = [Duration::ZERO, Duration::from_secs(60)];
    let schedule = if schedule.len() < 2 {
        &MINUTE
    } else {
        schedule
    };
    let last = u32::try_from(schedule.len() - 1).unwrap_or(u32::MAX);
    let attempt = n_failed_probes.min(last);
    delivery::next(schedule, attempt, Outcome::NO_ANSWER, now, jitter)
        .retry_at()
        .unwrap_or(now)
}
