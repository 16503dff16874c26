//! Computes the new events, deliveries, files and listeners of a batch in memory.
//!
//! Constraint: this module reads nothing from the database. If a file that the batch adds, replaces
//! or removes is not recorded as the batch expects, the whole batch fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use uuid::Uuid;

use super::changes::{Kind, notify_senders};
use super::doubt::{Doubt, FirstIds};
use super::event_ids::EventIds;
use super::facts::Facts;
use super::lanes::Lane;
use super::record::{Outcome, Recording};
use super::session::{Statement, statement};
use super::{row, write};
use crate::domain::project::{ContentHash, FileState, ProjectKey};
use crate::store::batch::{Change, Committed, NewEvent, RecordedEvent};
use crate::store::error::Fault;
use crate::store::payload::Given;

pub(super) struct NewRows<'a> {
    recording: &'a Recording<'a>,
    facts: Facts,
    doubt: &'a Doubt,
    payloads: HashMap<ContentHash, &'a Given>,
    ids: EventIds,
    events: Vec<write::Numbered<'a>>,
    deliveries: Vec<write::Delivery>,
    /// The new state of files: `None` if the file is removed.
    files: BTreeMap<(ProjectKey, String), Option<&'a FileState>>,
    listeners_before: BTreeMap<ProjectKey, BTreeSet<String>>,
    webhooks: BTreeSet<String>,
    committed: Committed,
}

/// The outcome of a batch that is about to be committed.
pub(super) struct Pending {
    pub(super) outcome: Outcome,
    pub(super) mark: Vec<u8>,
    pub(super) events: FirstIds,
}

impl<'a> NewRows<'a> {
    /// Computes all rows of the batch.
    ///
    /// Leaves out the events that an earlier batch already recorded, according to `doubt`.
    pub(super) fn compute(
        recording: &'a Recording<'a>,
        facts: Facts,
        ids: EventIds,
        doubt: &'a Doubt,
    ) -> Result<Self, Fault> {
        let payloads = recording.payloads.iter();
        let mut rows = Self {
            recording,
            doubt,
            payloads: payloads.map(|given| (given.hash(), given)).collect(),
            ids,
            events: Vec::new(),
            deliveries: Vec::new(),
            files: BTreeMap::new(),
            listeners_before: facts.listeners.clone(),
            webhooks: BTreeSet::new(),
            committed: Committed::default(),
            facts,
        };
        for change in &recording.batch.changes {
            rows.insert_events(change)?;
            rows.replace_files(change)?;
        }
        Ok(rows)
    }

    /// Adds the events of a change, and updates the listeners of its project.
    fn insert_events(&mut self, change: &'a Change) -> Result<(), Fault> {
        let key = &change.key;
        let mut arriving = self.facts.arriving.remove(key).unwrap_or_default();
        let mut is_deleted = change.forgets_deleted();
        for new in &change.events {
            if let Some(recorded) = self.doubt.recorded(change, new) {
                self.committed.events.push(recorded.clone());
                continue;
            }
            let is_delete = new.event.kind.is_delete();
            if !is_delete {
                self.replace_listeners(key, is_deleted, std::mem::take(&mut arriving));
                is_deleted = false;
            }
            self.insert_event(new)?;
            if is_delete {
                is_deleted = change.after.deleted.is_none();
            } else {
                let heard = new.webhooks.iter().map(|(webhook, _)| webhook.clone());
                let listeners = self.facts.listeners.entry(key.clone()).or_default();
                listeners.extend(heard);
            }
        }
        self.replace_listeners(key, is_deleted, arriving);
        Ok(())
    }

    fn replace_listeners(&mut self, key: &ProjectKey, is_deleted: bool, new: BTreeSet<String>) {
        let listeners = self.facts.listeners.entry(key.clone()).or_default();
        if is_deleted {
            listeners.clear();
        }
        listeners.extend(new);
    }

    fn insert_event(&mut self, new: &'a NewEvent) -> Result<(), Fault> {
        let event = &new.event;
        let heard = self.facts.listeners.get(&event.key);
        let still_heard = new
            .if_heard
            .iter()
            .filter(|(name, _)| heard.is_some_and(|heard| heard.contains(name)));
        let webhooks: Vec<&'a (String, Timestamp)> =
            new.webhooks.iter().chain(still_heard).collect();
        if !self.has_payload(&event.payload) {
            return Err(Fault::MissingPayload {
                hash: event.payload,
                needed_by: format!("the event {}", event.id),
            });
        }
        let sequence = self.facts.next_event;
        self.facts.next_event = sequence.saturating_add(1);
        let (id, repetition) = self.ids.take(new);
        for (webhook, due) in webhooks {
            self.insert_delivery(new, sequence, webhook, *due);
        }
        self.events.push((new, id.clone(), repetition, sequence));
        self.committed.events.push(RecordedEvent { id, sequence });
        Ok(())
    }

    fn insert_delivery(&mut self, new: &'a NewEvent, sequence: i64, webhook: &str, due: Timestamp) {
        let event = &new.event;
        let lane: Lane = (webhook.to_owned(), event.key.clone());
        let is_delete = event.kind.is_delete();
        let project_id = row::project_id(&event.key, &new.project_id);
        let deletes_key = (webhook.to_owned(), project_id.clone());
        let waits = new.is_arrival
            && !is_delete
            && self
                .facts
                .deletes
                .get(&deletes_key)
                .is_some_and(|keys| keys.iter().any(|key| *key != event.key));
        let is_head = !self.facts.lanes.contains(&lane) && !waits;
        let delivery = self.facts.next_delivery;
        self.facts.next_delivery = delivery.saturating_add(1);
        if is_delete {
            let keys = self.facts.deletes.entry(deletes_key).or_default();
            keys.insert(event.key.clone());
        }
        self.facts.lanes.insert(lane);
        self.webhooks.insert(webhook.to_owned());
        self.deliveries.push(write::Delivery {
            id: delivery,
            event: sequence,
            webhook: webhook.to_owned(),
            key: event.key.clone(),
            is_head,
            is_delete,
            project_id: (is_delete || waits).then_some(project_id),
            origin: event.origin.as_str(),
            due: row::milliseconds_up(due),
        });
        if is_head {
            self.committed
                .deliveries
                .webhooks
                .insert(webhook.to_owned());
        }
    }

    fn has_payload(&self, hash: &ContentHash) -> bool {
        self.payloads.contains_key(hash) || self.facts.payloads.contains(hash)
    }

    /// Adds the files that differ between the records before and after a change.
    ///
    /// Fails if these files are not recorded as in the record before the change, or if the payload
    /// of a definition is missing.
    fn replace_files(&mut self, change: &'a Change) -> Result<(), Fault> {
        let after: BTreeMap<&str, &'a FileState> = change
            .after
            .files()
            .map(|file| (&*file.path, file))
            .collect();
        let before: BTreeMap<&str, &'a FileState> = change
            .before
            .files()
            .map(|file| (&*file.path, file))
            .collect();
        let stale = || Fault::Stale {
            key: change.key.clone(),
        };
        for (path, file) in &before {
            if after.get(path) == Some(file) {
                continue;
            }
            let place = (change.key.clone(), (*path).to_owned());
            let expected = (file.hash, file.stamp.changed_ns);
            if self.facts.files.get(&place) != Some(&expected) {
                return Err(stale());
            }
            self.facts.files.remove(&place);
            self.files.insert(place, None);
        }
        for (path, file) in &after {
            if before.get(path) == Some(file) {
                continue;
            }
            let place = (change.key.clone(), (*path).to_owned());
            let new = (file.hash, file.stamp.changed_ns);
            if self.facts.files.insert(place.clone(), new).is_some() {
                return Err(stale());
            }
            if write::identity_of(file).is_some() && !self.has_payload(&file.hash) {
                return Err(Fault::MissingPayload {
                    hash: file.hash,
                    needed_by: format!("the project {}", change.key),
                });
            }
            self.files.insert(place, Some(file));
        }
        Ok(())
    }

    /// Returns the statements that write the batch, and the outcome of their commit.
    pub(super) fn finish(
        mut self,
        moves: &[(ProjectKey, ProjectKey)],
    ) -> Result<(Vec<Statement>, Pending), Fault> {
        let repository = self.recording.repository;
        let batch = self.recording.batch;
        let now = row::milliseconds(batch.now);
        let mark = Uuid::new_v4().as_bytes().to_vec();
        let mut statements = Vec::new();
        let given = self.recording.payloads.iter();
        let new: Vec<&Given> = given
            .filter(|given| !self.facts.payloads.contains(&given.hash()))
            .collect();
        statements.extend(write::payloads(repository, &new)?);
        statements.extend(write::webhooks(repository, &self.webhooks));
        statements.extend(write::events(repository, &self.events, now)?);
        statements.extend(write::deliveries(repository, &self.deliveries, now));
        statements.extend(write::files(repository, &self.files)?);
        // An earlier statement already deleted the listeners of the former keys.
        for (from, _) in moves {
            self.listeners_before.entry(from.clone()).or_default();
        }
        statements.extend(write::listeners(
            repository,
            &self.listeners_before,
            &self.facts.listeners,
        ));
        statements.extend(write::problems(repository, &batch.problems, now));
        statements.extend(write::meta(
            repository,
            batch.repository.as_deref(),
            &batch.meta,
        ));
        statements.push(statement!(
            "UPDATE repositories SET next_event = $2, next_delivery = $3, last_batch = $4 \
             WHERE id = $1",
            repository,
            self.facts.next_event,
            self.facts.next_delivery,
            mark.clone(),
        ));
        if !self.deliveries.is_empty() {
            statements.push(notify_senders(repository, Kind::New));
        }
        let first_ids = self.events.iter().map(|(new, id, _, sequence)| {
            let recorded = RecordedEvent {
                id: id.clone(),
                sequence: *sequence,
            };
            (new.event.id.clone(), recorded)
        });
        let events = first_ids.collect();
        let outcome = Outcome {
            committed: self.committed,
            repetition: self.facts.repetition,
        };
        let pending = Pending {
            outcome,
            mark,
            events,
        };
        Ok((statements, pending))
    }
}
