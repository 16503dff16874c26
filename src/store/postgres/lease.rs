//! The lease: the right of one process to work on a repository.
//!
//! Constraint: at most one process commits, whatever stops, cuts off or continues the others. The lease
//! itself cannot promise that, because a process may be stopped between a look at its clock and a
//! commit. So each holder has an *epoch*, and each commit locks the row of the repository with its
//! epoch. A process that takes over raises the epoch, which waits for a commit that is under way. The
//! former holder then commits nothing more.
//!
//! Only the clock of the server counts.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::row;
use super::session::{Session, statement};
use crate::store::contract::Notice;
use crate::store::error::Fault;

/// The lease of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) repository: i32,
    pub(super) epoch: i64,
    /// The time after which the lease expires without a renewal.
    pub(super) length: Duration,
}

/// The attempt to get the lease.
pub(super) enum Attempt {
    Got(Lease),
    /// This process has it.
    Held(String),
}

/// Gets the lease on a repository, if no other process has it.
pub(super) async fn acquire(
    pool: &Pool,
    repository: i32,
    holder: &str,
    length: Duration,
) -> Result<Attempt, Fault> {
    let mut session = Session::of(pool).await?;
    let result = async {
        let got = session
            .begin(
                "BEGIN",
                vec![statement!(
                    "INSERT INTO leases AS l (repository, epoch, holder, leased_until) \
                     VALUES ($1, 1, $2, clock_timestamp() + make_interval(secs => $3)) \
                     ON CONFLICT (repository) DO UPDATE SET epoch = l.epoch + 1, \
                     holder = excluded.holder, leased_until = excluded.leased_until \
                     WHERE l.leased_until < clock_timestamp() RETURNING epoch",
                    repository,
                    holder.to_owned(),
                    length.as_secs_f64()
                )],
            )
            .await?;
        let Some(found) = got.first().and_then(|rows| rows.first()) else {
            let sql = "SELECT holder FROM leases WHERE repository = $1";
            let rows = session.rows(statement!(sql, repository)).await?;
            let holder = rows.first().map(|found| row::text(found, 0)).transpose()?;
            return Ok(Attempt::Held(holder.unwrap_or_default()));
        };
        let epoch = row::number(found, 0)?;
        // This waits for a commit of the former holder.
        let sql = "UPDATE repositories SET epoch = $2 WHERE id = $1";
        session.rows(statement!(sql, repository, epoch)).await?;
        Ok(Attempt::Got(Lease {
            repository,
            epoch,
            length,
        }))
    }
    .await;
    session.end(result).await
}

impl Lease {
    /// Renews the lease. Returns the number of changes by operators, or `None` if the lease is lost.
    async fn renew(&self, pool: &Pool) -> Result<Option<i64>, Fault> {
        let mut session = Session::of(pool).await?;
        let rows = session
            .rows(statement!(
                "UPDATE leases l SET leased_until = \
                 clock_timestamp() + make_interval(secs => $3) \
                 FROM repositories r WHERE l.repository = $1 AND l.epoch = $2 AND r.id = $1 \
                 RETURNING r.changes",
                self.repository,
                self.epoch,
                self.length.as_secs_f64()
            ))
            .await?;
        rows.first().map(|found| row::number(found, 0)).transpose()
    }

    /// Gives the lease back, so that another process need not wait for its end.
    pub(super) async fn give_back(&self, pool: &Pool) -> Result<(), Fault> {
        let mut session = Session::of(pool).await?;
        session
            .rows(statement!(
                "UPDATE leases SET leased_until = '-infinity' WHERE repository = $1 AND epoch = $2",
                self.repository,
                self.epoch
            ))
            .await?;
        Ok(())
    }

    /// Renews the lease at a third of its length until `stop`, and gives it back then.
    ///
    /// Ends early if another process has taken it over.
    pub(super) async fn keep(self, pool: Pool, notices: Notices, stop: CancellationToken) {
        let mut n_changes = None;
        // After an error sooner, because the lease may end before the next third.
        let (pause, pause_after_error) = (self.length / 3, self.length / 10);
        loop {
            let renewed = tokio::select! {
                renewed = self.renew(&pool) => renewed,
                () = stop.cancelled() => break,
            };
            let pause = match renewed {
                Ok(Some(found)) => {
                    if n_changes.is_some_and(|before| before != found) {
                        notices.changed();
                    }
                    n_changes = Some(found);
                    pause
                }
                Ok(None) => {
                    notices.superseded();
                    return;
                }
                Err(fault) => {
                    tracing::debug!(%fault, "cannot renew the lease; retrying");
                    pause_after_error
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        if let Err(fault) = self.give_back(&pool).await {
            tracing::debug!(%fault, "cannot give the lease back; it expires by itself");
        }
    }
}

/// The sender of notices to the daemon.
#[derive(Clone)]
pub(super) struct Notices(Arc<watch::Sender<Notice>>);

impl Notices {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::channel(Notice::default()).0))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Notice> {
        self.0.subscribe()
    }

    /// Deliveries or webhooks were changed, or may have been.
    pub(super) fn changed(&self) {
        self.0
            .send_modify(|notice| notice.n_changes = notice.n_changes.wrapping_add(1));
    }

    /// Another process took over.
    pub(super) fn superseded(&self) {
        self.0.send_modify(|notice| notice.is_superseded = true);
    }
}

/// The name of this process for other processes and operators.
pub(super) fn name() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("process {} on {host}", std::process::id())
}
