//! The times of observations, and the confirmation of removals.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use project_webhooks::domain::event::Origin;
use project_webhooks::domain::infer::Removals;
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::domain::settle::{Agenda, Moment, Unresolved};
use project_webhooks::domain::wave::Times;
use proptest::prelude::*;

fn key(project: u8) -> ProjectKey {
    ProjectKey::new("sales", format!("p{project}"))
}

fn at(milliseconds: u64) -> Moment {
    Duration::from_millis(milliseconds)
}

fn paths(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn open(missing: &[&str], retry: bool) -> Unresolved {
    Unresolved {
        missing: paths(missing),
        retry,
        ..Unresolved::default()
    }
}

fn live(settle: &mut Agenda, project: u8, now: u64) {
    settle.hint(&key(project), at(now), Origin::Live, "a file changed");
}

/// Takes the due projects.
fn due(settle: &mut Agenda, now: u64) -> Vec<String> {
    let due = settle.due(at(now), usize::MAX);
    due.into_iter().map(|due| due.key.project).collect()
}

fn counts(settle: &Agenda, project: u8, now: u64, missing: &[&str]) -> bool {
    settle.removals(&key(project), at(now), &paths(missing)) == Removals::Confirmed
}

#[test]
fn a_hint_is_due_at_once_and_leaves_nothing_behind() {
    let mut settle = Agenda::new(at(1000));
    live(&mut settle, 1, 5);
    assert_eq!(settle.next(), Some(at(5)));
    assert_eq!(due(&mut settle, 4), [""; 0]);
    assert_eq!(due(&mut settle, 5), ["p1"]);
    settle.observed(&key(1), at(6), Unresolved::default());
    assert!(settle.is_empty());
    assert_eq!(settle.next(), None);
}

#[test]
fn a_removal_that_is_found_with_another_project_keeps_its_origin() {
    let mut settle = Agenda::new(at(1000));
    let unresolved = Unresolved {
        origin: Origin::CatchUp,
        ..open(&["a"], false)
    };
    settle.observed(&key(1), at(5), unresolved);
    let found = settle.due(at(1005), 1);
    assert_eq!(found[0].origin, Origin::CatchUp);
}

#[test]
fn a_removal_is_confirmed_a_settle_time_after_it_was_found() {
    let mut settle = Agenda::new(at(1000));
    live(&mut settle, 1, 0);
    assert_eq!(due(&mut settle, 5000), ["p1"], "a late observation");
    assert!(
        !counts(&settle, 1, 5000, &["a"]),
        "the first observation never confirms"
    );
    settle.observed(&key(1), at(5000), open(&["a"], false));
    assert_eq!(settle.next(), Some(at(6000)));
    assert!(!counts(&settle, 1, 5999, &["a"]));
    assert!(counts(&settle, 1, 6000, &["a"]));
    assert!(
        !counts(&settle, 1, 6000, &["a", "b"]),
        "another file was removed meanwhile"
    );
    assert_eq!(due(&mut settle, 6000), ["p1"]);
    settle.observed(&key(1), at(6000), open(&["a", "b"], false));
    assert_eq!(
        settle.next(),
        Some(at(7000)),
        "so the settle time begins anew"
    );
}

#[test]
fn a_hint_restarts_the_settle_time_and_a_check_does_not() {
    for (hint, expected) in [(true, 1500), (false, 1000)] {
        let mut settle = Agenda::new(at(1000));
        live(&mut settle, 1, 0);
        due(&mut settle, 0);
        settle.observed(&key(1), at(0), open(&["a"], false));
        if hint {
            live(&mut settle, 1, 500);
        } else {
            settle.check(&key(1), at(500), Origin::Live, "full check");
        }
        assert_eq!(due(&mut settle, 500), ["p1"]);
        settle.observed(&key(1), at(500), open(&["a"], false));
        assert_eq!(settle.next(), Some(at(expected)));
        assert!(!counts(&settle, 1, expected - 1, &["a"]));
        assert!(counts(&settle, 1, expected, &["a"]));
    }
}

#[test]
fn one_observation_after_the_last_activity_confirms_no_removal() {
    let mut settle = Agenda::new(at(10));
    live(&mut settle, 1, 0);
    assert_eq!(due(&mut settle, 0), ["p1"]);
    settle.observed(&key(1), at(0), open(&["a"], false));
    settle.hint_later(&key(1), at(8), at(25), Origin::Live, "a file was created");
    assert_eq!(due(&mut settle, 40), ["p1"], "a late observation");
    assert!(!counts(&settle, 1, 40, &["a"]));
    settle.observed(&key(1), at(40), open(&["a"], false));
    assert!(counts(&settle, 1, 50, &["a"]));
}

#[test]
fn a_hint_during_an_observation_is_not_lost() {
    for missing in [&[][..], &["a"]] {
        let mut settle = Agenda::new(at(1000));
        live(&mut settle, 1, 0);
        due(&mut settle, 0);
        live(&mut settle, 1, 1);
        settle.observed(&key(1), at(2), open(missing, false));
        assert!(
            !counts(&settle, 1, 9000, &["a"]),
            "that observation may be older than the hint"
        );
        assert_eq!(due(&mut settle, 2), ["p1"]);
    }
}

#[test]
fn an_invalid_file_is_observed_again_after_growing_delays() {
    let mut settle = Agenda::new(at(1000));
    live(&mut settle, 1, 0);
    let mut now = at(0);
    let mut delays = Vec::new();
    for _ in 0..50 {
        assert_eq!(settle.due(now, 1).len(), 1);
        settle.observed(&key(1), now, open(&[], true));
        let next = settle.next().expect("another observation");
        delays.push((next - now).as_millis());
        now = next;
    }
    assert_eq!(delays[..4], [50, 100, 200, 400]);
    assert!(delays[10..].iter().all(|delay| *delay == 30_000));
    settle.hint(&key(1), now, Origin::Live, "a file changed");
    settle.due(now, 1);
    settle.observed(&key(1), now, open(&[], true));
    assert_eq!(settle.next(), Some(now + at(50)), "a hint begins anew");
}

#[test]
fn activity_that_goes_on_postpones_a_removal_by_20_settle_times() {
    for (settle_ms, interval) in [(1000, 200), (100, 30)] {
        for is_hint in [true, false] {
            let mut settle = Agenda::new(at(settle_ms));
            live(&mut settle, 1, 0);
            due(&mut settle, 0);
            settle.observed(&key(1), at(0), open(&["a"], false));
            let mut now = 0;
            let confirmed_at = loop {
                now += interval;
                assert!(now <= 21 * settle_ms, "never confirmed");
                if is_hint {
                    live(&mut settle, 1, now);
                } else {
                    settle.activity(&key(1), at(now));
                }
                if due(&mut settle, now).is_empty() {
                    continue;
                }
                if counts(&settle, 1, now, &["a"]) {
                    break now;
                }
                settle.observed(&key(1), at(now), open(&["a"], false));
            };
            assert!(confirmed_at >= 20 * settle_ms, "{confirmed_at}");
            settle.observed(&key(1), at(now), Unresolved::default());
            assert!(settle.is_empty());
        }
    }
}

#[test]
fn a_removal_beside_a_late_one_is_observed_once_more() {
    let mut settle = Agenda::new(at(1000));
    for now in (0..=20_000).step_by(500) {
        live(&mut settle, 1, now);
        due(&mut settle, now);
        if now < 20_000 {
            assert!(!counts(&settle, 1, now, &["a"]));
            settle.observed(&key(1), at(now), open(&["a"], false));
        }
    }
    assert!(!counts(&settle, 1, 20_000, &["a", "b"]), "b went just now");
    settle.observed(&key(1), at(20_000), open(&["a", "b"], false));
    assert_eq!(due(&mut settle, 20_000), ["p1"]);
    assert!(counts(&settle, 1, 20_000, &["a", "b"]));
    settle.observed(&key(1), at(20_000), open(&["a", "b"], false));
    assert_eq!(
        settle.next(),
        Some(at(21_000)),
        "one that had to wait for another reason begins anew"
    );
}

#[test]
fn a_new_settle_time_holds_for_unconfirmed_removals() {
    for pause in [200, 3000] {
        let mut settle = Agenda::new(at(1000));
        live(&mut settle, 1, 0);
        due(&mut settle, 0);
        settle.observed(&key(1), at(0), open(&["a"], false));
        settle.set_times(
            Times {
                settle: at(pause),
                hold: Duration::ZERO,
            },
            at(0),
        );
        assert!(settle.next() <= Some(at(pause)));
        assert!(!counts(&settle, 1, pause - 1, &["a"]));
        assert!(counts(&settle, 1, pause, &["a"]));
    }
}

#[test]
fn a_removal_is_confirmed_after_that_of_the_new_location() {
    let mut settle = Agenda::new(at(1000));
    live(&mut settle, 1, 0);
    live(&mut settle, 2, 30);
    due(&mut settle, 30);
    for project in [1, 2] {
        settle.observed(&key(project), at(30), open(&["a"], false));
    }
    live(&mut settle, 2, 500);
    due(&mut settle, 500);
    settle.observed(&key(2), at(500), open(&["a"], false));
    settle.confirm_after(&key(1), &key(2));
    assert!(!counts(&settle, 1, 1500, &["a"]));
    assert!(counts(&settle, 2, 1500, &["a"]));
    assert!(counts(&settle, 1, 1501, &["a"]));
}

#[test]
fn a_change_before_the_first_observation_is_catch_up() {
    let mut settle = Agenda::new(at(1000));
    settle.check(&key(1), at(0), Origin::CatchUp, "start");
    live(&mut settle, 1, 1);
    let origins = |settle: &mut Agenda, now| -> Vec<Origin> {
        let due = settle.due(at(now), 1);
        due.into_iter().map(|due| due.origin).collect()
    };
    assert_eq!(origins(&mut settle, 1), [Origin::CatchUp]);
    settle.observed(&key(1), at(1), open(&["a"], true));
    live(&mut settle, 1, 20);
    assert_eq!(origins(&mut settle, 20), [Origin::Live], "this one is live");
    settle.observed(&key(1), at(20), open(&["a"], false));
    assert_eq!(
        origins(&mut settle, 1020),
        [Origin::CatchUp],
        "that went before"
    );
    settle.observed(&key(1), at(1020), open(&[], true));
    live(&mut settle, 1, 1030);
    assert_eq!(origins(&mut settle, 1030), [Origin::Live]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Hint(u8),
    Check(u8),
    Pass(u64),
    Take(usize),
    /// Ends the observations: the number of missing files, and whether a file is invalid.
    Looked(u8, bool),
    SetPause(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_u8).prop_map(Step::Hint),
        1 => (0..3_u8).prop_map(Step::Check),
        4 => prop_oneof![0..100_u64, 400..700_u64].prop_map(Step::Pass),
        5 => (1..4_usize).prop_map(Step::Take),
        5 => (0..3_u8, any::<bool>()).prop_map(|(n, retry)| Step::Looked(n, retry)),
        1 => (0..1500_u64).prop_map(Step::SetPause),
    ];
    prop::collection::vec(step, 1..60)
}

const FILES: [&str; 2] = ["a", "b"];

/// The history of one project: the step and time of the last hint, the observations since then, and
/// whether a hint is unanswered.
#[derive(Clone, Debug, Default)]
struct Story {
    hinted_at: u64,
    looks: Vec<(u64, u8)>,
    is_unanswered: bool,
    /// The time of the first of the last observations that found a file missing.
    gone_at: Option<u64>,
}

impl Story {
    /// Whether the removal of the first `n_missing` files may be confirmed: for a settle time there
    /// was no hint, and every observation found them missing; or 20 settle times are over.
    fn may_count(&self, now: u64, pause: u64, n_missing: u8) -> bool {
        if self
            .gone_at
            .is_some_and(|gone_at| now >= gone_at + 20 * pause)
        {
            return true;
        }
        let run = self.looks.iter().rev().take_while(|(_, n)| *n >= n_missing);
        let first = run.last();
        now >= self.hinted_at + pause && first.is_some_and(|(since, _)| now >= since + pause)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn hints_are_answered_and_removals_are_certain(steps in steps()) {
        let mut settle = Agenda::new(at(500));
        let mut pause = 500;
        let mut now = 0;
        let mut stories: BTreeMap<u8, Story> = BTreeMap::new();
        // The projects under observation, and whether a hint came meanwhile.
        let mut taken: BTreeMap<u8, bool> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Hint(project) => {
                    live(&mut settle, project, now);
                    let story = stories.entry(project).or_default();
                    let gone_at = story.gone_at;
                    *story = Story { hinted_at: now, looks: vec![], is_unanswered: true, gone_at };
                    taken.entry(project).and_modify(|hinted| *hinted = true);
                    prop_assert!(settle.next() <= Some(at(now)));
                }
                Step::Check(project) => {
                    settle.check(&key(project), at(now), Origin::Live, "full check");
                    stories.entry(project).or_default();
                    prop_assert!(settle.next() <= Some(at(now)));
                }
                Step::Pass(milliseconds) => now += milliseconds,
                Step::SetPause(milliseconds) => {
                    pause = milliseconds;
                    settle.set_times(Times {
 settle: at(pause),
 hold: Duration::ZERO,
 }, at(now));
                }
                Step::Take(limit) if taken.is_empty() => {
                    let due = settle.due(at(now), limit);
                    prop_assert!(due.len() <= limit);
                    for due in due {
                        let project = (0..3).find(|project| key(*project) == due.key).expect("known");
                        prop_assert!(taken.insert(project, false).is_none(), "taken once");
                        stories.entry(project).or_default().is_unanswered = false;
                    }
                    let n_waiting = stories.values().filter(|story| story.is_unanswered).count();
                    prop_assert!(n_waiting == 0 || taken.len() == limit, "a hint is due at once");
                }
                Step::Take(_) => {}
                Step::Looked(n_missing, retry) => {
                    for (project, was_hinted) in std::mem::take(&mut taken) {
                        let names = &FILES[..usize::from(n_missing)];
                        let counted = n_missing > 0 && counts(&settle, project, now, names);
                        let story = stories.entry(project).or_default();
                        prop_assert!(!counted || story.may_count(now, pause, n_missing));
                        let left = if counted { 0 } else { n_missing };
                        settle.observed(&key(project), at(now), open(&names[..usize::from(left)], retry));
                        story.gone_at = story.gone_at.or(Some(now)).filter(|_| left > 0);
                        if !was_hinted {
                            story.looks.push((now, left));
                        }
                    }
                }
            }
            if let Some(next) = settle.next() {
                prop_assert!(next <= at(now.max(pause * 2 + 1500) + 30_000), "never out of sight");
            }
        }
        // The hints end, and one file stays missing: its removal is confirmed, and nothing is due.
        for project in std::mem::take(&mut taken).into_keys() {
            settle.observed(&key(project), at(now), open(&["a"], false));
        }
        let mut n_looks = 0;
        while let Some(next) = settle.next() {
            now = now.max(u64::try_from(next.as_millis()).expect("small") + 1);
            for due in settle.due(at(now), 2) {
                let missing = paths(&["a"]);
                let counted = settle.removals(&due.key, at(now), &missing) == Removals::Confirmed;
                let left = if counted { open(&[], false) } else { open(&["a"], false) };
                settle.observed(&due.key, at(now), left);
            }
            n_looks += 1;
            prop_assert!(n_looks < 100, "the removal is confirmed in the end");
        }
        prop_assert!(settle.is_empty());
    }
}
