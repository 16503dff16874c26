//! Random user actions, observations at random times and in random batches, lost hints, full scans.

use std::collections::BTreeMap;
use std::time::Duration;

use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::{ContentHash, Recorded};
use proptest::prelude::*;

use crate::engine::{Engine, PAUSE, Round};
use crate::truth::Truth;
use crate::world::{Action, Name, World, actions, hash, path};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A user action, whose hint may be lost.
    Act { action: Action, hint_is_lost: bool },
    /// Time passes; the file system's clock may stand still.
    Pass { milliseconds: u64, ticks: bool },
    /// The daemon runs a step with up to `limit` projects.
    Round { limit: usize },
    /// A full scan.
    Check,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (actions(), prop::bool::weighted(0.1))
            .prop_map(|(action, hint_is_lost)| Step::Act { action, hint_is_lost }),
        4 => (prop_oneof![0..60_u64, 900..1100_u64, 1..3000_u64], prop::bool::weighted(0.8))
            .prop_map(|(milliseconds, ticks)| Step::Pass { milliseconds, ticks }),
        5 => (1..5_usize).prop_map(|limit| Step::Round { limit }),
        1 => Just(Step::Check),
    ];
    prop::collection::vec(step, 1..40)
}

/// The complete files on disk, by path.
fn on_disk(world: &World) -> BTreeMap<String, ContentHash> {
    let files = world.files.iter();
    files
        .filter_map(|((at, name), file)| Some((path(*at, *name), hash(file.content?))))
        .collect()
}

fn on_record(record: &BTreeMap<usize, Recorded>) -> BTreeMap<String, ContentHash> {
    let files = record.values().flat_map(Recorded::files);
    files.map(|file| (file.path.clone(), file.hash)).collect()
}

fn agree(truth: &mut Truth, world: &World, round: &Round) {
    let expected = truth.look(world, &round.looks);
    assert_eq!(round.events, expected, "looks {:?}", round.looks);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    /// For all user actions and times of observation, the daemon infers the events of the model, in
    /// order. In the end the record equals the disk, the agenda is empty, and a second full scan
    /// finds no event.
    #[test]
    fn observations_at_any_time_agree_with_the_model(steps in steps()) {
        let mut world = World::default();
        let mut truth = Truth::default();
        let mut engine = Engine::new();
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Act { action, hint_is_lost } => {
                    for at in world.act(action) {
                        if !hint_is_lost {
                            engine.hint(at, now);
                        }
                    }
                }
                Step::Pass { milliseconds, ticks } => {
                    now += Duration::from_millis(milliseconds);
                    world.tick += i64::from(ticks);
                }
                Step::Round { limit } => {
                    let round = engine.round(&world, now, limit);
                    agree(&mut truth, &world, &round);
                }
                Step::Check => engine.check_all(now),
            }
        }
        world.finish();
        engine.check_all(now);
        now = engine.rest(&world, now, |round| agree(&mut truth, &world, &round));
        prop_assert_eq!(on_record(&engine.record), on_disk(&world), "the record is what is there");
        prop_assert!(engine.settle.is_empty(), "at rest the memory is empty");

        let record = engine.record.clone();
        engine.check_all(now);
        engine.rest(&world, now, |round| assert!(round.events.is_empty(), "{round:?}"));
        prop_assert_eq!(&engine.record, &record);
    }

    /// The events of creations do not depend on the batches.
    #[test]
    fn creations_are_confluent(
        order in Just((0..6_usize).collect::<Vec<_>>()).prop_shuffle(),
        rounds in prop::collection::vec(any::<bool>(), 6),
        half in prop::collection::vec(any::<bool>(), 6),
    ) {
        // A complete project, which is then copied file by file.
        let mut source = World::default();
        source.act(Action::Import(0));
        for tag in [false, true] {
            source.tick += 1;
            source.act(Action::Snapshot(0, tag));
            source.act(Action::Publish(0, tag));
        }
        let mut names = source.names(0);
        names.push(Name::Definition);
        let mut world = World::default();
        let mut engine = Engine::new();
        let mut now = Duration::ZERO;
        let mut kinds = Vec::new();
        for (step, index) in order.into_iter().enumerate() {
            let name = names[index];
            let mut file = source.files[&(0, name)];
            world.tick += 1;
            file.changed = world.tick;
            if half[step] && !world.files.contains_key(&(1, name)) {
                let mut unfinished = file;
                unfinished.content = None;
                world.files.insert((1, name), unfinished);
                engine.hint(1, now);
                kinds.extend(engine.round(&world, now, 1).events.into_values().flatten());
            }
            world.files.insert((1, name), file);
            engine.hint(1, now);
            now += Duration::from_millis(10);
            if rounds[step] {
                kinds.extend(engine.round(&world, now, 1).events.into_values().flatten());
            }
        }
        engine.rest(&world, now, |round| kinds.extend(round.events.into_values().flatten()));
        let mut kinds: Vec<EventKind> = kinds.into_iter().map(|(kind, ..)| kind).collect();
        kinds.sort_unstable();
        prop_assert_eq!(kinds, [
            EventKind::ProjectImport,
            EventKind::ProjectImportAny,
            EventKind::ProjectPublish,
            EventKind::ProjectPublish,
            EventKind::SnapshotCreate,
            EventKind::SnapshotCreate,
        ]);
    }

    /// A save that is complete within the settle time is none of the seven, at all times of observation, and
    /// with a snapshot removed at any time. The hint of its end is never lost: without it two saves
    /// would look like one removal.
    #[test]
    fn saves_are_silent(
        saves in prop::collection::vec((0..4_u8, 0..1000_u64, any::<bool>(), any::<bool>()), 1..30),
        removed_at in 0..30_usize,
    ) {
        let mut world = World::default();
        let mut engine = Engine::new();
        world.act(Action::ImportWhole(0));
        engine.hint(0, Duration::ZERO);
        let mut now = engine.rest(&world, Duration::ZERO, |_| {});
        prop_assert!(engine.record.contains_key(&0));
        for (step, (save, milliseconds, look, hint_is_lost)) in saves.into_iter().enumerate() {
            world.tick += 1;
            if step == removed_at {
                world.act(Action::DropSnapshot(0, false));
            }
            let first = match save {
                0 => Action::Save(0),
                1 => Action::Touch(0),
                2 => Action::BeginSave(0, false),
                _ => Action::BeginSave(0, true),
            };
            let absent = Duration::from_millis(milliseconds).min(PAUSE - Duration::from_millis(1));
            let back = now + absent;
            for action in [first, Action::FinishSave(0)] {
                let is_return = !matches!(action, Action::BeginSave(..));
                if !world.act(action).is_empty() && (is_return || !hint_is_lost) {
                    engine.hint(0, now);
                }
                if look {
                    while let Some(at) = engine.settle.next().filter(|at| *at <= back) {
                        now = now.max(at);
                        let round = engine.round(&world, now, 1);
                        prop_assert!(!has_one_of_the_seven(&round), "{:?}", round);
                    }
                }
                now = back;
            }
        }
        engine.check_all(now);
        engine.rest(&world, now, |round| assert!(!has_one_of_the_seven(&round), "{round:?}"));
        prop_assert_eq!(on_record(&engine.record), on_disk(&world));
    }
}

fn has_one_of_the_seven(round: &Round) -> bool {
    let mut events = round.events.values().flatten();
    events.any(|(kind, ..)| EventKind::SEVEN.contains(kind))
}
