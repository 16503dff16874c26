//! Records batches: new records of projects, events, payloads and deliveries.
//!
//! Constraint: a [`Batch`] is recorded completely or not at all. A row of a file is changed only if
//! the stored row is the one that the batch was inferred from; see `files`. So a bug in the caller
//! causes an error, not a wrong record.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{files, lanes, listeners, payload, problems, queue, row, webhooks};
use crate::domain::project::{ContentHash, ProjectKey};
use crate::store::batch::{Batch, Change, Committed, NewEvent, RecordedEvent};
use crate::store::error::Fault;
use crate::store::payload::Given;

/// The state of writing a batch.
struct Writing<'a> {
    /// The payloads of the batch, each with whether it is new in the store.
    payloads: HashMap<ContentHash, (&'a Given, bool)>,
    now: Timestamp,
    /// The webhooks whose rows are known to exist.
    ///
    /// The flag tells whether a webhook is off, or its receiver asked to wait.
    webhooks: BTreeMap<&'a str, bool>,
    /// The numbers of the next event and delivery. `None` before they are read.
    next: Option<NextNumbers>,
    committed: Committed,
}

/// Records a batch in the current transaction.
pub(super) fn record(
    connection: &Connection,
    batch: &Batch,
    payloads: &[Given],
) -> Result<Committed, Fault> {
    let mut writing = Writing {
        payloads: HashMap::with_capacity(payloads.len()),
        now: batch.now,
        webhooks: BTreeMap::new(),
        next: None,
        committed: Committed::default(),
    };
    let definitions = batch.changes.iter();
    let identities: HashMap<ContentHash, String> = definitions
        .filter_map(|change| change.after.last_definition())
        .map(|file| (file.hash, file.identity().to_string()))
        .collect();
    for given in payloads {
        let hash = given.hash();
        let identity = identities.get(&hash).map(String::as_str);
        let is_new = payload::put(connection, given, identity)?;
        writing.payloads.insert(hash, (given, is_new));
    }
    let moves: Vec<(&ProjectKey, &ProjectKey)> = batch
        .changes
        .iter()
        .filter_map(|change| Some((change.moved_from.as_ref()?, &change.key)))
        .collect();
    lanes::move_all(connection, &moves)?;
    // Take away the listeners of all moved projects before adding any to the new keys, because
    // projects may exchange their keys.
    let mut arriving: BTreeMap<&ProjectKey, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in moves {
        let listeners = listeners::of(connection, from)?;
        arriving.entry(to).or_default().extend(listeners);
        listeners::forget(connection, from)?;
    }
    for change in &batch.changes {
        let arriving = arriving.remove(&change.key).unwrap_or_default();
        writing.insert_events(connection, change, arriving)?;
        let payloads = &writing.payloads;
        files::replace(connection, change, |file| {
            payloads.get(&file.hash).is_some_and(|(_, new)| *new)
        })?;
    }
    for (key, found) in &batch.problems {
        problems::replace(connection, key.as_ref(), found, batch.now)?;
    }
    for (key, value) in &batch.meta {
        connection
            .prepare_cached(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) \
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute([&key.stored(batch.repository.as_deref()), value.as_str()])?;
    }
    Ok(writing.committed)
}

/// The numbers of the next event and the next delivery.
///
/// Numbers are never reused. A delivery may be removed while it is being sent. If its number were
/// reused, its result could be recorded for another delivery. If numbers of events were reused, a
/// listing could skip events.
#[derive(Clone, Copy)]
pub(super) struct NextNumbers {
    pub(super) sequence: i64,
    pub(super) delivery: i64,
    /// The lowest repetition for the id of a new event.
    ///
    /// It is higher than the repetitions of all removed events, so that a new event never gets the
    /// id of a removed event. One number for all events is enough, because it increases only by
    /// about one in each retention period.
    pub(super) repetition: u32,
}

impl NextNumbers {
    pub(super) fn read(connection: &Connection) -> Result<Self, Fault> {
        let mut statement = connection.prepare_cached(NEXT_NUMBERS)?;
        Ok(statement.query_row([], |row| {
            Ok(Self {
                sequence: row.get(0)?,
                delivery: row.get(1)?,
                repetition: row.get(2)?,
            })
        })?)
    }
}

pub(super) const NEXT_NUMBERS: &str = "SELECT \
     1 + max(coalesce((SELECT max(sequence) FROM events), 0), \
         coalesce((SELECT value FROM numbers WHERE name = 'last-event'), 0)), \
     1 + max(coalesce((SELECT max(id) FROM deliveries), 0), \
         coalesce((SELECT value FROM numbers WHERE name = 'last-delivery'), 0)), \
     coalesce((SELECT value FROM numbers WHERE name = 'first-repetition'), 0)";

impl<'a> Writing<'a> {
    fn has_payload(&self, connection: &Connection, hash: &ContentHash) -> Result<bool, Fault> {
        Ok(self.payloads.contains_key(hash) || payload::exists(connection, hash)?)
    }

    /// Inserts the events of a change, and updates the listeners of its project.
    ///
    /// `arriving` has the listeners of [`Change::moved_from`].
    fn insert_events(
        &mut self,
        connection: &Connection,
        change: &'a Change,
        mut arriving: BTreeSet<String>,
    ) -> Result<(), Fault> {
        let key = &change.key;
        let mut is_deleted = change.forgets_deleted();
        for new in &change.events {
            let is_delete = new.event.kind.is_delete();
            if !is_delete {
                listeners::replace(connection, key, is_deleted, std::mem::take(&mut arriving))?;
                is_deleted = false;
            }
            self.insert_event(connection, new)?;
            if is_delete {
                is_deleted = change.after.deleted.is_none();
            } else {
                for (webhook, _) in &new.webhooks {
                    listeners::add(connection, key, webhook)?;
                }
            }
        }
        listeners::replace(connection, key, is_deleted, arriving)
    }

    fn insert_event(&mut self, connection: &Connection, new: &'a NewEvent) -> Result<(), Fault> {
        let event = &new.event;
        let heard = if new.if_heard.is_empty() {
            BTreeSet::new()
        } else {
            listeners::of(connection, &event.key)?
        };
        let still_heard = new.if_heard.iter().filter(|(name, _)| heard.contains(name));
        let webhooks: Vec<&'a (String, Timestamp)> =
            new.webhooks.iter().chain(still_heard).collect();
        if !self.has_payload(connection, &event.payload)? {
            return Err(Fault::MissingPayload {
                hash: event.payload,
                needed_by: format!("the event {}", event.id),
            });
        }
        let next = match self.next {
            Some(next) => next,
            None => NextNumbers::read(connection)?,
        };
        let (sequence, first_delivery) = (next.sequence, next.delivery);
        let end_delivery = first_delivery.saturating_add(row::limit(webhooks.len()));
        self.next = Some(NextNumbers {
            sequence: sequence.saturating_add(1),
            delivery: end_delivery,
            ..next
        });
        let parameters = row::to_json("the event's parameters", &event.parameters)?;
        let explanation = row::to_json("the event's explanation", &event.explanation)?;
        let mut insert = connection.prepare_cached(
            "INSERT INTO events (sequence, id, kind, organization, project, origin, occurred_ns, \
             recorded_ms, parameters, explanation, payload, first_delivery, end_delivery, \
             repetition) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
             ON CONFLICT (id) DO NOTHING",
        )?;
        let mut repetition = next.repetition;
        let mut id = new.id(repetition);
        // While an earlier event has the same id, try the id of the next repetition.
        while insert.execute(params![
            sequence,
            id.0,
            event.kind.as_str(),
            event.key.organization,
            event.key.project,
            event.origin.as_str(),
            row::nanoseconds(event.occurred_at),
            row::milliseconds(self.now),
            parameters,
            explanation,
            &event.payload.0[..],
            first_delivery,
            end_delivery,
            repetition,
        ])? == 0
        {
            repetition = repetition.saturating_add(1);
            id = new.id(repetition);
        }
        for (delivery, (webhook, due)) in (first_delivery..).zip(webhooks) {
            let is_paused = self.is_paused(connection, webhook)?;
            let is_head =
                queue::insert(connection, delivery, sequence, new, webhook, *due, self.now)?;
            if is_head {
                let woken = &mut self.committed.deliveries.webhooks;
                if !woken.contains(webhook) {
                    woken.insert(webhook.clone());
                }
                if !is_paused
                    && *due <= self.now
                    && let Some((given, _)) = self.payloads.get(&event.payload)
                {
                    let ready = &mut self.committed.deliveries;
                    ready.add_ready(webhook, delivery, &id, event, given.bytes());
                }
            }
        }
        self.committed.events.push(RecordedEvent { id, sequence });
        Ok(())
    }

    /// Whether a webhook is off, or its receiver asked to wait.
    ///
    /// Inserts the row of the webhook if it is missing.
    fn is_paused(&mut self, connection: &Connection, webhook: &'a str) -> Result<bool, Fault> {
        if let Some(is_paused) = self.webhooks.get(webhook) {
            return Ok(*is_paused);
        }
        webhooks::ensure(connection, webhook)?;
        let pause = webhooks::pause(connection, webhook)?;
        let is_paused = pause.is_off || pause.rests_until > row::milliseconds(self.now);
        self.webhooks.insert(webhook, is_paused);
        Ok(is_paused)
    }
}
