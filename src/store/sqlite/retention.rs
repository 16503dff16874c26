//! Removes old deliveries and events, and payloads that are no longer needed.
//!
//! [`retention`](crate::store::retention) has the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{lanes, payload, row, webhooks};
use crate::config::Retention;
use crate::domain::delivery::State;
use crate::domain::project::ContentHash;
use crate::store::error::Fault;
use crate::store::garbage::Garbage;
use crate::store::listing::Collected;
use crate::store::retention::{ages, correct_times};

/// The number of free pages to keep for reuse: 4 MiB.
///
/// Free pages beyond this number are returned to the file system.
const FREE_PAGES_KEPT: i64 = 1024;

/// A batch stops removing payloads when they reach this total size, in bytes.
///
/// The size is measured before compression. SQLite overwrites removed contents, so it writes all of
/// their pages to the log.
const REMOVED_MAX: u64 = 4 << 20;

/// Removes unneeded payloads. Checks at most `limit` candidates and `limit` others.
///
/// Stops when the removed payloads reach [`REMOVED_MAX`]. Returns their number.
fn remove_garbage(
    garbage: &mut Garbage,
    connection: &Connection,
    limit: usize,
) -> Result<usize, Fault> {
    let mut n_removed = 0_usize;
    let mut n_bytes = 0_u64;
    let mut remove = |hash: &ContentHash| -> Result<bool, Fault> {
        if let Some(size) = payload::remove_garbage(connection, hash)? {
            n_removed += 1;
            n_bytes = n_bytes.saturating_add(size);
        }
        Ok(n_bytes < REMOVED_MAX)
    };
    for _ in 0..limit {
        let Some(hash) = garbage.candidates.pop_first() else {
            break;
        };
        if !remove(&hash)? {
            return Ok(n_removed);
        }
    }
    if let Some(after) = garbage.all_after {
        let hashes = payload::after(connection, &after, limit)?;
        garbage.all_after = hashes.last().copied();
        for hash in &hashes {
            if !remove(hash)? {
                garbage.all_after = Some(*hash);
                break;
            }
        }
    }
    Ok(n_removed)
}

/// The deliveries that a batch has removed.
#[derive(Default)]
pub(super) struct Removal {
    last: Option<i64>,
    /// The events of the removed deliveries.
    pub(super) events: BTreeSet<i64>,
    /// The latest finish time of the removed delivered deliveries, by webhook.
    delivered: BTreeMap<String, i64>,
    pub(super) n_removed: usize,
}

impl Removal {
    /// Removes a delivery and its attempts, unless it is pending.
    ///
    /// Returns whether the delivery was removed.
    pub(super) fn remove(&mut self, connection: &Connection, id: i64) -> Result<bool, Fault> {
        let found: Option<(String, i64, String, i64)> = connection
            .prepare_cached(
                "SELECT webhook, event, state, coalesce(finished_ms, 0) FROM deliveries \
                 WHERE id = ?1 AND state <> 'pending'",
            )?
            .query_row([id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let Some((webhook, event, state, finished)) = found else {
            return Ok(false);
        };
        for sql in [
            "DELETE FROM attempts WHERE delivery = ?1",
            "DELETE FROM deliveries WHERE id = ?1",
        ] {
            connection.prepare_cached(sql)?.execute([id])?;
        }
        self.last = self.last.max(Some(id));
        self.events.insert(event);
        if state == State::Delivered.as_str() {
            let last = self.delivered.entry(webhook).or_default();
            *last = finished.max(*last);
        }
        self.n_removed = self.n_removed.saturating_add(1);
        Ok(true)
    }

    /// Stores data of the removed rows that is still needed.
    pub(super) fn finish(&self, connection: &Connection) -> Result<(), Fault> {
        if let Some(last) = self.last {
            raise(connection, "last-delivery", last)?;
        }
        for (webhook, last) in &self.delivered {
            connection
                .prepare_cached(
                    "UPDATE webhooks SET last_delivered_ms = max(coalesce(last_delivered_ms, 0), ?2) \
                     WHERE name = ?1",
                )?
                .execute(params![webhook, last])?;
        }
        Ok(())
    }
}

pub(super) const FINISHED: &str = "SELECT id FROM deliveries WHERE webhook = ?1 AND state = ?2 \
     AND finished_ms IS NOT NULL AND finished_ms < ?3 LIMIT ?4";

/// Removes a batch of old deliveries, and events and payloads that are not needed.
///
/// Removes at most `limit` deliveries of each state. Then it checks their events, at most `limit`
/// further events, and a limited number of payloads. Also returns free pages to the file system.
pub(super) fn collect(
    connection: &Connection,
    garbage: &mut Garbage,
    retention: &Retention,
    now: Timestamp,
    limit: usize,
) -> Result<Collected, Fault> {
    let before = |age: Duration| row::milliseconds(now).saturating_sub(row::duration(age));
    let mut removal = Removal::default();
    for (state, age) in ages(retention) {
        for id in finished(connection, state, before(age), limit)? {
            removal.remove(connection, id)?;
        }
    }
    removal.finish(connection)?;
    let mut sweep = EventSweep::begin(connection, before(retention.delivered))?;
    for sequence in &removal.events {
        sweep.check_again(connection, *sequence)?;
    }
    let has_more_events = sweep.go_on(connection, row::milliseconds(now), limit)?;
    sweep.finish(connection)?;
    if sweep.n_removed > 0 {
        lanes::forget_moves(connection)?;
    }
    garbage.add(sweep.payloads);
    let n_payloads = remove_garbage(garbage, connection, limit)?;
    Ok(Collected {
        n_deliveries: removal.n_removed,
        n_events: sweep.n_removed,
        n_payloads,
        n_pages: shrink(connection, limit)?,
        expired: BTreeMap::new(),
        has_more: has_more_events || garbage.has_more(),
    })
}

/// Lists at most `limit` deliveries that ended in this state before a time.
fn finished(
    connection: &Connection,
    state: State,
    before: i64,
    limit: usize,
) -> Result<Vec<i64>, Fault> {
    let mut ids = Vec::new();
    for webhook in webhooks::names(connection)? {
        let room = row::limit(limit.saturating_sub(ids.len()));
        let mut statement = connection.prepare_cached(FINISHED)?;
        let found = statement.query_map(params![webhook, state.as_str(), before, room], |row| {
            row.get(0)
        })?;
        ids.extend(found.collect::<rusqlite::Result<Vec<i64>>>()?);
    }
    Ok(ids)
}

/// The removal of old events without deliveries, in one batch.
struct EventSweep {
    /// Only events recorded before this time, in milliseconds, are removed.
    before: i64,
    /// The last event that the check in the order of recording has reached.
    last: i64,
    /// The payloads of the removed events.
    payloads: Vec<ContentHash>,
    n_removed: usize,
    /// The highest sequence number and the highest repetition of the removed events.
    removed: Option<(i64, i64)>,
}

impl EventSweep {
    fn begin(connection: &Connection, before: i64) -> Result<Self, Fault> {
        let last = connection
            .prepare_cached("SELECT value FROM numbers WHERE name = 'last-swept-event'")?
            .query_row([], |row| row.get(0))
            .optional()?;
        Ok(Self {
            before,
            last: last.unwrap_or(0),
            payloads: Vec::new(),
            n_removed: 0,
            removed: None,
        })
    }

    /// Checks an event again because one of its deliveries was removed.
    fn check_again(&mut self, connection: &Connection, sequence: i64) -> Result<(), Fault> {
        if sequence > self.last {
            return Ok(());
        }
        let recorded: Option<i64> = connection
            .prepare_cached("SELECT recorded_ms FROM events WHERE sequence = ?1")?
            .query_row([sequence], |row| row.get(0))
            .optional()?;
        match recorded {
            Some(recorded) if recorded < self.before => self.remove_if_done(connection, sequence),
            Some(_) => {
                self.last = sequence.saturating_sub(1);
                set_last_swept(connection, self.last)
            }
            None => Ok(()),
        }
    }

    /// Removes an event if it has no deliveries. The caller has checked its age.
    fn remove_if_done(&mut self, connection: &Connection, sequence: i64) -> Result<(), Fault> {
        let removed: Option<(Vec<u8>, i64)> = connection
            .prepare_cached(
                "SELECT payload, repetition FROM events WHERE sequence = ?1 AND NOT EXISTS \
                 (SELECT 1 FROM deliveries WHERE id >= first_delivery AND id < end_delivery) \
                 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = ?1 AND is_replay)",
            )?
            .query_row([sequence], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((payload, repetition)) = removed {
            connection
                .prepare_cached("DELETE FROM events WHERE sequence = ?1")?
                .execute([sequence])?;
            self.payloads
                .push(row::hash("an event's payload", &payload)?);
            self.n_removed = self.n_removed.saturating_add(1);
            let before = self.removed.unwrap_or((sequence, repetition));
            self.removed = Some((before.0.max(sequence), before.1.max(repetition)));
        }
        Ok(())
    }

    /// Checks the next `limit` events that are old enough.
    ///
    /// Returns whether there may be more such events.
    fn go_on(&mut self, connection: &Connection, now: i64, limit: usize) -> Result<bool, Fault> {
        // Read one more event than the limit. If its time is not in the future, it is the latest
        // time for corrections.
        let n_events = row::limit(limit.saturating_add(1));
        let mut events: Vec<(i64, i64)> = connection
            .prepare_cached(
                "SELECT sequence, recorded_ms FROM events WHERE sequence > ?1 \
                 ORDER BY sequence LIMIT ?2",
            )?
            .query_map([self.last, n_events], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let following = events.get(limit).map(|(_, recorded)| *recorded);
        events.truncate(limit);
        let latest = following.filter(|recorded| *recorded <= now);
        for (sequence, recorded) in correct_times(&mut events, now, latest.unwrap_or(now)) {
            connection
                .prepare_cached("UPDATE events SET recorded_ms = ?2 WHERE sequence = ?1")?
                .execute([sequence, recorded])?;
        }
        let old: Vec<i64> = events
            .iter()
            .take_while(|(_, recorded)| *recorded < self.before)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in &old {
            self.remove_if_done(connection, *sequence)?;
        }
        if let Some(last) = old.last() {
            set_last_swept(connection, *last)?;
        }
        Ok(old.len() == limit)
    }

    /// Stores the numbers that keep new events from having the number or the id of a removed one.
    fn finish(&self, connection: &Connection) -> Result<(), Fault> {
        if let Some((sequence, repetition)) = self.removed {
            raise(connection, "last-event", sequence)?;
            raise(connection, "first-repetition", repetition.saturating_add(1))?;
        }
        Ok(())
    }
}

/// Raises one of the `numbers` to this value, if it is lower.
fn raise(connection: &Connection, name: &str, value: i64) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO numbers (name, value) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        )?
        .execute(params![name, value])?;
    Ok(())
}

fn set_last_swept(connection: &Connection, sequence: i64) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO numbers (name, value) VALUES ('last-swept-event', ?1) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )?
        .execute([sequence])?;
    Ok(())
}

/// Makes [`collect`] check this event and the later events again.
pub(super) fn check_again_from(connection: &Connection, sequence: i64) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "UPDATE numbers SET value = min(value, ?1 - 1) WHERE name = 'last-swept-event'",
        )?
        .execute([sequence])?;
    Ok(())
}

/// Returns free pages beyond [`FREE_PAGES_KEPT`] to the file system.
///
/// Returns at most `limit` pages. The result is their number.
fn shrink(connection: &Connection, limit: usize) -> Result<u64, Fault> {
    let free = || connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
    let n_free = free()?;
    let surplus = n_free
        .saturating_sub(FREE_PAGES_KEPT)
        .min(row::limit(limit));
    if surplus <= 0 {
        return Ok(0);
    }
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({surplus})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(row::count(n_free.saturating_sub(free()?)))
}
