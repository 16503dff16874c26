//! Decides whether an endpoint is down, and which deliveries it receives while it is down.
//!
//! Constraint: an endpoint that is down must not use up the attempts of all pending deliveries. A
//! few projects whose deliveries always fail must not stop the other projects. A single failure
//! does not show whether the endpoint or the project is the cause. An attempt *succeeds* here if
//! the endpoint accepts or refuses the delivery, because then the endpoint works. There are three
//! rules:
//!
//! - An endpoint is down after [`DOWN_AFTER`] projects in a row had an endpoint failure
//!   ([`Outcome::is_endpoint_failure`]). One success brings it up again.
//! - While an endpoint is down, the projects that have failed send only probes: together one
//!   delivery at a time, after the delays of the retry schedule. The other projects send in rounds.
//!   A round ends after [`ROUND`] failures, and the next round starts after a delay of the retry
//!   schedule. So a project whose deliveries succeed does not wait for failing projects, and the
//!   endpoint gets few requests.
//! - While an endpoint is down, the first failure of each other project uses up no attempt of the
//!   delivery's schedule.
//!
//! A project that failed becomes a *suspect* when another project, which had not failed, succeeds.
//! Failures of a suspect do not count towards [`DOWN_AFTER`]. If a project succeeds after its own
//! failure, the endpoint probably caused that failure. So the project is no suspect any more, and
//! neither are the others, except suspects that failed again while the endpoint was up.
//!
//! An endpoint that is up may ask the sender to wait ([`RetryAfter::Webhook`]). Then the attempt
//! does not count towards [`DOWN_AFTER`]. The store enforces the wait, and [`super::pace`] limits
//! the rate of requests. The wait uses up no attempt if [`DOWN_AFTER`] projects were asked to wait
//! since the last success. If fewer projects were asked, their deliveries may be the cause.
//!
//! This state is only in memory. After a restart, all endpoints are up.
//!
//! [`RetryAfter::Webhook`]: super::delivery::RetryAfter::Webhook

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::delivery::{self, Outcome};
use super::project::ProjectKey;

/// The number of projects that must fail in a row before an endpoint is down.
pub const DOWN_AFTER: usize = 3;

/// The number of projects that may fail in one round while the endpoint is down.
///
/// Far fewer projects usually fail while the endpoint works. In addition to probes, an endpoint
/// that is down gets about this many requests per delay of the retry schedule.
pub const ROUND: usize = 256;

/// Once there are this many suspects, no more are added. The same applies to failed projects.
///
/// A claim skips failed projects one by one, so the limit keeps claims fast. Projects beyond the
/// limit are not skipped, and their failures use up attempts.
const FAILED_MAX: usize = 4096;

/// The health of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The projects that failed since the last success, except suspects.
    ///
    /// As soon as there are [`DOWN_AFTER`], the endpoint is down and they move to [`Down`].
    failing: BTreeSet<ProjectKey>,
    suspects: BTreeMap<ProjectKey, Suspicion>,
    /// The projects that were asked to wait since the last success.
    ///
    /// Only [`DOWN_AFTER`] are kept, because more make no difference.
    asked: BTreeSet<ProjectKey>,
    /// Whether the last attempt probably did not reach the endpoint.
    ///
    /// This includes attempts of suspects, but not unsendable requests.
    is_unreachable: bool,
    down: Option<Down>,
}

/// How certain it is that the endpoint did not cause the failures of a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// The suspect failed before another project succeeded. The endpoint may have been down.
    Open,
    /// The suspect failed again while the endpoint was up.
    Confirmed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Down {
    since: Timestamp,
    /// The projects that send only probes.
    ///
    /// They failed since the last success, or were suspects when the endpoint went down.
    failed: BTreeSet<ProjectKey>,
    /// The number of failures that this round still allows.
    n_left: usize,
    /// The rounds that have ended, and the time of the next round.
    rounds: Probes,
    /// The failed probes of failed projects, and the time of the next probe.
    probes: Probes,
}

/// The number of failed probes or ended rounds, and the time of the next probe or round.
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
    /// If no such delivery is due and no attempt is in progress, send one delivery of any project
    /// as a probe, but not before `any_at`.
    Probe {
        /// The number of additional attempts that may start now.
        n_fresh: usize,
        /// The earliest time for a probe with a delivery of a failed project.
        any_at: Timestamp,
    },
    /// Send nothing until an attempt in progress ends.
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

/// The effect of an attempt on the endpoint's health and on the delivery's schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The change of the endpoint's health, if any.
    pub transition: Option<Transition>,
    /// Whether the attempt uses up one attempt of the delivery's schedule.
    pub uses_attempt: bool,
}

impl Effect {
    /// The attempt uses up one attempt of the schedule, and the health does not change.
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

    /// Whether the endpoint is down.
    pub fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// Whether this process may be unable to reach the endpoint. Another process may reach it.
    ///
    /// [`Endpoint::is_down`] alone does not show this: with fewer than [`DOWN_AFTER`] projects that
    /// are not suspects, it never becomes true. So one failure to reach the endpoint is enough.
    pub fn may_be_out_of_reach(&self) -> bool {
        self.is_down() || self.is_unreachable
    }

    /// The failed projects of an endpoint that is down. They send only probes.
    pub fn failed(&self) -> impl Iterator<Item = &ProjectKey> {
        self.down.iter().flat_map(|down| &down.failed)
    }

    /// Makes the next probe and the next round due now, if the endpoint is down.
    ///
    /// The queue calls this after an operator's command, because the operator may have fixed the
    /// cause of the failures. Otherwise the next probe may be due a day later.
    pub fn probe_soon(&mut self, now: Timestamp) {
        if let Some(down) = &mut self.down {
            for probes in [&mut down.rounds, &mut down.probes] {
                probes.next = probes.next.min(now);
            }
        }
    }

    /// Replaces the old keys of renamed projects with the new keys.
    pub fn moved(&mut self, moves: &HashMap<ProjectKey, ProjectKey>) {
        let new = |key: ProjectKey| moves.get(&key).cloned().unwrap_or(key);
        for keys in [&mut self.failing, &mut self.asked] {
            *keys = std::mem::take(keys).into_iter().map(new).collect();
        }
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
    /// `was_probe` is true if the attempt began while the endpoint was down.
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
        self.is_unreachable = outcome.is_unreachable();
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
            if self.asked.len() < DOWN_AFTER {
                self.asked.insert(key.clone());
            }
            return Effect {
                transition: None,
                uses_attempt: self.asked.len() < DOWN_AFTER,
            };
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

    /// Records that the endpoint accepted or refused a delivery, so it is up.
    fn works(&mut self, key: &ProjectKey, now: Timestamp) -> Option<Transition> {
        self.asked.clear();
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
    /// Returns the number of failures that the round at this time still allows.
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
