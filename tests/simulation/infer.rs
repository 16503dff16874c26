//! The engine of a run: observations, inference and commit.

use std::collections::BTreeMap;

use project_webhooks::domain::delivery;
use project_webhooks::domain::event::{Event, EventId, Explanation, InferredEvent, Origin};
use project_webhooks::domain::infer::{Removals, missing};
use project_webhooks::domain::moves::{self, Comparison, infer_all};
use project_webhooks::domain::project::{FileState, Identity, ProjectKey};
use project_webhooks::domain::route::Interest;
use project_webhooks::domain::settle::Unresolved;
use project_webhooks::domain::shared_ids::Hold;
use project_webhooks::domain::vanished::{HeldBecause, Presence};
use project_webhooks::store::{Batch, Change, Committed, MetaKey, NewEvent};

use crate::crash::{Crash, Image};
use crate::engine::Happening;
use crate::filter::parameters;
use crate::run::{PAUSE, Run};
use crate::world::{N_SINGLE, key, place};

/// Returns the path of a file after a move of its project.
pub fn relocate(file: &FileState, to: &ProjectKey) -> Option<String> {
    let below = file.path.splitn(3, '/').nth(2)?;
    Some(format!("{to}/{below}"))
}

impl Run {
    fn look(&self, at: usize) -> Comparison {
        let recorded = self.store().recorded(&key(at)).unwrap();
        let observed = self.world.observe(at);
        let missing = missing(&recorded, &observed);
        Comparison {
            key: key(at),
            removals: self.settle.removals(&key(at), self.now, &missing),
            recorded,
            observed,
        }
    }

    /// The comparisons of due projects, and of those that may have moved to them.
    fn looks(&mut self, limit: usize) -> Vec<Comparison> {
        let due = self.settle.due(self.now, limit);
        let mut looks: Vec<Comparison> = due.iter().map(|due| self.look(place(&due.key))).collect();
        let mut next = 0;
        while let Some(look) = looks.get(next) {
            next += 1;
            let is_removed = look.removals == Removals::Confirmed;
            let departed = look.recorded.definition.as_ref().filter(|_| is_removed);
            let wanted = [look.arrival(), departed].into_iter().flatten();
            let wanted: Vec<Identity> = wanted.map(FileState::identity).collect();
            let found = self.store().with_identities(&wanted).unwrap();
            for candidate in found.concat() {
                if !looks.iter().any(|look| look.key == candidate) {
                    looks.push(self.look(place(&candidate)));
                }
            }
        }
        looks
    }

    /// Runs a step of the engine, and of the queues if they send the deliveries of its commit.
    /// Returns the number of recorded events.
    pub fn round(&mut self, limit: usize, crash: Crash, sends: Option<Crash>) -> usize {
        self.end_wave();
        let looks = self.looks(limit);
        let changes = infer_all(&looks, &relocate);
        let known = self.truth.known.clone();
        self.compare_with_truth(&looks, &changes);
        if crash == Crash::Before {
            self.truth.known = known;
            self.crash(&Image::take(&self.state));
            return 0;
        }
        let batch = self.batch(&looks, &changes);
        let mut committed = Committed::default();
        let is_recorded = self.commit(crash, |store, _| {
            // The engine commits no empty batch either.
            if !batch.is_empty() {
                committed = store.record(batch).unwrap();
            }
        });
        let is_recorded = is_recorded
            .or_else(|| self.is_recorded(&looks, &changes, &committed))
            .unwrap_or(true);
        if !is_recorded {
            self.truth.known = known;
            return 0;
        }
        let n_events = self.expect(&looks, &changes, &committed);
        if crash != Crash::No {
            return n_events;
        }
        for (look, change) in looks.iter().zip(&changes) {
            let open = Unresolved {
                missing: change.inference.missing.clone(),
                retry: look.observed.problems().any(|problem| problem.may_resolve),
                presence: Presence::of(&look.recorded, &change.inference.record, &look.observed),
                is_postponed: change.removed_with.is_some(),
                ..Unresolved::default()
            };
            self.settle.observed(&look.key, self.now, open);
        }
        for change in &changes {
            if let Some(place) = &change.moves_to {
                self.settle.confirm_after(&change.key, place);
            }
            if let Some(other) = &change.removed_with {
                self.settle.confirm_with(&change.key, other, self.now);
            }
            if let Some(Hold::Removal(from)) = &change.hold {
                self.settle.observe_after(&change.key, from, self.now);
            }
        }
        self.note_held();
        let ready = committed.deliveries.ready;
        match sends {
            Some(crash) => self.send_ready(ready, crash),
            // A commit returns the same deliveries as a claim.
            None => {
                for (webhook, ready) in &ready {
                    let claims = self.claims(webhook, 100, Default::default());
                    assert!(claims.contains(ready), "{webhook}: {ready:?}");
                }
            }
        }
        n_events
    }

    /// Decides about the projects that vanished, if the time has come.
    fn end_wave(&mut self) {
        // The first scan may find more that vanished.
        self.is_starting &= self.settle.next().is_some_and(|next| next <= self.now);
        if self.is_starting {
            return;
        }
        if self.settle.wave_ends_at().is_none_or(|at| self.now < at) {
            return;
        }
        let n_defined = self.store().n_defined_of(None).unwrap();
        self.settle.end_wave(self.now, n_defined);
        if let Some(held) = self.settle.held() {
            // Without the crowd, there are too few for a wave. Then the hold has an end only while
            // projects come back.
            let is_all = held.because == HeldBecause::All && held.n >= 3;
            let is_wave = self.crowd_until.is_some();
            assert!(is_all || is_wave || self.was_held, "{held:?}");
        }
        self.note_held();
    }

    /// Records the projects that a restart has to remember, as the engine does.
    pub fn note_held(&mut self) {
        let held: Vec<&ProjectKey> = self.settle.held_projects().collect();
        let accepted = self.settle.accepted();
        self.was_held = !held.is_empty();
        let text = |keys: Vec<&ProjectKey>| serde_json::to_string(&keys).unwrap();
        let hold = self.settle.held().map(|held| match held.because {
            HeldBecause::MoreThanHalf(until) => (held.n_recorded, Some(until)),
            HeldBecause::All => (held.n_recorded, None),
        });
        let facts = [
            (MetaKey::Hold, serde_json::to_string(&hold).unwrap()),
            (MetaKey::HeldRemovals, text(held)),
            (MetaKey::AcceptedRemovals, text(accepted.iter().collect())),
        ];
        let mut batch = Batch::new(self.wall());
        for (key, text) in facts {
            if self.held_facts.get(key.as_str()) != Some(&text) {
                self.held_facts.insert(key.as_str(), text.clone());
                batch.meta.push((key, text));
            }
        }
        if !batch.meta.is_empty() {
            self.store().record(batch).unwrap();
        }
    }

    /// The model infers the same events in the same order: none is lost or invented.
    fn compare_with_truth(&mut self, looks: &[Comparison], changes: &[moves::Conclusion]) {
        let seen: Vec<(usize, bool)> = looks
            .iter()
            .map(|look| (place(&look.key), look.removals == Removals::Confirmed))
            .collect();
        for (at, _) in seen.iter().filter(|(_, counts)| *counts) {
            let since = self.hinted.get(at).map(|hinted| self.now - *hinted);
            assert!(
                since.is_none_or(|since| since >= PAUSE),
                "a removal counts after {since:?}"
            );
        }
        let is_gone = |at: usize| self.world.names(at).is_empty();
        for (at, _) in seen.iter().filter(|(at, counts)| *counts && is_gone(*at)) {
            let is_early = self.crowd_until.is_some_and(|until| self.now < until);
            assert!(
                *at < N_SINGLE || !is_early,
                "a removal counts while it should be held"
            );
        }
        let expected = self.truth.look(&self.world, &seen);
        let mut found: BTreeMap<usize, Vec<Happening>> = BTreeMap::new();
        for (look, change) in looks.iter().zip(changes) {
            let events = &change.inference.events;
            let happenings = events
                .iter()
                .map(|event| (event.kind, event.subject.path.clone(), event.subject.hash));
            if !events.is_empty() {
                found.insert(place(&look.key), happenings.collect());
            }
        }
        assert_eq!(found, expected, "what is inferred");
    }

    fn batch(&self, looks: &[Comparison], changes: &[moves::Conclusion]) -> Batch {
        let mut batch = Batch::new(self.wall());
        for (look, change) in looks.iter().zip(changes) {
            let inference = &change.inference;
            // The engine records no project without a change either.
            if inference.record == look.recorded && inference.events.is_empty() {
                continue;
            }
            let events = inference.events.iter();
            batch.changes.push(Change {
                key: look.key.clone(),
                moved_from: change.moved_from.clone(),
                before: look.recorded.clone(),
                after: inference.record.clone(),
                events: events.map(|event| self.event(&look.key, event)).collect(),
            });
            let definition = inference.record.definition.iter().map(|file| file.hash);
            let payloads = inference.events.iter().map(InferredEvent::payload);
            for needed in definition.chain(payloads) {
                batch.payloads.push((needed, self.bytes[&needed].clone()));
            }
        }
        batch
    }

    fn event(&self, key: &ProjectKey, inferred: &InferredEvent) -> NewEvent {
        let subject = &inferred.subject;
        let tag = subject.tag.clone();
        let (kind, now) = (inferred.kind, self.wall());
        let mut new = NewEvent {
            event: Event {
                id: EventId::of(
                    kind,
                    key,
                    tag.as_deref(),
                    &subject.stamp,
                    &inferred.payload(),
                    0,
                ),
                kind,
                key: key.clone(),
                origin: Origin::Live,
                occurred_at: now,
                parameters: parameters(inferred),
                payload: inferred.payload(),
                explanation: Explanation::default(),
            },
            project_id: key.to_string(),
            is_arrival: kind.is_import(),
            tag,
            stamp: subject.stamp,
            webhooks: Vec::new(),
            if_heard: Vec::new(),
        };
        for hook in self.hooks.iter().filter(|hook| hook.is_configured) {
            let subscription = hook.filter.subscription(place(key));
            let receivers = match subscription.interest((&new.event).into()) {
                Interest::Yes => &mut new.webhooks,
                Interest::IfHeard(_) => &mut new.if_heard,
                Interest::No(_) => continue,
            };
            receivers.push((hook.name.to_owned(), delivery::first(&hook.schedule, now)));
        }
        new
    }

    /// Whether a batch is on record as a whole after a crash; none if it changed nothing.
    fn is_recorded(
        &self,
        looks: &[Comparison],
        changes: &[moves::Conclusion],
        committed: &Committed,
    ) -> Option<bool> {
        let mut on_record = Vec::new();
        for (look, change) in looks.iter().zip(changes) {
            let after = &change.inference.record;
            if look.recorded != *after {
                let found = self.store().recorded(&look.key).unwrap();
                assert!(found == look.recorded || found == *after, "{found:?}");
                on_record.push(found == *after);
            }
        }
        let listings = self.listings();
        for event in &committed.events {
            on_record.push(listings.event(&event.id).unwrap().is_some());
        }
        assert!(
            on_record.windows(2).all(|two| two[0] == two[1]),
            "a batch is on record in part"
        );
        on_record.first().copied()
    }

    /// Expects the deliveries of recorded events. Returns the number of events.
    fn expect(
        &mut self,
        looks: &[Comparison],
        changes: &[moves::Conclusion],
        committed: &Committed,
    ) -> usize {
        let now = self.wall();
        let moves: Vec<(usize, usize)> = changes
            .iter()
            .filter_map(|change| Some((place(change.moved_from.as_ref()?), place(&change.key))))
            .collect();
        let arriving = self.hooks.each_mut().map(|hook| {
            hook.move_pending(&moves);
            hook.filter.leave(&moves)
        });
        let mut n_events = 0;
        let mut recorded = committed.events.iter();
        for (look, change) in looks.iter().zip(changes) {
            let (at, events) = (place(&look.key), &change.inference.events);
            let recorded: Vec<_> = recorded.by_ref().take(events.len()).collect();
            n_events += recorded.len();
            for (event, recorded) in events.iter().zip(&recorded) {
                let happening = (event.kind, event.subject.path.clone(), event.payload());
                self.expected_events.insert(recorded.id.clone(), happening);
                assert!(
                    self.used_ids.insert(recorded.id.clone()),
                    "{} is the id of two happenings",
                    recorded.id
                );
            }
            for (hook, arriving) in self.hooks.iter_mut().zip(&arriving) {
                let (is_configured, arrives) = (hook.is_configured, arriving.contains(&at));
                let kept = [&look.recorded, &change.inference.record];
                let [before, after] = kept.map(|record| record.deleted.is_some());
                let received =
                    hook.filter
                        .receives(at, events, is_configured, arrives, (before, after));
                for (recorded, is_received) in recorded.iter().zip(received) {
                    if is_received {
                        hook.expect(at, recorded.id.clone(), now);
                    }
                }
            }
        }
        assert_eq!(n_events, committed.events.len());
        n_events
    }
}
