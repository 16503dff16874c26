//! A reference model of inference by identity.
//!
//! A project is its engineId, a state of it is a version, and the model follows projects from place
//! to place. Changes between two observations merge: of several writes of one file the last counts,
//! or none if the file ends as it was observed. A project that came and went was never there. A
//! restore counts if the snapshot was observed before, or is there and older.
//!
//! A project is deleted from an organization once, when the last place with it is gone. Places that
//! are gone wait for each other. It is imported in another organization after that.
//!
//! A deleted project whose published copies are half written is unpublished once they are gone, unless
//! there is a project in its place, or it is in its organization again.

use std::collections::{BTreeMap, BTreeSet};

use project_webhooks::domain::event::EventKind;

use crate::engine::Happening;
use crate::world::{Content, Name, PLACES, World, hash, path};

/// The observed state of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub project: Option<Content>,
    pub copies: BTreeMap<Name, Content>,
    /// A deleted project whose published copies are not judged yet.
    pub deleted: Option<Content>,
}

#[derive(Debug, Default)]
pub struct Truth {
    pub known: BTreeMap<usize, Known>,
}

/// The places that are observed in one step, those whose removals are confirmed, and those whose
/// project moved within its organization.
struct Step<'a> {
    among: &'a BTreeSet<usize>,
    counts: BTreeSet<usize>,
    moved_away: BTreeSet<usize>,
}

/// The consequence of a removal that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    /// The project is deleted here.
    Deletes,
    /// Another place has the project, or its delete.
    Elsewhere,
    /// Another place lost the project too, and that does not count yet.
    Waits,
}

/// The events of one place in one step.
struct Log<'a> {
    at: usize,
    events: &'a mut Vec<Happening>,
}

impl Log<'_> {
    fn say(&mut self, kind: EventKind, name: Name, content: Content) {
        self.events.push((kind, path(self.at, name), hash(content)));
    }
}

fn is_published(name: &Name) -> bool {
    matches!(name, Name::Published(_))
}

impl Truth {
    fn project(&self, at: usize) -> Option<Content> {
        self.known.get(&at)?.project
    }

    /// Returns a complete project in this place that was not known here.
    fn newcomer(&self, world: &World, at: usize) -> Option<Content> {
        let here = world.content(at, Name::Definition)?;
        let was_here = self
            .project(at)
            .is_some_and(|known| known.engine == here.engine);
        (!was_here).then_some(here)
    }

    /// Returns the place that a newcomer came from, by its engineId: the one with its content, else
    /// the first. Each place is left once.
    fn came_from(
        &self,
        world: &World,
        at: usize,
        among: &BTreeSet<usize>,
        ways: &BTreeMap<usize, usize>,
    ) -> Option<usize> {
        let newcomer = self.newcomer(world, at)?;
        let mut left = among.iter().copied().filter(|from| {
            let was_here = |known: Content| known.engine == newcomer.engine;
            *from != at
                && PLACES[*from].0 == PLACES[at].0
                && self.project(*from).is_some_and(was_here)
                && self.has_left(world, *from)
                && ways.values().all(|other| other != from)
        });
        let has_its_content = |from: &usize| self.project(*from) == Some(newcomer);
        left.clone().find(has_its_content).or_else(|| left.next())
    }

    /// Whether the project that was known here certainly left.
    fn has_left(&self, world: &World, at: usize) -> bool {
        let Some(known) = self.project(at) else {
            return false;
        };
        let file = world.files.get(&(at, Name::Definition));
        file.is_none_or(|file| file.content.is_some_and(|here| here.engine != known.engine))
    }

    /// The other places of these observations that have, or had, a project: those of the same
    /// organization, or those of others.
    fn places_of(
        &self,
        world: &World,
        engine: u32,
        at: usize,
        step: &Step<'_>,
        is_same_organization: bool,
    ) -> Vec<usize> {
        let is_it = |content: Option<Content>| content.is_some_and(|one| one.engine == engine);
        let others = step.among.iter().copied().filter(|other| *other != at);
        others
            .filter(|other| (PLACES[*other].0 == PLACES[at].0) == is_same_organization)
            .filter(|other| {
                let was_here = is_it(self.project(*other)) && !step.moved_away.contains(other);
                was_here || is_it(world.content(*other, Name::Definition))
            })
            .collect()
    }

    /// Judges the removed project of a place by the other places of its organization.
    fn removal(&self, world: &World, at: usize, step: &Step<'_>) -> Removal {
        let Some(known) = self.project(at) else {
            return Removal::Deletes;
        };
        let others = self.places_of(world, known.engine, at, step, true);
        let stays = |other: &usize| {
            let here = world.content(*other, Name::Definition);
            let shows = here.is_some_and(|here| here.engine == known.engine);
            shows || !self.has_left(world, *other)
        };
        if others.iter().any(stays) {
            return Removal::Elsewhere;
        }
        if others.iter().any(|other| !step.counts.contains(other)) {
            let is_replaced = world.content(at, Name::Definition).is_some();
            return match is_replaced {
                true => Removal::Elsewhere,
                false => Removal::Waits,
            };
        }
        // One of them is deleted: one that was published, else the last by name.
        let rank = |at: usize| {
            let known = self.known.get(&at);
            let was_published = known.is_some_and(|known| known.copies.keys().any(is_published));
            (was_published, PLACES[at])
        };
        match others.into_iter().any(|other| rank(other) > rank(at)) {
            true => Removal::Elsewhere,
            false => Removal::Deletes,
        }
    }

    /// Whether the newcomer here has to be deleted elsewhere first, or may have to be.
    fn is_held(&self, world: &World, at: usize, step: &Step<'_>) -> bool {
        let Some(newcomer) = self.newcomer(world, at) else {
            return false;
        };
        let others = self.places_of(world, newcomer.engine, at, step, false);
        let is_it = |content: Option<Content>| {
            content.is_some_and(|content| content.engine == newcomer.engine)
        };
        let was_here =
            |other: usize| is_it(self.project(other)) && !step.moved_away.contains(&other);
        let left = |other: usize| was_here(other) && self.has_left(world, other);
        let stays = |other: usize| {
            is_it(world.content(other, Name::Definition)) || (was_here(other) && !left(other))
        };
        let is_unclear = |other: usize| {
            was_here(other) && !left(other) && world.content(other, Name::Definition).is_none()
        };
        let in_one = |one: usize, other: usize| PLACES[one].0 == PLACES[other].0;
        others.iter().any(|other| {
            let mut of_organization = others.iter().filter(|one| in_one(**one, *other));
            (left(*other) && !of_organization.any(|one| stays(*one)))
                || (is_unclear(*other) && !step.counts.contains(&at))
        })
    }

    /// The events of one step, by place. An observation is a place, and whether removals are
    /// confirmed.
    pub fn look(
        &mut self,
        world: &World,
        looks: &[(usize, bool)],
    ) -> BTreeMap<usize, Vec<Happening>> {
        let among: BTreeSet<usize> = looks.iter().map(|(at, _)| *at).collect();
        // A newcomer is accepted where no project was, where that one's removal is confirmed, or
        // where that one was accepted elsewhere.
        let mut ways: BTreeMap<usize, usize> = BTreeMap::new();
        let mut taken_in: BTreeSet<usize> = BTreeSet::new();
        loop {
            let n_taken_in = taken_in.len();
            for (at, counts) in looks {
                let is_free =
                    *counts || self.project(*at).is_none() || ways.values().any(|from| from == at);
                if !is_free || taken_in.contains(at) {
                    continue;
                }
                if let Some(from) = self.came_from(world, *at, &among, &ways) {
                    ways.insert(*at, from);
                    taken_in.insert(*at);
                }
            }
            if taken_in.len() == n_taken_in {
                break;
            }
        }
        for (at, _) in looks.iter().filter(|(at, _)| !taken_in.contains(at)) {
            if let Some(from) = self.came_from(world, *at, &among, &ways) {
                ways.insert(*at, from);
            }
        }
        let step = Step {
            among: &among,
            counts: looks
                .iter()
                .filter(|look| look.1)
                .map(|look| look.0)
                .collect(),
            moved_away: taken_in.iter().map(|to| ways[to]).collect(),
        };
        let ends: BTreeMap<usize, (Removal, bool)> = looks
            .iter()
            .map(|(at, counts)| {
                let is_waiting = ways
                    .iter()
                    .any(|(to, from)| from == at && !taken_in.contains(to));
                let is_removed = *counts && !is_waiting && self.has_left(world, *at);
                let removal = match is_removed && !step.moved_away.contains(at) {
                    true => self.removal(world, *at, &step),
                    false => Removal::Deletes,
                };
                let is_held = !taken_in.contains(at) && self.is_held(world, *at, &step);
                (*at, (removal, is_held))
            })
            .collect();
        let before = self.known.clone();
        let mut all = BTreeMap::new();
        for (at, counts) in looks {
            let mut events = Vec::new();
            let mut log = Log {
                at: *at,
                events: &mut events,
            };
            let mut known = before.get(at).cloned().unwrap_or_default();
            let goes_to = ways.iter().find(|(_, from)| *from == at).map(|(to, _)| *to);
            let (removal, is_held) = ends[at];
            if removal == Removal::Elsewhere || goes_to.is_some_and(|to| taken_in.contains(&to)) {
                known.project = None;
                known
                    .copies
                    .retain(|name, content| stays(world, *at, *name, *content));
            }
            let counts = *counts
                && removal != Removal::Waits
                && goes_to.is_none_or(|to| taken_in.contains(&to));
            if taken_in.contains(at) {
                let from = ways[at];
                if known.project.is_some() {
                    delete(&mut log, world, &known);
                    known
                        .copies
                        .retain(|name, content| stays(world, *at, *name, *content));
                }
                // In its known state: a change during the move is a save or a restore.
                known.project = before[&from].project;
                // Also files that have not arrived yet.
                for (name, content) in &before[&from].copies {
                    if !stays(world, from, *name, *content) {
                        known.copies.insert(*name, *content);
                    }
                }
                if let Some(project) = known.project {
                    log.say(EventKind::ProjectMove, Name::Definition, project);
                }
            }
            let is_back = |deleted: Content| {
                let mut others = among
                    .iter()
                    .filter(|other| PLACES[**other].0 == PLACES[*at].0);
                others.any(|other| {
                    let here = world.content(*other, Name::Definition);
                    here.is_some_and(|here| here.engine == deleted.engine)
                })
            };
            if !is_held {
                known.deleted = known.deleted.filter(|deleted| !is_back(*deleted));
                look_at(&mut log, world, &mut known, counts);
            } else if known.project.is_some() && counts {
                delete(&mut log, world, &known);
                known.project = None;
                known
                    .copies
                    .retain(|name, content| stays(world, *at, *name, *content));
            }
            self.known.insert(*at, known);
            if !events.is_empty() {
                all.insert(*at, events);
            }
        }
        all
    }
}

/// Whether a copy is still there, unchanged or half written.
fn stays(world: &World, at: usize, name: Name, content: Content) -> bool {
    let file = world.files.get(&(at, name));
    file.is_some_and(|file| file.content.is_none_or(|here| here == content))
}

/// Whether a project that is gone from a place is still published. None while a copy is half written.
///
/// A copy of another project counts if it is among the `known` ones.
fn is_still_published(
    world: &World,
    at: usize,
    known: &BTreeMap<Name, Content>,
    project: Content,
) -> Option<bool> {
    let names = world.names(at).into_iter().filter(is_published);
    let seen: Vec<(Name, Option<Content>)> =
        names.map(|name| (name, world.content(at, name))).collect();
    let is_its_own = |(name, content): &(Name, Option<Content>)| {
        content.is_some_and(|here| here.engine == project.engine || known.get(name) == Some(&here))
    };
    let is_unclear = seen.iter().any(|(_, content)| content.is_none());
    let remains = seen.iter().any(is_its_own);
    (remains || !is_unclear).then_some(remains)
}

/// Returns the project if its published copies have to be judged later.
fn delete(log: &mut Log<'_>, world: &World, known: &Known) -> Option<Content> {
    let project = known.project?;
    log.say(EventKind::ProjectDelete, Name::Definition, project);
    if !known.copies.keys().any(is_published) {
        return None;
    }
    let is_still = is_still_published(world, log.at, &known.copies, project);
    if is_still == Some(false) {
        log.say(
            EventKind::ProjectDeleteAndUnpublish,
            Name::Definition,
            project,
        );
    }
    let mut published = known.copies.iter().filter(|(name, _)| is_published(name));
    let are_its_own = published.all(|(_, copy)| copy.engine == project.engine);
    (is_still.is_none() && are_its_own).then_some(project)
}

/// Judges the published copies of a project that was deleted before.
fn unpublish(log: &mut Log<'_>, world: &World, known: &Known, is_removed: bool) -> Option<Content> {
    let project = known.deleted?;
    let is_still = is_still_published(world, log.at, &BTreeMap::new(), project);
    if is_still == Some(false) && is_removed {
        log.say(
            EventKind::ProjectDeleteAndUnpublish,
            Name::Definition,
            project,
        );
        return None;
    }
    (is_still != Some(true)).then_some(project)
}

fn look_at(log: &mut Log<'_>, world: &World, known: &mut Known, counts: bool) {
    let at = log.at;
    let here = world.content(at, Name::Definition);
    let is_missing = !world.files.contains_key(&(at, Name::Definition));
    let mut is_replaced = false;
    if let (Some(old), Some(here)) = (known.project, here)
        && old.engine != here.engine
    {
        if !counts {
            return;
        }
        delete(log, world, known);
        known.project = None;
        is_replaced = true;
    }
    let as_seen = known.clone();
    let mut restored = None;
    match (known.project, here) {
        (None, Some(here)) => {
            log.say(EventKind::ProjectImport, Name::Definition, here);
            log.say(EventKind::ProjectImportAny, Name::Definition, here);
        }
        (Some(old), Some(here)) if old != here => {
            let changed = world.files[&(at, Name::Definition)].changed;
            let snapshots = [Name::Snapshot(false), Name::Snapshot(true)];
            let was_restored = snapshots.iter().any(|name| {
                let file = world.files.get(&(at, *name));
                known.copies.get(name) == Some(&here)
                    || file.is_some_and(|f| f.content == Some(here) && f.changed < changed)
            });
            restored = was_restored.then_some(here);
            if !was_restored {
                log.say(EventKind::ProjectSave, Name::Definition, here);
            }
        }
        _ => {}
    }
    known.project = here.or(known.project);
    let known_project = known.project;
    let held_for = known.project.filter(|_| is_missing && !counts);
    // A new copy without a project waits for one, or for the settle time.
    let is_orphan =
        |name: &Name| known_project.is_none() && !counts && !as_seen.copies.contains_key(name);
    copies(log, world, known, EventKind::SnapshotCreate, |name, _| {
        !is_published(&name) && !is_orphan(&name)
    });
    if let Some(here) = restored {
        log.say(EventKind::SnapshotRestore, Name::Definition, here);
    }
    copies(
        log,
        world,
        known,
        EventKind::ProjectPublish,
        |name, content| {
            is_published(&name)
                && !is_orphan(&name)
                && held_for.is_none_or(|project| project.engine == content.engine)
        },
    );
    if counts {
        if known.project.is_some() && !is_missing && !is_replaced {
            removed_copies(log, world, &as_seen);
        }
        known
            .copies
            .retain(|name, _| world.files.contains_key(&(at, *name)));
    }
    if known.project.is_none() {
        known.deleted = unpublish(log, world, &as_seen, counts && is_missing);
    } else if counts && is_missing {
        known.deleted = delete(log, world, &as_seen);
        known.project = None;
    } else {
        known.deleted = None;
    }
}

/// The events of copies that are gone while their project stays: published ones first, by path.
fn removed_copies(log: &mut Log<'_>, world: &World, known: &Known) {
    let at = log.at;
    let gone = known.copies.iter();
    let mut gone: Vec<(bool, String, Name, Content)> = gone
        .filter(|(name, _)| !world.files.contains_key(&(at, **name)))
        .map(|(name, content)| (!is_published(name), path(at, *name), *name, *content))
        .collect();
    gone.sort_unstable();
    for (is_snapshot, _, name, content) in gone {
        let kind = match is_snapshot {
            true => EventKind::SnapshotDelete,
            false => EventKind::ProjectUnpublish,
        };
        log.say(kind, name, content);
    }
}

/// The events of copies that appeared or changed, oldest first.
fn copies(
    log: &mut Log<'_>,
    world: &World,
    known: &mut Known,
    kind: EventKind,
    which: impl Fn(Name, Content) -> bool,
) {
    let mut new: Vec<(i64, Name, Content)> = world
        .names(log.at)
        .into_iter()
        .filter(|name| *name != Name::Definition)
        .filter_map(|name| {
            let file = world.files[&(log.at, name)];
            Some((file.changed, name, file.content?))
        })
        .filter(|(_, name, content)| {
            which(*name, *content) && known.copies.get(name) != Some(content)
        })
        .collect();
    new.sort_unstable();
    for (_, name, content) in new {
        log.say(kind, name, content);
        known.copies.insert(name, content);
    }
}
