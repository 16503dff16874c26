//! Queues recorded events for a webhook, again or for the first time.
//!
//! Also makes deliveries pending again for a redelivery.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::client::number;
use super::lanes::{self, Lane, Moves};
use super::row::{self, column};
use super::session::{Session, Statement, statement};
use super::{changes, webhooks};
use crate::domain::delivery::State;
use crate::domain::event::{Event, Parameter};
use crate::domain::project::ProjectKey;
use crate::store::error::Fault;
use crate::store::listing::{Organizations, Replay};
use crate::store::replay::{Candidate, Found, READ_MAX, Range};

/// Reads the range of all events that are recorded now.
pub(super) async fn all(session: &mut Session, repository: i32) -> Result<Range, Fault> {
    let sql = "SELECT coalesce(max(sequence), 0) FROM events WHERE repository = $1";
    let last = number(&session.rows(statement!(sql, repository)).await?)?;
    Ok(Range::up_to(last))
}

const EVENTS: &str = "SELECT e.sequence, e.kind, e.organization, e.project, \
     (SELECT d.id FROM deliveries d WHERE d.repository = $1 AND d.event = e.sequence \
     AND d.webhook = $2), \
     ($5::bigint IS NULL OR e.recorded_ms >= $5) AND ($6::bigint IS NULL OR e.recorded_ms < $6) \
     AND CASE $11::int WHEN 0 THEN TRUE WHEN 1 THEN e.organization = $7 \
     WHEN 2 THEN starts_with(e.organization, $7::text) ELSE right(e.organization, length($7::text)) = $7 END AND ($8::text IS NULL OR e.project = $8), \
     CASE WHEN $10::bool THEN e.parameters END FROM events e WHERE e.repository = $1 AND e.sequence > $3 AND e.sequence <= $4 \
     ORDER BY e.sequence LIMIT $9";

/// Reads the next selected events of a range, at most `limit`.
pub(super) async fn after(
    session: &mut Session,
    repository: i32,
    replay: &Replay,
    range: &mut Range,
    limit: usize,
) -> Result<Found, Fault> {
    let subscription = &replay.subscription;
    let form = match replay.organization.as_deref().map(Organizations::of) {
        None => 0_i32,
        Some(Organizations::One(_)) => 1,
        Some(Organizations::OfRepository(_)) => 2,
        Some(Organizations::InAnyRepository(_)) => 3,
    };
    let time = |time: Option<Timestamp>| time.map(row::milliseconds_up);
    let mut answers = session
        .pipeline(vec![
            Moves::read(repository),
            statement!(
                EVENTS,
                repository,
                subscription.webhook.clone(),
                range.after,
                range.last,
                time(replay.since),
                time(replay.until),
                replay.organization.clone(),
                replay.project.clone(),
                row::limit(READ_MAX),
                !subscription.when.is_empty(),
                form,
            ),
        ])
        .await?;
    let rows = answers.pop().unwrap_or_default();
    let moves = Moves::of(&answers.pop().unwrap_or_default())?;
    let mut found = Found::default();
    for event in &rows {
        if found.events.len() >= limit {
            break;
        }
        let candidate = Candidate {
            sequence: row::number(event, 0)?,
            delivery: event.try_get(4)?,
            kind: row::text(event, 1)?,
            key: row::key(event, 2)?,
            parameters: event.try_get(6)?,
            is_in_range: event.try_get(5)?,
        };
        let sequence = candidate.sequence;
        found.add(range, subscription, candidate, |key| {
            Ok(moves.lane_of(sequence, key))
        })?;
    }
    Ok(found)
}

pub(super) async fn count(
    session: &mut Session,
    repository: i32,
    replay: &Replay,
) -> Result<u64, Fault> {
    Ok(selected(session, repository, replay).await?.len() as u64)
}

/// Reads the sequence numbers of all selected events, sorted.
pub(super) async fn selected(
    session: &mut Session,
    repository: i32,
    replay: &Replay,
) -> Result<Vec<i64>, Fault> {
    let mut range = all(session, repository).await?;
    let mut selected = Vec::new();
    loop {
        let found = after(session, repository, replay, &mut range, READ_MAX).await?;
        selected.extend(found.events.iter().map(|(sequence, _)| *sequence));
        match found.last {
            Some(last) => range.after = last,
            None => return Ok(selected),
        }
    }
}

/// An event to queue, with its delivery and the lane of that delivery.
struct Queued {
    delivery: i64,
    /// Whether the event has no delivery yet.
    is_new: bool,
    event: i64,
    lane: Lane,
    project_id: Option<Vec<u8>>,
    is_delete: bool,
}

/// Queues the deliveries of these events.
///
/// The transaction must have locked the repository. `next` is the id for the next new delivery.
/// Returns the number of queued deliveries.
pub(super) async fn enqueue(
    session: &mut Session,
    repository: i32,
    replay: &Replay,
    found: &Found,
    now: i64,
    next: i64,
) -> Result<u64, Fault> {
    if found.events.is_empty() {
        return Ok(0);
    }
    let webhook = &replay.subscription.webhook;
    let (queued, next) = queued(session, repository, webhook, found, next).await?;
    let mut statements = vec![webhooks::ensure(repository, webhook)];
    statements.push(insert(repository, &queued, now));
    statements.extend(make_pending(repository, &queued, now));
    statements.push(statement!(
        "UPDATE repositories SET next_delivery = $2 WHERE id = $1",
        repository,
        next
    ));
    statements.push(listen(repository, &queued));
    statements.push(changes::notify(repository));
    session.pipeline(statements).await?;
    Ok(found.events.len() as u64)
}

/// Makes these deliveries pending and due now, and commits.
///
/// The transaction must have locked the repository. Returns the number of deliveries that still
/// exist.
pub(super) async fn redeliver(
    session: &mut Session,
    repository: i32,
    ids: Vec<i64>,
    now: i64,
) -> Result<u64, Fault> {
    let sql = "SELECT d.id, d.webhook, d.state, d.organization, d.project, e.sequence, \
         e.organization, e.project, e.parameters, d.is_delete FROM deliveries d \
         JOIN events e ON e.repository = $1 AND e.sequence = d.event \
         WHERE d.repository = $1 AND d.id = ANY($2)";
    let answers = session
        .pipeline(vec![
            Moves::read(repository),
            statement!(sql, repository, ids),
        ])
        .await?;
    let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
    let moves = Moves::of(rows(0))?;
    let mut queued = Vec::new();
    for found in rows(1) {
        let (event, then) = (row::number(found, 5)?, row::key(found, 6)?);
        let project_id = row::project_id_in(&then, &row::text(found, 8)?);
        // A delivered delivery does not move with its project, so apply all moves since its event.
        // Any other delivery moved with its project.
        let is_delivered = row::text(found, 2)? == State::Delivered.as_str();
        let key = match is_delivered {
            true => moves.lane_of(event, then),
            false => row::key(found, 3)?,
        };
        queued.push(Queued {
            delivery: row::number(found, 0)?,
            is_new: false,
            event,
            lane: (row::text(found, 1)?, key),
            project_id,
            is_delete: found.try_get(9)?,
        });
    }
    let mut statements = make_pending(repository, &queued, now);
    statements.push(changes::notify(repository));
    session.commit(statements).await?;
    Ok(queued.len() as u64)
}

/// Finds the deliveries and lanes of events. New deliveries get ids from `next`.
///
/// Also returns the id for the next new delivery after them.
async fn queued(
    session: &mut Session,
    repository: i32,
    webhook: &str,
    found: &Found,
    mut next: i64,
) -> Result<(Vec<Queued>, i64), Fault> {
    let sequences: Vec<i64> = found.events.iter().map(|(sequence, _)| *sequence).collect();
    let sql = format!(
        "SELECT {}, d.id, d.state, d.organization, d.project, e.sequence FROM events e \
         LEFT JOIN deliveries d ON d.repository = $1 AND d.event = e.sequence AND d.webhook = $3 \
         WHERE e.repository = $1 AND e.sequence = ANY($2) ORDER BY e.sequence",
        row::EVENT_COLUMNS
    );
    let events = statement!(sql, repository, sequences, webhook.to_owned());
    let answers = session
        .pipeline(vec![Moves::read(repository), events])
        .await?;
    let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
    let moves = Moves::of(rows(0))?;
    let mut queued = Vec::new();
    for found in rows(1) {
        let column = |offset: usize| row::N_EVENT_COLUMNS.saturating_add(offset);
        let event: Event = row::event(found, 0)?;
        let sequence = row::number(found, column(4))?;
        let present = moves.lane_of(sequence, event.key.clone());
        let delivery: Option<i64> = found.try_get(column(0))?;
        let key = match found.try_get::<_, Option<&str>>(column(1))? {
            // A pending delivery stays in its lane.
            Some(state) if state == State::Pending.as_str() => row::key(found, column(2))?,
            _ => present,
        };
        let is_new = delivery.is_none();
        let delivery = delivery.unwrap_or(next);
        next = next.saturating_add(i64::from(is_new));
        let mut parameters = event.parameters.iter();
        let project_id = parameters.find(|(name, _)| *name == Parameter::ProjectId);
        queued.push(Queued {
            delivery,
            is_new,
            event: sequence,
            lane: (webhook.to_owned(), key),
            project_id: project_id.map(|(_, id)| row::project_id(&event.key, id)),
            is_delete: event.kind.is_delete(),
        });
    }
    Ok((queued, next))
}

/// Inserts deliveries for events without a delivery to the webhook.
///
/// These deliveries are cancelled at first. [`again`] then makes them pending, as in a redelivery.
fn insert(repository: i32, queued: &[Queued], now: i64) -> Statement {
    let new: Vec<&Queued> = queued.iter().filter(|one| one.is_new).collect();
    statement!(
        "INSERT INTO deliveries (repository, id, event, webhook, organization, project, state, \
         is_head, origin, due_ms, created_ms, waiting_ms, is_delete) \
         SELECT $1::int, n.id, n.event, n.webhook, n.o, n.p, 'cancelled', FALSE, 'redelivery', \
         $2::bigint, $2::bigint, $2::bigint, n.is_delete \
         FROM unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::bool[]) \
         AS n (id, event, webhook, o, p, is_delete)",
        repository,
        now,
        column(&new, |one| one.delivery),
        column(&new, |one| one.event),
        column(&new, |one| one.lane.0.clone()),
        column(&new, |one| one.lane.1.organization.clone()),
        column(&new, |one| one.lane.1.project.clone()),
        column(&new, |one| one.is_delete),
    )
}

/// Makes deliveries pending and due now, in the present lanes of their projects.
///
/// Then sets the heads of lanes. A delivery may have to wait for a delete in another lane. And if a
/// delete becomes pending, deliveries in other lanes may have to wait for it.
fn make_pending(repository: i32, queued: &[Queued], now: i64) -> Vec<Statement> {
    let lanes: BTreeSet<&Lane> = queued.iter().map(|one| &one.lane).collect();
    vec![
        again(repository, queued, now),
        lanes::demote(repository, lanes.iter().copied()),
        lanes::demote_behind(repository, column(queued, |one| one.delivery)),
        lanes::promote(repository, lanes),
    ]
}

fn again(repository: i32, queued: &[Queued], now: i64) -> Statement {
    statement!(
        "UPDATE deliveries d SET state = 'pending', is_head = FALSE, organization = q.o, \
         project = q.p, project_id = coalesce(d.project_id, q.project_id), \
         origin = CASE WHEN d.state <> 'pending' OR d.n_attempts > 0 THEN 'redelivery' \
         ELSE d.origin END, \
         waiting_ms = CASE WHEN d.state <> 'pending' THEN $2 ELSE d.waiting_ms END, \
         n_attempts_before = d.n_attempts, n_redeliveries = d.n_redeliveries + 1, due_ms = $2, \
         is_due_as_asked = FALSE, finished_ms = NULL \
         FROM unnest($3::bigint[], $4::text[], $5::text[], $6::bytea[]) AS q (id, o, p, project_id) \
         WHERE d.repository = $1 AND d.id = q.id",
        repository,
        now,
        column(queued, |one| one.delivery),
        column(queued, |one| one.lane.1.organization.clone()),
        column(queued, |one| one.lane.1.project.clone()),
        column(queued, |one| one.project_id.clone()),
    )
}

/// Makes the webhook a listener of the projects of these events.
///
/// Skips deletes, and projects without a record.
fn listen(repository: i32, queued: &[Queued]) -> Statement {
    let heard = queued.iter().filter(|one| !one.is_delete);
    let projects: BTreeSet<&ProjectKey> = heard.map(|one| &one.lane.1).collect();
    let webhooks = vec![
        queued
            .first()
            .map_or_else(String::new, |one| one.lane.0.clone());
        projects.len()
    ];
    let (organizations, projects) = row::arrays(projects);
    statement!(
        "INSERT INTO listeners (repository, organization, project, webhook) \
         SELECT $1::int, l.o, l.p, l.w FROM unnest($2::text[], $3::text[], $4::text[]) AS l (o, p, w) \
         WHERE EXISTS (SELECT 1 FROM files f WHERE f.repository = $1 AND f.organization = l.o \
         AND f.project = l.p) ON CONFLICT DO NOTHING",
        repository,
        organizations,
        projects,
        webhooks,
    )
}
