//! Projects that vanish together: when they are judged, and when they are held.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use project_webhooks::domain::event::Origin;
use project_webhooks::domain::infer::Removals;
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::domain::settle::{Agenda, Moment, Unresolved};
use project_webhooks::domain::vanished::{HeldBecause, HeldBefore, Presence};
use project_webhooks::domain::wave::{Census, Input, State, Times, WAVE, WAVE_LASTS};
use proptest::prelude::*;

const TIMES: Times = Times {
    settle: Duration::from_millis(1_000),
    hold: Duration::from_secs(60),
};

fn at(milliseconds: u64) -> Moment {
    Duration::from_millis(milliseconds)
}

fn key(project: usize) -> ProjectKey {
    ProjectKey::new("sales", format!("p{project:02}"))
}

/// The state after these inputs, each with its time.
fn after(inputs: &[(u64, Input)]) -> State {
    let inputs = inputs.iter();
    inputs.fold(State::Calm, |state, (now, input)| {
        state.after(*input, at(*now), TIMES)
    })
}

fn vanish(n: usize, from: u64, every: u64) -> Vec<(u64, Input)> {
    (0..n)
        .map(|i| (from + i as u64 * every, Input::Vanished { n: i + 1 }))
        .collect()
}

fn census(n_gone: usize, n_recorded: usize) -> Input {
    Input::Ended(Census {
        n_vanished: n_gone.max(WAVE),
        n_gone,
        n_gone_in_all: n_gone,
        n_recorded,
        n_before: n_recorded,
        may_return: false,
    })
}

#[test]
fn a_chain_ends_a_settle_time_after_its_last_project() {
    let chain = after(&vanish(9, 0, 900));
    assert_eq!(chain.ends_at(TIMES), Some(at(8_200)));
    // What appears does not postpone it.
    assert_eq!(chain.after(Input::Appeared, at(7_300), TIMES), chain);
    assert_eq!(chain.after(census(9, 18), at(8_200), TIMES), State::Calm);
    // With fewer than ten it cannot last longer than ten settle times.
    let endless = after(&[
        (0, Input::Vanished { n: 1 }),
        (9_900, Input::Vanished { n: 2 }),
    ]);
    assert_eq!(endless.ends_at(TIMES), Some(at(10_000)));
}

#[test]
fn a_wave_ends_when_no_project_vanishes_or_appears() {
    let wave = after(&vanish(WAVE, 0, 900));
    assert_eq!(wave.ends_at(TIMES), Some(at(9_100)));
    for input in [
        Input::Appeared,
        Input::Returned,
        Input::Vanished { n: WAVE + 1 },
    ] {
        let later = wave.after(input, at(9_000), TIMES);
        assert_eq!(later.ends_at(TIMES), Some(at(10_000)), "{input:?}");
        let endless = wave.after(input, at(299_900), TIMES);
        assert_eq!(endless.ends_at(TIMES), Some(WAVE_LASTS), "{input:?}");
    }
}

#[test]
fn what_is_held_depends_on_the_share_of_the_projects() {
    let wave = after(&vanish(WAVE, 0, 0));
    let chain = after(&vanish(3, 0, 0));
    let until = at(1_000) + TIMES.hold;
    for (state, n_gone, n_recorded, expected) in [
        (wave, 10, 20, State::Calm),
        (wave, 10, 19, State::Held { until }),
        (wave, 10, 11, State::Held { until }),
        (wave, 10, 10, State::HeldForOperator),
        (chain, 3, 4, State::Calm),
        (chain, 3, 3, State::HeldForOperator),
        (chain, 2, 2, State::Calm),
        (State::Held { until }, 10, 19, State::Calm),
        (State::Held { until }, 10, 10, State::HeldForOperator),
    ] {
        let ended = state.after(census(n_gone, n_recorded), at(1_000), TIMES);
        assert_eq!(ended, expected, "{n_gone} of {n_recorded}");
    }
    let off = Times {
        hold: Duration::ZERO,
        ..TIMES
    };
    assert_eq!(wave.after(census(10, 19), at(1_000), off), State::Calm);
    assert_eq!(
        wave.after(census(10, 10), at(1_000), off),
        State::HeldForOperator
    );
    // Some are replaced, so not all are gone.
    assert_eq!(wave.after(census(4, 10), at(1_000), TIMES), State::Calm);
}

#[test]
fn one_that_is_back_ends_the_hold_for_an_operator() {
    let held = State::HeldForOperator;
    for input in [Input::Appeared, Input::Vanished { n: 1 }, census(1, 2)] {
        assert_eq!(held.after(input, at(5), TIMES), held, "{input:?}");
    }
    let ended = held.after(Input::Returned, at(5), TIMES);
    assert_eq!(ended.ends_at(TIMES), Some(at(5) + TIMES.hold));
    let off = Times {
        hold: Duration::ZERO,
        ..TIMES
    };
    let ended = held.after(Input::Returned, at(5), off);
    assert_eq!(ended.ends_at(off), Some(at(1_005)));
    assert_eq!(held.after(Input::Emptied, at(5), TIMES), State::Calm);
}

/// An agenda with the settings of these tests.
fn agenda() -> Agenda {
    let mut agenda = Agenda::new(TIMES.settle);
    agenda.set_times(TIMES, Moment::ZERO);
    agenda
}

/// Records observations of projects, all with this presence.
fn observe(agenda: &mut Agenda, projects: Range<usize>, presence: Presence, now: u64) {
    for project in projects {
        let gone = matches!(presence, Presence::Gone | Presence::Replaced);
        let unresolved = Unresolved {
            missing: gone.then(|| "definition".to_owned()).into_iter().collect(),
            presence,
            ..Unresolved::default()
        };
        agenda.observed(&key(project), at(now), unresolved);
    }
}

#[test]
fn an_incomplete_project_extends_a_wave_once() {
    let mut agenda = agenda();
    observe(&mut agenda, 0..WAVE, Presence::Gone, 0);
    for now in [900, 1_800, 2_700] {
        observe(&mut agenda, 50..51, Presence::Appears, now);
        assert_eq!(agenda.wave_ends_at(), Some(at(1_900)), "{now}");
    }
    observe(&mut agenda, 51..52, Presence::Appears, 1_800);
    assert_eq!(agenda.wave_ends_at(), Some(at(2_800)));
    // The next wave starts anew.
    agenda.end_wave(at(2_800), 40);
    assert_eq!(agenda.wave_ends_at(), None);
    observe(&mut agenda, 10..10 + WAVE, Presence::Gone, 5_000);
    observe(&mut agenda, 50..51, Presence::Appears, 5_500);
    assert_eq!(agenda.wave_ends_at(), Some(at(6_500)));
}

#[test]
fn a_few_projects_are_judged_like_a_wave_if_others_may_have_moved_before() {
    for sees_late in [false, true] {
        let mut agenda = agenda();
        agenda.see_late(sees_late);
        observe(&mut agenda, 0..3, Presence::Gone, 0);
        observe(&mut agenda, 50..51, Presence::Appears, 900);
        let ends_at = if sees_late { 1_900 } else { 1_000 };
        assert_eq!(agenda.wave_ends_at(), Some(at(ends_at)), "{sees_late}");
        // They are too few for a hold, although more than half.
        agenda.end_wave(at(ends_at), 5);
        assert!(agenda.held().is_none());
    }
}

#[test]
fn imports_during_a_wave_do_not_prevent_its_hold() {
    for (n_before, is_held) in [(20, true), (24, false), (12, true)] {
        let mut agenda = agenda();
        // A full scan imported others before.
        agenda.scan_begins(n_before);
        agenda.begins_with(n_before + 100);
        observe(&mut agenda, 0..12, Presence::Gone, 0);
        // Twelve others were imported meanwhile.
        agenda.end_wave(at(1_000), n_before + 12);
        let held = agenda.held().map(|held| (held.n, held.n_recorded));
        assert_eq!(held, is_held.then_some((12, n_before)));
        // Other projects are there, so the removals do not wait for an operator.
        let waits = agenda
            .held()
            .is_some_and(|held| held.because == HeldBecause::All);
        assert!(!waits, "{n_before}");
    }
}

#[test]
fn projects_that_a_restored_repository_misses_are_held() {
    for (hold, is_held) in [(60, true), (0, false)] {
        let mut agenda = agenda();
        let hold = Duration::from_secs(hold);
        agenda.set_times(Times { hold, ..TIMES }, Moment::ZERO);
        agenda.expect_returns(Moment::ZERO);
        observe(&mut agenda, 0..2, Presence::Gone, 0);
        agenda.scanned(at(10));
        agenda.end_wave(at(1_000), 20);
        assert_eq!(agenda.held().map(|held| held.n), is_held.then_some(2));
        // Projects that vanish later are judged as usual.
        observe(&mut agenda, 2..4, Presence::Gone, 5_000);
        agenda.end_wave(at(6_000), 20);
        assert!(!agenda.holds(&key(2)));
    }
}

#[test]
fn projects_that_cannot_be_read_at_the_end_of_a_wave_are_judged_when_they_are_gone() {
    // Whether they cannot be read before or after the end of the wave.
    for unclear_at in [500, 1_500] {
        let mut agenda = agenda();
        observe(&mut agenda, 0..9, Presence::Gone, 0);
        if unclear_at < 1_000 {
            observe(&mut agenda, 0..9, Presence::Unclear, unclear_at);
        }
        agenda.end_wave(at(1_000), 12);
        if unclear_at > 1_000 {
            observe(&mut agenda, 0..9, Presence::Unclear, unclear_at);
        }
        assert!(!agenda.holds(&key(0)), "{unclear_at}");
        // Now all are gone. So they are held, and not deleted one by one.
        observe(&mut agenda, 0..12, Presence::Gone, 5_000);
        agenda.end_wave(at(6_000), 12);
        let held = agenda.held().map(|held| (held.n, held.because));
        assert_eq!(held, Some((12, HeldBecause::All)), "{unclear_at}");
    }
}

#[test]
fn a_hold_is_extended_while_the_repository_is_restored() {
    let mut agenda = agenda();
    agenda.begins_with(20);
    observe(&mut agenda, 0..12, Presence::Gone, 0);
    agenda.end_wave(at(1_000), 20);
    agenda.expect_returns(at(50_000));
    assert_eq!(hold_ends_at(&agenda), Some(at(110_000)));
}

/// The end of the hold, if it has one.
fn hold_ends_at(agenda: &Agenda) -> Option<Moment> {
    match agenda.held()?.because {
        HeldBecause::MoreThanHalf(until) => Some(until),
        HeldBecause::All => None,
    }
}

#[test]
fn new_settings_end_a_hold_sooner_but_not_later() {
    for (hold, expected) in [(0, 5_000), (2, 7_000), (56, 61_000), (3_600, 61_000)] {
        let mut agenda = agenda();
        agenda.begins_with(20);
        observe(&mut agenda, 0..12, Presence::Gone, 0);
        agenda.end_wave(at(1_000), 20);
        assert_eq!(hold_ends_at(&agenda), Some(at(61_000)));
        let times = Times {
            hold: Duration::from_secs(hold),
            ..TIMES
        };
        agenda.set_times(times, at(5_000));
        assert_eq!(hold_ends_at(&agenda), Some(at(expected)), "{hold}");
    }
}

#[test]
fn a_restart_goes_on_with_a_hold() {
    let remembered = |because| HeldBefore {
        projects: (0..12).map(key).collect(),
        n_recorded: 20,
        because,
    };
    // The time of day may have been set: forward, or back.
    for (until, expected) in [(0, 0), (20_000, 20_000), (86_400_000, 60_000)] {
        let mut agenda = agenda();
        let held = remembered(HeldBecause::MoreThanHalf(at(until)));
        agenda.remember(Some(held), [], Moment::ZERO);
        assert_eq!(hold_ends_at(&agenda), Some(at(expected)));
    }
    // Projects that are unchanged or no longer recorded are not observed as missing.
    for (n_gone, is_all) in [(12, true), (11, false)] {
        let mut agenda = agenda();
        agenda.remember(Some(remembered(HeldBecause::All)), [], Moment::ZERO);
        observe(&mut agenda, 0..n_gone, Presence::Gone, 10);
        agenda.scanned(at(20));
        let held = agenda.held().expect("they are held");
        assert_eq!(held.n, n_gone);
        assert_eq!(held.because == HeldBecause::All, is_all);
    }
}

#[test]
fn a_held_project_that_is_replaced_leaves_the_hold() {
    let mut agenda = agenda();
    observe(&mut agenda, 0..12, Presence::Gone, 0);
    agenda.end_wave(at(1_000), 12);
    assert_eq!(agenda.held().expect("all are held").n, 12);
    observe(&mut agenda, 0..1, Presence::Replaced, 5_000);
    assert_eq!(agenda.held().expect("the others are held").n, 11);
    assert_eq!(agenda.wave_ends_at(), Some(at(6_000)));
    agenda.end_wave(at(6_000), 12);
    assert!(!agenda.holds(&key(0)), "it is judged");
    let held = agenda.held().expect("the others are held");
    assert_eq!((held.n, held.because), (11, HeldBecause::All));
}

/// A process may be killed after it deleted a project, and before it forgot that this was accepted.
#[test]
fn an_accepted_removal_that_is_judged_does_not_count_for_the_next_project() {
    for presence in [Presence::Absent, Presence::Appears] {
        let mut agenda = agenda();
        agenda.remember(None, [key(0)], at(0));
        observe(&mut agenda, 0..1, presence, 10);
        assert!(agenda.accepted().is_empty());
        observe(&mut agenda, 0..3, Presence::Gone, 20);
        agenda.end_wave(at(1_020), 3);
        assert_eq!(agenda.held().expect("they are held").n, 3, "{presence:?}");
    }
}

/// The files of these projects have been missing for long, but may be back since the last look.
#[test]
fn activity_at_the_end_of_a_hold_postpones_a_removal() {
    for (n_gone, n, ends_at) in [(3, 3, 100_000), (12, 20, 61_000)] {
        for goes_on in [false, true] {
            let mut agenda = agenda();
            observe(&mut agenda, 0..n_gone, Presence::Gone, 0);
            agenda.end_wave(at(1_000), n);
            assert_eq!(agenda.held().expect("they are held").n, n_gone);
            agenda.hint(&key(0), at(ends_at), Origin::Live, "changed");
            if n_gone == n {
                agenda.accept(at(ends_at));
            } else {
                agenda.end_wave(at(ends_at), n);
            }
            let counts = |agenda: &Agenda, project: usize, now: u64| {
                let missing = BTreeSet::from(["definition".to_owned()]);
                agenda.removals(&key(project), at(now), &missing) == Removals::Confirmed
            };
            assert!(counts(&agenda, 1, ends_at), "nothing happened to it");
            let mut now = ends_at;
            while !counts(&agenda, 0, now) {
                assert!(now <= ends_at + 10_000, "never");
                agenda.due(at(now), usize::MAX);
                observe(&mut agenda, 0..1, Presence::Gone, now);
                now += 500;
                if goes_on {
                    agenda.hint(&key(0), at(now), Origin::Live, "changed");
                }
            }
            let expected = if goes_on { 10_000 } else { 1_000 };
            assert_eq!(now, ends_at + expected, "{n_gone} of {n}");
        }
    }
}

/// Projects and an agenda that observes them.
struct World {
    agenda: Agenda,
    now: u64,
    /// The projects on record, and whether each is there.
    recorded: BTreeMap<usize, bool>,
    /// The times when projects vanished or came back.
    gone_since: BTreeMap<usize, u64>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Vanish(usize),
    Return(usize),
    /// A project appears that was never there.
    Appear,
    Pass(u64),
    Accept,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..24_usize).prop_map(Step::Vanish),
        3 => (0..24_usize).prop_map(Step::Return),
        1 => Just(Step::Appear),
        4 => prop_oneof![0..300_u64, 900..1_100_u64, 2_000..90_000_u64].prop_map(Step::Pass),
        1 => Just(Step::Accept),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

impl World {
    fn new(n: usize) -> Self {
        let mut agenda = Agenda::new(TIMES.settle);
        agenda.set_times(TIMES, Moment::ZERO);
        Self {
            agenda,
            now: 0,
            recorded: (0..n).map(|project| (project, true)).collect(),
            gone_since: BTreeMap::new(),
        }
    }

    fn hint(&mut self, project: usize) {
        self.agenda
            .hint(&key(project), at(self.now), Origin::Live, "changed");
        self.observe();
    }

    /// Observes due projects. Returns those that are deleted.
    fn observe(&mut self) -> BTreeSet<usize> {
        let mut deleted = BTreeSet::new();
        let now = at(self.now);
        for due in self.agenda.due(now, usize::MAX) {
            let project: usize = due.key.project[1..].parse().expect("a number");
            let path = || BTreeSet::from(["definition".to_owned()]);
            let (missing, presence) = match self.recorded.get(&project) {
                Some(true) => (BTreeSet::new(), Presence::Stays),
                Some(false) => match self.agenda.removals(&due.key, now, &path()) {
                    Removals::Unconfirmed => (path(), Presence::Gone),
                    Removals::Confirmed => {
                        deleted.insert(project);
                        (BTreeSet::new(), Presence::Left)
                    }
                },
                None => (BTreeSet::new(), Presence::Absent),
            };
            let unresolved = Unresolved {
                missing,
                presence,
                ..Unresolved::default()
            };
            self.agenda.observed(&due.key, now, unresolved);
        }
        for project in &deleted {
            self.recorded.remove(project);
            self.gone_since.remove(project);
        }
        deleted
    }

    fn n_gone(&self) -> usize {
        self.recorded
            .values()
            .filter(|is_there| !**is_there)
            .count()
    }

    /// Lets time pass. Returns the deleted projects with the time of each.
    fn pass(&mut self, until: u64) -> Vec<(u64, usize)> {
        let mut deleted = Vec::new();
        loop {
            let next = [self.agenda.next(), self.agenda.wave_ends_at()];
            let Some(next) = next.into_iter().flatten().min() else {
                break;
            };
            let next = u64::try_from(next.as_nanos().div_ceil(1_000_000)).expect("small");
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            self.agenda.end_wave(at(self.now), self.recorded.len());
            let gone: Vec<usize> = self.observe().into_iter().collect();
            deleted.extend(gone.into_iter().map(|project| (self.now, project)));
        }
        self.now = self.now.max(until);
        deleted
    }

    /// A new process with the same record.
    fn restart(&mut self) {
        let held = self.agenda.held().map(|held| HeldBefore {
            projects: self.agenda.held_projects().cloned().collect(),
            n_recorded: held.n_recorded,
            because: held.because,
        });
        let accepted = self.agenda.accepted().clone();
        self.agenda = agenda();
        self.agenda.remember(held, accepted, at(self.now));
        let gone = self.recorded.iter().filter(|(_, is_there)| !**is_there);
        let gone: Vec<usize> = gone.map(|(project, _)| *project).collect();
        for project in gone {
            self.gone_since.insert(project, self.now);
            self.hint(project);
        }
        self.agenda.scanned(at(self.now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No project is deleted while all of at least three are gone and nobody accepted it, none that
    /// is there, and none before its settle time. In the end all are judged or held.
    #[test]
    fn a_project_is_deleted_once_it_is_certain_and_not_held(
        n in 1..24_usize,
        steps in steps(),
    ) {
        let mut world = World::new(n);
        let mut n_new = 24;
        for step in steps {
            let mut deleted = Vec::new();
            let held: BTreeSet<ProjectKey> = world.agenda.held_projects().cloned().collect();
            let waits = matches!(
                world.agenda.held().map(|held| held.because),
                Some(HeldBecause::All)
            );
            match step {
                Step::Vanish(project) => {
                    if world.recorded.get(&project) == Some(&true) {
                        world.recorded.insert(project, false);
                        world.gone_since.insert(project, world.now);
                        world.hint(project);
                    }
                }
                Step::Return(project) => {
                    if world.recorded.get(&project) == Some(&false) {
                        world.recorded.insert(project, true);
                        world.gone_since.remove(&project);
                        world.hint(project);
                    }
                }
                Step::Appear => {
                    n_new += 1;
                    world.recorded.insert(n_new, true);
                    let unresolved = Unresolved {
                        presence: Presence::Appears,
                        ..Unresolved::default()
                    };
                    world.agenda.observed(&key(n_new), at(world.now), unresolved);
                }
                Step::Pass(milliseconds) => {
                    let gone_since = world.gone_since.clone();
                    deleted = world.pass(world.now + milliseconds);
                    for (time, project) in &deleted {
                        let since = gone_since[project];
                        prop_assert!(*time >= since + 1_000, "{project} went at {since}: {time}");
                    }
                }
                Step::Accept => world.agenda.accept(at(world.now)),
                Step::Restart => world.restart(),
            }
            if waits && matches!(step, Step::Pass(_) | Step::Appear | Step::Restart) {
                let deleted: Vec<_> = deleted.iter().map(|(_, project)| key(*project)).collect();
                let of_held = deleted.iter().filter(|key| held.contains(key)).count();
                prop_assert_eq!(of_held, 0, "they wait for one of them");
            }
        }
        // Time passes: longer than a wave and its hold.
        world.pass(world.now + 600_000);
        if world.n_gone() > 0 {
            let held = world.agenda.held().expect("the missing ones are held");
            prop_assert_eq!(held.because, HeldBecause::All);
            prop_assert_eq!(held.n, world.n_gone());
            world.restart();
            world.pass(world.now + 600_000);
            prop_assert_eq!(world.agenda.held().expect("still held").n, held.n);
            world.agenda.accept(at(world.now));
            world.restart();
            world.pass(world.now + 600_000);
        }
        prop_assert_eq!(world.n_gone(), 0);
        prop_assert!(world.agenda.is_empty());
        prop_assert!(world.agenda.held().is_none());
        prop_assert!(world.agenda.accepted().is_empty());
    }
}
