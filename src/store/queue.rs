//! What is due, and what an attempt leads to.
//!
//! Constraint: the deliveries of one project to one webhook go strictly in order, and the cost of
//! finding what is due does not depend on how many wait. Both come from lanes: a lane is the row
//! of `lanes` for a webhook and a project with something pending, and shows the oldest pending
//! delivery, its head. Only heads are ever claimed.
//!
//! A claim is a pure read. Which lanes are in flight is the dispatcher's own knowledge, given with
//! each claim; a restart forgets it, and so an attempt that a crash cut off is made again.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Fault;
use super::{payload, row, webhooks};
use crate::domain::delivery::{ANSWER_MAX, State, Verdict};
use crate::domain::event::{Event, Origin};
use crate::domain::project::ProjectKey;

/// How large the payloads of one claim may be together, in bytes; the first may be of any size.
const CLAIM_BYTES: usize = 1024 * 1024;

/// A delivery to attempt now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The delivery.
    pub delivery: i64,
    /// The number of this attempt among all of the delivery, from 1: the header
    /// `webhook-attempt`.
    pub attempt: u32,
    /// The number of this attempt in its schedule, from 1: that of
    /// [`delivery::next`](crate::domain::delivery::next). A redelivery starts the schedule over.
    pub scheduled_attempt: u32,
    /// The event.
    pub event: Event,
    /// The payload, byte for byte as it was observed.
    pub payload: Bytes,
    /// How this delivery came about.
    pub origin: Origin,
}

impl Claim {
    /// The first attempt of a delivery that was just recorded.
    pub(super) fn first(delivery: i64, event: Event, payload: Bytes) -> Self {
        Self {
            delivery,
            attempt: 1,
            scheduled_attempt: 1,
            origin: event.origin,
            event,
            payload,
        }
    }
}

/// A delivery that is due and whose event or payload cannot be read. It would hold its lane for
/// ever; finish it as dead.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The delivery.
    pub delivery: i64,
    /// The number the attempt would have.
    pub attempt: u32,
    /// Its project.
    pub key: ProjectKey,
    /// Why it cannot be read.
    pub fault: Fault,
}

/// What a claim found.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// What to attempt, the longest due first.
    pub ready: Vec<Claim>,
    /// What cannot be attempted.
    pub unreadable: Vec<Unreadable>,
    /// When the first of the other lanes is due: those neither claimed nor excluded. May be past,
    /// where there was more than the limit.
    pub next_due: Option<Timestamp>,
}

/// One attempt, for the log. No secret may be in it: mask header values before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLog {
    /// Its number among all of the delivery, from 1.
    pub number: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The status of the answer, where there was one.
    pub status: Option<u16>,
    /// What went wrong, for a person.
    pub error: Option<String>,
    /// The beginning of the answer's body; cut to [`ANSWER_MAX`].
    pub answer: Bytes,
    /// The headers that were sent.
    pub request_headers: Vec<(String, String)>,
}

/// An attempt and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The delivery.
    pub delivery: i64,
    /// The attempt.
    pub attempt: AttemptLog,
    /// What follows.
    pub verdict: Verdict,
}

pub(super) const HEADS: &str = "SELECT organization, project, head, due_ms FROM lanes \
     WHERE webhook = ?1 ORDER BY due_ms, head LIMIT ?2";

pub(super) const LANE_HEAD: &str = "SELECT id, due_ms, waiting_ms FROM deliveries \
     WHERE webhook = ?1 AND organization = ?2 AND project = ?3 AND state = 'pending' \
     ORDER BY id LIMIT 1";

/// Removes a lane in which nothing is pending.
pub(super) const EMPTIED: &str = "DELETE FROM lanes \
     WHERE webhook = ?1 AND organization = ?2 AND project = ?3 AND NOT EXISTS \
     (SELECT 1 FROM deliveries WHERE webhook = ?1 AND organization = ?2 AND project = ?3 \
     AND state = 'pending')";

/// The heads of the lanes that are due, at most `limit`, the longest due first.
pub(super) fn claim_due(
    connection: &Connection,
    webhook: &str,
    now: Timestamp,
    limit: usize,
    excluding: &HashSet<ProjectKey>,
) -> Result<Claims, Fault> {
    let mut claims = Claims::default();
    if webhooks::is_off(connection, webhook)? {
        return Ok(claims);
    }
    let now = row::milliseconds(now);
    // One more than can be claimed, to see when the next is due.
    let looked_at = limit.saturating_add(excluding.len()).saturating_add(1);
    let mut n_bytes = 0_usize;
    let mut statement = connection.prepare_cached(HEADS)?;
    let mut rows = statement.query(params![webhook, row::limit(looked_at)])?;
    while let Some(lane) = rows.next()? {
        let key = ProjectKey::new(lane.get::<_, String>(0)?, lane.get::<_, String>(1)?);
        if excluding.contains(&key) {
            continue;
        }
        let due: i64 = lane.get(3)?;
        let n_claimed = claims.ready.len().saturating_add(claims.unreadable.len());
        if due > now || n_claimed >= limit || n_bytes >= CLAIM_BYTES {
            claims.next_due = Some(row::from_milliseconds(due));
            break;
        }
        n_bytes += claim(connection, lane.get(2)?, key, &mut claims)?;
    }
    Ok(claims)
}

/// When the first lane that is not excluded is due.
pub(super) fn next_due(
    connection: &Connection,
    webhook: &str,
    excluding: &HashSet<ProjectKey>,
) -> Result<Option<Timestamp>, Fault> {
    // With a limit of nothing the first lane that is not excluded is the next.
    Ok(claim_due(connection, webhook, Timestamp::MAX, 0, excluding)?.next_due)
}

/// Reads one delivery. Trouble with the database fails the claim; trouble with this one delivery
/// is reported beside the others, which it must not hold up. Returns the payload's size.
fn claim(
    connection: &Connection,
    delivery: i64,
    key: ProjectKey,
    claims: &mut Claims,
) -> Result<usize, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT d.n_attempts, d.n_attempts_before, d.origin, {} FROM deliveries d \
         JOIN events e ON e.sequence = d.event JOIN payloads p ON p.id = e.payload \
         WHERE d.id = ?1",
        row::EVENT_COLUMNS
    ))?;
    let mut rows = statement.query([delivery])?;
    let Some(found) = rows.next()? else {
        claims.unreadable.push(Unreadable {
            delivery,
            attempt: 1,
            key,
            fault: Fault::Undecodable {
                what: format!("the delivery {delivery}"),
                reason: "it, its event or its payload is missing".to_owned(),
            },
        });
        return Ok(0);
    };
    let n_attempts: u32 = found.get(0)?;
    let n_before: u32 = found.get(1)?;
    let attempt = n_attempts.saturating_add(1);
    let whole = || -> Result<Claim, Fault> {
        let origin: String = found.get(2)?;
        let event = row::event(found, 3)?;
        let payload =
            payload::get(connection, &event.payload)?.ok_or_else(|| Fault::MissingPayload {
                hash: event.payload,
                needed_by: format!("the event {}", event.id),
            })?;
        Ok(Claim {
            delivery,
            attempt,
            scheduled_attempt: attempt.saturating_sub(n_before).max(1),
            origin: row::word("the delivery's origin", &origin, Origin::from_word)?,
            event,
            payload,
        })
    };
    match whole() {
        Ok(claim) => {
            let size = claim.payload.len();
            claims.ready.push(claim);
            return Ok(size);
        }
        Err(
            fault @ (Fault::MissingPayload { .. }
            | Fault::WrongPayload { .. }
            | Fault::Coding { .. }
            | Fault::Undecodable { .. }),
        ) => claims.unreadable.push(Unreadable {
            delivery,
            attempt,
            key,
            fault,
        }),
        Err(fault) => return Err(fault),
    }
    Ok(0)
}

/// Records attempts and what follows from them. A delivery that went meanwhile is left alone, and
/// so is an attempt that is on record: finishing twice is finishing once.
pub(super) fn finish(connection: &Connection, finished: &[Finish]) -> Result<(), Fault> {
    // What webhooks heard last: their rows are changed once and not for each attempt.
    let mut heard = BTreeMap::new();
    for one in finished {
        if let Some(Heard { webhook, at, error }) = finish_one(connection, one)? {
            heard.insert((webhook, error.is_some()), (at, error));
        }
    }
    for ((webhook, _), (at, error)) in heard {
        webhooks::heard(connection, &webhook, at, error.as_deref())?;
    }
    Ok(())
}

/// The end of an attempt, with an error or without.
struct Heard {
    webhook: String,
    at: Timestamp,
    error: Option<String>,
}

fn finish_one(connection: &Connection, finish: &Finish) -> Result<Option<Heard>, Fault> {
    let Some(delivery) = Standing::of(connection, finish.delivery)? else {
        return Ok(None);
    };
    if !log_attempt(connection, finish)? {
        return Ok(None);
    }
    let attempt = &finish.attempt;
    let ended = attempt
        .at
        .saturating_add(attempt.duration)
        .unwrap_or(attempt.at);
    let state = match finish.verdict {
        // Cancelled while the request was under way, and it arrived all the same: say so.
        Verdict::Delivered => State::Delivered,
        _ if delivery.state != State::Pending => delivery.state,
        Verdict::Dead => State::Dead,
        Verdict::Retry(_) | Verdict::RetryAsAsked(_) | Verdict::SwitchOff => State::Pending,
    };
    let due = finish.verdict.retry_at().map(row::milliseconds_up);
    let finished = (state != State::Pending).then(|| row::milliseconds(ended));
    let error = match finish.verdict {
        Verdict::Delivered => None,
        _ => Some(describe(attempt)),
    };
    connection
        .prepare_cached(
            "UPDATE deliveries SET state = ?2, n_attempts = max(n_attempts, ?3), \
             due_ms = coalesce(?4, due_ms), finished_ms = coalesce(?5, finished_ms), \
             last_status = ?6, last_error = ?7 WHERE id = ?1",
        )?
        .execute(params![
            finish.delivery,
            state.as_str(),
            attempt.number,
            due,
            finished,
            attempt.status,
            error,
        ])?;
    if finish.verdict == Verdict::SwitchOff {
        let reason = error.as_deref().unwrap_or_default();
        let cause = webhooks::OffCause::Gone;
        webhooks::switch_off(connection, &delivery.webhook, cause, reason, ended)?;
    }
    refresh_lane(connection, &delivery.webhook, &delivery.key)?;
    Ok(Some(Heard {
        webhook: delivery.webhook,
        at: ended,
        error,
    }))
}

fn describe(attempt: &AttemptLog) -> String {
    match (&attempt.error, attempt.status) {
        (Some(error), _) => error.clone(),
        (None, Some(status)) => format!("answered {status}"),
        (None, None) => "no answer".to_owned(),
    }
}

/// Adds an attempt to the log, and says whether it is new.
fn log_attempt(connection: &Connection, finish: &Finish) -> Result<bool, Fault> {
    let attempt = &finish.attempt;
    let answer = attempt.answer.get(..ANSWER_MAX).unwrap_or(&attempt.answer);
    let logged = connection
        .prepare_cached(
            "INSERT INTO attempts (delivery, number, at_ms, duration_ms, status, error, answer, \
             request_headers) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            finish.delivery,
            attempt.number,
            row::milliseconds(attempt.at),
            i64::try_from(attempt.duration.as_millis()).unwrap_or(i64::MAX),
            attempt.status,
            attempt.error,
            answer,
            row::to_json("the request's headers", &attempt.request_headers)?,
        ])?;
    Ok(logged > 0)
}

/// Where a delivery belongs and stands.
struct Standing {
    webhook: String,
    key: ProjectKey,
    state: State,
}

impl Standing {
    fn of(connection: &Connection, delivery: i64) -> Result<Option<Self>, Fault> {
        let found: Option<(String, String, String, String)> = connection
            .prepare_cached(
                "SELECT webhook, organization, project, state FROM deliveries WHERE id = ?1",
            )?
            .query_row([delivery], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        found
            .map(|(webhook, organization, project, state)| {
                Ok(Self {
                    webhook,
                    key: ProjectKey::new(organization, project),
                    state: row::state("the delivery's state", &state)?,
                })
            })
            .transpose()
    }
}

/// Makes a lane show its oldest pending delivery, or removes it where nothing is pending. To be
/// called after every change of a delivery's state or due time.
pub(super) fn refresh_lane(
    connection: &Connection,
    webhook: &str,
    key: &ProjectKey,
) -> Result<(), Fault> {
    let emptied =
        connection
            .prepare_cached(EMPTIED)?
            .execute([webhook, &key.organization, &key.project])?;
    if emptied > 0 {
        return Ok(());
    }
    let head: Option<(i64, i64, i64)> = connection
        .prepare_cached(LANE_HEAD)?
        .query_row([webhook, &key.organization, &key.project], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    if let Some((head, due, waiting)) = head {
        connection
            .prepare_cached(
                "INSERT INTO lanes (webhook, organization, project, head, due_ms, waiting_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (webhook, organization, project) DO UPDATE SET \
                 head = excluded.head, due_ms = excluded.due_ms, waiting_ms = excluded.waiting_ms",
            )?
            .execute(params![
                webhook,
                key.organization,
                key.project,
                head,
                due,
                waiting,
            ])?;
    }
    Ok(())
}

/// Makes due now what was made to wait by a clock that has been set back since: it would wait for
/// as long as the clock was ahead. Returns how many deliveries that was.
pub(super) fn mend_times(
    connection: &Connection,
    webhook: &str,
    now: Timestamp,
) -> Result<usize, Fault> {
    let now = row::milliseconds(now);
    let n_mended = connection
        .prepare_cached(
            "UPDATE deliveries SET due_ms = ?2, waiting_ms = min(waiting_ms, ?2) \
             WHERE webhook = ?1 AND state = 'pending' AND due_ms > ?2 AND (waiting_ms > ?2 OR \
             EXISTS (SELECT 1 FROM attempts a WHERE a.delivery = deliveries.id AND a.at_ms > ?2))",
        )?
        .execute(params![webhook, now])?;
    connection
        .prepare_cached(
            "UPDATE lanes SET (due_ms, waiting_ms) = \
             (SELECT due_ms, waiting_ms FROM deliveries WHERE id = lanes.head) \
             WHERE webhook = ?1 AND due_ms > ?2",
        )?
        .execute(params![webhook, now])?;
    Ok(n_mended)
}

/// The heads of a webhook's lanes that wait after a failure by the schedule alone.
const WAITING_BY_SCHEDULE: &str = "SELECT d.id FROM lanes l JOIN deliveries d ON d.id = l.head \
     WHERE l.webhook = ?1 AND l.due_ms > ?2 AND d.n_attempts > d.n_attempts_before \
     AND (d.last_status IS NULL OR d.last_status NOT IN (429, 502, 503, 504))";

/// Makes what waits after a failure due now: the settings it failed with are not those any more.
/// An answer that may have asked for a time by Retry-After keeps it.
pub(super) fn hurry(connection: &Connection, webhook: &str, now: Timestamp) -> Result<(), Fault> {
    let now = row::milliseconds(now);
    // Only heads have failed: what is behind one was not tried.
    connection
        .prepare_cached(&format!(
            "UPDATE deliveries SET due_ms = ?2 WHERE id IN ({WAITING_BY_SCHEDULE})"
        ))?
        .execute(params![webhook, now])?;
    connection
        .prepare_cached(
            "UPDATE lanes SET due_ms = (SELECT due_ms FROM deliveries WHERE id = lanes.head) \
             WHERE webhook = ?1 AND due_ms > ?2",
        )?
        .execute(params![webhook, now])?;
    Ok(())
}
