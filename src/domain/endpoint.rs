//! Decides whether an endpoint is down, and which deliveries it gets meanwhile.
//!
//! Constraint: an endpoint that is down must not use up the attempts of all pending deliveries. But
//! projects whose deliveries fail must not stop other projects. Both kinds of failure look the same,
//! so three rules serve both:
//!
//! - An endpoint is down after failures of the endpoint ([`FailureCause::Endpoint`]) in several
//!   projects that had not failed before. One success makes it up again.
//! - While an endpoint is down, a project that has failed sends only probes: one delivery at a time,
//!   by the retry schedule. Other projects send as usual, in rounds of at most [`ROUND`] failures. A
//!   round after the first one also waits for the schedule. So a project that works does not wait for
//!   projects that fail, and an endpoint gets few requests while it is down.
//! - The first failure of a project while the endpoint is down uses up no attempt of the schedule.
//!
//! If a project fails while the endpoint works for another one, it is a *suspect*. Failures of a
//! suspect do not count until it succeeds. If a suspect succeeds, its failure was the endpoint's. So
//! the others are no longer suspects either, except those that failed again while the endpoint was up.
//!
//! A request to wait ([`RetryAfter::Webhook`]) is no failure of an endpoint that is up. The store
//! enforces the wait, and [`super::pace`] the time between requests.
//!
//! This state is only in memory. After a restart, all endpoints are up.
//!
//! [`FailureCause::Endpoint`]: super::delivery::FailureCause::Endpoint
//! [`RetryAfter::Webhook`]: super::delivery::RetryAfter::Webhook

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::delivery::{self, Outcome};
use super::project::ProjectKey;

/// The number of projects with consecutive failures after which an endpoint is down.
pub const DOWN_AFTER: usize = 3;

/// The number of projects that may fail in one round while the endpoint is down.
///
/// It is above the number of projects that usually fail for a reason of their own. An endpoint that is
/// down gets at most this many requests in each delay of the retry schedule.
pub const ROUND: usize = 256;

/// The maximum number of suspects, and of projects that failed since the endpoint went down.
///
/// The limit keeps claims fast, because a claim skips these projects one by one. A project beyond the
/// limit sends again, and its failures count as attempts.
const FAILED_MAX: usize = 4096;

/// The health of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The projects that failed in a row, except suspects. There are at most [`DOWN_AFTER`].
    failing: BTreeSet<ProjectKey>,
    suspects: BTreeMap<ProjectKey, Suspicion>,
    down: Option<Down>,
}

/// The evidence against a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// It failed when others failed as well. Perhaps the endpoint was down.
    Open,
    /// It failed again while the endpoint was up.
    Confirmed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Down {
    since: Timestamp,
    /// The projects that failed since the endpoint went down, and the earlier suspects.
    failed: BTreeSet<ProjectKey>,
    /// How many projects may still fail in this round.
    n_left: usize,
    /// The rounds of projects that had not failed. A round that fails completely ends.
    rounds: Probes,
    /// The probes by deliveries of failed projects.
    probes: Probes,
}

/// The number of failed probes or rounds, and the time of the next one.
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
    /// Send at most `n_fresh` due deliveries of projects that are not in [`Endpoint::failed`].
    ///
    /// If none is due and no attempt is in progress, send one of any project as a probe, but not
    /// before `any_at`.
    Probe {
        /// The number of further deliveries of projects that have not failed.
        n_fresh: usize,
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
    /// The endpoint went down. The next probe of a failed project is at this time.
    Down(Timestamp),
    /// The endpoint is up again, after being down for this long.
    Up(Duration),
}

/// The effect of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The change of the endpoint's health, if any.
    pub transition: Option<Transition>,
    /// Whether the attempt uses up one of the attempts in the schedule of its delivery.
    pub uses_attempt: bool,
}

impl Effect {
    /// The attempt is used up, and the health stays the same.
    const NONE: Effect = Effect {
        transition: None,
        uses_attempt: true,
    };

    fn of(transition: Transition) -> Self {
        Self {
            transition: Some(transition),
            uses_attempt: true,
        }
    }
}

impl Endpoint {
    /// Decides which deliveries the queue may send now. `n_in_flight` attempts are in progress.
    pub fn admit(&self, now: Timestamp, n_in_flight: usize) -> Admission {
        let Some(down) = &self.down else {
            return Admission::Everything;
        };
        let n_fresh = down.n_left_at(now).saturating_sub(n_in_flight);
        let any_at = down.probes.next;
        if n_fresh > 0 || (n_in_flight == 0 && any_at <= now) {
            Admission::Probe { n_fresh, any_at }
        } else if n_in_flight > 0 {
            Admission::AfterInFlight
        } else {
            Admission::Nothing(any_at.min(down.rounds.next))
        }
    }

    /// The projects that send only probes.
    pub fn failed(&self) -> impl Iterator<Item = &ProjectKey> {
        self.down.iter().flat_map(|down| &down.failed)
    }

    /// Makes the next probe of a down endpoint due now.
    ///
    /// The queue calls it after an operator's command. The operator may have fixed the cause of the
    /// failures, and the next probe may be a day away.
    pub fn probe_soon(&mut self, now: Timestamp) {
        if let Some(down) = &mut self.down {
            for probes in [&mut down.rounds, &mut down.probes] {
                probes.next = probes.next.min(now);
            }
        }
    }

    /// Takes over renamed projects, from their former keys to the new ones.
    pub fn moved(&mut self, moves: &HashMap<ProjectKey, ProjectKey>) {
        let new = |key: ProjectKey| moves.get(&key).cloned().unwrap_or(key);
        self.failing = std::mem::take(&mut self.failing)
            .into_iter()
            .map(new)
            .collect();
        self.suspects = std::mem::take(&mut self.suspects)
            .into_iter()
            .map(|(key, suspicion)| (new(key), suspicion))
            .collect();
        if let Some(down) = &mut self.down {
            down.failed = std::mem::take(&mut down.failed)
                .into_iter()
                .map(new)
                .collect();
        }
    }

    /// Records the outcome of an attempt.
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
    ) -> Effect {
        if outcome == Outcome::Unsendable {
            return Effect::NONE;
        }
        if !outcome.is_endpoint_failure() {
            return self.works(key, now).map_or(Effect::NONE, Effect::of);
        }
        let next_probe = |n_failed| probe_time(schedule, n_failed, now, jitter);
        if let Some(down) = &mut self.down {
            let uses_attempt = down.failed(key, was_probe, now, next_probe);
            return Effect {
                transition: None,
                uses_attempt,
            };
        }
        if outcome.asks_webhook_to_rest() {
            return Effect::NONE;
        }
        if let Some(suspicion) = self.suspects.get_mut(key) {
            *suspicion = Suspicion::Confirmed;
            return Effect::NONE;
        }
        self.failing.insert(key.clone());
        if self.failing.len() < DOWN_AFTER {
            return Effect::NONE;
        }
        let probes = Probes {
            n_failed: 1,
            next: next_probe(1),
        };
        let mut failed = std::mem::take(&mut self.failing);
        failed.extend(self.suspects.keys().cloned());
        self.down = Some(Down {
            since: now,
            failed,
            n_left: ROUND,
            rounds: Probes {
                n_failed: 0,
                next: now,
            },
            probes,
        });
        Effect::of(Transition::Down(probes.next))
    }

    /// Records that the endpoint works for this project.
    fn works(&mut self, key: &ProjectKey, now: Timestamp) -> Option<Transition> {
        let failing = std::mem::take(&mut self.failing);
        let down = self.down.take();
        let transition = down.as_ref().map(|down| {
            let after = Duration::try_from(now.duration_since(down.since));
            Transition::Up(after.unwrap_or_default())
        });
        let failed = down.map(|down| down.failed).unwrap_or_default();
        let was_endpoints_failure =
            self.suspects.remove(key).is_some() || failing.contains(key) || failed.contains(key);
        if was_endpoints_failure {
            self.suspects
                .retain(|_, suspicion| *suspicion == Suspicion::Confirmed);
            return transition;
        }
        for key in failing.into_iter().chain(failed) {
            if self.suspects.len() < FAILED_MAX {
                self.suspects.entry(key).or_insert(Suspicion::Open);
            }
        }
        transition
    }
}

impl Down {
    /// How many projects may still fail in the round at this time.
    fn n_left_at(&self, now: Timestamp) -> usize {
        if self.n_left == 0 && self.rounds.next <= now {
            ROUND
        } else {
            self.n_left
        }
    }

    /// Records a failed attempt. Returns whether it uses up an attempt of the schedule.
    fn failed(
        &mut self,
        key: &ProjectKey,
        was_probe: bool,
        now: Timestamp,
        next_probe: impl Fn(u32) -> Timestamp,
    ) -> bool {
        if self.failed.contains(key) {
            if was_probe {
                self.probes.n_failed = self.probes.n_failed.saturating_add(1);
                self.probes.next = next_probe(self.probes.n_failed);
            }
            return true;
        }
        self.n_left = self.n_left_at(now).saturating_sub(1);
        if self.n_left == 0 {
            self.rounds.n_failed = self.rounds.n_failed.saturating_add(1);
            self.rounds.next = next_probe(self.rounds.n_failed);
        }
        if self.failed.len() >= FAILED_MAX {
            return true;
        }
        self.failed.insert(key.clone());
        false
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
