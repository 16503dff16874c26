//! What the command line shows: events, deliveries and their log.
//!
//! Constraint: listing needs no daemon, and changes nothing of what is recorded. It reads beside a
//! running one from one consistent state, and after a stopped or killed one as well. Nothing is read
//! without a limit.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::batch::MetaKey;
use super::error::{Fault, OpenError, StoreError};
use super::problems::RecordedProblem;
use super::queue::AttemptLog;
use super::select::{Conditions, Selector};
use super::webhooks::WebhookState;
use super::{payload, problems, record, row, schema, webhooks};
use crate::domain::delivery::State;
use crate::domain::event::{Event, EventId, EventKind, Origin};
use crate::domain::project::{ContentHash, ProjectKey, Recorded};

/// An event as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEvent {
    /// Its place in the order of recording.
    pub sequence: i64,
    /// The event.
    pub event: Event,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The number of its deliveries that are still kept.
    pub n_deliveries: u64,
}

/// Which events are listed. Each part that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those of this organization.
    pub organization: Option<String>,
    /// Those of projects with this directory name.
    pub project: Option<String>,
    /// Those of this kind.
    pub kind: Option<EventKind>,
    /// Those recorded at this time or later.
    pub since: Option<Timestamp>,
}

/// A delivery as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDelivery {
    /// Its id.
    pub id: i64,
    /// Its webhook's name.
    pub webhook: String,
    /// The id of its event.
    pub event: EventId,
    /// What happened.
    pub kind: EventKind,
    /// Where.
    pub key: ProjectKey,
    /// Where it stands.
    pub state: State,
    /// How it came about.
    pub origin: Origin,
    /// The number of attempts made.
    pub n_attempts: u32,
    /// When the next attempt is due, or was.
    pub due: Timestamp,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it was delivered, given up or cancelled.
    pub finished_at: Option<Timestamp>,
    /// The status of the last answer.
    pub last_status: Option<u16>,
    /// What went wrong in the last attempt.
    pub last_error: Option<String>,
}

/// Read access for the command line. Blocks.
pub struct Listings {
    connection: Connection,
    path: Arc<Path>,
}

impl Listings {
    /// Opens the state of a directory for reading, whether a daemon runs or not.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        let connection = schema::open_for_reading(state_dir)?;
        let path = schema::database(state_dir);
        Ok(Self {
            connection,
            path: path.into(),
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        self.connection
            .unchecked_transaction()
            .map_err(Fault::from)
            .and_then(|_whole| work(&self.connection))
            .map_err(|fault| StoreError::new(&self.path, fault))
    }

    /// The last `limit` events, the newest first.
    pub fn events(
        &self,
        filter: &EventFilter,
        limit: usize,
    ) -> Result<Vec<ListedEvent>, StoreError> {
        self.read(|connection| events(connection, filter, limit))
    }

    /// An event with its deliveries in the order of the webhooks it was routed to.
    pub fn event(
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
                "d.id >= (SELECT first_delivery FROM events WHERE sequence = ?)",
                event.sequence,
            );
            conditions.and(
                "d.id < (SELECT end_delivery FROM events WHERE sequence = ?)",
                event.sequence,
            );
            let mut deliveries = query_deliveries(connection, conditions, usize::MAX)?;
            deliveries.reverse();
            Ok(Some((event, deliveries)))
        })
    }

    /// The first `limit` ids of events that begin with this prefix, in their order.
    pub fn event_ids(&self, prefix: &str, limit: usize) -> Result<Vec<EventId>, StoreError> {
        self.read(|connection| {
            // Ids are ASCII below the tilde, so that this is a range of the index.
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

    /// The last `limit` deliveries, the newest first. An empty selector means all.
    pub fn deliveries(
        &self,
        selector: &Selector,
        limit: usize,
    ) -> Result<Vec<ListedDelivery>, StoreError> {
        self.read(|connection| query_deliveries(connection, selector.conditions(), limit))
    }

    /// A delivery with its event and its attempts in order.
    pub fn delivery(
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

    /// The bytes of a payload.
    pub fn payload(&self, hash: &ContentHash) -> Result<Option<Bytes>, StoreError> {
        self.read(|connection| payload::get(connection, hash))
    }

    /// Where each webhook stands, by name.
    pub fn webhook_states(&self) -> Result<Vec<WebhookState>, StoreError> {
        self.read(webhooks::states)
    }

    /// The first `limit` files that do not count, by project and path.
    pub fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.read(|connection| problems::list(connection, limit))
    }

    /// The projects with anything recorded, sorted.
    pub fn keys(&self) -> Result<Vec<ProjectKey>, StoreError> {
        self.read(|connection| record::keys(connection, None))
    }

    /// What is recorded of a project.
    pub fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        self.read(|connection| record::recorded(connection, key))
    }

    /// A fact about the repository as a whole.
    pub fn meta(&self, key: MetaKey) -> Result<Option<String>, StoreError> {
        self.read(|connection| record::meta(connection, key))
    }
}

fn events(
    connection: &Connection,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<ListedEvent>, Fault> {
    let mut conditions = Conditions::default();
    if let Some(organization) = &filter.organization {
        conditions.and("e.organization = ?", organization.clone());
    }
    if let Some(project) = &filter.project {
        conditions.and("e.project = ?", project.clone());
    }
    if let Some(kind) = filter.kind {
        conditions.and("e.kind = ?", kind.as_str().to_owned());
    }
    if let Some(since) = filter.since {
        conditions.and("e.recorded_ms >= ?", row::milliseconds_up(since));
    }
    query_events(connection, conditions, limit)
}

fn query_events(
    connection: &Connection,
    conditions: Conditions,
    limit: usize,
) -> Result<Vec<ListedEvent>, Fault> {
    let sql = format!(
        "SELECT {}, e.sequence, e.recorded_ms, (SELECT count(*) FROM deliveries \
         WHERE id >= e.first_delivery AND id < e.end_delivery) \
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
        "SELECT number, at_ms, duration_ms, status, error, answer, request_headers \
         FROM attempts WHERE delivery = ?1 ORDER BY number",
    )?;
    let mut rows = statement.query(params![delivery])?;
    let mut attempts = Vec::new();
    while let Some(found) = rows.next()? {
        attempts.push(AttemptLog {
            number: found.get(0)?,
            at: row::from_milliseconds(found.get(1)?),
            duration: Duration::from_millis(row::count(found.get(2)?)),
            status: found.get(3)?,
            error: found.get(4)?,
            answer: Bytes::from(found.get::<_, Vec<u8>>(5)?),
            request_headers: row::from_json("the attempt's headers", &found.get::<_, String>(6)?)?,
        });
    }
    Ok(attempts)
}
