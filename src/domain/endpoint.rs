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

/// What the queue may send now.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::FailureCause;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a time")
    }

    fn key(project: &str) -> ProjectKey {
        ProjectKey::new("sales", project)
    }

    const SCHEDULE: [Duration; 3] = [
        Duration::ZERO,
        Duration::from_secs(5),
        Duration::from_secs(300),
    ];

    fn fail(
        endpoint: &mut Endpoint,
        project: &str,
        second: i64,
        was_probe: bool,
    ) -> Option<Transition> {
        end(endpoint, project, Outcome::NO_ANSWER, was_probe, second)
    }

    fn end(
        endpoint: &mut Endpoint,
        project: &str,
        outcome: Outcome,
        was_probe: bool,
        second: i64,
    ) -> Option<Transition> {
        let now = at(second);
        endpoint.attempt_ended(&key(project), outcome, was_probe, &SCHEDULE, now, 0.0)
    }

    fn asking(seconds: u64) -> Outcome {
        Outcome::Failed {
            cause: FailureCause::Endpoint,
            retry_after: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn consecutive_failures_in_several_projects_mean_down() {
        let mut endpoint = Endpoint::default();
        assert_eq!(fail(&mut endpoint, "a", 0, false), None);
        assert_eq!(fail(&mut endpoint, "b", 0, false), None);
        assert_eq!(endpoint.admit(at(0), 0), Admission::Everything);
        assert_eq!(
            fail(&mut endpoint, "c", 0, false),
            Some(Transition::Down(at(5)))
        );
        assert_eq!(endpoint.admit(at(4), 0), Admission::Nothing(at(5)));
        for second in [4, 5, 500] {
            assert_eq!(
                endpoint.admit(at(second), 1),
                Admission::AfterInFlight,
                "one at a time"
            );
        }
        assert_eq!(endpoint.admit(at(5), 0), Admission::Probe);
    }

    #[test]
    fn one_project_alone_never_means_down() {
        let mut endpoint = Endpoint::default();
        for second in 0..100 {
            assert_eq!(fail(&mut endpoint, "poison", second, false), None);
        }
        assert_eq!(endpoint.admit(at(100), 7), Admission::Everything);
    }

    #[test]
    fn any_answer_that_is_no_endpoint_failure_resets_the_count() {
        for outcome in [Outcome::Accepted, Outcome::REFUSED, Outcome::Gone] {
            let mut endpoint = Endpoint::default();
            fail(&mut endpoint, "a", 0, false);
            fail(&mut endpoint, "b", 0, false);
            end(&mut endpoint, "c", outcome, false, 0);
            assert_eq!(fail(&mut endpoint, "d", 0, false), None, "{outcome:?}");
        }
    }

    #[test]
    fn probes_follow_the_schedule_and_repeat_its_last_delay() {
        let mut endpoint = Endpoint::default();
        for project in ["a", "b", "c"] {
            fail(&mut endpoint, project, 0, false);
        }
        // An attempt that was in flight when it went down changes nothing.
        assert_eq!(fail(&mut endpoint, "d", 1, false), None);
        assert_eq!(endpoint.admit(at(5), 0), Admission::Probe);
        fail(&mut endpoint, "e", 5, true);
        assert_eq!(endpoint.admit(at(6), 0), Admission::Nothing(at(305)));
        fail(&mut endpoint, "f", 305, true);
        assert_eq!(endpoint.admit(at(306), 0), Admission::Nothing(at(605)));
        let back = end(&mut endpoint, "g", Outcome::Accepted, true, 605);
        assert_eq!(back, Some(Transition::Up(Duration::from_secs(605))));
        assert_eq!(endpoint.admit(at(605), 3), Admission::Everything);
    }

    #[test]
    fn a_probe_respects_retry_after() {
        let mut endpoint = Endpoint::default();
        for project in ["a", "b", "c"] {
            end(&mut endpoint, project, asking(60), false, 0);
        }
        assert_eq!(endpoint.admit(at(59), 0), Admission::Nothing(at(60)));
        let mut single = Endpoint::default();
        for project in ["a", "b", "c"] {
            let schedule = [Duration::ZERO];
            single.attempt_ended(
                &key(project),
                Outcome::NO_ANSWER,
                false,
                &schedule,
                at(0),
                0.0,
            );
        }
        assert_eq!(single.admit(at(59), 0), Admission::Nothing(at(60)));
    }

    #[test]
    fn an_operator_brings_the_probe_forward_up_to_retry_after() {
        let mut up = Endpoint::default();
        up.probe_soon(at(0));
        assert_eq!(up, Endpoint::default());

        let mut endpoint = Endpoint::default();
        for (project, second) in [("a", 0), ("b", 0), ("c", 0)] {
            fail(&mut endpoint, project, second, false);
        }
        fail(&mut endpoint, "d", 5, true);
        assert_eq!(endpoint.admit(at(10), 0), Admission::Nothing(at(305)));
        endpoint.probe_soon(at(10));
        assert_eq!(endpoint.admit(at(10), 0), Admission::Probe);
        // A later call does not postpone it.
        endpoint.probe_soon(at(20));
        assert_eq!(endpoint.admit(at(10), 0), Admission::Probe);

        // Attempts that were in flight ask for a longer wait, then for a shorter one.
        for (project, asked) in [("e", 60), ("f", 2)] {
            end(&mut endpoint, project, asking(asked), false, 10);
        }
        endpoint.probe_soon(at(11));
        assert_eq!(endpoint.admit(at(11), 0), Admission::Nothing(at(70)));
        // A success ends that as well.
        end(&mut endpoint, "g", Outcome::Accepted, false, 12);
        assert_eq!(endpoint, Endpoint::default());
    }
}
