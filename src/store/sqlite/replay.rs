//! Queues recorded events for a webhook, again or for the first time.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::record::NextNumbers;
use super::{lanes, listeners, queue, row, webhooks};
use crate::domain::event::Event;
use crate::domain::project::{ProjectKey, organizations_of};
use crate::store::error::Fault;
use crate::store::listing::{Organizations, Replay};
use crate::store::replay::{Candidate, Found, READ_MAX, Range};

/// Returns the range of all events that are recorded now.
pub(super) fn all(connection: &Connection) -> Result<Range, Fault> {
    let last = connection
        .prepare_cached("SELECT coalesce(max(sequence), 0) FROM events")?
        .query_row([], |row| row.get(0))?;
    Ok(Range::up_to(last))
}

/// Returns the form of the condition on the organization, as a number for [`after`].
///
/// Also returns the parameters of the condition.
fn organization(replay: &Replay) -> (i64, Option<String>, Option<String>) {
    match replay.organization.as_deref().map(Organizations::of) {
        None => (0, None, None),
        Some(Organizations::One(stored)) => (1, Some(stored.to_owned()), None),
        Some(Organizations::OfRepository(name)) => {
            let (first, end) = organizations_of(name);
            (2, Some(first), Some(end))
        }
        Some(Organizations::InAnyRepository(end)) => (3, Some(end.to_owned()), None),
    }
}

/// Reads the next selected events in a range, at most `limit`.
///
/// Reads at most [`READ_MAX`] events to select from.
pub(super) fn after(
    connection: &Connection,
    replay: &Replay,
    range: &mut Range,
    limit: usize,
) -> Result<Found, Fault> {
    let subscription = &replay.subscription;
    let mut statement = connection.prepare_cached(
        "SELECT e.sequence, e.kind, e.organization, e.project, coalesce( \
         (SELECT id FROM deliveries d WHERE d.id >= e.first_delivery AND d.id < e.end_delivery \
         AND d.webhook = ?1), \
         (SELECT id FROM deliveries d WHERE d.event = e.sequence AND d.is_replay \
         AND d.webhook = ?1)), \
         (?4 IS NULL OR e.recorded_ms >= ?4) AND (?5 IS NULL OR e.recorded_ms < ?5) \
         AND (?7 IS NULL OR e.project = ?7) AND CASE ?10 WHEN 0 THEN TRUE \
         WHEN 1 THEN e.organization = ?6 WHEN 2 THEN e.organization >= ?6 AND e.organization < ?11 \
         ELSE substr(e.organization, -length(?6)) = ?6 END, \
         CASE WHEN ?9 THEN e.parameters END \
         FROM events e WHERE e.sequence > ?2 AND e.sequence <= ?3 \
         ORDER BY e.sequence LIMIT ?8",
    )?;
    let time = |time: Option<Timestamp>| time.map(row::milliseconds_up);
    let (form, organization, end) = organization(replay);
    let mut rows = statement.query(params![
        subscription.webhook,
        range.after,
        range.last,
        time(replay.since),
        time(replay.until),
        organization,
        replay.project,
        row::limit(READ_MAX),
        !subscription.when.is_empty(),
        form,
        end,
    ])?;
    let mut found = Found::default();
    while found.events.len() < limit
        && let Some(event) = rows.next()?
    {
        let candidate = Candidate {
            sequence: event.get(0)?,
            delivery: event.get(4)?,
            kind: event.get(1)?,
            key: ProjectKey::new(event.get::<_, String>(2)?, event.get::<_, String>(3)?),
            parameters: event.get(6)?,
            is_in_range: event.get(5)?,
        };
        let sequence = candidate.sequence;
        found.add(range, subscription, candidate, |key| {
            lanes::lane_of(connection, sequence, key)
        })?;
    }
    Ok(found)
}

pub(super) fn count(connection: &Connection, replay: &Replay) -> Result<u64, Fault> {
    Ok(selected(connection, replay)?.len() as u64)
}

/// Returns the sequence numbers of all selected events, sorted.
pub(super) fn selected(connection: &Connection, replay: &Replay) -> Result<Vec<i64>, Fault> {
    let mut range = all(connection)?;
    let mut selected = Vec::new();
    loop {
        let found = after(connection, replay, &mut range, READ_MAX)?;
        selected.extend(found.events.iter().map(|(sequence, _)| *sequence));
        match found.last {
            Some(last) => range.after = last,
            None => return Ok(selected),
        }
    }
}

/// Queues the deliveries of these events. Returns their number.
pub(super) fn enqueue(
    connection: &Connection,
    replay: &Replay,
    found: &Found,
    now: i64,
) -> Result<u64, Fault> {
    let webhook = &replay.subscription.webhook;
    if !found.events.is_empty() {
        webhooks::ensure(connection, webhook)?;
    }
    for (sequence, delivery) in &found.events {
        let event = queue::event(connection, *sequence)?;
        let key = lanes::lane_of(connection, *sequence, event.key.clone())?;
        let delivery = match delivery {
            Some(delivery) => *delivery,
            None => insert(connection, *sequence, webhook, &event, &key, now)?,
        };
        if let Some(project) = lanes::present(connection, delivery)? {
            lanes::make_pending(connection, delivery, &project, now)?;
        }
        if !event.kind.is_delete() && is_recorded(connection, &key)? {
            listeners::add(connection, &key, webhook)?;
        }
    }
    Ok(found.events.len() as u64)
}

/// Inserts a delivery of an event that the webhook has no delivery of.
///
/// Returns the id of the delivery.
fn insert(
    connection: &Connection,
    sequence: i64,
    webhook: &str,
    event: &Event,
    key: &ProjectKey,
    now: i64,
) -> Result<i64, Fault> {
    let id = NextNumbers::read(connection)?.delivery;
    // Insert a cancelled delivery. The caller makes it pending, like a redelivered one.
    connection
        .prepare_cached(
            "INSERT INTO deliveries (id, event, webhook, organization, project, state, is_head, \
             origin, due_ms, created_ms, waiting_ms, is_delete, is_replay) \
             VALUES (?1, ?2, ?3, ?4, ?5, 'cancelled', 0, 'redelivery', ?6, ?6, ?6, ?7, 1)",
        )?
        .execute(params![
            id,
            sequence,
            webhook,
            key.organization,
            key.project,
            now,
            event.kind.is_delete(),
        ])?;
    Ok(id)
}

fn is_recorded(connection: &Connection, key: &ProjectKey) -> Result<bool, Fault> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM files WHERE organization = ?1 AND project = ?2 LIMIT 1")?
        .exists([&key.organization, &key.project])?)
}
