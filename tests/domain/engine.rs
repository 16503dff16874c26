//! A step of the engine with the real rules, as the head of `settle.rs` prescribes it.

use std::collections::BTreeMap;
use std::time::Duration;

use project_webhooks::domain::event::{EventId, EventKind, Origin};
use project_webhooks::domain::infer::{Inference, Removals, missing};
use project_webhooks::domain::moves::{Comparison, infer_all};
use project_webhooks::domain::project::{ContentHash, FileState, Identity, ProjectKey, Recorded};
use project_webhooks::domain::settle::{Agenda, Moment, Unresolved};
use project_webhooks::domain::shared_ids::Hold;
use project_webhooks::domain::vanished::Presence;

use crate::world::{N_SINGLE, World, key, place};

/// Returns the path of a file after a move of its project.
fn relocate(file: &FileState, to: &ProjectKey) -> Option<String> {
    let below = file.path.splitn(3, '/').nth(2)?;
    Some(format!("{to}/{below}"))
}

pub const PAUSE: Duration = Duration::from_millis(1000);

/// An event for comparison: the kind, the path and the content.
pub type Happening = (EventKind, String, ContentHash);

/// The outcome of a step: observed places with confirmed removals, and events by place.
#[derive(Debug, Default)]
pub struct Round {
    pub looks: Vec<(usize, bool)>,
    pub events: BTreeMap<usize, Vec<Happening>>,
}

#[derive(Debug)]
pub struct Engine {
    pub settle: Agenda,
    pub record: BTreeMap<usize, Recorded>,
}

impl Engine {
    pub fn new() -> Self {
        Self {
            settle: Agenda::new(PAUSE),
            record: BTreeMap::new(),
        }
    }

    pub fn hint(&mut self, at: usize, now: Moment) {
        self.settle
            .hint(&key(at), now, Origin::Live, "a file changed");
    }

    pub fn check_all(&mut self, now: Moment) {
        for at in 0..N_SINGLE {
            self.settle.check(&key(at), now, Origin::Live, "full check");
        }
    }

    fn look(&self, world: &World, at: usize, now: Moment) -> Comparison {
        let recorded = self.record.get(&at).cloned().unwrap_or_default();
        let observed = world.observe(at);
        let missing = missing(&recorded, &observed);
        Comparison {
            key: key(at),
            removals: self.settle.removals(&key(at), now, &missing),
            recorded,
            observed,
        }
    }

    /// Runs one step; without due projects it observes nothing.
    pub fn round(&mut self, world: &World, now: Moment, limit: usize) -> Round {
        let defined = self.record.values().filter(|one| one.definition.is_some());
        self.settle.end_wave(now, defined.count());
        let due = self.settle.due(now, limit);
        let mut looks: Vec<Comparison> = due
            .iter()
            .map(|due| self.look(world, place(&due.key), now))
            .collect();
        let mut next = 0;
        while let Some(look) = looks.get(next) {
            next += 1;
            let is_removed = look.removals == Removals::Confirmed;
            let departed = look.recorded.definition.as_ref().filter(|_| is_removed);
            let wanted = [look.arrival(), departed].into_iter().flatten();
            let wanted: Vec<Identity> = wanted.map(FileState::identity).collect();
            for (at, recorded) in &self.record {
                let candidate = key(*at);
                let definition = recorded.last_definition();
                let has_it = definition.is_some_and(|found| wanted.contains(&found.identity()));
                let is_new = !looks.iter().any(|look| look.key == candidate);
                if has_it && is_new {
                    looks.push(self.look(world, *at, now));
                }
            }
        }
        let changes = infer_all(&looks, &relocate);
        let mut round = Round::default();
        for (look, change) in looks.iter().zip(&changes) {
            let at = place(&look.key);
            let Inference {
                record,
                events,
                missing,
            } = &change.inference;
            round.looks.push((at, look.removals == Removals::Confirmed));
            if !events.is_empty() {
                let happenings = events
                    .iter()
                    .map(|event| (event.kind, event.subject.path.clone(), event.subject.hash));
                round.events.insert(at, happenings.collect());
            }
            self.record.insert(at, record.clone());
            let open = Unresolved {
                missing: missing.clone(),
                retry: look.observed.problems().any(|problem| problem.may_resolve),
                presence: Presence::of(&look.recorded, record, &look.observed),
                is_postponed: change.removed_with.is_some(),
                ..Unresolved::default()
            };
            self.settle.observed(&look.key, now, open);
        }
        for change in &changes {
            if let Some(place) = &change.moves_to {
                self.settle.confirm_after(&change.key, place);
            }
            if let Some(other) = &change.removed_with {
                self.settle.confirm_with(&change.key, other, now);
            }
            if let Some(Hold::Removal(from)) = &change.hold {
                self.settle.observe_after(&change.key, from, now);
            }
        }
        // An event that is inferred again, for instance after a power cut, has the same id.
        let ids = |changes: &[_]| -> Vec<EventId> { changes.iter().flat_map(ids_of).collect() };
        assert_eq!(ids(&changes), ids(&infer_all(&looks, &relocate)));
        round
    }

    /// Runs steps until nothing is due within three settle times; an operator accepts held removals.
    /// Returns the time after them.
    pub fn rest(&mut self, world: &World, from: Moment, mut each: impl FnMut(Round)) -> Moment {
        let mut now = from;
        let mut n_rounds = 0;
        loop {
            self.settle.accept(now);
            let next = [self.settle.next(), self.settle.wave_ends_at()];
            let next = next.into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= from + 3 * PAUSE) else {
                break;
            };
            now = now.max(at);
            each(self.round(world, now, 2));
            n_rounds += 1;
            assert!(n_rounds < 1000, "the steps do not end");
        }
        from + 3 * PAUSE
    }
}

fn ids_of(change: &project_webhooks::domain::moves::Conclusion) -> Vec<EventId> {
    let events = change.inference.events.iter();
    events
        .map(|event| {
            let subject = &event.subject;
            let tag = subject.tag.as_deref();
            EventId::of(
                event.kind,
                &change.key,
                tag,
                &subject.stamp,
                &subject.hash,
                0,
            )
        })
        .collect()
}
