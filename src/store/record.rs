//! Recording what happened: the new record, its events, their payloads and their deliveries.
//!
//! Constraint: a [`Batch`] is recorded whole or not at all. Only rows that differ are written, and
//! each only where it still is what the batch was inferred from, so that a mistake in the
//! caller's bookkeeping cannot quietly turn into a wrong record.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Change, Committed, MetaKey, NewEvent, RecordedEvent};
use super::error::Fault;
use super::handing::{HANDED_MAX, Handed};
use super::payload::{self, Given};
use super::queue::Claim;
use super::{problems, row, webhooks};
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, FileState, Identity, ProjectKey, Recorded, Role};

/// The numbers that the next event and the next delivery get.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) sequence: i64,
    pub(super) delivery: i64,
}

impl Numbers {
    /// Those that come next in the tables. Numbers are never used again, which is what
    /// AUTOINCREMENT keeps `sqlite_sequence` for.
    pub(super) fn next(connection: &Connection) -> Result<Self, Fault> {
        let mut statement = connection.prepare_cached("SELECT name, seq FROM sqlite_sequence")?;
        let mut rows = statement.query([])?;
        let mut next = Self {
            sequence: 1,
            delivery: 1,
        };
        while let Some(row) = rows.next()? {
            let number = row.get::<_, i64>(1)?.saturating_add(1);
            match row.get_ref(0)?.as_str() {
                Ok("events") => next.sequence = number,
                Ok("deliveries") => next.delivery = number,
                _ => {}
            }
        }
        Ok(next)
    }

    pub(super) fn take_sequence(&mut self) -> i64 {
        let next = self.sequence.saturating_add(1);
        std::mem::replace(&mut self.sequence, next)
    }

    pub(super) fn take_delivery(&mut self) -> i64 {
        let next = self.delivery.saturating_add(1);
        std::mem::replace(&mut self.delivery, next)
    }
}

/// A batch on its way into the tables.
struct Writing<'a> {
    /// What the batch brings, with the row of each.
    payloads: HashMap<ContentHash, (&'a Given, i64)>,
    now: Timestamp,
    /// The webhooks that have their row, as far as that was asked.
    webhooks: BTreeSet<&'a str>,
    /// Where events have their ids and numbers already.
    numbers: Option<Numbers>,
    committed: Committed,
    handed: Handed,
}

/// Records a batch in the current transaction. Beside it goes what a claim would find after that:
/// the first of the deliveries that lead their lanes, at most [`HANDED_MAX`].
pub(super) fn record(
    connection: &Connection,
    batch: &Batch,
    payloads: &[Given],
) -> Result<(Committed, Handed), Fault> {
    let written = write(connection, batch, payloads, None)?;
    Ok((written.committed, written.handed))
}

/// Writes a batch of the journal into the tables, whose events have their ids and get these numbers.
pub(super) fn write_out(
    connection: &Connection,
    batch: &Batch,
    payloads: &[Given],
    first: Numbers,
) -> Result<(), Fault> {
    write(connection, batch, payloads, Some(first))?;
    Ok(())
}

fn write<'a>(
    connection: &Connection,
    batch: &'a Batch,
    payloads: &'a [Given],
    numbers: Option<Numbers>,
) -> Result<Writing<'a>, Fault> {
    let mut writing = Writing {
        payloads: HashMap::with_capacity(payloads.len()),
        now: batch.now,
        webhooks: BTreeSet::new(),
        numbers,
        committed: Committed::default(),
        handed: Handed::new(),
    };
    let mut held = Vec::new();
    for given in payloads {
        let put = payload::put(connection, given)?;
        if put.is_held {
            held.push(put.id);
        }
        writing.payloads.insert(given.hash(), (given, put.id));
    }
    for change in &batch.changes {
        for new in &change.events {
            writing.insert_event(connection, new)?;
        }
        writing.replace_files(connection, change)?;
    }
    for (key, now_wrong) in &batch.problems {
        problems::replace(connection, key.as_ref(), now_wrong, batch.now)?;
    }
    for (key, value) in &batch.meta {
        connection
            .prepare_cached(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) \
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute([key.as_str(), value])?;
    }
    for payload in held {
        payload::release(connection, payload)?;
    }
    // An ordinary save every few seconds leaves its last payload behind each time; waiting for
    // the next collection would let the file grow by all of them.
    payload::collect(connection)?;
    Ok(writing)
}

impl<'a> Writing<'a> {
    /// The row of a payload.
    fn payload(&self, connection: &Connection, hash: &ContentHash) -> Result<Option<i64>, Fault> {
        match self.payloads.get(hash) {
            Some((_, id)) => Ok(Some(*id)),
            None => payload::id(connection, hash),
        }
    }

    fn insert_event(&mut self, connection: &Connection, new: &'a NewEvent) -> Result<(), Fault> {
        let event = &new.event;
        let payload =
            self.payload(connection, &event.payload)?
                .ok_or_else(|| Fault::MissingPayload {
                    hash: event.payload,
                    needed_by: format!("the event {}", event.id),
                })?;
        let (id, sequence) = match &mut self.numbers {
            Some(numbers) => (event.id.clone(), Some(numbers.take_sequence())),
            None => (free_id(connection, new)?, None),
        };
        connection
            .prepare_cached(
                "INSERT INTO events (sequence, id, kind, organization, project, origin, \
                 occurred_ns, recorded_ms, parameters, explanation, payload, n_deliveries) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                sequence,
                id.0,
                event.kind.as_str(),
                event.key.organization,
                event.key.project,
                event.origin.as_str(),
                row::nanoseconds(event.occurred_at),
                row::milliseconds(self.now),
                row::to_json("the event's parameters", &event.parameters)?,
                row::to_json("the event's explanation", &event.explanation)?,
                payload,
                row::limit(new.webhooks.len()),
            ])?;
        let sequence = connection.last_insert_rowid();
        for (webhook, due) in &new.webhooks {
            if self.webhooks.insert(webhook) {
                webhooks::ensure(connection, webhook)?;
            }
            let number = self.numbers.as_mut().map(Numbers::take_delivery);
            let opened = open_lane(connection, event, sequence, webhook, number, *due, self.now)?;
            if let Some(delivery) = opened {
                if !self.committed.woken.contains(webhook) {
                    self.committed.woken.insert(webhook.clone());
                }
                self.hand(connection, delivery, &id, event, webhook, *due)?;
            }
        }
        self.committed.events.push(RecordedEvent { id, sequence });
        Ok(())
    }

    /// Writes what differs between the files before and after, of which those that stay may be left out.
    fn replace_files(&self, connection: &Connection, change: &Change) -> Result<(), Fault> {
        let by_path = |recorded| -> BTreeMap<&str, &FileState> {
            Recorded::files(recorded)
                .map(|file| (file.path.as_str(), file))
                .collect()
        };
        let before = by_path(&change.before);
        let after = by_path(&change.after);
        for (path, file) in &before {
            if !after.contains_key(path) {
                delete_file(connection, &change.key, file)?;
            }
        }
        for (path, file) in &after {
            match before.get(path) {
                Some(old) if old == file => {}
                old => self.put_file(connection, &change.key, old.copied(), file)?,
            }
        }
        let key = &change.key;
        if after.is_empty() {
            connection
                .prepare_cached(
                    "DELETE FROM projects WHERE organization = ?1 AND project = ?2 AND NOT EXISTS \
                     (SELECT 1 FROM files WHERE organization = ?1 AND project = ?2)",
                )?
                .execute([&key.organization, &key.project])?;
        } else if before.is_empty() {
            connection
                .prepare_cached(
                    "INSERT INTO projects (organization, project) VALUES (?1, ?2) \
                     ON CONFLICT DO NOTHING",
                )?
                .execute([&key.organization, &key.project])?;
        }
        Ok(())
    }

    fn put_file(
        &self,
        connection: &Connection,
        key: &ProjectKey,
        old: Option<&FileState>,
        file: &FileState,
    ) -> Result<(), Fault> {
        if file.role == Role::Definition && self.payload(connection, &file.hash)?.is_none() {
            return Err(Fault::MissingPayload {
                hash: file.hash,
                needed_by: format!("the project {key}"),
            });
        }
        let document = row::to_json("the file's document", &file.document)?;
        let identity = (file.role == Role::Definition).then(|| file.identity().to_string());
        let stamp = &file.stamp;
        let written = match old {
            None => connection
                .prepare_cached(
                    "INSERT INTO files (organization, project, path, role, tag, inode, size, \
                     modified_ns, changed_ns, read_ns, hash, owner, document, identity) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![
                    key.organization,
                    key.project,
                    file.path,
                    file.role.as_str(),
                    file.tag,
                    stamp.inode.cast_signed(),
                    stamp.size.cast_signed(),
                    stamp.modified_ns,
                    stamp.changed_ns,
                    file.read_ns,
                    &file.hash.0[..],
                    file.owner,
                    document,
                    identity,
                ])?,
            Some(old) => connection
                .prepare_cached(
                    "UPDATE files SET role = ?4, tag = ?5, inode = ?6, size = ?7, modified_ns = ?8, \
                     changed_ns = ?9, read_ns = ?10, hash = ?11, owner = ?12, document = ?13, \
                     identity = ?14 \
                     WHERE organization = ?1 AND project = ?2 AND path = ?3 \
                     AND hash = ?15 AND changed_ns = ?16",
                )?
                .execute(params![
                    key.organization,
                    key.project,
                    file.path,
                    file.role.as_str(),
                    file.tag,
                    stamp.inode.cast_signed(),
                    stamp.size.cast_signed(),
                    stamp.modified_ns,
                    stamp.changed_ns,
                    file.read_ns,
                    &file.hash.0[..],
                    file.owner,
                    document,
                    identity,
                    &old.hash.0[..],
                    old.stamp.changed_ns,
                ])?,
        };
        as_expected(written, key)
    }

    /// Hands out a delivery that leads its lane, where it may be sent now. Those of the journal were
    /// handed out when they came into it.
    fn hand(
        &mut self,
        connection: &Connection,
        delivery: i64,
        id: &EventId,
        event: &Event,
        webhook: &str,
        due: Timestamp,
    ) -> Result<(), Fault> {
        if self.numbers.is_none()
            && self.handed.len() < HANDED_MAX
            && due <= self.now
            && let Some((payload, _)) = self.payloads.get(&event.payload)
            && !webhooks::is_off(connection, webhook)?
        {
            let event = Event {
                id: id.clone(),
                ..event.clone()
            };
            let claim = Claim::first(delivery, event, payload.bytes());
            self.handed.push((webhook.to_owned(), claim));
        }
        Ok(())
    }
}

/// The event's id, or the first repetition of it that is not on record: the difference on disk is
/// real, so an equal happening on record is an earlier one.
pub(super) fn free_id(connection: &Connection, new: &NewEvent) -> Result<EventId, Fault> {
    let event = &new.event;
    let mut statement = connection.prepare_cached("SELECT 1 FROM events WHERE id = ?1")?;
    let mut id = event.id.clone();
    let mut repetition = 0_u32;
    while statement.exists([&id.0])? {
        repetition = repetition.saturating_add(1);
        id = EventId::of(
            event.kind,
            &event.key,
            new.tag.as_deref(),
            &new.stamp,
            &event.payload,
            repetition,
        );
    }
    Ok(id)
}

/// Adds a delivery, and returns it where it opened its lane.
fn open_lane(
    connection: &Connection,
    event: &Event,
    sequence: i64,
    webhook: &str,
    number: Option<i64>,
    due: Timestamp,
    now: Timestamp,
) -> Result<Option<i64>, Fault> {
    let due = row::milliseconds_up(due);
    let now = row::milliseconds(now);
    let key = &event.key;
    connection
        .prepare_cached(
            "INSERT INTO deliveries (id, event, webhook, organization, project, state, origin, \
             due_ms, created_ms, waiting_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?7, ?8, ?8)",
        )?
        .execute(params![
            number,
            sequence,
            webhook,
            key.organization,
            key.project,
            event.origin.as_str(),
            due,
            now,
        ])?;
    let delivery = connection.last_insert_rowid();
    // A lane that is there has an older head, which stays.
    let opened = connection
        .prepare_cached(
            "INSERT INTO lanes (webhook, organization, project, head, due_ms, waiting_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            webhook,
            key.organization,
            key.project,
            delivery,
            due,
            now,
        ])?;
    Ok((opened > 0).then_some(delivery))
}

fn delete_file(connection: &Connection, key: &ProjectKey, file: &FileState) -> Result<(), Fault> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM files WHERE organization = ?1 AND project = ?2 AND path = ?3 \
             AND hash = ?4 AND changed_ns = ?5",
        )?
        .execute(params![
            key.organization,
            key.project,
            file.path,
            &file.hash.0[..],
            file.stamp.changed_ns,
        ])?;
    as_expected(deleted, key)
}

fn as_expected(n_rows: usize, key: &ProjectKey) -> Result<(), Fault> {
    if n_rows == 1 {
        Ok(())
    } else {
        Err(Fault::Stale { key: key.clone() })
    }
}

/// What is recorded of a project.
pub(super) fn recorded(connection: &Connection, key: &ProjectKey) -> Result<Recorded, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM files WHERE organization = ?1 AND project = ?2",
        row::FILE_COLUMNS
    ))?;
    let mut rows = statement.query([&key.organization, &key.project])?;
    let mut recorded = Recorded::default();
    while let Some(row) = rows.next()? {
        recorded.put(row::file(row)?);
    }
    Ok(recorded)
}

/// The projects with anything recorded, of one organization or of all, sorted.
pub(super) fn keys(
    connection: &Connection,
    organization: Option<&str>,
) -> Result<Vec<ProjectKey>, Fault> {
    let all = "SELECT organization, project FROM projects ORDER BY organization, project";
    let some = "SELECT organization, project FROM projects WHERE organization = ?1 \
                ORDER BY organization, project";
    let mut statement = connection.prepare_cached(organization.map_or(all, |_| some))?;
    let keys = statement
        .query_map(rusqlite::params_from_iter(organization), key)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(keys)
}

/// The projects of an organization whose definition has this identity, sorted.
pub(super) fn with_identity(
    connection: &Connection,
    organization: &str,
    identity: &Identity,
) -> Result<Vec<ProjectKey>, Fault> {
    let mut statement = connection.prepare_cached(WITH_IDENTITY)?;
    let keys = statement
        .query_map(params![organization, identity.to_string()], key)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(keys)
}

pub(super) const WITH_IDENTITY: &str = "SELECT organization, project FROM files \
     WHERE organization = ?1 AND identity = ?2 ORDER BY project";

fn key(row: &rusqlite::Row<'_>) -> rusqlite::Result<ProjectKey> {
    Ok(ProjectKey {
        organization: row.get(0)?,
        project: row.get(1)?,
    })
}

/// A fact about the repository.
pub(super) fn meta(connection: &Connection, key: MetaKey) -> Result<Option<String>, Fault> {
    Ok(connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key.as_str()], |row| row.get(0))
        .optional()?)
}
