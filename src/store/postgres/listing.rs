//! Implements [`Listing`]: reads for the command line and the admin server.

use std::collections::BTreeSet;

use super::client::Client;
use super::select::Conditions;
use super::session::{CONSISTENTLY, Session, statement};
use super::{fleet, listed, pages, payloads, recorded, row, webhooks};
use crate::config::Postgres;
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, ProjectKey, Recorded};
use crate::store::batch::MetaKey;
use crate::store::contract::{Listing, Records};
use crate::store::delivery::AttemptLog;
use crate::store::error::{Fault, OpenError, StoreError};
use crate::store::fleet::Fleet;
use crate::store::listing::{
    EventFilter, ListedDelivery, ListedEvent, Page, PayloadPart, RecordedProblem, Selector,
    WebhookState,
};
use crate::store::payload;

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

impl Records for PostgresListings {
    fn n_defined_of(&self, name: Option<&str>) -> Result<usize, StoreError> {
        self.read(async |session, repository| recorded::n_defined(session, repository, name).await)
    }

    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.read(async |session, repository| recorded::problems(session, repository, limit).await)
    }

    fn keys_of(&self, name: Option<&str>) -> Result<Vec<ProjectKey>, StoreError> {
        self.read(async |session, repository| recorded::keys(session, repository, name).await)
    }

    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        self.read(async |session, repository| {
            let keys = std::slice::from_ref(key);
            let mut found = recorded::projects(session, repository, keys).await?;
            Ok(found.pop().unwrap_or_default())
        })
    }

    fn meta_of(&self, name: Option<&str>, key: MetaKey) -> Result<Option<String>, StoreError> {
        self.read(async |session, repository| {
            recorded::meta(session, repository, key.stored(name).into_owned()).await
        })
    }
}

impl Listing for PostgresListings {
    fn version(&self) -> Result<i64, StoreError> {
        self.client.block_on(async |session, repository| {
            // Add the counts of the senders. Each sender counts its transactions in its own row, so
            // that senders do not wait for each other.
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
            pages::events(session, repository, filter, before, limit).await
        })
    }

    fn deliveries_page(
        &self,
        selector: &Selector,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Page<ListedDelivery>, StoreError> {
        self.read(async |session, repository| {
            pages::deliveries(session, repository, selector, before, limit).await
        })
    }

    fn n_pending_of(&self, name: &str, most: u64) -> Result<u64, StoreError> {
        self.read(async |session, repository| {
            recorded::n_pending(session, repository, name, most).await
        })
    }

    fn repositories(&self) -> Result<Vec<String>, StoreError> {
        self.read(async |session, repository| recorded::repositories(session, repository).await)
    }

    fn events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>, StoreError> {
        self.read(async |session, repository| {
            let conditions = Conditions::filtered(filter, repository);
            listed::events(session, conditions, limit).await
        })
    }

    fn event(
        &self,
        id: &EventId,
    ) -> Result<Option<(ListedEvent, Vec<ListedDelivery>)>, StoreError> {
        self.read(async |session, repository| {
            let Some(event) = listed::event(session, repository, id).await? else {
                return Ok(None);
            };
            let mut conditions = Conditions::of("d", repository);
            conditions.and("d.event = ", event.sequence);
            let mut deliveries = listed::deliveries(session, conditions, usize::MAX).await?;
            deliveries.reverse();
            Ok(Some((event, deliveries)))
        })
    }

    fn event_ids(&self, prefix: &str, limit: usize) -> Result<Vec<EventId>, StoreError> {
        self.read(async |session, repository| {
            // All characters of an id sort before `~`, so these ids are one range of the index.
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
            listed::deliveries(session, Conditions::selected(selector, repository), limit).await
        })
    }

    fn delivery(
        &self,
        id: i64,
    ) -> Result<Option<(ListedDelivery, Event, Vec<AttemptLog>)>, StoreError> {
        self.read(async |session, repository| {
            let mut conditions = Conditions::of("d", repository);
            conditions.and("d.id = ", id);
            let Some(delivery) = listed::deliveries(session, conditions, 1).await?.pop() else {
                return Ok(None);
            };
            let Some(event) = listed::event(session, repository, &delivery.event).await? else {
                return Ok(None);
            };
            let attempts = listed::attempts(session, repository, id).await?;
            Ok(Some((delivery, event.event, attempts)))
        })
    }

    fn payload_part(
        &self,
        hash: &ContentHash,
        position: u64,
        limit: usize,
    ) -> Result<Option<PayloadPart>, StoreError> {
        self.client.block_on(async |session, repository| {
            let sql = "SELECT size FROM payloads WHERE repository = $1 AND hash = $2";
            let read = statement!(sql, repository, hash.0.to_vec());
            let rows = session.rows(read).await?;
            let compressed = payloads::read(session, repository, hash.0.to_vec()).await?;
            let Some((found, compressed)) = rows.first().zip(compressed) else {
                return Ok(None);
            };
            let (size, range) = (row::number(found, 0)?, (position, limit));
            payload::restore_part(hash, size, &compressed, range).map(Some)
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

    fn listeners(&self, key: &ProjectKey) -> Result<BTreeSet<String>, StoreError> {
        self.read(async |session, repository| recorded::listeners(session, repository, key).await)
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
