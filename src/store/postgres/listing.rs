//! Lists events, deliveries and attempts for the command line.
//!
//! Constraint: a listing needs no daemon and changes nothing. It reads one consistent state. Every
//! read has a limit.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;

use super::client::Client;
use super::session::{CONSISTENTLY, Session, Statement, Value, statement};
use super::{fleet, recorded, row, webhooks};
use crate::config::Postgres;
use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{ContentHash, ProjectKey, Recorded};
use crate::store::answer;
use crate::store::batch::MetaKey;
use crate::store::contract::Listing;
use crate::store::delivery::AttemptLog;
use crate::store::error::{Fault, OpenError, StoreError};
use crate::store::fleet::Fleet;
use crate::store::listing::{
    ATTEMPTS_MAX, EventFilter, ListedDelivery, ListedEvent, Organizations, Page, PayloadPart,
    RecordedProblem, Selector, WebhookState,
};
use crate::store::payload;

/// A client for reading.
pub(in crate::store) struct PostgresListings {
    client: Client,
}

impl PostgresListings {
    /// Connects for reading, with or without a running daemon.
    pub(in crate::store) fn connect(settings: &Postgres) -> Result<Self, OpenError> {
        Ok(Self {
            client: Client::connect(settings)?,
        })
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(&mut Session, i32) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.client.block_on(async |session, repository| {
            session.begin(CONSISTENTLY, Vec::new()).await?;
            work(session, repository).await
        })
    }
}

impl Listing for PostgresListings {
    fn version(&self) -> Result<i64, StoreError> {
        self.client.block_on(async |session, repository| {
            // Senders count their recordings apart, so that they do not wait for each other.
            let sql = "SELECT r.version + coalesce((SELECT sum(s.n_recordings) FROM senders s \
                 WHERE s.repository = r.id), 0)::bigint FROM repositories r WHERE r.id = $1";
            super::client::number(&session.rows(statement!(sql, repository)).await?)
        })
    }

    fn events_page(
        &self,
        filter: &EventFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedEvent>, StoreError> {
        self.read(async |session, repository| {
            let selected = Conditions::filtered(filter, repository);
            let sql = |conditions: &str, before: &str| {
                format!(
                    "SELECT e.sequence, {conditions} FROM events e WHERE e.repository = $1 \
                     AND e.sequence < {before} ORDER BY e.sequence DESC LIMIT {PAGE_READ_MAX}"
                )
            };
            let scanned = selected.statement(sql, before.unwrap_or(i64::MAX));
            let (positions, next) = page(&session.rows(scanned).await?, limit)?;
            let mut conditions = Conditions::of("e", repository);
            conditions.and("e.sequence = ANY", positions);
            let items = events(session, conditions, limit).await?;
            Ok(Page { items, next })
        })
    }

    fn deliveries_page(
        &self,
        selector: &Selector,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedDelivery>, StoreError> {
        self.read(async |session, repository| {
            let selected = Conditions::selected(selector, repository);
            let sql = |conditions: &str, before: &str| {
                // The ids are the key, so few selected ones are found at once.
                let ids = if selector.ids.is_empty() {
                    "TRUE"
                } else {
                    conditions
                };
                format!(
                    "SELECT d.id, {conditions} FROM deliveries d WHERE d.repository = $1 \
                     AND {ids} AND d.id < {before} ORDER BY d.id DESC LIMIT {PAGE_READ_MAX}"
                )
            };
            let scanned = selected.statement(sql, before.unwrap_or(i64::MAX));
            let (positions, next) = page(&session.rows(scanned).await?, limit)?;
            let mut conditions = Conditions::of("d", repository);
            conditions.and("d.id = ANY", positions);
            let items = deliveries(session, conditions, limit).await?;
            Ok(Page { items, next })
        })
    }

    fn n_defined_of(&self, name: Option<&str>) -> Result<usize, StoreError> {
        self.read(async |session, repository| {
            let rows = session.rows(recorded::n_defined(repository, name)).await?;
            Ok(usize::try_from(super::client::number(&rows)?).unwrap_or_default())
        })
    }

    fn repositories(&self) -> Result<Vec<String>, StoreError> {
        self.read(async |session, repository| recorded::repositories(session, repository).await)
    }

    fn events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>, StoreError> {
        self.read(async |session, repository| {
            let conditions = Conditions::filtered(filter, repository);
            events(session, conditions, limit).await
        })
    }

    fn event(
        &self,
        id: &EventId,
    ) -> Result<Option<(ListedEvent, Vec<ListedDelivery>)>, StoreError> {
        self.read(async |session, repository| {
            let Some(event) = event(session, repository, id).await? else {
                return Ok(None);
            };
            let mut conditions = Conditions::of("d", repository);
            conditions.and("d.event = ", event.sequence);
            let mut deliveries = deliveries(session, conditions, usize::MAX).await?;
            deliveries.reverse();
            Ok(Some((event, deliveries)))
        })
    }

    fn event_ids(&self, prefix: &str, limit: usize) -> Result<Vec<EventId>, StoreError> {
        self.read(async |session, repository| {
            // All characters of an id sort before the tilde, so the server reads a range of the index.
            let rows = session
                .rows(statement!(
                    "SELECT id FROM events WHERE repository = $1 AND id >= $2 \
                     AND id < $3 ORDER BY id LIMIT $4",
                    repository,
                    prefix.to_owned(),
                    format!("{prefix}~"),
                    row::limit(limit)
                ))
                .await?;
            rows.iter()
                .map(|found| Ok(EventId(row::text(found, 0)?)))
                .collect()
        })
    }

    fn deliveries(
        &self,
        selector: &Selector,
        limit: usize,
    ) -> Result<Vec<ListedDelivery>, StoreError> {
        self.read(async |session, repository| {
            deliveries(session, Conditions::selected(selector, repository), limit).await
        })
    }

    fn delivery(
        &self,
        id: i64,
    ) -> Result<Option<(ListedDelivery, Event, Vec<AttemptLog>)>, StoreError> {
        self.read(async |session, repository| {
            let mut conditions = Conditions::of("d", repository);
            conditions.and("d.id = ", id);
            let Some(delivery) = deliveries(session, conditions, 1).await?.pop() else {
                return Ok(None);
            };
            let Some(event) = event(session, repository, &delivery.event).await? else {
                return Ok(None);
            };
            let attempts = attempts(session, repository, id).await?;
            Ok(Some((delivery, event.event, attempts)))
        })
    }

    fn payload(&self, hash: &ContentHash) -> Result<Option<Bytes>, StoreError> {
        self.read(async |session, repository| {
            let rows = session
                .rows(statement!(
                    "SELECT size, compressed FROM payloads WHERE repository = $1 AND hash = $2",
                    repository,
                    hash.0.to_vec()
                ))
                .await?;
            let Some(found) = rows.first() else {
                return Ok(None);
            };
            let size = row::number(found, 0)?;
            payload::restore(hash, size, found.try_get(1)?).map(Some)
        })
    }

    fn payload_part(
        &self,
        hash: &ContentHash,
        position: u64,
        limit: usize,
    ) -> Result<Option<PayloadPart>, StoreError> {
        self.read(async |session, repository| {
            let rows = session
                .rows(statement!(
                    "SELECT size, compressed FROM payloads WHERE repository = $1 AND hash = $2",
                    repository,
                    hash.0.to_vec()
                ))
                .await?;
            let Some(found) = rows.first() else {
                return Ok(None);
            };
            let (size, range) = (row::number(found, 0)?, (position, limit));
            payload::restore_part(hash, size, found.try_get(1)?, range).map(Some)
        })
    }

    fn webhook_states(&self) -> Result<Vec<WebhookState>, StoreError> {
        self.client
            .block_on(async |session, repository| webhooks::states(session, repository).await)
    }

    fn webhook_states_up_to(&self, most: u64) -> Result<Vec<WebhookState>, StoreError> {
        self.client.block_on(async |session, repository| {
            webhooks::states_up_to(session, repository, most).await
        })
    }

    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.read(async |session, repository| recorded::problems(session, repository, limit).await)
    }

    fn keys(&self) -> Result<Vec<ProjectKey>, StoreError> {
        self.read(async |session, repository| {
            recorded::keys_of(&session.rows(recorded::keys(repository, None)).await?)
        })
    }

    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        self.read(async |session, repository| {
            let keys = std::slice::from_ref(key);
            let mut found = recorded::projects(session, repository, keys).await?;
            Ok(found.pop().unwrap_or_default())
        })
    }

    fn listeners(&self, key: &ProjectKey) -> Result<BTreeSet<String>, StoreError> {
        self.read(async |session, repository| recorded::listeners(session, repository, key).await)
    }

    fn meta_of(&self, name: Option<&str>, key: MetaKey) -> Result<Option<String>, StoreError> {
        self.read(async |session, repository| {
            recorded::meta(session, repository, key.stored(name).into_owned()).await
        })
    }

    fn fleet(&self) -> Result<Option<Fleet>, StoreError> {
        let length = self.client.lease.as_secs_f64();
        self.client.block_on(async |session, repository| {
            let reads = fleet::statements(repository, length);
            Ok(Some(fleet::of_rows(
                &session.consistently(reads.into()).await?,
            )?))
        })
    }
}

/// The maximum number of rows that one page reads.
const PAGE_READ_MAX: usize = 20_000;

/// Returns the positions of a page of rows with position and whether it is selected.
///
/// Also returns the position that the next page ends before.
fn page(rows: &[Row], limit: usize) -> Result<(Vec<i64>, Option<i64>), Fault> {
    let mut positions = Vec::new();
    let mut last = None;
    for found in rows {
        if positions.len() >= limit {
            return Ok((positions, last));
        }
        last = Some(row::number(found, 0)?);
        if found.try_get(1)? {
            positions.extend(last);
        }
    }
    let next = last.filter(|_| rows.len() >= PAGE_READ_MAX);
    Ok((positions, next))
}

async fn event(
    session: &mut Session,
    repository: i32,
    id: &EventId,
) -> Result<Option<ListedEvent>, Fault> {
    let mut conditions = Conditions::of("e", repository);
    conditions.and("e.id = ", id.0.clone());
    Ok(events(session, conditions, 1).await?.pop())
}

async fn events(
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

async fn deliveries(
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

async fn attempts(
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

/// SQL conditions that must all be true, with their values.
pub(super) struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// The condition that a row of the table with this alias is of the repository.
    pub(super) fn of(alias: &'static str, repository: i32) -> Self {
        Self {
            sql: format!("{alias}.repository = $1"),
            values: vec![Box::new(repository)],
        }
    }

    /// The conditions on the table `events` with the alias `e`.
    pub(super) fn filtered(filter: &EventFilter, repository: i32) -> Self {
        let mut conditions = Self::of("e", repository);
        if let Some(organization) = &filter.organization {
            conditions.and_organization("e", organization);
        }
        if let Some(project) = &filter.project {
            conditions.and("e.project = ", project.clone());
        }
        if let Some(kind) = filter.kind {
            conditions.and("e.kind = ", kind.as_str());
        }
        if let Some(since) = filter.since {
            conditions.and("e.recorded_ms >= ", row::milliseconds_up(since));
        }
        if let Some(until) = filter.until {
            conditions.and("e.recorded_ms < ", row::milliseconds_up(until));
        }
        conditions
    }

    /// The conditions on the table `deliveries` with the alias `d`.
    pub(super) fn selected(selector: &Selector, repository: i32) -> Self {
        let mut conditions = Self::of("d", repository);
        if !selector.ids.is_empty() {
            conditions.and("d.id = ANY", selector.ids.clone());
        }
        if let Some(webhook) = &selector.webhook {
            conditions.and("d.webhook = ", webhook.clone());
        }
        if let Some(state) = selector.state {
            conditions.and("d.state = ", state.as_str());
        }
        if let Some(since) = selector.since {
            conditions.and("d.created_ms >= ", row::milliseconds_up(since));
        }
        if let Some(until) = selector.until {
            conditions.and("d.created_ms < ", row::milliseconds_up(until));
        }
        if let Some(organization) = &selector.organization {
            conditions.and_organization("d", organization);
        }
        if let Some(project) = &selector.project {
            conditions.and("d.project = ", project.clone());
        }
        if let Some(kind) = selector.kind {
            conditions.and(
                "EXISTS (SELECT 1 FROM events k WHERE k.repository = d.repository \
                 AND k.sequence = d.event AND k.kind = ",
                kind.as_str(),
            );
            conditions.sql.push(')');
        }
        conditions
    }

    /// Adds a condition on the organization of the table with this alias.
    fn and_organization(&mut self, alias: &str, filter: &str) {
        let (value, n) = (filter.to_owned(), self.values.len() + 1);
        let condition = match Organizations::of(filter) {
            Organizations::One(_) => format!("{alias}.organization = ${n}"),
            Organizations::OfRepository(_) => format!("starts_with({alias}.organization, ${n})"),
            Organizations::InAnyRepository(_) => {
                format!("right({alias}.organization, length(${n})) = ${n}")
            }
        };
        self.values.push(Box::new(value));
        self.sql = format!("{} AND {condition}", self.sql);
    }

    /// Adds a condition on one value, which follows the condition's text.
    pub(super) fn and(
        &mut self,
        condition: &'static str,
        value: impl tokio_postgres::types::ToSql + Sync + Send + 'static,
    ) {
        self.values.push(Box::new(value));
        self.sql = format!("{} AND {condition}(${})", self.sql, self.values.len());
    }

    /// Makes a statement with these conditions and another value, the last one.
    pub(super) fn statement(
        mut self,
        sql: impl FnOnce(&str, &str) -> String,
        last: impl tokio_postgres::types::ToSql + Sync + Send + 'static,
    ) -> Statement {
        self.values.push(Box::new(last));
        let last = format!("${}", self.values.len());
        (sql(&self.sql, &last).into(), self.values)
    }

    /// Makes a statement with these conditions.
    pub(super) fn statement_without_limit(self, sql: impl FnOnce(&str) -> String) -> Statement {
        (sql(&self.sql).into(), self.values)
    }
}
