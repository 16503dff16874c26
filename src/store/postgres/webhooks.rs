//! Stores the part of a webhook's state that is not in the configuration.
//!
//! Recording an event or an attempt updates no counters. Deliveries are counted on request.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::session::{Session, Statement, statement};
use super::{FingerprintKey, queue, row};
use crate::store::delivery::Failure;
use crate::store::error::Fault;
use crate::store::listing::{Off, OffCause, WebhookState};

const STATES: &str = "SELECT w.name, w.off_cause, w.off_reason, w.off_at_ms, w.last_error, \
     w.last_error_ms, w.last_delivered_ms, coalesce(w.rests_until_ms, 0), \
     (SELECT min(d.due_ms) FROM deliveries d WHERE d.repository = $1 AND d.webhook = w.name \
     AND d.is_head) FROM webhooks w WHERE w.repository = $1";

const PENDING: &str = "SELECT webhook, count(*), min(waiting_ms), max(waiting_ms) FROM deliveries \
     WHERE repository = $1 AND state = 'pending' GROUP BY webhook";

const FINISHED: &str = "SELECT webhook, state, count(*), max(finished_ms) FROM deliveries \
     WHERE repository = $1 AND finished_ms IS NOT NULL GROUP BY webhook, state";

pub(super) async fn states(
    session: &mut Session,
    repository: i32,
) -> Result<Vec<WebhookState>, Fault> {
    let all = vec![
        statement!(STATES, repository),
        statement!(PENDING, repository),
        statement!(FINISHED, repository),
    ];
    let answers = session.consistently(all).await?;
    let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
    let mut states = without_counts(rows(0))?;
    for found in rows(1) {
        if let Some(state) = states.get_mut(&row::text(found, 0)?) {
            state.n_pending = row::count(row::number(found, 1)?);
            state.oldest_pending = time(found, 2)?;
            state.newest_pending = time(found, 3)?;
        }
    }
    for found in rows(2) {
        let Some(state) = states.get_mut(&row::text(found, 0)?) else {
            continue;
        };
        let count = row::count(row::number(found, 2)?);
        let word = row::state("a delivery's state", &row::text(found, 1)?)?;
        state.set_finished(word, count, time(found, 3)?);
    }
    Ok(states.into_values().collect())
}

/// Counts the deliveries of each webhook in each state, up to the limit `$2`.
///
/// Also reads when the oldest and the newest of the counted pending deliveries became pending, and
/// the time of the last success among the stored deliveries.
const UP_TO: &str = "SELECT w.name, \
     (SELECT count(*) FROM (SELECT 1 FROM deliveries d WHERE d.repository = $1 \
       AND d.webhook = w.name AND d.state = 'pending' LIMIT $2) p), \
     (SELECT min(p.waiting_ms) FROM (SELECT d.waiting_ms FROM deliveries d WHERE d.repository = $1 \
       AND d.webhook = w.name AND d.state = 'pending' LIMIT $2) p), \
     (SELECT count(*) FROM (SELECT 1 FROM deliveries d WHERE d.repository = $1 \
       AND d.webhook = w.name AND d.state = 'delivered' AND d.finished_ms IS NOT NULL LIMIT $2) p), \
     (SELECT count(*) FROM (SELECT 1 FROM deliveries d WHERE d.repository = $1 \
       AND d.webhook = w.name AND d.state = 'dead' AND d.finished_ms IS NOT NULL LIMIT $2) p), \
     (SELECT count(*) FROM (SELECT 1 FROM deliveries d WHERE d.repository = $1 \
       AND d.webhook = w.name AND d.state = 'cancelled' AND d.finished_ms IS NOT NULL LIMIT $2) p), \
     (SELECT d.finished_ms FROM deliveries d WHERE d.repository = $1 AND d.webhook = w.name \
       AND d.state = 'delivered' AND d.finished_ms IS NOT NULL \
       ORDER BY d.finished_ms DESC LIMIT 1), \
     (SELECT max(p.waiting_ms) FROM (SELECT d.waiting_ms FROM deliveries d WHERE d.repository = $1 \
       AND d.webhook = w.name AND d.state = 'pending' LIMIT $2) p) \
     FROM webhooks w WHERE w.repository = $1";

/// Reads the states with counts up to `most`.
///
/// A count of `most + 1` means more than `most`.
pub(super) async fn states_up_to(
    session: &mut Session,
    repository: i32,
    most: u64,
) -> Result<Vec<WebhookState>, Fault> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
    let reads = vec![
        statement!(STATES, repository),
        statement!(UP_TO, repository, limit),
    ];
    let answers = session.consistently(reads).await?;
    let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
    let mut states = without_counts(rows(0))?;
    for found in rows(1) {
        let Some(state) = states.get_mut(&row::text(found, 0)?) else {
            continue;
        };
        state.n_pending = row::count(row::number(found, 1)?);
        state.oldest_pending = time(found, 2)?.filter(|_| state.n_pending <= most);
        state.newest_pending = time(found, 7)?.filter(|_| state.n_pending <= most);
        state.n_delivered = row::count(row::number(found, 3)?);
        state.n_dead = row::count(row::number(found, 4)?);
        state.n_cancelled = row::count(row::number(found, 5)?);
        state.last_delivered = state.last_delivered.max(time(found, 6)?);
    }
    Ok(states.into_values().collect())
}

fn time(found: &Row, column: usize) -> Result<Option<Timestamp>, Fault> {
    let time: Option<i64> = found.try_get(column)?;
    Ok(time.map(row::from_milliseconds))
}

/// Reads the rows of [`STATES`]. The states lack the counts of deliveries.
fn without_counts(rows: &[Row]) -> Result<BTreeMap<String, WebhookState>, Fault> {
    let states = rows.iter().map(|found| {
        let state = state(found)?;
        Ok((state.name.clone(), state))
    });
    states.collect()
}

fn state(found: &Row) -> Result<WebhookState, Fault> {
    let off = match found.try_get::<_, Option<String>>(1)? {
        Some(cause) => Some(Off {
            cause: row::word("the webhook's state", &cause, OffCause::from_word)?,
            reason: found.try_get::<_, Option<String>>(2)?.unwrap_or_default(),
            at: time(found, 3)?.unwrap_or_default(),
        }),
        None => None,
    };
    let rests_until = row::number(found, 7)?;
    let next: Option<i64> = found.try_get(8)?;
    Ok(WebhookState {
        name: row::text(found, 0)?,
        off,
        next_attempt: next.map(|due| row::from_milliseconds(due.max(rests_until))),
        last_error: time(found, 5)?.zip(found.try_get(4)?),
        last_delivered: time(found, 6)?,
        ..WebhookState::default()
    })
}

/// Locks the rows of webhooks, in the order of their names.
pub(super) fn lock(repository: i32, failures: &BTreeMap<String, Failure>) -> Statement {
    let names: Vec<String> = failures.keys().cloned().collect();
    let sql =
        "SELECT 1 FROM webhooks WHERE repository = $1 AND name = ANY($2) ORDER BY name FOR UPDATE";
    statement!(sql, repository, names)
}

/// Sets the last errors of webhooks, and the times until which they are paused.
pub(super) fn failed(repository: i32, failures: &BTreeMap<String, Failure>) -> Statement {
    let names: Vec<String> = failures.keys().cloned().collect();
    let of = |value: fn(&Failure) -> i64| failures.values().map(value).collect::<Vec<i64>>();
    let errors: Vec<String> = failures
        .values()
        .map(|failure| row::storable(&failure.error))
        .collect();
    let rests: Vec<Option<i64>> = failures
        .values()
        .map(|failure| failure.rests_until.map(row::milliseconds_up))
        .collect();
    statement!(
        "UPDATE webhooks w SET last_error_ms = f.at, last_error = f.error, \
         rests_until_ms = CASE WHEN f.rests IS NULL THEN w.rests_until_ms \
         ELSE greatest(coalesce(w.rests_until_ms, 0), f.rests) END, \
         rests_since_ms = CASE WHEN f.rests IS NULL THEN w.rests_since_ms ELSE f.at END \
         FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bigint[]) \
         AS f (name, at, error, rests) WHERE w.repository = $1 AND w.name = f.name",
        repository,
        names,
        of(|failure| row::milliseconds(failure.at)),
        errors,
        rests,
    )
}

/// Ends a webhook's pause if the receiver asked for it at a time that is now in the future.
///
/// This corrects a pause from before the clock was set back.
pub(super) fn correct_rest(repository: i32, name: &str, now: i64) -> Statement {
    statement!(
        "UPDATE webhooks SET rests_until_ms = NULL, rests_since_ms = NULL \
         WHERE repository = $1 AND name = $2 AND rests_since_ms > $3",
        repository,
        name.to_owned(),
        now
    )
}

/// Inserts a webhook's row, unless it has one.
pub(super) fn ensure(repository: i32, name: &str) -> Statement {
    statement!(
        "INSERT INTO webhooks (repository, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        repository,
        name.to_owned()
    )
}

/// Switches a webhook off. The last statement returns whether the webhook was on.
///
/// If the webhook is off already, the cause [`OffCause::Gone`] changes nothing, and the statement
/// returns no row.
pub(super) fn switch_off(
    repository: i32,
    name: &str,
    cause: OffCause,
    reason: &str,
    at: Timestamp,
) -> Vec<Statement> {
    vec![
        ensure(repository, name),
        statement!(
            "UPDATE webhooks w SET off_cause = $3, off_reason = $4, off_at_ms = $5 \
             FROM (SELECT off_cause FROM webhooks WHERE repository = $1 AND name = $2) o \
             WHERE w.repository = $1 AND w.name = $2 AND (o.off_cause IS NULL OR $3 = 'operator') \
             RETURNING o.off_cause IS NULL",
            repository,
            name.to_owned(),
            cause.as_str(),
            row::storable(reason),
            row::milliseconds(at)
        ),
    ]
}

/// Ends the pause that the receiver requested for all deliveries of a webhook.
fn end_rest(repository: i32, name: &str) -> Statement {
    statement!(
        "UPDATE webhooks SET rests_until_ms = NULL, rests_since_ms = NULL \
         WHERE repository = $1 AND name = $2 AND rests_until_ms IS NOT NULL",
        repository,
        name.to_owned()
    )
}

/// Switches a webhook on, and ends the waits that its receiver requested.
///
/// The last statement returns a row if the webhook was off.
pub(super) fn switch_on(repository: i32, name: &str) -> Vec<Statement> {
    vec![
        end_rest(repository, name),
        queue::retry_deferred(repository, name),
        statement!(
            "UPDATE webhooks SET off_cause = NULL, off_reason = NULL, off_at_ms = NULL \
             WHERE repository = $1 AND name = $2 AND off_cause IS NOT NULL RETURNING 1",
            repository,
            name.to_owned()
        ),
    ]
}

/// Reads the fingerprint of each webhook, and the cause if the webhook is off.
pub(super) fn fingerprints(repository: i32) -> Statement {
    statement!(
        "SELECT name, fingerprint, off_cause FROM webhooks WHERE repository = $1",
        repository
    )
}

/// The recorded fingerprint of a webhook, and the cause if the webhook is off.
pub(super) struct Fingerprint {
    recorded: Option<Vec<u8>>,
    off_cause: Option<String>,
}

/// Reads the rows of [`fingerprints`].
pub(super) fn recorded_fingerprints(rows: &[Row]) -> Result<BTreeMap<String, Fingerprint>, Fault> {
    rows.iter()
        .map(|found| {
            let fingerprint = Fingerprint {
                recorded: found.try_get(1)?,
                off_cause: found.try_get(2)?,
            };
            Ok((row::text(found, 0)?, fingerprint))
        })
        .collect()
}

/// Makes the statements that store changed fingerprints.
///
/// If a webhook had another fingerprint before, they also end its pause and make its failed
/// deliveries due. Also returns the webhooks that the statements switch on.
pub(super) fn set_fingerprints(
    repository: i32,
    recorded: &BTreeMap<String, Fingerprint>,
    given: &[(String, [u8; 32])],
    key: &FingerprintKey,
    now: i64,
) -> (Vec<Statement>, Vec<String>) {
    let (mut statements, mut switched_on) = (Vec::new(), Vec::new());
    for (name, fingerprint) in given {
        let keyed = key.keyed(fingerprint).to_vec();
        let before = recorded.get(name);
        let kept = before.and_then(|before| before.recorded.as_ref());
        if kept == Some(&keyed) {
            continue;
        }
        statements.push(statement!(
            "INSERT INTO webhooks (repository, name, fingerprint) VALUES ($1, $2, $3) \
             ON CONFLICT (repository, name) DO UPDATE SET fingerprint = excluded.fingerprint",
            repository,
            name.clone(),
            keyed
        ));
        if kept.is_none() {
            continue;
        }
        statements.push(end_rest(repository, name));
        statements.push(queue::retry_now(repository, name, now));
        let off_cause = before.and_then(|before| before.off_cause.as_deref());
        if off_cause == Some(OffCause::Gone.as_str()) {
            statements.extend(switch_on(repository, name));
            switched_on.push(name.clone());
        }
    }
    (statements, switched_on)
}
