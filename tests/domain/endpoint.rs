//! When an endpoint is down, and when it is probed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use project_webhooks::domain::delivery::{FailureCause, Outcome, RetryAfter};
use project_webhooks::domain::endpoint::{Admission, Effect, Endpoint, ROUND, Transition};
use project_webhooks::domain::project::ProjectKey;
use proptest::prelude::*;

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
    let (key, now) = (key(project), at(second));
    let effect = endpoint.attempt_ended(&key, outcome, was_probe, &SCHEDULE, now, 0.0);
    effect.transition
}

/// All other projects may send; a probe of a project that failed is allowed from `second` on.
fn probe(second: i64) -> Admission {
    Admission::Probe {
        n_fresh: ROUND,
        any_at: at(second),
    }
}

/// An endpoint that went down at second 0 by failures of these projects.
fn down() -> Endpoint {
    let mut endpoint = Endpoint::default();
    for project in ["a", "b", "c"] {
        fail(&mut endpoint, project, 0, false);
    }
    endpoint
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
    for second in [0, 5, 500] {
        assert_eq!(endpoint.admit(at(second), 0), probe(5));
    }
    let failed: Vec<&str> = endpoint.failed().map(|key| key.project.as_str()).collect();
    assert_eq!(failed, ["a", "b", "c"]);
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
    let refused = Outcome::Failed {
        cause: FailureCause::Delivery,
        retry_after: None,
    };
    for outcome in [Outcome::Accepted, refused, Outcome::Gone] {
        let mut endpoint = Endpoint::default();
        fail(&mut endpoint, "a", 0, false);
        fail(&mut endpoint, "b", 0, false);
        end(&mut endpoint, "c", outcome, false, 0);
        assert_eq!(fail(&mut endpoint, "d", 0, false), None, "{outcome:?}");
    }
}

#[test]
fn probes_follow_the_schedule_and_repeat_its_last_delay() {
    let mut endpoint = down();
    let mut second = 5;
    for delay in [300, 300, 300] {
        assert_eq!(endpoint.admit(at(second - 1), 0), probe(second));
        assert_eq!(fail(&mut endpoint, "a", second, true), None);
        second += delay;
        assert_eq!(endpoint.admit(at(second - 1), 0), probe(second));
    }
    let back = end(&mut endpoint, "a", Outcome::Accepted, true, second);
    assert_eq!(back, Some(Transition::Up(Duration::from_secs(905))));
    assert_eq!(endpoint.admit(at(second), 3), Admission::Everything);
    let mut single = Endpoint::default();
    for project in ["a", "b", "c", "a"] {
        let schedule = [Duration::ZERO];
        single.attempt_ended(
            &key(project),
            Outcome::NO_ANSWER,
            true,
            &schedule,
            at(0),
            0.0,
        );
    }
    assert_eq!(single.admit(at(0), 0), probe(60));
}

/// The other projects send as usual, a limited number of them in each delay of the schedule.
#[test]
fn projects_that_have_not_failed_send_in_rounds() {
    let mut endpoint = down();
    let mut n = 0;
    let mut next = || {
        n += 1;
        n.to_string()
    };
    for (begins, ends) in [(0, 5), (5, 305), (305, 605)] {
        for n_failed in 0..ROUND {
            let Admission::Probe { n_fresh, .. } = endpoint.admit(at(begins), 0) else {
                panic!("after {n_failed} failures in the round at {begins}");
            };
            assert_eq!(n_fresh, ROUND - n_failed);
            assert!(!effect(&mut endpoint, &next(), begins).uses_attempt);
        }
        assert_eq!(endpoint.admit(at(begins), 1), Admission::AfterInFlight);
        fail(&mut endpoint, "a", begins, true);
        let Admission::Nothing(until) = endpoint.admit(at(begins), 0) else {
            panic!("the round at {begins} has not ended");
        };
        assert_eq!(until, at(ends));
    }
}

fn effect(endpoint: &mut Endpoint, project: &str, second: i64) -> Effect {
    let (key, now) = (key(project), at(second));
    endpoint.attempt_ended(&key, Outcome::NO_ANSWER, true, &SCHEDULE, now, 0.0)
}

/// Otherwise an endpoint that is down would use up an attempt of each project.
#[test]
fn the_first_failure_of_a_project_while_the_endpoint_is_down_does_not_count() {
    let mut endpoint = Endpoint::default();
    for project in ["a", "b", "c"] {
        assert!(effect(&mut endpoint, project, 0).uses_attempt);
    }
    assert!(!effect(&mut endpoint, "d", 1).uses_attempt);
    for project in ["d", "a"] {
        assert!(effect(&mut endpoint, project, 300).uses_attempt);
    }
}

#[test]
fn a_project_that_has_not_failed_never_waits_for_those_that_have() {
    let mut endpoint = down();
    for n in 0..100 {
        effect(&mut endpoint, &format!("p{n}"), 0);
        let Admission::Probe { n_fresh, .. } = endpoint.admit(at(0), 0) else {
            panic!("{n} poisoned projects hold up the others");
        };
        assert!(n_fresh > 0);
    }
    let back = end(&mut endpoint, "new", Outcome::Accepted, true, 1);
    assert!(matches!(back, Some(Transition::Up(_))));
    // They fail as before, which says nothing about the endpoint.
    for project in ["a", "b", "c", "p1", "p2", "a"] {
        assert_eq!(fail(&mut endpoint, project, 701, false), None);
        assert_eq!(endpoint.admit(at(701), 0), Admission::Everything);
    }
    // Failures of others do, and the suspects do not send then.
    for project in ["d", "e"] {
        assert_eq!(fail(&mut endpoint, project, 702, false), None);
    }
    assert!(fail(&mut endpoint, "f", 702, false).is_some());
    assert_eq!(endpoint.failed().count(), 106);
}

/// The failures of all were the endpoint's if one of them succeeds.
#[test]
fn a_second_outage_is_recognised() {
    for ended_by in ["a", "other"] {
        let mut endpoint = down();
        end(&mut endpoint, ended_by, Outcome::Accepted, true, 5);
        if ended_by == "other" {
            assert_eq!(fail(&mut endpoint, "c", 6, false), None);
            // This one proves that failures pass, except those of a project that failed again.
            end(&mut endpoint, "a", Outcome::Accepted, false, 7);
            assert_eq!(fail(&mut endpoint, "c", 7, false), None);
        }
        for project in ["a", "b"] {
            assert_eq!(fail(&mut endpoint, project, 8, false), None);
        }
        let third = if ended_by == "a" { "c" } else { "d" };
        let second = fail(&mut endpoint, third, 8, false);
        assert!(second.is_some(), "after an outage ended by {ended_by}");
    }
}

#[test]
fn a_request_to_wait_is_no_failure_of_the_endpoint() {
    let asked = Outcome::Failed {
        cause: FailureCause::Endpoint,
        retry_after: Some(RetryAfter::Webhook(Duration::from_secs(1))),
    };
    let mut endpoint = Endpoint::default();
    for project in ["a", "b", "c", "d"] {
        assert_eq!(end(&mut endpoint, project, asked, false, 0), None);
    }
    assert_eq!(endpoint.admit(at(0), 0), Admission::Everything);
    assert!(!endpoint.may_be_out_of_reach());
}

/// Otherwise a receiver in maintenance would use up the attempts of all deliveries by asking for
/// waits. One that asks for the deliveries of a few projects only may mean these deliveries.
#[test]
fn requests_to_wait_use_up_no_attempts_once_several_projects_got_them() {
    let asked = Outcome::Failed {
        cause: FailureCause::Endpoint,
        retry_after: Some(RetryAfter::Webhook(Duration::from_secs(1))),
    };
    let mut endpoint = Endpoint::default();
    let mut uses_attempt = |project: &str, outcome| {
        let key = key(project);
        let effect = endpoint.attempt_ended(&key, outcome, false, &SCHEDULE, at(0), 0.0);
        effect.uses_attempt
    };
    for (project, expected) in [
        ("a", true),
        ("b", true),
        ("a", true),
        ("c", false),
        ("a", false),
    ] {
        assert_eq!(uses_attempt(project, asked), expected, "{project}");
    }
    // A receiver that limits requests accepts some, and one project may be refused each time.
    uses_attempt("other", Outcome::Accepted);
    for _ in 0..10 {
        assert!(uses_attempt("a", asked));
        assert!(uses_attempt("b", asked));
    }
}

#[test]
fn renamed_projects_are_followed() {
    let moves = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(from, to)| (key(from), key(to)))
            .collect::<HashMap<_, _>>()
    };
    // While it is down. The two first exchange their names.
    let mut endpoint = down();
    endpoint.moved(&moves(&[("a", "b"), ("b", "a"), ("c", "new")]));
    let failed: Vec<&str> = endpoint.failed().map(|key| key.project.as_str()).collect();
    assert_eq!(failed, ["a", "b", "new"]);
    // Suspects, and projects that failed in a row.
    end(&mut endpoint, "other", Outcome::Accepted, true, 1);
    fail(&mut endpoint, "d", 2, false);
    endpoint.moved(&moves(&[("new", "newer"), ("d", "e")]));
    for project in ["newer", "e", "f"] {
        assert_eq!(fail(&mut endpoint, project, 3, false), None, "{project}");
    }
    assert!(fail(&mut endpoint, "g", 3, false).is_some());
}

/// Sends deliveries, one of each project, until all projects outside `poisoned` are delivered or an
/// hour has passed. The due one of the project with the lowest number goes first. Returns the seconds
/// that passed, the requests, and the most attempts that count of a project outside `poisoned`.
fn send_all(n: usize, poisoned: &BTreeSet<usize>, is_dead: bool) -> (i64, usize, u32) {
    let mut endpoint = Endpoint::default();
    // The due time and the number of attempts that count.
    let mut pending: BTreeMap<usize, (i64, u32)> = (0..n).map(|one| (one, (0, 0))).collect();
    let (mut second, mut n_requests) = (0, 0);
    let most = |pending: &BTreeMap<usize, (i64, u32)>| {
        let healthy = pending.iter().filter(|(one, _)| !poisoned.contains(one));
        healthy.map(|(_, (_, n))| *n).max()
    };
    while let Some(n_most) = most(&pending) {
        if second >= 3600 {
            return (second, n_requests, n_most);
        }
        let failed: BTreeSet<usize> = endpoint
            .failed()
            .map(|key| key.project.parse().expect("a number"))
            .collect();
        let mut due = pending.iter().filter(|(_, (due, _))| *due <= second);
        let (next, is_probe) = match endpoint.admit(at(second), 0) {
            Admission::Everything => (due.next(), false),
            Admission::Probe { n_fresh, any_at } => {
                let is_fresh = |one: usize| n_fresh > 0 && !failed.contains(&one);
                let fresh = due.clone().find(|(one, _)| is_fresh(**one));
                let any = || due.next().filter(|_| any_at <= at(second));
                (fresh.or_else(any), true)
            }
            Admission::AfterInFlight => panic!("nothing is in flight"),
            Admission::Nothing(_) => (None, true),
        };
        let Some((&one, _)) = next else {
            second += 5;
            continue;
        };
        n_requests += 1;
        let works = !is_dead && !poisoned.contains(&one);
        let outcome = if works {
            Outcome::Accepted
        } else {
            Outcome::NO_ANSWER
        };
        let (key, now) = (key(&one.to_string()), at(second));
        let effect = endpoint.attempt_ended(&key, outcome, is_probe, &SCHEDULE, now, 0.0);
        if works {
            pending.remove(&one);
        } else if let Some((due, n)) = pending.get_mut(&one) {
            *n += u32::from(effect.uses_attempt);
            *due = second + if *n < 2 { 5 } else { 300 };
        }
    }
    (second, n_requests, 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// However many projects always fail, the others wait for none of them, up to a round.
    #[test]
    fn poison_delays_no_other_project(
        n in 1_usize..400,
        poisoned in prop::collection::btree_set(0_usize..400, 0..ROUND),
    ) {
        let (seconds, n_requests, _) = send_all(n, &poisoned, false);
        prop_assert_eq!(seconds, 0);
        prop_assert!(n_requests <= n + poisoned.len());
    }

    /// An endpoint that is down for an hour uses up few attempts.
    #[test]
    fn a_dead_endpoint_uses_up_few_attempts(n in 3_usize..400) {
        let (_, n_requests, n_most) = send_all(n, &BTreeSet::new(), true);
        // The three that brought it down, and a probe every five minutes.
        let n_counting = 3 + 12;
        prop_assert!(n_most <= n_counting);
        prop_assert!(n_requests <= n.min(13 * ROUND) + 12 + 1);
    }
}

#[test]
fn an_operator_brings_the_probe_forward() {
    let mut up = Endpoint::default();
    up.probe_soon(at(0));
    assert_eq!(up, Endpoint::default());

    let mut endpoint = down();
    fail(&mut endpoint, "a", 5, true);
    assert_eq!(endpoint.admit(at(10), 0), probe(305));
    endpoint.probe_soon(at(10));
    assert_eq!(endpoint.admit(at(10), 0), probe(10));
    // A later call does not postpone it.
    endpoint.probe_soon(at(20));
    assert_eq!(endpoint.admit(at(10), 0), probe(10));
}

/// Another process may reach an endpoint that does not answer. One that answers is in reach.
#[test]
fn only_a_missing_answer_makes_an_endpoint_out_of_reach() {
    let failed = |cause, retry_after| Outcome::Failed { cause, retry_after };
    let wait = Duration::from_secs(1);
    let (gateway, own) = (FailureCause::Unreachable, FailureCause::Endpoint);
    for (outcome, expected) in [
        (Outcome::NO_ANSWER, true),
        (failed(gateway, Some(RetryAfter::Delivery(wait))), true),
        (failed(gateway, Some(RetryAfter::Webhook(wait))), false),
        (failed(own, None), false),
        (Outcome::REFUSED, false),
        (Outcome::Accepted, false),
    ] {
        let mut endpoint = Endpoint::default();
        fail(&mut endpoint, "a", 0, false);
        end(&mut endpoint, "b", Outcome::Accepted, false, 1);
        assert!(!endpoint.may_be_out_of_reach());
        // This project is a suspect.
        end(&mut endpoint, "a", outcome, false, 2);
        assert_eq!(endpoint.may_be_out_of_reach(), expected, "{outcome:?}");
        // A request that is not sent shows nothing.
        end(&mut endpoint, "c", Outcome::Unsendable, false, 3);
        assert_eq!(endpoint.may_be_out_of_reach(), expected, "{outcome:?}");
    }
    let mut endpoint = Endpoint::default();
    for project in ["a", "b", "c"] {
        end(&mut endpoint, project, failed(own, None), false, 0);
    }
    assert!(endpoint.may_be_out_of_reach());
}
