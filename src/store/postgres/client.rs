//! The blocking client of the command line and the admin server.
//!
//! It has a runtime of its own.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::runtime::Runtime;

use super::connect::{self, open_error};
use super::row;
use super::schema::{self, Found};
use super::session::{Session, statement};
use super::transfer;
use crate::config::Postgres;
use crate::store::error::{Fault, OpenError, StoreError};

/// A client that blocks the calling thread.
pub(super) struct Client {
    pool: Pool,
    repository: i32,
    /// The length of leases.
    pub(super) lease: Duration,
    pub(super) location: Arc<str>,
    // The last field, so that it is dropped last: it drives the connections of the pool.
    runtime: Driver,
}

/// The runtime of the connections. It may be dropped inside another runtime.
struct Driver(Option<Runtime>);

impl Driver {
    fn new() -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Ok(Self(Some(builder.enable_all().build()?)))
    }

    fn block_on<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let runtime = self.0.as_ref().ok_or(Fault::Closed)?;
        runtime.block_on(work)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A normal drop waits for the threads of the runtime. In a task, this makes tokio
            // panic.
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// Connects to a state with the current schema.
    ///
    /// Returns an error if `migrate-store` moved the state away, or has not finished copying it
    /// here.
    pub(super) fn connect(settings: &Postgres) -> Result<Self, OpenError> {
        let client = Self::connect_for_transfer(settings)?;
        let refused = client.runtime.block_on(async {
            let mut session = Session::of(&client.pool).await?;
            transfer::refuse(&mut session, client.repository, &client.location).await
        });
        refused.map_err(|fault| open_error(&client.location, fault))??;
        Ok(client)
    }

    /// Connects like [`Client::connect`], but also to a moved or incomplete state.
    pub(super) fn connect_for_transfer(settings: &Postgres) -> Result<Self, OpenError> {
        let config = connect::config(settings)?;
        let location = connect::location(&config);
        let runtime = Driver::new().map_err(|source| OpenError::Io {
            what: "start a runtime for",
            path: location.to_string().into(),
            source,
        })?;
        let found = runtime.block_on(async {
            Ok(async {
                let tls = connect::tls(settings, &location)?;
                let pool = connect::pool(&tls, config, &location)?;
                let repository = find(&pool, settings, &location).await?;
                Ok((pool, repository))
            }
            .await)
        });
        let (pool, repository) = found.map_err(|fault| open_error(&location, fault))??;
        Ok(Self {
            pool,
            repository,
            lease: settings.lease,
            location,
            runtime,
        })
    }

    /// Runs `work` with a connection.
    ///
    /// If `work` leaves a transaction open, it is committed, or rolled back after an error.
    pub(super) fn block_on<T>(
        &self,
        work: impl AsyncFnOnce(&mut Session, i32) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let result = self.runtime.block_on(async {
            let mut session = Session::of(&self.pool).await?;
            let result = work(&mut session, self.repository).await;
            session.end(result).await
        });
        result.map_err(|fault| StoreError::new(&self.location, fault))
    }
}

/// Checks the schema, and reads the id of the repository.
async fn find(pool: &Pool, settings: &Postgres, location: &Arc<str>) -> Result<i32, OpenError> {
    let fault = |fault| open_error(location, fault);
    let absent = || OpenError::Absent {
        directory: format!("{location} for {}", settings.shown()).into(),
    };
    let client = pool.get().await.map_err(|error| fault(error.into()))?;
    match schema::found(&client).await.map_err(fault)? {
        Found::Tables => {}
        Found::Other(0) => return Err(absent()),
        Found::Other(found) if schema::is_newer(found) => {
            return Err(schema::newer(location, found));
        }
        Found::Other(found) => return Err(schema::older(location, found)),
    }
    drop(client);
    let mut session = Session::of(pool).await.map_err(fault)?;
    let rows = session
        .rows(statement!(
            "SELECT id FROM repositories WHERE name = $1",
            settings.repository.clone()
        ))
        .await
        .map_err(fault)?;
    let found = rows.first().ok_or_else(absent)?;
    found
        .try_get(0)
        .map_err(|error: tokio_postgres::Error| fault(error.into()))
}

/// Reads the number in the first column of the first row. Returns 0 without rows.
pub(super) fn number(rows: &[tokio_postgres::Row]) -> Result<i64, Fault> {
    rows.first().map_or(Ok(0), |found| row::number(found, 0))
}
