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
