//! Removes old deliveries and events, and payloads that are no longer needed.
//!
//! [`retention`](crate::store::retention) has the rules.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::lanes::Left;
use super::session::{LOCK_AS_HOLDER, Session, Statement, statement};
use super::{changes, row};
use crate::config::Retention;
use crate::domain::project::ContentHash;
use crate::store::error::Fault;
use crate::store::garbage::Garbage;
use crate::store::listing::Collected;
use crate::store::retention::{ages, correct_times};

/// The arguments of one collection.
pub(super) struct Collection {
    pub(super) repository: i32,
    pub(super) epoch: i64,
    pub(super) retention: Retention,
    pub(super) now: Timestamp,
    pub(super) limit: usize,
    pub(super) expiring: Expiring,
}

/// The pending deliveries that become dead.
pub(super) enum Expiring {
    None,
    /// Deliveries that became pending before this time in milliseconds.
    ///
    /// The text is the reason why they become dead.
    Older(i64, String),
    /// The oldest deliveries of the webhook with the most pending ones, and the reason.
    LargestBacklog(String),
}

/// Removes old deliveries and events, and unneeded payloads, in one transaction.
///
/// Before that, makes the pending deliveries dead that `collection.expiring` selects, if any.
/// `collection.limit` bounds each step, so the transaction is short.
pub(super) async fn collect(
    session: &mut Session,
    garbage: &mut Garbage,
    collection: &Collection,
) -> Result<Collected, Fault> {
    let repository = collection.repository;
    let retention = &collection.retention;
    let now = row::milliseconds(collection.now);
    let before = |age| now.saturating_sub(row::duration(age));
    let lock = statement!(LOCK_AS_HOLDER, repository, collection.epoch);
    let locked = session.begin("BEGIN", vec![lock]).await?;
    let lock = locked.first().and_then(|rows| rows.first());
    let lock = lock.ok_or(Fault::Fenced)?;
    let expired = expire(session, collection).await?;
    let mut ids = Vec::new();
    for (state, age) in ages(retention) {
        let found = session
            .rows(statement!(
                "SELECT d.id FROM webhooks w CROSS JOIN LATERAL \
                 (SELECT id FROM deliveries WHERE repository = $1 AND webhook = w.name \
                 AND state = $2 AND finished_ms IS NOT NULL AND finished_ms < $3 LIMIT $4) d \
                 WHERE w.repository = $1 LIMIT $4",
                repository,
                state.as_str(),
                before(age),
                row::limit(collection.limit)
            ))
            .await?;
        for found in &found {
            ids.push(row::number(found, 0)?);
        }
    }
    let removal = remove(session, repository, ids).await?;
    let mut sweep = EventSweep {
        repository,
        before: before(retention.delivered),
        last: row::number(lock, 3)?,
        payloads: Vec::new(),
        n_removed: 0,
        first_repetition: row::number(lock, 2)?,
    };
    sweep.check_again(session, &removal.events).await?;
    let has_more_events = sweep.check_next(session, now, collection.limit).await?;
    garbage.add(sweep.payloads.iter().copied());
    let n_payloads = remove_garbage(session, repository, garbage, collection.limit).await?;
    session.commit(sweep.finish()).await?;
    Ok(Collected {
        n_deliveries: removal.n_removed,
        n_events: sweep.n_removed,
        n_payloads,
        // The server frees the space itself, by vacuum.
        n_pages: 0,
        expired,
        has_more: has_more_events || garbage.has_more(),
    })
}

/// Makes pending deliveries dead. Returns their number for each webhook.
async fn expire(
    session: &mut Session,
    collection: &Collection,
) -> Result<BTreeMap<String, usize>, Fault> {
    let repository = collection.repository;
    let limit = row::limit(collection.limit);
    let (selected, reason) = match &collection.expiring {
        Expiring::None => return Ok(BTreeMap::new()),
        Expiring::Older(before, reason) => (
            statement!(
                "SELECT id FROM deliveries WHERE repository = $1 AND state = 'pending' \
                 AND waiting_ms < $2 ORDER BY waiting_ms, id LIMIT $3",
                repository,
                *before,
                limit
            ),
            reason,
        ),
        Expiring::LargestBacklog(reason) => (
            statement!(
                "SELECT id FROM deliveries WHERE repository = $1 AND state = 'pending' \
                 AND webhook = (SELECT webhook FROM deliveries WHERE repository = $1 \
                 AND state = 'pending' GROUP BY webhook ORDER BY count(*) DESC LIMIT 1) \
                 ORDER BY id LIMIT $2",
                repository,
                limit
            ),
            reason,
        ),
    };
    let mut ids = Vec::new();
    for found in &session.rows(selected).await? {
        ids.push(row::number(found, 0)?);
    }
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = session
        .rows(statement!(
            "UPDATE deliveries d SET state = 'dead', is_head = FALSE, finished_ms = $3, \
             last_error = $4 || coalesce('; last attempt: ' || (SELECT a.error FROM attempts a \
             WHERE a.repository = $1 AND a.delivery = d.id ORDER BY a.number DESC LIMIT 1), '') \
             WHERE repository = $1 AND id = ANY($2) AND state = 'pending' \
             RETURNING webhook, organization, project, CASE WHEN is_delete THEN project_id END",
            repository,
            ids,
            row::milliseconds(collection.now),
            reason.clone()
        ))
        .await?;
    let mut expired: BTreeMap<String, usize> = BTreeMap::new();
    let left = left(&rows)?;
    for found in &rows {
        *expired.entry(row::text(found, 0)?).or_default() += 1;
    }
    let mut statements = Vec::new();
    left.promote(repository, &mut statements);
    session.pipeline(statements).await?;
    Ok(expired)
}

/// Collects the lanes and the deletes of deliveries that are no longer pending.
///
/// Each row has the webhook, the organization and the project of a delivery. For a delete, it also
/// has the hash of the project id.
pub(super) fn left(rows: &[Row]) -> Result<Left, Fault> {
    let mut left = Left::default();
    for found in rows {
        let lane = (row::text(found, 0)?, row::key(found, 1)?);
        left.add(lane, found.try_get(3)?);
    }
    Ok(left)
}

/// The result of a removal of deliveries.
#[derive(Default)]
pub(super) struct Removal {
    /// The events of the removed deliveries.
    events: Vec<i64>,
    pub(super) n_removed: usize,
}

/// Removes deliveries that are not pending, and their attempts.
pub(super) async fn remove(
    session: &mut Session,
    repository: i32,
    ids: Vec<i64>,
) -> Result<Removal, Fault> {
    if ids.is_empty() {
        return Ok(Removal::default());
    }
    let rows = session
        .rows(statement!(
            "WITH removed AS (DELETE FROM deliveries WHERE repository = $1 AND id = ANY($2) \
               AND state <> 'pending' RETURNING id, webhook, event, state, finished_ms), \
             without_attempts AS (DELETE FROM attempts a USING removed r \
               WHERE a.repository = $1 AND a.delivery = r.id), \
             noted AS (UPDATE webhooks w SET last_delivered_ms = \
               greatest(coalesce(w.last_delivered_ms, 0), l.last) \
               FROM (SELECT webhook, max(finished_ms) AS last FROM removed \
                 WHERE state = 'delivered' GROUP BY webhook) l \
               WHERE w.repository = $1 AND w.name = l.webhook) \
             SELECT event FROM removed",
            repository,
            ids
        ))
        .await?;
    let events = rows.iter().map(|found| row::number(found, 0));
    Ok(Removal {
        events: events.collect::<Result<_, _>>()?,
        n_removed: rows.len(),
    })
}

/// Removes deliveries that are not pending, and commits.
///
/// The transaction must have locked the repository. Later collections check the events of the
/// removed deliveries again.
pub(super) async fn purge(
    session: &mut Session,
    repository: i32,
    ids: Vec<i64>,
) -> Result<u64, Fault> {
    let removal = remove(session, repository, ids).await?;
    let first = removal.events.iter().min().copied();
    let checked = first.map(|first| {
        statement!(
            "UPDATE repositories SET last_swept_event = least(last_swept_event, $2) WHERE id = $1",
            repository,
            first.saturating_sub(1)
        )
    });
    let mut statements: Vec<Statement> = checked.into_iter().collect();
    statements.push(changes::notify(repository));
    session.commit(statements).await?;
    Ok(removal.n_removed as u64)
}

/// A removal of old events without deliveries, in the order of recording.
struct EventSweep {
    repository: i32,
    /// Only events recorded before this time in milliseconds are removed.
    before: i64,
    /// The last event that was checked. All earlier events were checked as well.
    last: i64,
    /// The payloads of the removed events.
    payloads: Vec<ContentHash>,
    n_removed: usize,
    first_repetition: i64,
}

impl EventSweep {
    /// Checks these events again, because their deliveries were removed.
    async fn check_again(&mut self, session: &mut Session, events: &[i64]) -> Result<(), Fault> {
        let again: BTreeSet<i64> = events.iter().copied().filter(|e| *e <= self.last).collect();
        if again.is_empty() {
            return Ok(());
        }
        let rows = session
            .rows(statement!(
                "SELECT sequence, recorded_ms FROM events \
                 WHERE repository = $1 AND sequence = ANY($2) ORDER BY sequence",
                self.repository,
                again.into_iter().collect::<Vec<i64>>()
            ))
            .await?;
        let mut old = Vec::new();
        for found in &rows {
            let (sequence, recorded) = (row::number(found, 0)?, row::number(found, 1)?);
            if recorded < self.before {
                old.push(sequence);
            } else {
                self.last = self.last.min(sequence.saturating_sub(1));
            }
        }
        self.remove_done(session, old).await
    }

    /// Removes these events, except events that still have deliveries.
    async fn remove_done(&mut self, session: &mut Session, events: Vec<i64>) -> Result<(), Fault> {
        if events.is_empty() {
            return Ok(());
        }
        let rows = session
            .rows(statement!(
                "DELETE FROM events e WHERE e.repository = $1 AND e.sequence = ANY($2) \
                 AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.repository = $1 \
                 AND d.event = e.sequence) RETURNING payload, repetition",
                self.repository,
                events
            ))
            .await?;
        for found in &rows {
            let payload = row::hash_in("an event's payload", found, 0)?;
            self.payloads.push(payload);
            let next = row::number(found, 1)?.saturating_add(1);
            self.first_repetition = self.first_repetition.max(next);
        }
        self.n_removed = self.n_removed.saturating_add(rows.len());
        Ok(())
    }

    /// Checks the next `limit` events, and removes old ones without deliveries.
    ///
    /// Returns whether more old events may follow.
    async fn check_next(
        &mut self,
        session: &mut Session,
        now: i64,
        limit: usize,
    ) -> Result<bool, Fault> {
        // Read one event more than the limit, because `correct_times` needs its time.
        let rows = session
            .rows(statement!(
                "SELECT sequence, recorded_ms FROM events WHERE repository = $1 \
                 AND sequence > $2 ORDER BY sequence LIMIT $3",
                self.repository,
                self.last,
                row::limit(limit.saturating_add(1))
            ))
            .await?;
        let mut events = Vec::with_capacity(rows.len());
        for found in &rows {
            events.push((row::number(found, 0)?, row::number(found, 1)?));
        }
        let following = events
            .get(limit)
            .map(|(_, recorded): &(i64, i64)| *recorded);
        events.truncate(limit);
        let latest = following.filter(|recorded| *recorded <= now);
        let corrected = correct_times(&mut events, now, latest.unwrap_or(now));
        if !corrected.is_empty() {
            let (sequences, times): (Vec<i64>, Vec<i64>) = corrected.into_iter().unzip();
            let sql = "UPDATE events e SET recorded_ms = c.t \
                       FROM unnest($2::bigint[], $3::bigint[]) AS c (s, t) \
                       WHERE e.repository = $1 AND e.sequence = c.s";
            session
                .rows(statement!(sql, self.repository, sequences, times))
                .await?;
        }
        let old: Vec<i64> = events
            .iter()
            .take_while(|(_, recorded)| *recorded < self.before)
            .map(|(sequence, _)| *sequence)
            .collect();
        if let Some(last) = old.last() {
            self.last = *last;
        }
        let is_full = old.len() == limit;
        self.remove_done(session, old).await?;
        Ok(is_full)
    }

    /// Returns the statements that save the progress, and remove unneeded moves.
    fn finish(&self) -> Vec<Statement> {
        let mut statements = vec![statement!(
            "UPDATE repositories SET last_swept_event = $2, first_repetition = $3 WHERE id = $1 \
             AND (last_swept_event <> $2 OR first_repetition <> $3)",
            self.repository,
            self.last,
            self.first_repetition
        )];
        if self.n_removed > 0 {
            // A move concerns only earlier events. Once all of them are removed, remove the move.
            statements.push(statement!(
                "DELETE FROM moves WHERE repository = $1 AND last_event < \
                 coalesce((SELECT min(sequence) FROM events WHERE repository = $1), \
                 9223372036854775807)",
                self.repository
            ));
        }
        statements
    }
}

/// Removes unneeded payloads. Returns their number.
///
/// Checks at most `limit` candidates. While all payloads are to be checked, also checks the next
/// `limit` payloads.
async fn remove_garbage(
    session: &mut Session,
    repository: i32,
    garbage: &mut Garbage,
    limit: usize,
) -> Result<usize, Fault> {
    let mut hashes = Vec::new();
    while hashes.len() < limit
        && let Some(hash) = garbage.candidates.pop_first()
    {
        hashes.push(hash.0.to_vec());
    }
    if let Some(after) = garbage.all_after {
        let rows = session
            .rows(statement!(
                "SELECT hash FROM payloads WHERE repository = $1 AND hash > $2 \
                 ORDER BY hash LIMIT $3",
                repository,
                after.0.to_vec(),
                row::limit(limit)
            ))
            .await?;
        garbage.all_after = match rows.last() {
            Some(last) => Some(row::hash_in("a payload", last, 0)?),
            None => None,
        };
        for found in &rows {
            hashes.push(found.try_get(0)?);
        }
    }
    if hashes.is_empty() {
        return Ok(0);
    }
    let removed = session
        .rows(statement!(
            "DELETE FROM payloads p WHERE p.repository = $1 AND p.hash = ANY($2) \
             AND NOT EXISTS (SELECT 1 FROM events e WHERE e.repository = $1 \
             AND e.payload = p.hash) \
             AND NOT EXISTS (SELECT 1 FROM files f WHERE f.repository = $1 \
             AND f.hash = p.hash AND f.identity IS NOT NULL) RETURNING 1",
            repository,
            hashes
        ))
        .await?;
    Ok(removed.len())
}
