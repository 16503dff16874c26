//! Claims due deliveries, and records the results of attempts.
//!
//! Constraint: an index finds the heads of [`lanes`], so a claim reads no other pending delivery. A
//! claim writes nothing, so a restarted daemon repeats attempts that a crash interrupted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::key::FingerprintKey;
use super::lanes::{self, DELETES_ELSEWHERE, LaneEntry, OLDEST_IN_LANE};
use super::{payload, row, webhooks};
use crate::domain::delivery::{State, Verdict};
use crate::domain::event::{Event, Origin};
use crate::domain::project::ProjectKey;
use crate::store::answer;
use crate::store::batch::NewEvent;
use crate::store::contract::Asking;
use crate::store::delivery::{Claim, Claims, Effect, Failure, Finish, Unreadable};
use crate::store::error::Fault;
use crate::store::listing::OffCause;

/// A claim ends when its payloads reach this total size, in bytes.
const CLAIM_BYTES: usize = 1024 * 1024;

/// Selects the heads of a webhook's lanes, sorted by due time.
pub(super) const HEADS: &str = "SELECT id, due_ms, organization, project, event, n_attempts, \
     n_attempts_before, origin, n_redeliveries FROM deliveries WHERE webhook = ?1 AND is_head \
     ORDER BY due_ms, id LIMIT ?2";

/// Inserts a pending delivery of the event `sequence`.
///
/// Returns whether the delivery is the head of its lane.
pub(super) fn insert(
    connection: &Connection,
    id: i64,
    sequence: i64,
    new: &NewEvent,
    webhook: &str,
    due: Timestamp,
    now: Timestamp,
) -> Result<bool, Fault> {
    let event = &new.event;
    let key = &event.key;
    let is_behind = connection.prepare_cached(OLDEST_IN_LANE)?.exists([
        webhook,
        &key.organization,
        &key.project,
    ])?;
    let is_delete = event.kind.is_delete();
    let project_id = (is_delete || new.is_arrival).then(|| row::project_id(key, &new.project_id));
    let waits = new.is_arrival
        && !is_delete
        && connection
            .prepare_cached(DELETES_ELSEWHERE)?
            .exists(params![webhook, project_id, key.organization, key.project,])?;
    let is_head = !is_behind && !waits;
    connection
        .prepare_cached(
            "INSERT INTO deliveries (id, event, webhook, organization, project, state, is_head, \
             origin, due_ms, created_ms, waiting_ms, is_delete, project_id) \
             VALUES (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?7, ?8, ?9, ?9, ?10, ?11)",
        )?
        .execute(params![
            id,
            sequence,
            webhook,
            key.organization,
            key.project,
            is_head,
            event.origin.as_str(),
            row::milliseconds_up(due),
            row::milliseconds(now),
            is_delete,
            project_id.filter(|_| is_delete || waits),
        ])?;
    Ok(is_head)
}

/// Claims due heads of lanes.
pub(super) fn claim(
    connection: &Connection,
    webhook: &str,
    asking: &Asking,
) -> Result<Claims, Fault> {
    let mut claims = Claims::default();
    let webhooks::Pause {
        is_off,
        rests_until,
    } = webhooks::pause(connection, webhook)?;
    if is_off {
        return Ok(claims);
    }
    let now = row::milliseconds(asking.now);
    let limit = if rests_until > now { 0 } else { asking.limit };
    // Read one more head than the claim can return, for the next due time.
    let n_excluded = asking.excluding.len();
    let n_heads = limit.saturating_add(n_excluded).saturating_add(1);
    let mut n_bytes = 0_usize;
    let mut statement = connection.prepare_cached(HEADS)?;
    let mut rows = statement.query(params![webhook, row::limit(n_heads)])?;
    while let Some(head) = rows.next()? {
        let key = ProjectKey::new(head.get::<_, String>(2)?, head.get::<_, String>(3)?);
        if asking.excluding.contains(&key) {
            continue;
        }
        let due: i64 = head.get(1)?;
        let n_claimed = claims.ready.len().saturating_add(claims.unreadable.len());
        if due > now || n_claimed >= limit || n_bytes >= CLAIM_BYTES {
            claims.next_due = Some(row::from_milliseconds(due.max(rests_until)));
            break;
        }
        n_bytes += claim_head(connection, head, key, &mut claims)?;
    }
    Ok(claims)
}

/// Adds the delivery in a row of [`HEADS`] to a claim. Returns its payload size.
///
/// An error of the database fails the whole claim. An unreadable delivery is only reported in the
/// claim, so that it does not delay others.
fn claim_head(
    connection: &Connection,
    head: &Row<'_>,
    key: ProjectKey,
    claims: &mut Claims,
) -> Result<usize, Fault> {
    let delivery: i64 = head.get(0)?;
    let n_attempts: u32 = head.get(5)?;
    let n_before: u32 = head.get(6)?;
    let attempt = n_attempts.saturating_add(1);
    let n_redeliveries: u32 = head.get(8)?;
    let whole = || -> Result<Claim, Fault> {
        let origin: String = head.get(7)?;
        let event = event(connection, head.get(4)?)?;
        let payload =
            payload::get(connection, &event.payload)?.ok_or_else(|| Fault::MissingPayload {
                hash: event.payload,
                needed_by: format!("the event {}", event.id),
            })?;
        Ok(Claim {
            delivery,
            attempt,
            scheduled_attempt: attempt.saturating_sub(n_before).max(1),
            n_redeliveries,
            origin: row::word("the delivery's origin", &origin, Origin::from_word)?,
            key: key.clone(),
            event,
            payload,
        })
    };
    let claim = whole();
    let size = claim.as_ref().map_or(0, |claim| claim.payload.len());
    claims.add(claim, |fault| Unreadable {
        delivery,
        attempt,
        key,
        n_redeliveries,
        fault,
    })?;
    Ok(size)
}

/// Reads the event with this sequence number.
pub(super) fn event(connection: &Connection, sequence: i64) -> Result<Event, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM events e WHERE e.sequence = ?1",
        row::EVENT_COLUMNS
    ))?;
    let mut rows = statement.query([sequence])?;
    match rows.next()? {
        Some(found) => row::event(found, 0),
        None => Err(Fault::Undecodable {
            what: format!("the event {sequence}"),
            reason: "the event is missing".to_owned(),
        }),
    }
}

/// Records attempts and their verdicts.
///
/// Ignores removed deliveries, and attempts that are recorded already.
pub(super) fn finish(
    connection: &Connection,
    finished: &[Finish],
    key: &FingerprintKey,
) -> Result<(), Fault> {
    // Keep only the last failure of each webhook, to store one error for each webhook.
    let mut failures = BTreeMap::new();
    for one in finished {
        if let Some((webhook, failure)) = finish_one(connection, one, key)? {
            failure.replace(&mut failures, &webhook);
        }
    }
    for (webhook, failure) in failures {
        webhooks::failed(connection, &webhook, &failure)?;
    }
    Ok(())
}

/// Whether the webhook's recorded settings differ from those of the request.
///
/// False if no request was sent.
fn is_outdated(
    connection: &Connection,
    finish: &Finish,
    before: &LaneEntry,
    key: &FingerprintKey,
) -> Result<bool, Fault> {
    match &finish.fingerprint {
        Some(used) => {
            webhooks::has_other_fingerprint(connection, &before.webhook, &key.keyed(used))
        }
        None => Ok(false),
    }
}

/// Records one attempt.
///
/// If the attempt is new and failed, returns its webhook and its failure.
fn finish_one(
    connection: &Connection,
    finish: &Finish,
    key: &FingerprintKey,
) -> Result<Option<(String, Failure)>, Fault> {
    let Some(before) = LaneEntry::of(connection, finish.delivery)? else {
        return Ok(None);
    };
    if !log_attempt(connection, finish)? {
        return Ok(None);
    }
    let (ended, error) = (finish.ended(), finish.error());
    let is_outdated = error.is_some() && is_outdated(connection, finish, &before, key)?;
    let effect = finish.effect(before.state, before.n_redeliveries, is_outdated, true);
    let state = effect.state;
    // If an update names a column, SQLite writes a page of each index with that column, even if the
    // value stays the same. So the update names `state` only if the state changes.
    if state == before.state {
        stay(connection, finish, &effect, error.as_deref())?;
    } else {
        connection
            .prepare_cached(
                "UPDATE deliveries SET n_attempts = max(n_attempts, ?2), state = ?3, is_head = 0, \
                 finished_ms = ?4, last_status = ?5, last_error = ?6 WHERE id = ?1",
            )?
            .execute(params![
                finish.delivery,
                finish.attempt.number,
                state.as_str(),
                row::milliseconds(ended),
                finish.attempt.status,
                error,
            ])?;
    }
    if before.state == State::Pending && state != State::Pending {
        lanes::left(connection, &before)?;
    }
    let Some(error) = error else {
        return Ok(None);
    };
    if effect.switches_off {
        let cause = OffCause::Gone;
        webhooks::switch_off(connection, &before.webhook, cause, &error, ended)?;
    }
    let failure = Failure {
        at: ended,
        error,
        rests_until: finish.rests_until.filter(|_| !is_outdated),
    };
    Ok(Some((before.webhook, failure)))
}

/// Records an attempt after which the delivery keeps its state.
fn stay(
    connection: &Connection,
    finish: &Finish,
    effect: &Effect,
    error: Option<&str>,
) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "UPDATE deliveries SET n_attempts = max(n_attempts, ?2), \
             n_attempts_before = iif(?7, max(n_attempts, ?2), n_attempts_before + ?8), \
             due_ms = coalesce(?3, due_ms), is_due_as_asked = ?4, last_status = ?5, \
             last_error = ?6 WHERE id = ?1",
        )?
        .execute(params![
            finish.delivery,
            finish.attempt.number,
            effect.due.map(row::milliseconds_up),
            effect.is_due_as_asked,
            finish.attempt.status,
            error,
            effect.starts_again,
            effect.n_uncounted,
        ])?;
    Ok(())
}

/// Inserts an attempt. Returns whether it is new.
fn log_attempt(connection: &Connection, finish: &Finish) -> Result<bool, Fault> {
    let attempt = &finish.attempt;
    let is_success = finish.verdict == Verdict::Delivered;
    let answer = answer::stored(&attempt.answer, is_success);
    let logged = connection
        .prepare_cached(
            "INSERT INTO attempts (delivery, number, at_ms, duration_ms, status, error, answer, \
             request_headers, answer_size) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            finish.delivery,
            attempt.number,
            row::milliseconds(attempt.at),
            i64::try_from(attempt.duration.as_millis()).unwrap_or(i64::MAX),
            attempt.status,
            attempt.error,
            &answer.bytes[..],
            row::to_json("the request's headers", &attempt.request_headers)?,
            answer.size,
        ])?;
    Ok(logged > 0)
}

pub(super) fn correct_times(
    connection: &Connection,
    webhook: &str,
    now: Timestamp,
) -> Result<usize, Fault> {
    webhooks::correct_rest(connection, webhook, row::milliseconds(now))?;
    Ok(connection
        .prepare_cached(
            "UPDATE deliveries SET due_ms = ?2, waiting_ms = min(waiting_ms, ?2) \
             WHERE webhook = ?1 AND state = 'pending' AND due_ms > ?2 AND (waiting_ms > ?2 OR \
             EXISTS (SELECT 1 FROM attempts a WHERE a.delivery = deliveries.id AND a.at_ms > ?2))",
        )?
        .execute(params![webhook, row::milliseconds(now)])?)
}

/// Makes failed deliveries due now.
pub(super) fn retry_now(
    connection: &Connection,
    webhook: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    // Include deliveries that are not heads: a failed delivery may be behind an older one that was
    // redelivered. Include deliveries whose attempts used up no step of the schedule: they failed
    // too.
    connection
        .prepare_cached(
            "UPDATE deliveries SET due_ms = ?2, is_due_as_asked = 0 WHERE id IN \
             (SELECT id FROM deliveries WHERE webhook = ?1 AND state = 'pending' AND due_ms > ?2 \
             AND n_attempts > 0)",
        )?
        .execute(params![webhook, row::milliseconds(now)])?;
    Ok(())
}

/// Ends the waits of single deliveries that the receiver deferred (`Retry-After`).
pub(super) fn retry_deferred(connection: &Connection, webhook: &str) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "UPDATE deliveries SET due_ms = min(due_ms, waiting_ms), is_due_as_asked = 0 \
             WHERE id IN (SELECT id FROM deliveries WHERE webhook = ?1 AND state = 'pending' \
             AND is_due_as_asked)",
        )?
        .execute([webhook])?;
    Ok(())
}
