//! When an endpoint is down, and when it is probed.

use std::time::Duration;

use jiff::Timestamp;
use project_webhooks::domain::delivery::{FailureCause, Outcome};
use project_webhooks::domain::endpoint::{Admission, Endpoint, Transition};
use project_webhooks::domain::project::ProjectKey;

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

/// A probe is allowed now; one of a project that failed is allowed from `second` on.
fn probe(second: i64) -> Admission {
    Admission::Probe { any_at: at(second) }
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
        Some(Transition::Down(at(0)))
    );
    for second in [0, 5, 500] {
        assert_eq!(
            endpoint.admit(at(second), 1),
            Admission::AfterInFlight,
            "one at a time"
        );
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
    // An attempt that was in flight when it went down changes nothing.
    assert_eq!(fail(&mut endpoint, "d", 1, false), None);
    assert_eq!(endpoint.admit(at(1), 0), probe(5));
    fail(&mut endpoint, "e", 1, true);
    assert_eq!(endpoint.admit(at(1), 0), Admission::Nothing(at(6)));
    fail(&mut endpoint, "f", 6, true);
    assert_eq!(endpoint.admit(at(7), 0), Admission::Nothing(at(306)));
    fail(&mut endpoint, "g", 306, true);
    assert_eq!(endpoint.admit(at(307), 0), Admission::Nothing(at(606)));
    let back = end(&mut endpoint, "h", Outcome::Accepted, true, 606);
    assert_eq!(back, Some(Transition::Up(Duration::from_secs(606))));
    assert_eq!(endpoint.admit(at(606), 3), Admission::Everything);
    let mut single = Endpoint::default();
    for project in ["a", "b", "c", "d"] {
        let schedule = [Duration::ZERO];
        let key = key(project);
        let was_probe = project == "d";
        single.attempt_ended(&key, Outcome::NO_ANSWER, was_probe, &schedule, at(0), 0.0);
    }
    assert_eq!(single.admit(at(59), 0), Admission::Nothing(at(60)));
}

/// Three projects that fail whatever the endpoint does must not make a fourth one wait.
#[test]
fn a_project_that_has_not_failed_never_waits_for_those_that_have() {
    let mut endpoint = down();
    // There is no other project, so these are probed, at growing intervals.
    for second in [5, 305, 605] {
        assert_eq!(endpoint.admit(at(second), 0), probe(second));
        fail(&mut endpoint, "a", second, true);
        assert_eq!(endpoint.admit(at(second), 0), probe(second + 300));
    }
    let back = end(&mut endpoint, "new", Outcome::Accepted, true, 700);
    assert!(matches!(back, Some(Transition::Up(_))));
    // They fail as before, which says nothing about the endpoint.
    for project in ["a", "b", "c", "a"] {
        assert_eq!(fail(&mut endpoint, project, 701, false), None);
        assert_eq!(endpoint.admit(at(701), 0), Admission::Everything);
    }
    // Failures of others do, and the suspects are not probed first.
    for project in ["d", "e"] {
        assert_eq!(fail(&mut endpoint, project, 702, false), None);
    }
    assert!(fail(&mut endpoint, "f", 702, false).is_some());
    assert_eq!(endpoint.failed().count(), 6);
}

#[test]
fn a_suspect_that_succeeds_counts_again() {
    let mut endpoint = down();
    end(&mut endpoint, "new", Outcome::Accepted, true, 5);
    for project in ["a", "b", "c"] {
        end(&mut endpoint, project, Outcome::Accepted, false, 6);
    }
    assert_eq!(endpoint, Endpoint::default());
    for project in ["a", "b"] {
        assert_eq!(fail(&mut endpoint, project, 7, false), None);
    }
    assert!(fail(&mut endpoint, "c", 7, false).is_some());
}

#[test]
fn an_operator_brings_the_probe_forward() {
    let mut up = Endpoint::default();
    up.probe_soon(at(0));
    assert_eq!(up, Endpoint::default());

    let mut endpoint = down();
    fail(&mut endpoint, "d", 5, true);
    fail(&mut endpoint, "e", 10, true);
    assert_eq!(endpoint.admit(at(10), 0), Admission::Nothing(at(310)));
    endpoint.probe_soon(at(10));
    assert_eq!(endpoint.admit(at(10), 0), probe(10));
    // A later call does not postpone it.
    endpoint.probe_soon(at(20));
    assert_eq!(endpoint.admit(at(10), 0), probe(10));
}
