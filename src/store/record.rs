//! Recording what happened: the new record, its events, their payloads and their deliveries.
//!
//! Constraint: a [`Batch`] is recorded whole or not at all. Only rows that differ are written, and
//! each only where it still is what the batch was inferred from, so that a mistake in the
//! caller's bookkeeping cannot quietly turn into a wrong record.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::batch::{
    Batch, Change, Committed, MetaKey, NewEvent, READY_BYTES, READY_MAX, RecordedEvent,
};
use super::error::Fault;
use super::payload::{self, Given};
use super::queue::Claim;
use super::{problems, row, webhooks};
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, FileState, Identity, ProjectKey, Recorded, Role};

/// A batch on its way into the tables.
struct Writing<'a> {
    /// What the batch brings, with the row of each.
    payloads: HashMap<ContentHash, (&'a Given, i64)>,
    now: Timestamp,
    /// The webhooks that have their row, as far as that was asked.
    webhooks: BTreeSet<&'a str>,
    committed: Committed,
    /// The size of the payloads of the ready deliveries.
    ready_bytes: usize,
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
        webhooks: BTreeSet::new(),
        committed: Committed::default(),
        ready_bytes: 0,
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
    Ok(writing.committed)
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
        let id = free_id(connection, new)?;
        connection
            .prepare_cached(
                "INSERT INTO events (id, kind, organization, project, origin, \
                 occurred_ns, recorded_ms, parameters, explanation, payload, n_deliveries) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
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
            let opened = open_lane(connection, event, sequence, webhook, *due, self.now)?;
            if let Some(delivery) = opened {
                let woken = &mut self.committed.deliveries.webhooks;
                if !woken.contains(webhook) {
                    woken.insert(webhook.clone());
                }
                self.keep_ready(connection, delivery, &id, event, webhook, *due)?;
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

    /// Keeps a delivery that leads its lane for the caller if it may be sent now and there is room.
    fn keep_ready(
        &mut self,
        connection: &Connection,
        delivery: i64,
        id: &EventId,
        event: &Event,
        webhook: &str,
        due: Timestamp,
    ) -> Result<(), Fault> {
        let Some((payload, _)) = self.payloads.get(&event.payload) else {
            return Ok(());
        };
        let payload = payload.bytes();
        let ready_bytes = self.ready_bytes.saturating_add(payload.len());
        let ready = &mut self.committed.deliveries.ready;
        if ready.len() < READY_MAX
            && ready_bytes <= READY_BYTES
            && due <= self.now
            && !webhooks::is_off(connection, webhook)?
        {
            let event = Event {
                id: id.clone(),
                ..event.clone()
            };
            ready.push((webhook.to_owned(), Claim::first(delivery, event, payload)));
            self.ready_bytes = ready_bytes;
        }
        Ok(())
    }
}

/// The event's id, or the first repetition of it that is not on record: the difference on disk is
/// real, so an equal happening on record is an earlier one.
fn free_id(connection: &Connection, new: &NewEvent) -> Result<EventId, Fault> {
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
    due: Timestamp,
    now: Timestamp,
) -> Result<Option<i64>, Fault> {
    let due = row::milliseconds_up(due);
    let now = row::milliseconds(now);
    let key = &event.key;
    connection
        .prepare_cached(
            "INSERT INTO deliveries (event, webhook, organization, project, state, origin, \
             due_ms, created_ms, waiting_ms) \
             VALUES (?1, ?2, ?3, ?4, 'pending', ?5, ?6, ?7, ?7)",
        )?
        .execute(params![
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
