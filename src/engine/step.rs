//! One turn: due projects are looked at, judged and committed.
//!
//! Constraint: all or nothing. Whatever fails on the way, the root or the store, puts every due
//! project back, and the held files with them.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use jiff::Timestamp;
use tracing::info;

use super::{Loop, PAUSE};
use crate::domain::delivery;
use crate::domain::event::{
    Event, EventId, EventKind, Explanation, InferredEvent, Origin, timestamp,
};
use crate::domain::infer::{Removals, missing};
use crate::domain::moves::{self, Comparison};
use crate::domain::parameters::parameters;
use crate::domain::project::{
    ContentHash, FileState, Identity, Observed, Problem, ProjectKey, Recorded,
};
use crate::domain::route::route;
use crate::domain::settle::{Due, Unresolved};
use crate::observe::Held;
use crate::repository::Root;
use crate::store::{Batch, Change, NewEvent, StoreError};

/// The bytes of files that are read for one commit, beyond which the rest waits for the next.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// The looks of one turn of the loop, in progress.
#[derive(Default)]
pub(super) struct Round {
    pub(super) turns: Vec<Turn>,
    /// The bytes that were read, by their hash.
    contents: HashMap<ContentHash, Bytes>,
    /// How many they are.
    bytes: usize,
    looked_at: HashSet<ProjectKey>,
}

impl Round {
    pub(super) fn keep(&mut self, hash: ContentHash, content: Bytes) {
        self.bytes = self.bytes.saturating_add(content.len());
        self.contents.insert(hash, content);
    }
}

/// A look in progress: what is due, what was on record, and what files that are gone again said.
pub(super) struct Turn {
    pub(super) due: Due,
    removals: Removals,
    recorded: Recorded,
    pub(super) observed: Observed,
    /// Events of files that existed between two looks, and the record after them.
    pub(super) passed: Vec<InferredEvent>,
    pub(super) record_after_passed: Recorded,
    /// The held files that were judged, until that is committed.
    pub(super) held: Vec<Held>,
    /// Held files that have to be judged again at the next look.
    pub(super) held_back: Vec<Held>,
    /// Held files that have their names still.
    pub(super) named: Vec<Held>,
}

impl Turn {
    pub(super) fn look(&self) -> Comparison {
        Comparison {
            key: self.due.key.clone(),
            recorded: self.record_after_passed.clone(),
            observed: self.observed.clone(),
            removals: self.removals,
        }
    }
}

impl Loop {
    /// Looks at due projects, judges them, commits. What cannot be done now becomes due again.
    pub(super) fn step(&mut self, due: Vec<Due>) {
        let taken: Vec<(ProjectKey, Origin)> = due
            .iter()
            .map(|due| (due.key.clone(), due.origin))
            .collect();
        let root = match self.root.open() {
            Ok(Some(root)) => root,
            Ok(None) | Err(_) => return self.root_is_in_doubt(&taken),
        };
        let now = self.clock.now();
        let mut round = Round::default();
        if let Err(error) = self.look_at(&root, due, now, &mut round) {
            self.hold_all_again(round.turns);
            self.put_back(&taken);
            return self.store_failed(&error);
        }
        let Round {
            mut turns,
            contents,
            looked_at,
            ..
        } = round;
        let looks: Vec<Comparison> = turns.iter().map(Turn::look).collect();
        let changes = moves::infer_all(&looks, &self.relocate());
        drop(looks);

        // The looks went by the root that was opened. If another one is there now, or none, what
        // was missing proves nothing.
        if !root.is_in_place() {
            self.hold_all_again(turns);
            return self.root_is_in_doubt(&taken);
        }
        drop(root);

        let mut batch = Batch::new(now);
        let mut opens = Vec::new();
        let mut follows = Vec::new();
        let mut needed: BTreeSet<ContentHash> = BTreeSet::new();
        let (mut came, mut went) = (0, 0);
        for (turn, change) in turns.iter_mut().zip(changes) {
            let judged = change.inference;
            let waits = !turn.held_back.is_empty();
            turn.keep_what_waits(&judged);
            follows.extend(change.moves_to.map(|place| (turn.due.key.clone(), place)));
            opens.push((
                turn.due.key.clone(),
                Unresolved {
                    missing: judged.missing,
                    retry: waits || turn.observed.problems().any(|problem| problem.may_heal),
                },
            ));
            if let Some(from) = &change.moved_from {
                info!(project = %turn.due.key, %from, "the project moved; no event");
            }
            let events: Vec<NewEvent> = turn
                .passed
                .iter()
                .chain(&judged.events)
                // Until the first scan is done nobody can tell what is new from what was there.
                .filter(|_| !self.adopting)
                .map(|inferred| self.event(turn, inferred, now))
                .collect();
            needed.extend(events.iter().map(|event| event.event.payload));
            needed.extend(judged.record.definition.iter().map(|file| file.hash));
            if judged.record != turn.recorded || !events.is_empty() {
                came += usize::from(turn.recorded.is_empty() && !judged.record.is_empty());
                went += usize::from(!turn.recorded.is_empty() && judged.record.is_empty());
                batch.changes.push(Change {
                    key: turn.due.key.clone(),
                    before: turn.recorded.clone(),
                    after: judged.record,
                    events,
                });
            }
            let problems: Vec<Problem> = turn.observed.problems().cloned().collect();
            let key = Some(turn.due.key.clone());
            if self.problems.get(&key).map_or(&[][..], Vec::as_slice) != problems {
                batch.problems.push((key, problems));
            }
        }
        batch.payloads = contents
            .into_iter()
            .filter(|(hash, _)| needed.contains(hash))
            .collect();

        match self.commit(batch) {
            Ok(()) => {
                self.status.add_projects(came, went);
                let moment = self.clock.moment();
                for (key, open) in opens {
                    self.settle.observed(&key, moment, open);
                }
                for (key, place) in follows {
                    self.settle.confirm_after(&key, &place);
                }
                for (key, origin) in taken.iter().filter(|(key, _)| !looked_at.contains(key)) {
                    self.settle
                        .check(key, moment, *origin, "put off for its size");
                }
                for turn in turns {
                    self.hold_again(turn.due.key, turn.held_back);
                }
            }
            Err(error) => {
                self.hold_all_again(turns);
                self.put_back(&taken);
                self.store_failed(&error);
            }
        }
    }

    fn hold_all_again(&mut self, turns: Vec<Turn>) {
        for turn in turns {
            let held = turn.held.into_iter().chain(turn.held_back);
            self.hold_again(turn.due.key, held.chain(turn.named));
        }
    }

    pub(super) fn hold_again(&mut self, key: ProjectKey, held: impl IntoIterator<Item = Held>) {
        let mut held = held.into_iter().peekable();
        if held.peek().is_some() {
            self.held.entry(key).or_default().extend(held);
        }
    }

    /// Looks at the due projects, and at those that may have moved to where they are.
    fn look_at(
        &mut self,
        root: &Root,
        due: Vec<Due>,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<(), StoreError> {
        self.look_at_each(root, due, now, round)?;
        self.judge_held(now, round);
        let mut first = 0;
        loop {
            let looked = round.turns.len();
            let arrived = round.turns.iter().skip(first).filter_map(|turn| {
                let arrived = moves::arrival(&turn.record_after_passed, &turn.observed)?;
                let identity = arrived.identity();
                Some((turn.due.key.clone(), identity, turn.due.origin))
            });
            let arrived: Vec<_> = arrived.collect();
            self.look_behind(root, &arrived, now, round);
            let places = self.old_places(&arrived, round)?;
            if places.is_empty() {
                break;
            }
            first = looked;
            self.look_at_each(root, places, now, round)?;
        }
        self.look_at_arrivals_again(root, now, round);
        for index in 0..round.turns.len() {
            let removals = round.turns.get(index).map(|turn| self.removals(turn));
            if let (Some(turn), Some(removals)) = (round.turns.get_mut(index), removals) {
                turn.removals = removals;
            }
        }
        Ok(())
    }

    /// Looks once more at the projects that were looked at before one of their identity arrived
    /// elsewhere: it may have moved in between, and would be seen in both places.
    fn look_behind(
        &mut self,
        root: &Root,
        arrived: &[(ProjectKey, Identity, Origin)],
        now: Timestamp,
        round: &mut Round,
    ) {
        let mut contents = Vec::new();
        for (place, identity, _) in arrived {
            for turn in &mut round.turns {
                let was_it = turn.recorded.definition.is_some()
                    && turn.due.key.organization == place.organization
                    && turn.due.key != *place
                    && turn
                        .observed
                        .definition()
                        .is_some_and(|seen| seen.identity() == *identity);
                if was_it {
                    let look = self.observer.look(root, &turn.due.key, &turn.recorded, now);
                    turn.observed = look.observed;
                    contents.extend(look.contents);
                }
            }
        }
        for (hash, content) in contents {
            round.keep(hash, content);
        }
    }

    /// Looks once more at projects that arrived while their old place still shows them: they may have
    /// gone back in between, as in a checkout of another branch and back, and would be taken for a
    /// copy. What is still there after the old place was looked at is one.
    fn look_at_arrivals_again(&mut self, root: &Root, now: Timestamp, round: &mut Round) {
        let shown: Vec<(ProjectKey, Identity)> = round
            .turns
            .iter()
            .filter_map(|turn| Some((turn.due.key.clone(), turn.observed.definition()?.identity())))
            .collect();
        let mut contents = Vec::new();
        for turn in &mut round.turns {
            let Some(arrived) = moves::arrival(&turn.record_after_passed, &turn.observed) else {
                continue;
            };
            let identity = arrived.identity();
            let is_elsewhere = shown.iter().any(|(key, shown)| {
                *key != turn.due.key
                    && key.organization == turn.due.key.organization
                    && *shown == identity
            });
            if is_elsewhere {
                let look = self.observer.look(root, &turn.due.key, &turn.recorded, now);
                turn.observed = look.observed;
                contents.extend(look.contents);
            }
        }
        for (hash, content) in contents {
            round.keep(hash, content);
        }
    }

    pub(super) fn look_at_each(
        &mut self,
        root: &Root,
        due: Vec<Due>,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<(), StoreError> {
        let keys: Vec<ProjectKey> = due.iter().map(|due| due.key.clone()).collect();
        let recorded = self.store.recorded_many(&keys)?;
        for (due, recorded) in due.into_iter().zip(recorded) {
            if round.bytes > BATCH_BYTES {
                break;
            }
            round.looked_at.insert(due.key.clone());
            let look = self.observer.look(root, &due.key, &recorded, now);
            for (hash, content) in look.contents {
                round.keep(hash, content);
            }
            round.turns.push(Turn {
                due,
                removals: Removals::Unconfirmed,
                record_after_passed: recorded.clone(),
                recorded,
                observed: look.observed,
                passed: Vec::new(),
                held: Vec::new(),
                held_back: Vec::new(),
                named: Vec::new(),
            });
        }
        Ok(())
    }

    /// Where a file on record lies once its project is in another place.
    pub(super) fn relocate(&self) -> impl Fn(&FileState, &ProjectKey) -> Option<String> + 'static {
        let layout = self.config.repository.layout.clone();
        move |file, to| layout.relocate(&file.path, to)
    }

    /// Whether what this look finds missing counts.
    fn removals(&self, turn: &Turn) -> Removals {
        if self.adopting {
            // The record is of another layout, or there is none.
            Removals::Confirmed
        } else {
            let missing = missing(&turn.record_after_passed, &turn.observed);
            self.settle
                .removals(&turn.due.key, self.clock.moment(), &missing)
        }
    }

    /// The projects on record with the identity that arrived somewhere, as far as they were not
    /// looked at yet.
    pub(super) fn old_places(
        &self,
        arrived: &[(ProjectKey, Identity, Origin)],
        round: &Round,
    ) -> Result<Vec<Due>, StoreError> {
        let mut places: Vec<Due> = Vec::new();
        let wanted: Vec<_> = arrived
            .iter()
            .map(|(place, identity, _)| (place.organization.as_str(), identity))
            .collect();
        let found = self.store.with_identities(&wanted)?;
        for ((place, _, origin), keys) in arrived.iter().zip(found) {
            for key in keys {
                if !round.looked_at.contains(&key) && places.iter().all(|due| due.key != key) {
                    places.push(Due {
                        key,
                        origin: *origin,
                        hint: format!("its definition appeared in {place}"),
                    });
                }
            }
        }
        Ok(places)
    }

    fn event(&self, turn: &Turn, inferred: &InferredEvent, now: Timestamp) -> NewEvent {
        let key = &turn.due.key;
        let subject = &inferred.subject;
        let is_delete = matches!(
            inferred.kind,
            EventKind::ProjectDelete | EventKind::ProjectDeleteAndUnpublish
        );
        let event = Event {
            id: EventId::of(
                inferred.kind,
                key,
                subject.tag.as_deref(),
                &subject.stamp,
                &subject.hash,
                0,
            ),
            kind: inferred.kind,
            key: key.clone(),
            origin: turn.due.origin,
            occurred_at: if is_delete {
                now
            } else {
                timestamp(subject.stamp.changed_ns)
            },
            parameters: parameters(inferred.kind, key, subject, &self.config.naming),
            payload: subject.hash,
            explanation: Explanation {
                because: inferred.because.clone(),
                before: inferred.before.as_ref().map(Into::into),
                after: (!is_delete).then(|| subject.into()),
                hint: turn.due.hint.clone(),
            },
        };
        let webhooks = route(&self.routes.subscriptions, inferred.kind, key)
            .map(|name| {
                let schedule = self.routes.schedules.get(name);
                let schedule = schedule.map_or(&[][..], Vec::as_slice);
                (name.to_owned(), delivery::first(schedule, now))
            })
            .collect();
        NewEvent {
            event,
            tag: subject.tag.clone(),
            stamp: subject.stamp,
            webhooks,
        }
    }

    /// Makes projects due again, by the origin that they were taken with.
    fn put_back(&mut self, taken: &[(ProjectKey, Origin)]) {
        let now = self.clock.moment();
        for (key, origin) in taken {
            self.settle.check(key, now, *origin, "put back");
        }
    }

    /// The root could not be opened, or is not the one that is watched: nothing that was seen
    /// counts, and the root is checked at once.
    pub(super) fn root_is_in_doubt(&mut self, taken: &[(ProjectKey, Origin)]) {
        self.put_back(taken);
        let now = self.clock.moment();
        self.next_pulse = now;
        self.paused_until = Some(now.saturating_add(PAUSE));
    }
}
