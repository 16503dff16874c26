//! The lease: the right of one process to watch a repository and record changes.
//!
//! Constraint: at most one process records changes, even if another one is stopped or cut off and
//! later continues. The time limit of a lease cannot ensure this: a process may check the time, be
//! stopped, and commit after its lease has expired. So each grant of the lease has a higher number,
//! its *epoch*, which is also in the row of the repository. A transaction that changes the record
//! first locks this row, and fails if the row does not have the epoch of the process.
//!
//! A process that takes over waits for a running commit and then sets its own epoch in the row.
//! From then on, the former holder can no longer change the record. If a process is stopped or cut
//! off during a transaction, the server rolls the transaction back after it has idled for at most a
//! quarter of the lease's length.
//!
//! [`LeaseState`] decides when a process sends which request. Leases expire by the server's clock.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connect::renewal_max;
use super::fleet::{self, LastRead};
use super::names::{self, Refusal};
use super::row;
use super::session::{Session, statement};
use crate::config::Postgres;
use crate::domain::lease::{Input, LeaseState, Next, Request};
use crate::error::chain;
use crate::store::contract::Notice;
use crate::store::error::Fault;
use crate::store::fleet::Fleet;

/// The lease of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) repository: i32,
    pub(super) epoch: i64,
    /// The time after which the lease expires without a renewal.
    pub(super) length: Duration,
    /// The number of changes by operators when the lease was granted.
    n_changes: i64,
}

/// The result of an attempt to get the lease.
pub(super) enum Attempt {
    Got(Lease),
    /// The process that has the lease, and the list of repositories that it recorded.
    Held(String, Vec<String>),
    /// The repository may not be watched alone, because it is or was in a list.
    Refused(Refusal),
}

/// Gets the lease on a repository, if no other process has it.
///
/// `is_to_watch` is false if the process only copies the state elsewhere. A list may then already
/// contain the repository.
pub(super) async fn acquire(
    pool: &Pool,
    repository: i32,
    holder: &str,
    settings: &Postgres,
    is_to_watch: bool,
) -> Result<Attempt, Fault> {
    let (name, length) = (settings.repository.as_str(), settings.lease);
    let mut session = Session::of(pool).await?;
    let result = async {
        // The names of a list are checked later, when the process records them.
        if settings.repositories.is_empty() && is_to_watch {
            if let Some(refusal) = names::refuse_listed(&mut session, name).await? {
                return Ok(Attempt::Refused(refusal));
            }
        } else {
            session.begin("BEGIN", Vec::new()).await?;
        }
        let got = session
            .rows(statement!(
                "INSERT INTO leases AS l (repository, epoch, holder, since, leased_until) \
                 VALUES ($1, 1, $2, clock_timestamp(), \
                 clock_timestamp() + make_interval(secs => $3)) \
                 ON CONFLICT (repository) DO UPDATE SET epoch = l.epoch + 1, \
                 holder = excluded.holder, since = excluded.since, \
                 leased_until = excluded.leased_until \
                 WHERE l.leased_until < clock_timestamp() RETURNING epoch",
                repository,
                holder.to_owned(),
                length.as_secs_f64()
            ))
            .await?;
        let Some(found) = got.first() else {
            let sql = "SELECT holder FROM leases WHERE repository = $1";
            let reads = vec![statement!(sql, repository), names::listed(name)];
            let answers = session.pipeline(reads).await?;
            let holder = answers.first().and_then(|rows| rows.first());
            let holder = holder.map(|found| row::text(found, 0)).transpose()?;
            let recorded = names::of_rows(answers.get(1).map_or(&[], Vec::as_slice))?;
            return Ok(Attempt::Held(holder.unwrap_or_default(), recorded));
        };
        let epoch = row::number(found, 0)?;
        // This waits for a commit of the former holder.
        let sql = "UPDATE repositories SET epoch = $2 WHERE id = $1 RETURNING changes";
        let rows = session.rows(statement!(sql, repository, epoch)).await?;
        let present = fleet::wait_no_longer(repository, holder);
        // The lease may have expired during the wait, so extend it again. Otherwise a standby would
        // take over immediately.
        let whole = statement!(
            "UPDATE leases SET leased_until = clock_timestamp() + make_interval(secs => $2) \
             WHERE repository = $1",
            repository,
            length.as_secs_f64()
        );
        session.pipeline(vec![present, whole]).await?;
        Ok(Attempt::Got(Lease {
            repository,
            epoch,
            length,
            n_changes: super::client::number(&rows)?,
        }))
    }
    .await;
    session.end(result).await
}

impl Lease {
    /// Returns a value for a process that has no lease, because it only sends.
    ///
    /// Its epoch is negative, and a stored epoch is not. So each commit that needs the lease fails.
    pub(super) fn none(repository: i32, length: Duration) -> Self {
        Self {
            repository,
            epoch: -1,
            length,
            n_changes: 0,
        }
    }

    /// Renews the lease.
    ///
    /// Returns the number of changes by operators, or `None` if the lease is lost.
    async fn renew(&self, pool: &Pool, last_read: &LastRead) -> Result<Option<i64>, Fault> {
        let mut session = self.session(pool).await?;
        let length = self.length.as_secs_f64();
        let mut statements = vec![statement!(
            "UPDATE leases l SET leased_until = \
             clock_timestamp() + make_interval(secs => $3) \
             FROM repositories r WHERE l.repository = $1 AND l.epoch = $2 AND r.id = $1 \
             RETURNING r.changes",
            self.repository,
            self.epoch,
            length
        )];
        // The same round trip reads the fleet.
        statements.extend(fleet::statements(self.repository, length));
        let answers = session.pipeline(statements).await?;
        let Some((renewed, fleet)) = answers.split_first() else {
            return Ok(None);
        };
        last_read.set(fleet::of_rows(fleet)?);
        renewed
            .first()
            .map(|found| row::number(found, 0))
            .transpose()
    }

    async fn session(&self, pool: &Pool) -> Result<Session, Fault> {
        Ok(Session::of(pool)
            .await?
            .answers_within(renewal_max(self.length)))
    }

    /// Reads the lease with its standbys and senders.
    pub(super) async fn fleet(&self, pool: &Pool) -> Result<Fleet, Fault> {
        let mut session = Session::of(pool).await?;
        let reads = fleet::statements(self.repository, self.length.as_secs_f64());
        fleet::of_rows(&session.consistently(reads.into()).await?)
    }

    /// Releases the lease, so that another process need not wait until it expires.
    pub(super) async fn give_back(&self, pool: &Pool) -> Result<(), Fault> {
        let mut session = self.session(pool).await?;
        session
            .rows(statement!(
                "UPDATE leases SET leased_until = '-infinity' WHERE repository = $1 AND epoch = $2",
                self.repository,
                self.epoch
            ))
            .await?;
        Ok(())
    }

    /// Renews the lease until `stop`, and then releases it.
    ///
    /// Also ends when another process takes over the lease. The connections of `pool` are used only
    /// for leases.
    pub(super) async fn keep(
        self,
        pool: Pool,
        notices: Notices,
        last_read: LastRead,
        stop: CancellationToken,
    ) {
        let granted = Input::Granted { epoch: self.epoch };
        let (mut state, mut next) = LeaseState::Waiting.handle(granted, self.length);
        let mut n_changes = self.n_changes;
        while let Some(Next { request, after }) = next {
            let sent = async {
                tokio::time::sleep(after).await;
                self.send(request, &pool, &last_read).await
            };
            let answer = tokio::select! {
                answer = sent => answer,
                () = stop.cancelled(), if state != LeaseState::Over => Answer::from(Input::Stop),
            };
            if answer.n_changes.is_some_and(|found| found != n_changes) {
                notices.changed();
            }
            n_changes = answer.n_changes.unwrap_or(n_changes);
            if answer.input == Input::Stale {
                notices.superseded();
            }
            (state, next) = state.handle(answer.input, self.length);
        }
    }

    async fn send(&self, request: Request, pool: &Pool, last_read: &LastRead) -> Answer {
        match request {
            Request::Renew { .. } => match self.renew(pool, last_read).await {
                Ok(Some(n_changes)) => Answer {
                    input: Input::Renewed,
                    n_changes: Some(n_changes),
                },
                Ok(None) => Input::Stale.into(),
                Err(fault) => {
                    last_read.unanswered();
                    tracing::debug!(fault = %chain(&fault), "cannot renew the lease; retrying");
                    Input::Unanswered.into()
                }
            },
            Request::GiveBack { .. } => match self.give_back(pool).await {
                Ok(()) => Input::Renewed.into(),
                Err(fault) => {
                    tracing::debug!(
                        fault = %chain(&fault),
                        "cannot release the lease; it expires by itself"
                    );
                    Input::Unanswered.into()
                }
            },
            // The process gets the lease when it opens the store, so this is never sent.
            Request::Acquire => Input::Refused.into(),
        }
    }
}

/// An answer of the database.
struct Answer {
    input: Input,
    /// The number of changes by operators, if the answer has it.
    n_changes: Option<i64>,
}

impl From<Input> for Answer {
    fn from(input: Input) -> Self {
        let n_changes = None;
        Self { input, n_changes }
    }
}

/// Sends notices to the daemon.
#[derive(Clone)]
pub(super) struct Notices(Arc<watch::Sender<Notice>>);

impl Notices {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::channel(Notice::default()).0))
    }

    /// Returns a receiver that also gets the notices sent before.
    pub(super) fn subscribe(&self) -> watch::Receiver<Notice> {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Reports that another process may have changed deliveries or webhooks.
    pub(super) fn changed(&self) {
        self.0
            .send_modify(|notice| notice.n_changes = notice.n_changes.wrapping_add(1));
    }

    /// Reports that there may be more deliveries to claim.
    pub(super) fn more(&self) {
        self.0
            .send_modify(|notice| notice.n_more = notice.n_more.wrapping_add(1));
    }

    /// Reports that the unsent claims of all webhooks may no longer be sent.
    pub(super) fn all_paused(&self) {
        self.0
            .send_modify(|notice| notice.n_pauses = notice.n_pauses.wrapping_add(1));
    }

    /// Reports that the unsent claims of this webhook may no longer be sent.
    pub(super) fn paused(&self, webhook: &str) {
        self.0.send_modify(|notice| {
            let n_pauses = notice.n_pauses_of.entry(webhook.to_owned()).or_default();
            *n_pauses = n_pauses.wrapping_add(1);
        });
    }

    /// Reports that another process took over the lease.
    pub(super) fn superseded(&self) {
        self.0.send_modify(|notice| notice.is_superseded = true);
    }
}
