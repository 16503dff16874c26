//! The events of each user action, if the daemon handles it before the next one.
//!
//! They are derived from the action and the files before it, without any comparison.

use std::collections::{BTreeMap, BTreeSet};

use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::ContentHash;
use proptest::prelude::*;

use crate::engine::{Engine, Happening};
use crate::world::{Action, Content, Name, PLACES, World, actions, hash, path};

type Expected = Vec<Happening>;

fn event(kind: EventKind, at: usize, name: Name, content: Content) -> Happening {
    (kind, path(at, name), hash(content))
}

fn deleted(before: &World, at: usize, unpublished: bool) -> Expected {
    let Some(content) = before.content(at, Name::Definition) else {
        return vec![];
    };
    if before.is_shared(at) {
        return vec![];
    }
    let mut kinds = vec![EventKind::ProjectDelete];
    if unpublished && before.is_published(at) {
        kinds.push(EventKind::ProjectDeleteAndUnpublish);
    }
    kinds
        .into_iter()
        .map(|kind| event(kind, at, Name::Definition, content))
        .collect()
}

/// The events of a project that appears as a whole.
fn came(after: &World, at: usize) -> Expected {
    let Some(content) = after.content(at, Name::Definition) else {
        return vec![];
    };
    let mut events: Expected = [EventKind::ProjectImport, EventKind::ProjectImportAny]
        .into_iter()
        .map(|kind| event(kind, at, Name::Definition, content))
        .collect();
    let is_snapshot = |name: &Name| matches!(name, Name::Snapshot(_));
    let is_published = |name: &Name| matches!(name, Name::Published(_));
    for (kind, is_it) in [
        (
            EventKind::SnapshotCreate,
            &is_snapshot as &dyn Fn(&Name) -> bool,
        ),
        (EventKind::ProjectPublish, &is_published),
    ] {
        let mut names: Vec<Name> = after.names(at).into_iter().filter(is_it).collect();
        names.sort_by_key(|name| (after.files[&(at, *name)].changed, *name));
        events.extend(names.into_iter().filter_map(|name| {
            let content = after.content(at, name)?;
            Some(event(kind, at, name, content))
        }));
    }
    events
}

/// The events of an action, in order within each place.
fn meaning(before: &World, after: &World, action: Action) -> Expected {
    use Action::*;
    let copied = |kind, at, name| match (before.content(at, name), after.content(at, name)) {
        (old, Some(new)) if old != Some(new) => vec![event(kind, at, name, new)],
        _ => vec![],
    };
    let removed = |kind, at, name| {
        let is_there = after.content(at, Name::Definition).is_some();
        let content = before.content(at, name).filter(|_| is_there);
        content
            .map(|content| event(kind, at, name, content))
            .into_iter()
            .collect()
    };
    let moved = |from, to| {
        let content = before.content(from, Name::Definition);
        let content = content.into_iter();
        let event = |content| event(EventKind::ProjectMove, to, Name::Definition, content);
        content.map(event).collect::<Expected>()
    };
    match action {
        Import(at) | ImportWhole(at) | Copy(_, at) => came(after, at),
        Publish(at, tag) => copied(EventKind::ProjectPublish, at, Name::Published(tag)),
        Snapshot(at, tag) => copied(EventKind::SnapshotCreate, at, Name::Snapshot(tag)),
        RestoreByCopy(at, tag) | RestoreByMove(at, tag) => {
            let old = before.content(at, Name::Definition);
            let new = before.content(at, Name::Snapshot(tag));
            match (old, new) {
                (Some(old), Some(new)) if old.engine != new.engine => {
                    let mut events = deleted(before, at, false);
                    events.push(event(EventKind::ProjectImport, at, Name::Definition, new));
                    events.push(event(
                        EventKind::ProjectImportAny,
                        at,
                        Name::Definition,
                        new,
                    ));
                    events
                }
                (Some(old), Some(new)) => {
                    let restored = event(EventKind::SnapshotRestore, at, Name::Definition, new);
                    let removed = event(EventKind::SnapshotDelete, at, Name::Snapshot(tag), new);
                    let is_moved = matches!(action, RestoreByMove(..));
                    let restored = (old != new).then_some(restored);
                    restored
                        .into_iter()
                        .chain(is_moved.then_some(removed))
                        .collect()
                }
                _ => vec![],
            }
        }
        Save(at) => copied(EventKind::ProjectSave, at, Name::Definition),
        Unpublish(at, tag) => removed(EventKind::ProjectUnpublish, at, Name::Published(tag)),
        DropSnapshot(at, tag) => removed(EventKind::SnapshotDelete, at, Name::Snapshot(tag)),
        Delete(at) => deleted(before, at, false),
        DeleteAndUnpublish(at) => deleted(before, at, true),
        Replace(at) => {
            let mut events = deleted(before, at, false);
            events.extend(came(after, at).into_iter().filter(|(kind, ..)| {
                matches!(kind, EventKind::ProjectImport | EventKind::ProjectImportAny)
            }));
            events
        }
        ReplaceWhole(at) => [deleted(before, at, true), came(after, at)].concat(),
        Move(from, to) if PLACES[from].0 != PLACES[to].0 => {
            [came(after, to), deleted(before, from, true)].concat()
        }
        Swap(one, other) if PLACES[one].0 != PLACES[other].0 => {
            let gone = [deleted(before, one, true), deleted(before, other, true)];
            [gone.concat(), came(after, one), came(after, other)].concat()
        }
        Move(from, to) => moved(from, to),
        Swap(one, other) => [moved(one, other), moved(other, one)].concat(),
        // A touch, the end of a publish or a snapshot: no event.
        _ => vec![],
    }
}

/// Whether each project is deleted in one organization before it is imported in another.
fn deletes_come_first(events: &[Happening], before: &World) -> bool {
    let engines: BTreeMap<ContentHash, u32> = before
        .files
        .values()
        .filter_map(|file| file.content)
        .map(|content| (hash(content), content.engine))
        .collect();
    let mut imported = BTreeSet::new();
    events.iter().all(|(kind, _, content)| {
        let engine = engines.get(content);
        if *kind == EventKind::ProjectImport {
            imported.insert(engine);
        }
        *kind != EventKind::ProjectDelete || !imported.contains(&engine)
    })
}

fn by_place(mut events: Expected) -> Expected {
    // A stable sort keeps the order within a place.
    let place = |path: &str| path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
    events.sort_by_key(|(_, path, _)| place(path));
    events
}

/// The action in one go.
fn whole(action: Action) -> Action {
    use Action::*;
    match action {
        BeginSave(at, _) | FinishSave(at) => Save(at),
        BeginPublish(at, tag) => Publish(at, tag),
        BeginSnapshot(at, tag) => Snapshot(at, tag),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// With time to handle each action, the daemon infers exactly its events.
    #[test]
    fn each_action_has_its_events(steps in prop::collection::vec((actions(), any::<bool>()), 1..16)) {
        let mut world = World::default();
        let mut engine = Engine::new();
        let mut now = std::time::Duration::ZERO;
        for (action, hint_is_lost) in steps {
            let action = whole(action);
            world.tick += 1;
            let before = world.clone();
            let touched = world.act(action);
            let expected = if touched.is_empty() { vec![] } else { meaning(&before, &world, action) };
            if hint_is_lost {
                engine.check_all(now);
            } else {
                touched.iter().for_each(|at| engine.hint(*at, now));
            }
            let mut inferred = Vec::new();
            now = engine.rest(&world, now, |round| {
                inferred.extend(round.events.into_values().flatten());
            });
            prop_assert!(deletes_come_first(&inferred, &before), "{:?}: {:?}", action, inferred);
            prop_assert_eq!(by_place(inferred), by_place(expected), "{:?}", action);
            prop_assert!(engine.settle.is_empty(), "at rest the agenda is empty");
        }
    }
}
