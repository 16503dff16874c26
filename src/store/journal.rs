//! Small batches: durable as one row first, in their tables with the commit after that.
//!
//! Constraint: a batch in the journal is recorded. Before anything is read that it changes, and
//! before anything else is written, it is written out into its tables, in the order of the journal
//! and in the transaction that takes it out of there. While that fails, only answers to deliveries that
//! are in their tables are written. What writing out could be refused for is looked at before the row
//! is written. What a crash leaves is written out at the next start, or
//! by the command line before it lists.
//!
//! Why: a batch changes some twenty pages of tables and indexes, and its row changes one or two.
//! Written to disk alone it is durable in half the time (ext4, an ordinary save: 0.4 ms instead of
//! 0.9), and most of the twenty pages are those that the answer changes as well, so that they
//! are written once.
//!
//! # Format
//!
//! A row outlives the program that wrote it: an upgrade finds what a kill left. So the body says its
//! version, and another than the known ones is refused. Within a version a body is only added to, with
//! a default for what is absent, and only what a program may ignore that does not know it; anything
//! else is another version, and the old ones are read still. `tests/survival/states` keeps a row as
//! each schema had it, which has to load.
//!
//! # Operation
//!
//! Only a batch goes this way that somebody waits for: one whose deliveries are all handed out with
//! it ([`Handed`]), so that nothing of it has to be claimed from the tables. In a burst the writer is
//! busy, and everything goes the direct way.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Change, Committed, RecordedEvent};
use super::error::Fault;
use super::handing::{HANDED_BYTES, HANDED_MAX, Handed};
use super::payload::{self, Given};
use super::queue::Claim;
use super::record::{self, Numbers};
use super::row;
use crate::domain::project::{ContentHash, FileState, ProjectKey, Recorded};

/// The most batches that wait to be written out.
pub(super) const WAITING_MAX: usize = 16;

/// The largest contents of a batch in the journal, compressed, in bytes: they are written twice.
const CONTENTS_MAX: usize = 16 * 1024;

/// How long the command line waits for a daemon to write out, in steps: twice as long as that takes.
const PATIENCE: (u32, Duration) = (40, Duration::from_millis(5));

/// A batch in the journal.
#[derive(Debug)]
pub(super) struct Entry {
    /// The number of its first delivery, which no other has.
    id: i64,
    /// What it changes, without its payloads.
    batch: Batch,
    payloads: Vec<Given>,
    first: Numbers,
}

/// The version of a body that is written.
const VERSION: u32 = 1;

/// The version of any body.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The body of a row.
#[derive(Serialize, Deserialize)]
struct Body<C> {
    version: u32,
    now: Timestamp,
    first: Numbers,
    changes: C,
    payloads: Vec<Payload>,
}

/// Where a payload is in the contents.
#[derive(Serialize, Deserialize)]
struct Payload {
    hash: ContentHash,
    /// Its size in bytes.
    size: usize,
    /// Its size in the contents.
    compressed: usize,
}

impl Entry {
    /// The number of its first delivery.
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// Whether it changes what is recorded of this project.
    pub(super) fn is_about(&self, key: &ProjectKey) -> bool {
        self.batch.changes.iter().any(|change| change.key == *key)
    }

    /// The webhooks that have deliveries in it.
    pub(super) fn webhooks(&self) -> impl Iterator<Item = &str> {
        let events = self.batch.changes.iter().flat_map(|change| &change.events);
        events.flat_map(|new| new.webhooks.iter().map(|(webhook, _)| webhook.as_str()))
    }

    /// The numbers that come after those it uses.
    fn next(&self) -> Numbers {
        let mut numbers = self.first;
        for new in self.batch.changes.iter().flat_map(|change| &change.events) {
            numbers.sequence = numbers.sequence.saturating_add(1);
            for _ in &new.webhooks {
                numbers.delivery = numbers.delivery.saturating_add(1);
            }
        }
        numbers
    }
}

/// Journals a batch in the current transaction, where it is one of those that go this way, with what
/// was committed by that and what a claim would find once it is written out. `waiting` is what the
/// journal holds already.
pub(super) fn write(
    connection: &Connection,
    batch: &Batch,
    payloads: &[Given],
    waiting: &[Arc<Entry>],
) -> Result<Option<(Entry, Committed, Handed)>, Fault> {
    if !fits(batch, payloads) {
        return Ok(None);
    }
    let first = match waiting.last() {
        Some(last) => last.next(),
        None => Numbers::next(connection)?,
    };
    let mut numbers = first;
    let mut committed = Committed::default();
    let mut handed = Handed::new();
    let mut changes = Vec::new();
    for change in &batch.changes {
        let key = &change.key;
        if waiting.iter().any(|entry| entry.is_about(key)) {
            return Ok(None);
        }
        let mut change = differences(change);
        if !is_as_expected(connection, &change)? {
            return Ok(None);
        }
        // What is stored may be collected with what waits already.
        let is_there = |hash: &ContentHash| -> Result<bool, Fault> {
            let is_given = payloads.iter().any(|given| given.is(hash));
            Ok(is_given || (waiting.is_empty() && payload::id(connection, hash)?.is_some()))
        };
        for hash in needed(&change) {
            if !is_there(hash)? {
                return Ok(None);
            }
        }
        for new in &mut change.events {
            let id = record::free_id(connection, new)?;
            if committed.events.iter().any(|other| other.id == id) {
                // The tables would tell the second one from the first.
                return Ok(None);
            }
            new.event.id = id.clone();
            let sequence = numbers.take_sequence();
            committed.events.push(RecordedEvent { id, sequence });
            for (webhook, _) in &new.webhooks {
                let delivery = numbers.take_delivery();
                if !is_free(connection, webhook, key)? {
                    return Ok(None);
                }
                let Some(payload) = payloads.iter().find(|given| given.is(&new.event.payload))
                else {
                    return Ok(None);
                };
                let claim = Claim::first(delivery, new.event.clone(), payload.bytes());
                handed.push((webhook.clone(), claim));
            }
        }
        changes.push(change);
    }
    let entry = Entry {
        id: first.delivery,
        batch: Batch {
            changes,
            ..Batch::new(batch.now)
        },
        payloads: payloads.to_vec(),
        first,
    };
    insert(connection, &entry)?;
    Ok(Some((entry, committed, handed)))
}

/// Whether a batch may go this way, as far as it shows without the tables: it is small, and all its
/// deliveries can be handed out.
fn fits(batch: &Batch, payloads: &[Given]) -> bool {
    let events = || batch.changes.iter().flat_map(|change| &change.events);
    let mut lanes: Vec<(&str, &ProjectKey)> = Vec::new();
    let mut handed: usize = 0;
    for new in events() {
        let payload = payloads.iter().find(|given| given.is(&new.event.payload));
        let size = payload.map_or(0, |given| given.bytes().len());
        handed = handed.saturating_add(size);
        for (webhook, due) in &new.webhooks {
            if *due > batch.now || lanes.len() >= HANDED_MAX {
                return false;
            }
            lanes.push((webhook, &new.event.key));
        }
    }
    let n_lanes = lanes.len();
    lanes.sort_unstable();
    lanes.dedup();
    let size: Option<usize> = payloads
        .iter()
        .map(|given| given.compressed().map(<[u8]>::len))
        .sum();
    n_lanes > 0
        && lanes.len() == n_lanes
        && handed <= HANDED_BYTES
        && batch.problems.is_empty()
        && batch.meta.is_empty()
        && size.is_some_and(|size| size <= CONTENTS_MAX)
}

/// A change without the files that stay as they are.
fn differences(change: &Change) -> Change {
    let of = |one: &Recorded, other: &Recorded| -> Recorded {
        let differ = |file: &&FileState| other.file(&file.path) != Some(*file);
        one.files().filter(differ).cloned().collect()
    };
    Change {
        key: change.key.clone(),
        before: of(&change.before, &change.after),
        after: of(&change.after, &change.before),
        events: change.events.clone(),
    }
}

/// The payloads that a change needs: those of its events and that of the definition.
fn needed(change: &Change) -> impl Iterator<Item = &ContentHash> {
    let definition = change.after.definition.iter().map(|file| &file.hash);
    let events = change.events.iter().map(|new| &new.event.payload);
    definition.chain(events)
}

/// Whether the record is what the change was inferred from.
fn is_as_expected(connection: &Connection, change: &Change) -> Result<bool, Fault> {
    let key = &change.key;
    for file in change.before.files().chain(change.after.files()) {
        let recorded = connection
            .prepare_cached(
                "SELECT hash, changed_ns FROM files \
                 WHERE organization = ?1 AND project = ?2 AND path = ?3",
            )?
            .query_row([&key.organization, &key.project, &file.path], |row| {
                let is_hash = |hash: &ContentHash| {
                    matches!(row.get_ref(0), Ok(ValueRef::Blob(found)) if found == &hash.0[..])
                };
                let before = change.before.file(&file.path);
                let changed_ns: i64 = row.get(1)?;
                Ok(before.is_some_and(|before| {
                    is_hash(&before.hash) && changed_ns == before.stamp.changed_ns
                }))
            })
            .optional()?;
        if !recorded.unwrap_or(change.before.file(&file.path).is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a delivery would lead its lane, and may be sent.
fn is_free(connection: &Connection, webhook: &str, key: &ProjectKey) -> Result<bool, Fault> {
    let is_taken = connection
        .prepare_cached(
            "SELECT 1 FROM lanes WHERE webhook = ?1 AND organization = ?2 AND project = ?3 \
             UNION ALL SELECT 1 FROM webhooks WHERE name = ?1 AND off_cause IS NOT NULL",
        )?
        .exists([webhook, &key.organization, &key.project])?;
    Ok(!is_taken)
}

fn insert(connection: &Connection, entry: &Entry) -> Result<(), Fault> {
    let mut contents = Vec::new();
    let mut payloads = Vec::new();
    for given in &entry.payloads {
        let compressed = given.compressed().unwrap_or_default();
        contents.extend_from_slice(compressed);
        payloads.push(Payload {
            hash: given.hash(),
            size: given.bytes().len(),
            compressed: compressed.len(),
        });
    }
    let body = Body {
        version: VERSION,
        now: entry.batch.now,
        first: entry.first,
        changes: &entry.batch.changes,
        payloads,
    };
    let body = row::to_json("a batch for the journal", &body)?;
    connection
        .prepare_cached("INSERT INTO journal (id, body, contents) VALUES (?1, ?2, ?3)")?
        .execute(params![entry.id, body, contents])?;
    Ok(())
}

/// Writes an entry out into the tables, in the current transaction, unless somebody else did.
pub(super) fn write_out(connection: &Connection, entry: &Entry) -> Result<(), Fault> {
    let taken = connection
        .prepare_cached("DELETE FROM journal WHERE id = ?1")?
        .execute([entry.id])?;
    if taken > 0 {
        record::write_out(connection, &entry.batch, &entry.payloads, entry.first)?;
    }
    Ok(())
}

/// What is in the journal, in its order.
pub(super) fn load(connection: &Connection) -> Result<Vec<Entry>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT id, body, contents FROM journal ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let what = format!("the batch {id} in the journal");
        let body: String = row.get(1)?;
        let Version { version } = row::from_json(&what, &body)?;
        if version != VERSION {
            return Err(Fault::Undecodable {
                what,
                reason: format!(
                    "it has version {version} and this program knows {VERSION}: a later version of \
                     the program wrote it, and has to be installed"
                ),
            });
        }
        let body: Body<Vec<Change>> = row::from_json(&what, &body)?;
        let mut rest: &[u8] = &row.get::<_, Vec<u8>>(2)?;
        let mut payloads = Vec::new();
        for one in body.payloads {
            let Some((compressed, others)) = rest.split_at_checked(one.compressed) else {
                return Err(Fault::Undecodable {
                    what,
                    reason: format!("the payload {} is cut off", one.hash),
                });
            };
            payloads.push(Given::restore(one.hash, one.size, compressed)?);
            rest = others;
        }
        entries.push(Entry {
            id,
            batch: Batch {
                changes: body.changes,
                ..Batch::new(body.now)
            },
            payloads,
            first: body.first,
        });
    }
    Ok(entries)
}

/// Whether there is anything in the journal.
fn is_empty(connection: &Connection) -> Result<bool, Fault> {
    Ok(!connection
        .prepare_cached("SELECT 1 FROM journal LIMIT 1")?
        .exists([])?)
}

/// How many batches are in the journal.
pub(super) fn count(connection: &Connection) -> Result<u64, Fault> {
    let count = connection
        .prepare_cached("SELECT count(*) FROM journal")?
        .query_row([], |row| row.get(0))?;
    Ok(row::count(count))
}

/// Waits until a daemon has written out what it recorded. Returns whether it has: one that was
/// killed has not.
pub(super) fn await_writing_out(connection: &Connection) -> Result<bool, Fault> {
    let (n_steps, step) = PATIENCE;
    for _ in 0..n_steps {
        if is_empty(connection)? {
            return Ok(true);
        }
        thread::sleep(step);
    }
    is_empty(connection)
}

/// Writes out all that is in the journal, in a transaction of its own.
pub(super) fn write_out_all(connection: &Connection) -> Result<(), Fault> {
    if is_empty(connection)? {
        return Ok(());
    }
    let transaction =
        rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)?;
    for entry in load(&transaction)? {
        write_out(&transaction, &entry)?;
    }
    Ok(transaction.commit()?)
}
