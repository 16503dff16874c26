//! Records batches: the new records of projects, their events, payloads and deliveries.
//!
//! Constraint: a [`Batch`] is recorded completely or not at all, in two round trips. The first one
//! locks the repository and reads all rows that the batch depends on ([`Facts`]). Then [`Writing`]
//! computes the new rows in memory, and the second round trip writes them and commits. Nobody else
//! writes to the repository meanwhile.
//!
//! If the connection is lost during the commit, nobody knows whether the batch was recorded ([`Doubt`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::changes::{Kind, notify_senders};
use super::facts::Facts;
use super::lanes::Lane;
use super::session::{LOCK_AS_HOLDER, Session, Statement, statement};
use super::{lanes, row, write};
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, FileState, ProjectKey};
use crate::store::batch::{
    Batch, Change, Committed, NewEvent, READY_BYTES, READY_MAX, RecordedEvent,
};
use crate::store::delivery::Claim;
use crate::store::error::Fault;
use crate::store::payload::Given;

/// A batch whose commit has an unknown result, because the connection was lost.
///
/// The next batch finds out. If the earlier one was recorded, the record differs from that of the
/// caller, who infers again. But an event that leaves the record as it is, such as that of a snapshot
/// that was removed at once, would be inferred again too. So such events are left out then.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    /// The mark of the batch. `None` once its result is known.
    mark: Option<Vec<u8>>,
    /// The events of the batch by their id with repetition 0.
    unknown: FirstIds,
    /// Events that are known to be recorded, although the caller got an error.
    recorded: FirstIds,
}

impl Doubt {
    /// Whether the result of a batch is unknown.
    pub(super) fn is_open(&self) -> bool {
        self.mark.is_some()
    }
}

/// Events by their id with repetition 0.
type FirstIds = HashMap<EventId, RecordedEvent>;

/// A batch to record, and what the process knows besides.
pub(super) struct Recording<'a> {
    pub(super) repository: i32,
    pub(super) epoch: i64,
    pub(super) batch: &'a Batch,
    pub(super) payloads: &'a [Given],
    /// The repetition of new events when the last batch was recorded.
    pub(super) repetition: u32,
}

/// The result of recording a batch.
pub(super) struct Outcome {
    pub(super) committed: Committed,
    pub(super) repetition: u32,
}

impl Recording<'_> {
    /// Records the batch. `doubt` is about the batch before, and afterwards about this one.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        doubt: &mut Doubt,
    ) -> Result<Outcome, Fault> {
        let moves: Vec<(ProjectKey, ProjectKey)> = self
            .batch
            .changes
            .iter()
            .filter_map(|change| Some((change.moved_from.clone()?, change.key.clone())))
            .collect();
        let facts = self.read(session, &moves).await?;
        if let Some(mark) = doubt.mark.take() {
            let unknown = std::mem::take(&mut doubt.unknown);
            if facts.last_batch.as_ref() == Some(&mark) {
                doubt.recorded.extend(unknown);
            }
        }
        let mut writing = Writing::new(self, facts, &doubt.recorded);
        writing.fix_ids(session).await?;
        for change in &self.batch.changes {
            writing.insert_events(change)?;
            writing.replace_files(change)?;
        }
        let (statements, pending) = writing.finish(&moves)?;
        match session.commit(statements).await {
            Err(fault @ Fault::Unreachable(_)) => {
                doubt.mark = Some(pending.mark);
                doubt.unknown = pending.events;
                Err(fault)
            }
            Err(fault) => Err(fault),
            Ok(_) => {
                let committed = &pending.outcome.committed.events;
                // The caller knows of these now. The same happening again is another one.
                doubt.recorded.retain(|_, event| !committed.contains(event));
                Ok(pending.outcome)
            }
        }
    }

    /// Begins the transaction, locks the repository, moves projects, and reads.
    async fn read(
        &self,
        session: &mut Session,
        moves: &[(ProjectKey, ProjectKey)],
    ) -> Result<Facts, Fault> {
        let mut statements = vec![statement!(LOCK_AS_HOLDER, self.repository, self.epoch)];
        if !moves.is_empty() {
            statements.extend(lanes::move_all(self.repository, moves));
        }
        let n_before = statements.len();
        statements.extend(Facts::statements(self));
        let mut answers = session.begin("BEGIN", statements).await?;
        let read = answers.split_off(n_before);
        // The last of the statements that move projects returns the listeners.
        let arriving = if moves.is_empty() {
            Vec::new()
        } else {
            answers.pop().unwrap_or_default()
        };
        let lock = answers.first().and_then(|rows| rows.first());
        let lock = lock.ok_or(Fault::Fenced)?;
        Facts::of(lock, &arriving, moves, &read)
    }
}

/// The state of computing the rows of a batch.
struct Writing<'a> {
    recording: &'a Recording<'a>,
    facts: Facts,
    /// The events of an earlier batch that was recorded although its commit reported an error.
    recorded: &'a FirstIds,
    payloads: HashMap<ContentHash, &'a Given>,
    /// The ids that are known to be taken or to be free.
    ids: HashMap<EventId, bool>,
    events: Vec<write::Numbered<'a>>,
    deliveries: Vec<write::Delivery>,
    /// The new state of files: `None` if the file is removed.
    files: BTreeMap<(ProjectKey, String), Option<&'a FileState>>,
    /// The listeners of projects before the batch.
    listeners_before: BTreeMap<ProjectKey, BTreeSet<String>>,
    webhooks: BTreeSet<String>,
    committed: Committed,
    ready_bytes: usize,
}

/// The outcome of a batch that is about to be committed.
struct Pending {
    outcome: Outcome,
    mark: Vec<u8>,
    events: FirstIds,
}

impl<'a> Writing<'a> {
    fn new(recording: &'a Recording<'a>, facts: Facts, recorded: &'a FirstIds) -> Self {
        let payloads = recording.payloads.iter();
        Self {
            recording,
            recorded,
            payloads: payloads.map(|given| (given.hash(), given)).collect(),
            ids: HashMap::new(),
            events: Vec::new(),
            deliveries: Vec::new(),
            files: BTreeMap::new(),
            listeners_before: facts.listeners.clone(),
            webhooks: BTreeSet::new(),
            committed: Committed::default(),
            ready_bytes: 0,
            facts,
        }
    }

    /// The event's record, if an earlier batch recorded the event.
    fn recorded_before(&self, change: &Change, new: &NewEvent) -> Option<&RecordedEvent> {
        let is_record_kept = change.before == change.after;
        self.recorded.get(&new.event.id).filter(|_| is_record_kept)
    }

    /// Finds out which ids are taken, until every event of the batch has a free one.
    async fn fix_ids(&mut self, session: &mut Session) -> Result<(), Fault> {
        let changes = self.recording.batch.changes.iter();
        let new: Vec<&NewEvent> = changes
            .flat_map(|change| change.events.iter().map(move |new| (change, new)))
            .filter(|(change, new)| self.recorded_before(change, new).is_none())
            .map(|(_, new)| new)
            .collect();
        // The first read asked for these ids.
        for id in new.iter().map(|new| new.id(self.recording.repetition)) {
            let is_taken = self.facts.taken.contains(&id);
            self.ids.insert(id, is_taken);
        }
        loop {
            let mut assigned: HashSet<EventId> = HashSet::new();
            let mut unknown: Vec<String> = Vec::new();
            for new in &new {
                let mut repetition = self.facts.repetition;
                let mut id = new.id(repetition);
                while assigned.contains(&id) || self.ids.get(&id) == Some(&true) {
                    repetition = repetition.saturating_add(1);
                    id = new.id(repetition);
                }
                if !self.ids.contains_key(&id) {
                    unknown.push(id.0.clone());
                }
                assigned.insert(id);
            }
            if unknown.is_empty() {
                return Ok(());
            }
            self.ids
                .extend(unknown.iter().map(|id| (EventId(id.clone()), false)));
            let sql = "SELECT id FROM events WHERE repository = $1 AND id = ANY($2)";
            let rows = session
                .rows(statement!(sql, self.recording.repository, unknown))
                .await?;
            for found in &rows {
                self.ids.insert(EventId(row::text(found, 0)?), true);
            }
        }
    }

    /// Inserts the events of a change, and updates the listeners of its project.
    fn insert_events(&mut self, change: &'a Change) -> Result<(), Fault> {
        let key = &change.key;
        let mut arriving = self.facts.arriving.remove(key).unwrap_or_default();
        let mut is_deleted = false;
        for new in &change.events {
            if let Some(recorded) = self.recorded_before(change, new) {
                let recorded = recorded.clone();
                self.committed.events.push(recorded);
                continue;
            }
            let is_delete = new.event.kind.is_delete();
            if !is_delete {
                self.replace_listeners(key, is_deleted, std::mem::take(&mut arriving));
                is_deleted = false;
            }
            self.insert_event(new)?;
            if is_delete {
                is_deleted = true;
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
        let mut repetition = self.facts.repetition;
        let mut id = new.id(repetition);
        while self.ids.get(&id) == Some(&true) {
            repetition = repetition.saturating_add(1);
            id = new.id(repetition);
        }
        self.ids.insert(id.clone(), true);
        for (webhook, due) in webhooks {
            self.insert_delivery(new, &id, sequence, webhook, *due);
        }
        self.events.push((new, id.clone(), repetition, sequence));
        self.committed.events.push(RecordedEvent { id, sequence });
        Ok(())
    }

    fn insert_delivery(
        &mut self,
        new: &'a NewEvent,
        id: &EventId,
        sequence: i64,
        webhook: &str,
        due: Timestamp,
    ) {
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
            let now = self.recording.batch.now;
            if due <= now && !self.facts.is_paused(webhook, row::milliseconds(now)) {
                self.keep_ready(delivery, id, event, webhook);
            }
        }
    }

    /// Adds a due delivery to the result, if its payload is in the batch and the limits allow it.
    fn keep_ready(&mut self, delivery: i64, id: &EventId, event: &Event, webhook: &str) {
        let Some(payload) = self.payloads.get(&event.payload) else {
            return;
        };
        let payload = payload.bytes();
        let ready_bytes = self.ready_bytes.saturating_add(payload.len());
        let ready = &mut self.committed.deliveries.ready;
        if ready.len() < READY_MAX && ready_bytes <= READY_BYTES {
            let event = Event {
                id: id.clone(),
                ..event.clone()
            };
            ready.push((webhook.to_owned(), Claim::first(delivery, event, payload)));
            self.ready_bytes = ready_bytes;
        }
    }

    fn has_payload(&self, hash: &ContentHash) -> bool {
        self.payloads.contains_key(hash) || self.facts.payloads.contains(hash)
    }

    /// Computes the difference between the files before and after a change.
    ///
    /// A file that is replaced or removed must be the recorded one. Otherwise the whole batch fails.
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

    /// Returns the statements that write the batch, and what they will have done.
    fn finish(
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
        // The listeners of former keys are deleted already.
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
