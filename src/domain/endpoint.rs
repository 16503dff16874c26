//! Whether an endpoint is down, and what may be sent to it meanwhile.
//!
//! Constraint: an endpoint that is down must not spend the attempts of everything that waits for
//! it, and a project whose deliveries fail for themselves must not stop the others. So it takes
//! failures in a row over different projects, and failures that are the endpoint's own: no answer,
//! 5xx or 429. While it is down one delivery at a time goes out as a probe, by the schedule; each
//! probe takes the delivery that waits longest, so that no one delivery pays for all.
//!
//! What is known here is in memory: a restart finds out anew.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::delivery::{self, Outcome, Verdict};
use super::project::ProjectKey;

/// A failure that asks for nothing.
const FAILED: Outcome = Outcome::Failed { retry_after: None };

/// Failures in a row, and projects they are of, from which on an endpoint counts as down.
pub const DOWN_AFTER: usize = 3;

/// What is known of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The projects of the failures in a row, at most [`DOWN_AFTER`].
    failing: BTreeSet<ProjectKey>,
    /// The latest time that a Retry-After of these failures asked for. No probe goes before it.
    asked_until: Option<Timestamp>,
    down: Option<Down>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Down {
    since: Timestamp,
    /// How many probes failed.
    probes: u32,
    next_probe: Timestamp,
}

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Whatever is due.
    Everything,
    /// One delivery that is due, as a probe.
    Probe,
    /// Nothing before what is in flight has landed.
    AfterLanding,
    /// Nothing before this time.
    Nothing(Timestamp),
}

/// A change of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is down, and probed next at this time.
    Down(Timestamp),
    /// It is back, after so long.
    Up(Duration),
}

/// Whether a failure is the endpoint's own and not the delivery's.
pub fn is_trouble(status: Option<u16>) -> bool {
    status.is_none_or(|status| status >= 500 || status == 429)
}

impl Endpoint {
    /// What may be sent now, with so many deliveries in flight.
    pub fn admit(&self, now: Timestamp, n_in_flight: usize) -> Admission {
        match self.down {
            None => Admission::Everything,
            Some(_) if n_in_flight > 0 => Admission::AfterLanding,
            Some(down) if down.next_probe <= now => Admission::Probe,
            Some(down) => Admission::Nothing(down.next_probe),
        }
    }

    /// An operator changed something: an endpoint that is down is probed as soon as it allows,
    /// for the pace of the probes may be a day by now, and the reason may be mended.
    pub fn hurry(&mut self, now: Timestamp) {
        if let Some(down) = &mut self.down {
            let earliest = self.asked_until.map_or(now, |asked| asked.max(now));
            down.next_probe = down.next_probe.min(earliest);
        }
    }

    /// When it went down, if it is.
    pub fn down_since(&self) -> Option<Timestamp> {
        self.down.map(|down| down.since)
    }

    /// An attempt landed. `was_probe` says that it was admitted as one; others that land while the
    /// endpoint is down were in flight before that was known.
    #[allow(
        clippy::too_many_arguments,
        reason = "one fact each, and all of them decide"
    )]
    pub fn landed(
        &mut self,
        key: &ProjectKey,
        status: Option<u16>,
        outcome: Outcome,
        was_probe: bool,
        schedule: &[Duration],
        now: Timestamp,
        jitter: f64,
    ) -> Option<Turn> {
        let failed = matches!(outcome, Outcome::Failed { .. }) && is_trouble(status);
        if !failed {
            self.failing.clear();
            self.asked_until = None;
            return self.down.take().map(|down| {
                Turn::Up(Duration::try_from(now.duration_since(down.since)).unwrap_or_default())
            });
        }
        self.asked_until = self.asked_until.max(asked_until(outcome, now));
        let not_sooner = |at: Timestamp| self.asked_until.map_or(at, |asked| asked.max(at));
        if let Some(down) = &mut self.down {
            if was_probe {
                down.probes = down.probes.saturating_add(1);
                down.next_probe = probe_time(schedule, down.probes, now, jitter);
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
            probes: 0,
            next_probe,
        });
        Some(Turn::Down(next_probe))
    }
}

/// When to probe after so many failed probes: as a delivery would be tried again, and for ever at
/// the pace of the schedule's end.
fn probe_time(schedule: &[Duration], probes: u32, now: Timestamp, jitter: f64) -> Timestamp {
    // A schedule of one attempt has no delay; a minute keeps a dead endpoint from a storm.
    const MINUTE: [Duration; 2] = [Duration::ZERO, Duration::from_secs(60)];
    let schedule = if schedule.len() < 2 {
        &MINUTE
    } else {
        schedule
    };
    let last = u32::try_from(schedule.len() - 1).unwrap_or(u32::MAX);
    let attempt = probes.saturating_add(1).min(last);
    match delivery::next(schedule, attempt, FAILED, now, jitter) {
        Verdict::Retry(at) => at,
        _ => now,
    }
}

/// What a Retry-After asks for, within its bounds.
fn asked_until(outcome: Outcome, now: Timestamp) -> Option<Timestamp> {
    let Outcome::Failed {
        retry_after: Some(_),
    } = outcome
    else {
        return None;
    };
    match delivery::next(&[Duration::ZERO; 2], 1, outcome, now, 0.0) {
        Verdict::Retry(at) => Some(at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn fail(endpoint: &mut Endpoint, project: &str, second: i64, was_probe: bool) -> Option<Turn> {
        endpoint.landed(
            &key(project),
            None,
            FAILED,
            was_probe,
            &SCHEDULE,
            at(second),
            0.0,
        )
    }

    #[test]
    fn failures_of_different_projects_in_a_row_mean_down() {
        let mut endpoint = Endpoint::default();
        assert_eq!(fail(&mut endpoint, "a", 0, false), None);
        assert_eq!(fail(&mut endpoint, "b", 0, false), None);
        assert_eq!(endpoint.admit(at(0), 0), Admission::Everything);
        assert_eq!(fail(&mut endpoint, "c", 0, false), Some(Turn::Down(at(5))));
        assert_eq!(endpoint.admit(at(4), 0), Admission::Nothing(at(5)));
        for second in [4, 5, 500] {
            assert_eq!(
                endpoint.admit(at(second), 1),
                Admission::AfterLanding,
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
    fn an_answer_of_any_kind_ends_the_row() {
        for (status, outcome) in [
            (Some(204), Outcome::Accepted),
            (Some(400), FAILED),
            (Some(302), FAILED),
            (Some(410), Outcome::Gone),
        ] {
            let mut endpoint = Endpoint::default();
            fail(&mut endpoint, "a", 0, false);
            fail(&mut endpoint, "b", 0, false);
            endpoint.landed(&key("c"), status, outcome, false, &SCHEDULE, at(0), 0.0);
            assert_eq!(fail(&mut endpoint, "d", 0, false), None, "{status:?}");
        }
        for status in [Some(500), Some(503), Some(429), None] {
            assert!(is_trouble(status), "{status:?}");
        }
    }

    #[test]
    fn probes_go_by_the_schedule_and_then_at_its_last_pace() {
        let mut endpoint = Endpoint::default();
        for project in ["a", "b", "c"] {
            fail(&mut endpoint, project, 0, false);
        }
        // What was in flight when it went down changes nothing.
        assert_eq!(fail(&mut endpoint, "d", 1, false), None);
        assert_eq!(endpoint.admit(at(5), 0), Admission::Probe);
        fail(&mut endpoint, "e", 5, true);
        assert_eq!(endpoint.admit(at(6), 0), Admission::Nothing(at(305)));
        fail(&mut endpoint, "f", 305, true);
        assert_eq!(endpoint.admit(at(306), 0), Admission::Nothing(at(605)));
        let back = endpoint.landed(
            &key("g"),
            Some(200),
            Outcome::Accepted,
            true,
            &SCHEDULE,
            at(605),
            0.0,
        );
        assert_eq!(back, Some(Turn::Up(Duration::from_secs(605))));
        assert_eq!(endpoint.admit(at(605), 3), Admission::Everything);
    }

    #[test]
    fn a_probe_is_never_sooner_than_asked() {
        let mut endpoint = Endpoint::default();
        let asked = Outcome::Failed {
            retry_after: Some(Duration::from_secs(60)),
        };
        for project in ["a", "b", "c"] {
            endpoint.landed(
                &key(project),
                Some(503),
                asked,
                false,
                &SCHEDULE,
                at(0),
                0.0,
            );
        }
        assert_eq!(endpoint.admit(at(59), 0), Admission::Nothing(at(60)));
        let mut single = Endpoint::default();
        for project in ["a", "b", "c"] {
            single.landed(
                &key(project),
                None,
                FAILED,
                false,
                &[Duration::ZERO],
                at(0),
                0.0,
            );
        }
        assert_eq!(single.admit(at(59), 0), Admission::Nothing(at(60)));
    }

    #[test]
    fn an_operator_hurries_the_probe_but_not_past_what_the_endpoint_asked_for() {
        let mut up = Endpoint::default();
        up.hurry(at(0));
        assert_eq!(up, Endpoint::default());

        let mut endpoint = Endpoint::default();
        for (project, second) in [("a", 0), ("b", 0), ("c", 0)] {
            fail(&mut endpoint, project, second, false);
        }
        fail(&mut endpoint, "d", 5, true);
        assert_eq!(endpoint.admit(at(10), 0), Admission::Nothing(at(305)));
        endpoint.hurry(at(10));
        assert_eq!(endpoint.admit(at(10), 0), Admission::Probe);
        // It only ever makes it sooner.
        endpoint.hurry(at(20));
        assert_eq!(endpoint.admit(at(10), 0), Admission::Probe);

        // One that was in flight asks for more than the others, and the later ones for less.
        for (project, asked) in [("e", 60), ("f", 2)] {
            let asked = Outcome::Failed {
                retry_after: Some(Duration::from_secs(asked)),
            };
            endpoint.landed(
                &key(project),
                Some(429),
                asked,
                false,
                &SCHEDULE,
                at(10),
                0.0,
            );
        }
        endpoint.hurry(at(11));
        assert_eq!(endpoint.admit(at(11), 0), Admission::Nothing(at(70)));
        // An answer ends that as well.
        endpoint.landed(
            &key("g"),
            Some(200),
            Outcome::Accepted,
            false,
            &SCHEDULE,
            at(12),
            0.0,
        );
        assert_eq!(endpoint, Endpoint::default());
    }
}
