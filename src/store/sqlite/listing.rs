//! Implements [`Listing`]: reads for the command line and the admin API.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::select::Conditions;
use super::transaction::consistently;
use super::{listeners, pages, payload, problems, recorded, row, schema, transfer, webhooks};
use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{ContentHash, ProjectKey, Recorded};
use crate::store::answer;
use crate::store::batch::MetaKey;
use crate::store::contract::{Listing, Records};
use crate::store::delivery::AttemptLog;
use crate::store::error::{Fault, OpenError, StoreError};
use crate::store::fleet::Fleet;
use crate::store::listing::{
    ATTEMPTS_MAX, EventFilter, ListedDelivery, ListedEvent, Page, PayloadPart, RecordedProblem,
    Selector, WebhookState,
};

pub(in crate::store) struct SqliteListings {
    connection: Connection,
    location: Arc<str>,
}

impl SqliteListings {
    /// Opens the state in a directory for reading, with or without a running daemon.
    pub(in crate::store) fn open(state_dir: &Path) -> Result<Self, OpenError> {
        let connection = schema::open_for_reading(state_dir)?;
        transfer::refuse(&connection, &schema::database(state_dir))?;
        let path = schema::database(state_dir);
        Ok(Self {
            connection,
            location: path.to_string_lossy().into(),
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        consistently(&self.connection, work).map_err(|fault| StoreError::new(&self.location, fault))
    }
}

impl Records for SqliteListings {
    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.read(|connection| problems::list(connection, limit))
    }

    fn n_defined_of(&self, repository: Option<&str>) -> Result<usize, StoreError> {
        self.read(|connection| recorded::n_defined(connection, repository))
    }

    fn keys_of(&self, repository: Option<&str>) -> Result<Vec<ProjectKey>, StoreError> {
        self.read(|connection| recorded::keys(connection, repository))
    }

    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        self.read(|connection| recorded::project(connection, key))
    }

    fn meta_of(
        &self,
        repository: Option<&str>,
        key: MetaKey,
    ) -> Result<Option<String>, StoreError> {
        self.read(|connection| recorded::meta(connection, repository, key))
    }
}

impl Listing for SqliteListings {
    fn version(&self) -> Result<i64, StoreError> {
        let version = self
            .connection
            .pragma_query_value(None, "data_version", |row| row.get(0));
        version.map_err(|error| StoreError::new(&self.location, error.into()))
    }

    fn events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>, StoreError> {
        self.read(|connection| query_events(connection, filter.conditions(), limit))
    }

    fn events_page(
        &self,
        filter: &EventFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedEvent>, StoreError> {
        self.read(|connection| {
            let found = pages::events(connection, filter, before, limit)?;
            let mut conditions = Conditions::default();
            conditions.and(
                "e.sequence IN (SELECT value FROM json_each(?))",
                found.json(),
            );
            let items = query_events(connection, conditions, limit)?;
            Ok(Page {
                items,
                next: found.next,
            })
        })
    }

    fn event(
        &self,
        id: &EventId,
    ) -> Result<Option<(ListedEvent, Vec<ListedDelivery>)>, StoreError> {
        self.read(|connection| {
            let mut conditions = Conditions::default();
            conditions.and("e.id = ?", id.0.clone());
            let Some(event) = query_events(connection, conditions, 1)?.pop() else {
                return Ok(None);
            };
            let mut conditions = Conditions::default();
            conditions.and(
                "d.id IN (SELECT o.id FROM events s CROSS JOIN deliveries o \
                 ON o.id >= s.first_delivery AND o.id < s.end_delivery WHERE s.sequence = ?1 \
                 UNION ALL SELECT id FROM deliveries WHERE event = ?1 AND is_replay)",
                event.sequence,
            );
            let mut deliveries = query_deliveries(connection, conditions, usize::MAX)?;
            deliveries.reverse();
            Ok(Some((event, deliveries)))
        })
    }

    fn event_ids(&self, prefix: &str, limit: usize) -> Result<Vec<EventId>, StoreError> {
        self.read(|connection| {
            // All characters of an id sort before the tilde, so SQLite reads a range of an index.
            let mut statement = connection.prepare_cached(
                "SELECT id FROM events WHERE id >= ?1 AND id < ?1 || '~' ORDER BY id LIMIT ?2",
            )?;
            let ids = statement
                .query_map(params![prefix, row::limit(limit)], |found| found.get(0))?
                .map(|id| id.map(EventId))
                .collect::<rusqlite::Result<_>>()?;
            Ok(ids)
        })
    }

    fn deliveries(
        &self,
        selector: &Selector,
        limit: usize,
    ) -> Result<Vec<ListedDelivery>, StoreError> {
        self.read(|connection| query_deliveries(connection, selector.conditions(), limit))
    }

    fn deliveries_page(
        &self,
        selector: &Selector,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedDelivery>, StoreError> {
        self.read(|connection| {
            let found = pages::deliveries(connection, selector, before, limit)?;
            let mut conditions = Conditions::default();
            conditions.and("d.id IN (SELECT value FROM json_each(?))", found.json());
            let items = query_deliveries(connection, conditions, limit)?;
            Ok(Page {
                items,
                next: found.next,
            })
        })
    }

    fn delivery(
        &self,
        id: i64,
    ) -> Result<Option<(ListedDelivery, Event, Vec<AttemptLog>)>, StoreError> {
        self.read(|connection| {
            let mut conditions = Conditions::default();
            conditions.and("d.id = ?", id);
            let Some(delivery) = query_deliveries(connection, conditions, 1)?.pop() else {
                return Ok(None);
            };
            let mut conditions = Conditions::default();
            conditions.and("e.id = ?", delivery.event.0.clone());
            let Some(event) = query_events(connection, conditions, 1)?.pop() else {
                return Ok(None);
            };
            Ok(Some((delivery, event.event, attempts(connection, id)?)))
        })
    }

    fn payload_part(
        &self,
        hash: &ContentHash,
        position: u64,
        limit: usize,
    ) -> Result<Option<PayloadPart>, StoreError> {
        self.read(|connection| payload::part(connection, hash, position, limit))
    }

    fn webhook_states(&self) -> Result<Vec<WebhookState>, StoreError> {
        self.read(webhooks::states)
    }

    fn webhook_states_up_to(&self, most: u64) -> Result<Vec<WebhookState>, StoreError> {
        self.read(|connection| webhooks::states_up_to(connection, most))
    }

    fn n_pending_of(&self, repository: &str, most: u64) -> Result<u64, StoreError> {
        self.read(|connection| recorded::n_pending(connection, repository, most))
    }

    fn repositories(&self) -> Result<Vec<String>, StoreError> {
        self.read(recorded::repositories)
    }

    fn listeners(&self, key: &ProjectKey) -> Result<BTreeSet<String>, StoreError> {
        self.read(|connection| listeners::of(connection, key))
    }

    fn fleet(&self) -> Result<Option<Fleet>, StoreError> {
        Ok(None)
    }
}

fn query_events(
    connection: &Connection,
    conditions: Conditions,
    limit: usize,
) -> Result<Vec<ListedEvent>, Fault> {
    let sql = format!(
        "SELECT {}, e.sequence, e.recorded_ms, (SELECT count(*) FROM deliveries \
         WHERE id >= e.first_delivery AND id < e.end_delivery) \
         + (SELECT count(*) FROM deliveries WHERE event = e.sequence AND is_replay) \
         FROM events e WHERE {} ORDER BY e.sequence DESC LIMIT ?",
        row::EVENT_COLUMNS,
        conditions.sql()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let values = conditions.values_and(row::limit(limit));
    let mut rows = statement.query(params_from_iter(values))?;
    let mut events = Vec::new();
    while let Some(found) = rows.next()? {
        let column = |offset: usize| row::N_EVENT_COLUMNS.saturating_add(offset);
        events.push(ListedEvent {
            event: row::event(found, 0)?,
            sequence: found.get(column(0))?,
            recorded_at: row::from_milliseconds(found.get(column(1))?),
            n_deliveries: row::count(found.get(column(2))?),
        });
    }
    Ok(events)
}

fn query_deliveries(
    connection: &Connection,
    conditions: Conditions,
    limit: usize,
) -> Result<Vec<ListedDelivery>, Fault> {
    let sql = format!(
        "SELECT d.id, d.webhook, e.id, e.kind, d.organization, d.project, d.state, d.origin, \
         d.n_attempts, d.due_ms, d.created_ms, d.finished_ms, d.last_status, d.last_error \
         FROM deliveries d CROSS JOIN events e ON e.sequence = d.event \
         WHERE {} ORDER BY d.id DESC LIMIT ?",
        conditions.sql()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let values = conditions.values_and(row::limit(limit));
    let mut rows = statement.query(params_from_iter(values))?;
    let mut deliveries = Vec::new();
    while let Some(found) = rows.next()? {
        deliveries.push(delivery(found)?);
    }
    Ok(deliveries)
}

fn delivery(found: &Row<'_>) -> Result<ListedDelivery, Fault> {
    let id: i64 = found.get(0)?;
    let what = format!("the delivery {id}");
    let text = |column: usize| found.get::<_, String>(column);
    Ok(ListedDelivery {
        id,
        webhook: text(1)?,
        event: EventId(text(2)?),
        kind: row::word(&what, &text(3)?, EventKind::from_name)?,
        key: ProjectKey::new(text(4)?, text(5)?),
        state: row::state(&what, &text(6)?)?,
        origin: row::word(&what, &text(7)?, Origin::from_word)?,
        n_attempts: found.get(8)?,
        due: row::from_milliseconds(found.get(9)?),
        created_at: row::from_milliseconds(found.get(10)?),
        finished_at: found.get::<_, Option<i64>>(11)?.map(row::from_milliseconds),
        last_status: found.get(12)?,
        last_error: found.get(13)?,
    })
}

fn attempts(connection: &Connection, delivery: i64) -> Result<Vec<AttemptLog>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT number, at_ms, duration_ms, status, error, answer, request_headers, \
         answer_size \
         FROM attempts WHERE delivery = ?1 ORDER BY number DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![delivery, row::limit(ATTEMPTS_MAX)])?;
    let mut attempts = Vec::new();
    while let Some(found) = rows.next()? {
        attempts.push(AttemptLog {
            number: found.get(0)?,
            at: row::from_milliseconds(found.get(1)?),
            duration: Duration::from_millis(row::count(found.get(2)?)),
            status: found.get(3)?,
            error: found.get(4)?,
            answer: Bytes::from(answer::read(found.get(7)?, found.get(5)?)?),
            request_headers: row::from_json("the attempt's headers", &found.get::<_, String>(6)?)?,
        });
    }
    attempts.reverse();
    Ok(attempts)
}
