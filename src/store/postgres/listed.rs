//! Reads the events, deliveries and attempts of a listing.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;

use super::row;
use super::select::Conditions;
use super::session::{Session, statement};
use crate::domain::event::{EventId, EventKind, Origin};
use crate::store::answer;
use crate::store::delivery::AttemptLog;
use crate::store::error::Fault;
use crate::store::listing::{ATTEMPTS_MAX, ListedDelivery, ListedEvent};

pub(super) async fn event(
    session: &mut Session,
    repository: i32,
    id: &EventId,
) -> Result<Option<ListedEvent>, Fault> {
    let mut conditions = Conditions::of("e", repository);
    conditions.and("e.id = ", id.0.clone());
    Ok(events(session, conditions, 1).await?.pop())
}

pub(super) async fn events(
    session: &mut Session,
    conditions: Conditions,
    limit: usize,
) -> Result<Vec<ListedEvent>, Fault> {
    let sql = |conditions: &str, limit: &str| {
        format!(
            "SELECT {}, e.sequence, e.recorded_ms, (SELECT count(*) FROM deliveries d \
             WHERE d.repository = e.repository AND d.event = e.sequence) \
             FROM events e WHERE {conditions} ORDER BY e.sequence DESC LIMIT {limit}",
            row::EVENT_COLUMNS
        )
    };
    let rows = session
        .rows(conditions.statement(sql, row::limit(limit)))
        .await?;
    rows.iter()
        .map(|found| {
            let column = |offset: usize| row::N_EVENT_COLUMNS.saturating_add(offset);
            Ok(ListedEvent {
                event: row::event(found, 0)?,
                sequence: row::number(found, column(0))?,
                recorded_at: row::from_milliseconds(row::number(found, column(1))?),
                n_deliveries: row::count(row::number(found, column(2))?),
            })
        })
        .collect()
}

pub(super) async fn deliveries(
    session: &mut Session,
    conditions: Conditions,
    limit: usize,
) -> Result<Vec<ListedDelivery>, Fault> {
    let sql = |conditions: &str, limit: &str| {
        format!(
            "SELECT d.id, d.webhook, e.id, e.kind, d.organization, d.project, d.state, d.origin, \
             d.n_attempts, d.due_ms, d.created_ms, d.finished_ms, d.last_status, d.last_error \
             FROM deliveries d JOIN events e ON e.repository = d.repository \
             AND e.sequence = d.event WHERE {conditions} ORDER BY d.id DESC LIMIT {limit}"
        )
    };
    let rows = session
        .rows(conditions.statement(sql, row::limit(limit)))
        .await?;
    rows.iter().map(delivery).collect()
}

fn delivery(found: &Row) -> Result<ListedDelivery, Fault> {
    let id = row::number(found, 0)?;
    let what = format!("the delivery {id}");
    let finished: Option<i64> = found.try_get(11)?;
    Ok(ListedDelivery {
        id,
        webhook: row::text(found, 1)?,
        event: EventId(row::text(found, 2)?),
        kind: row::word(&what, &row::text(found, 3)?, EventKind::from_name)?,
        key: row::key(found, 4)?,
        state: row::state(&what, &row::text(found, 6)?)?,
        origin: row::word(&what, &row::text(found, 7)?, Origin::from_word)?,
        n_attempts: row::small(found, 8)?,
        due: row::from_milliseconds(row::number(found, 9)?),
        created_at: row::from_milliseconds(row::number(found, 10)?),
        finished_at: finished.map(row::from_milliseconds),
        last_status: row::status(found, 12)?,
        last_error: found.try_get(13)?,
    })
}

pub(super) async fn attempts(
    session: &mut Session,
    repository: i32,
    delivery: i64,
) -> Result<Vec<AttemptLog>, Fault> {
    let rows = session
        .rows(statement!(
            "SELECT number, at_ms, duration_ms, status, error, answer_size, answer, \
             request_headers FROM attempts WHERE repository = $1 AND delivery = $2 \
             ORDER BY number DESC LIMIT $3",
            repository,
            delivery,
            row::limit(ATTEMPTS_MAX)
        ))
        .await?;
    rows.iter()
        .rev()
        .map(|found| {
            Ok(AttemptLog {
                number: row::small(found, 0)?,
                at: row::from_milliseconds(row::number(found, 1)?),
                duration: Duration::from_millis(row::count(row::number(found, 2)?)),
                status: row::status(found, 3)?,
                error: found.try_get(4)?,
                answer: Bytes::from(answer::read(found.try_get(5)?, found.try_get(6)?)?),
                request_headers: row::from_json("the attempt's headers", &row::text(found, 7)?)?,
            })
        })
        .collect()
}
