//! A process that waits for the lease of another one.
//!
//! Constraint: waiting must cost little, because any number of standbys may wait for months. So a
//! standby keeps one connection, and asks with one round trip. If the lease is free, the process opens
//! the store, which tries to get the lease.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::Instant;

use super::connect::{self, open_error};
use super::session::{Session, statement};
use super::worker::Worker;
use super::{fleet, guard, names, row};
use crate::config::Postgres;
use crate::store::error::{Fault, OpenError};
use crate::store::fleet::Process;

/// The time between two writes of the row by which others see this process.
const SEEN: Duration = Duration::from_secs(1);

/// A connection that waits for the lease.
pub(in crate::store) struct PostgresStandby {
    worker: Worker,
    location: Arc<str>,
    shared: Arc<Waiting>,
}

struct Waiting {
    pool: Pool,
    repository: String,
    name: String,
    /// The time of the last write of its row.
    seen: Mutex<Option<Instant>>,
}

impl PostgresStandby {
    /// Prepares a connection. It connects at the first request.
    pub(in crate::store) fn new(settings: &Postgres) -> Result<Self, OpenError> {
        let config = connect::config(settings)?;
        let location = connect::location(&config);
        let worker = Worker::start(&location)?;
        Ok(Self {
            worker,
            shared: Arc::new(Waiting {
                pool: connect::waiting(settings, config, &location)?,
                repository: settings.repository.clone(),
                name: Process::this().to_string(),
                seen: Mutex::default(),
            }),
            location,
        })
    }

    /// Returns the error [`OpenError::Leased`] while another process has the lease.
    ///
    /// `settings` may have another list of names than those at the start.
    pub(in crate::store) async fn ask(&self, settings: &Postgres) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        let holder = self.worker.run(async move { shared.ask().await }).await;
        match holder.map_err(|fault| open_error(&self.location, fault))? {
            Some((holder, recorded)) => Err(OpenError::leased(
                &self.location,
                settings,
                holder,
                &recorded,
            )),
            None => Ok(()),
        }
    }
}

impl Waiting {
    /// Returns the holder of the lease with its list of names, unless the lease is free.
    async fn ask(&self) -> Result<Option<(String, Vec<String>)>, Fault> {
        let mut session = Session::of(&self.pool).await?;
        let mut statements = vec![
            statement!(
                "SELECT l.holder FROM leases l JOIN repositories r ON r.id = l.repository \
                 WHERE r.name = $1 AND l.leased_until >= clock_timestamp()",
                self.repository.clone()
            ),
            names::listed(&self.repository),
        ];
        let now = Instant::now();
        let is_due = guard(&self.seen).is_none_or(|seen| now.duration_since(seen) >= SEEN);
        if is_due {
            statements.push(fleet::wait(&self.repository, &self.name));
        }
        let answers = session.pipeline(statements).await?;
        if is_due {
            *guard(&self.seen) = Some(now);
        }
        let Some(found) = answers.first().and_then(|rows| rows.first()) else {
            return Ok(None);
        };
        let recorded = names::of_rows(answers.get(1).map_or(&[], Vec::as_slice))?;
        Ok(Some((row::text(found, 0)?, recorded)))
    }
}
