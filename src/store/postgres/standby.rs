//! A standby: a process that waits until it may take the lease.
//!
//! Constraint: waiting must cost little, because any number of standbys may wait for months. So a
//! standby keeps one connection, and needs one round trip to read the lease. If the lease is free
//! and [`names`] allows it, the process opens the store, which tries to get the lease. But if its
//! list `repositories` lacks a repository that the last holder watched, it lets other processes
//! take over first. In this case, it opens the store only after the lease has been free for
//! `store.lease`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::Instant;

use super::connect::{self, open_error};
use super::names::{self, Refusal};
use super::session::{Session, statement};
use super::worker::Worker;
use super::{fleet, guard, row};
use crate::config::Postgres;
use crate::store::error::{Fault, OpenError};
use crate::store::fleet::Process;

/// The minimum time between two writes of the standby's row.
///
/// The row shows this process to others.
const SEEN: Duration = Duration::from_secs(1);

/// A process that waits for the lease, with its connection.
pub(in crate::store) struct PostgresStandby {
    worker: Worker,
    location: Arc<str>,
    shared: Arc<Waiting>,
}

struct Waiting {
    pool: Pool,
    repository: String,
    name: String,
    /// The time of the last write of the standby's row.
    seen: Mutex<Option<Instant>>,
    /// Since when this process finds the lease free.
    ///
    /// `None` while the lease is taken, and before the first request.
    free_since: Mutex<Option<Instant>>,
}

impl PostgresStandby {
    /// Prepares to wait. The first request connects.
    pub(in crate::store) fn new(settings: &Postgres) -> Result<Self, OpenError> {
        let config = connect::config(settings)?;
        let location = connect::location(&config);
        let tls = connect::tls(settings, &location)?;
        let worker = Worker::start(&location)?;
        Ok(Self {
            worker,
            shared: Arc::new(Waiting {
                pool: connect::waiting(&tls, config, &location)?,
                repository: settings.repository.clone(),
                name: Process::this().to_string(),
                seen: Mutex::default(),
                free_since: Mutex::default(),
            }),
            location,
        })
    }

    /// Returns an error while this process should not open the store.
    ///
    /// - [`OpenError::Leased`]: another process has the lease.
    /// - [`OpenError::WatchedTwice`] or [`OpenError::NotYet`]: the lease is free, but this process
    ///   may not watch its repositories.
    /// - [`OpenError::Yields`]: the lease is free, but other processes may take over first.
    ///
    /// Any other error means that the request failed. The list of repositories in `settings` may
    /// differ from the list at the start.
    pub(in crate::store) async fn ask(&self, settings: &Postgres) -> Result<(), OpenError> {
        let (shared, names) = (Arc::clone(&self.shared), settings.repositories.clone());
        let found = self.worker.run(async move { shared.ask(names).await });
        let found = found.await;
        let found = found.map_err(|fault| open_error(&self.location, fault))?;
        match (found.holder, found.refusal) {
            (Some(holder), refusal) => {
                Err(
                    OpenError::leased(&self.location, settings, holder, &found.recorded)
                        .refused(refusal.map(|refusal| refusal.reason)),
                )
            }
            (None, Some(refusal)) => Err(refusal.error(&self.location)),
            (None, None) if found.free_for < settings.lease => {
                OpenError::unless_lacking(&self.location, settings, &found.recorded)
            }
            (None, None) => Ok(()),
        }
    }
}

/// The answer of the database to a waiting process.
struct Found {
    holder: Option<String>,
    /// The list of names that the last holder recorded.
    recorded: Vec<String>,
    free_for: Duration,
    /// Why this process may not watch its repository or its list.
    refusal: Option<Refusal>,
}

impl Waiting {
    /// Reads the lease, and whether this process may watch its repository or list.
    ///
    /// Also writes the row of this standby, at most once in [`SEEN`].
    async fn ask(&self, names: Vec<String>) -> Result<Found, Fault> {
        let mut session = Session::of(&self.pool).await?;
        let mut statements = vec![
            statement!(
                "SELECT l.holder FROM leases l JOIN repositories r ON r.id = l.repository \
                 WHERE r.name = $1 AND l.leased_until >= clock_timestamp()",
                self.repository.clone()
            ),
            names::listed(&self.repository),
            names::check(&self.repository, &names),
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
        let rows = |number: usize| answers.get(number).map_or(&[][..], Vec::as_slice);
        let holder = rows(0).first();
        let mut free_since = guard(&self.free_since);
        *free_since = match holder {
            Some(_) => None,
            None => free_since.or(Some(now)),
        };
        Ok(Found {
            holder: holder.map(|found| row::text(found, 0)).transpose()?,
            free_for: free_since.map_or(Duration::ZERO, |since| now.duration_since(since)),
            recorded: names::of_rows(rows(1))?,
            refusal: names::checked(&self.repository, &names, rows(2))?,
        })
    }
}
