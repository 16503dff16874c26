//! The lease: the right of one process to work on a repository.
//!
//! Constraint: at most one process commits, whatever stops, cuts off or continues the others. The
//! lease itself cannot ensure that: a process may be stopped after it reads its clock and before it
//! commits. So each holder has an *epoch*, and each commit first locks the row of the repository if
//! it still has that epoch. A process that takes over raises the epoch, and waits for a commit in
//! progress. Then the former holder can commit nothing more. The server rolls back a transaction
//! that idles for a part of the lease, because its process was stopped or cut off.
//!
//! [`LeaseState`] has the rule. Only the clock of the server counts.

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
    /// The number of changes by operators at the grant.
    n_changes: i64,
}

/// The attempt to get the lease.
pub(super) enum Attempt {
    Got(Lease),
    /// Another process has the lease: its name, and the names of repositories that it recorded.
    Held(String, Vec<String>),
    /// The repository may not be watched, because of the record of a list.
    Refused(Refusal),
}

/// Gets the lease on a repository, if no other process has it.
///
/// `is_to_watch` is false for a state that moves away: it may be in a list meanwhile.
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
        // The names of a list are checked when the process records them.
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
        // The wait may have used up the lease. Then the next standby would take over immediately.
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
    /// The absent lease of a process that only sends.
    ///
    /// No stored epoch is negative, so such a process commits nothing that needs a lease.
    pub(super) fn none(repository: i32, length: Duration) -> Self {
        Self {
            repository,
            epoch: -1,
            length,
            n_changes: 0,
        }
    }

    /// Renews the lease. Returns the number of changes by operators, or `None` if the lease is
    /// lost.
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

    /// Gives the lease back, so that another process need not wait until it expires.
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

    /// Follows [`LeaseState`] until `stop`, or until another process takes over.
    ///
    /// The connections of `pool` only renew leases.
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

    /// Sends a request. Returns its answer.
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
                    tracing::debug!(%fault, "cannot renew the lease; retrying");
                    Input::Unanswered.into()
                }
            },
            Request::GiveBack { .. } => match self.give_back(pool).await {
                Ok(()) => Input::Renewed.into(),
                Err(fault) => {
                    tracing::debug!(%fault, "cannot give the lease back; it expires by itself");
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

/// The sender of notices to the daemon.
#[derive(Clone)]
pub(super) struct Notices(Arc<watch::Sender<Notice>>);

impl Notices {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::channel(Notice::default()).0))
    }

    /// Returns a receiver. It also gets the notices sent before.
    pub(super) fn subscribe(&self) -> watch::Receiver<Notice> {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Deliveries or webhooks were changed, or may have been.
    pub(super) fn changed(&self) {
        self.0
            .send_modify(|notice| notice.n_changes = notice.n_changes.wrapping_add(1));
    }

    /// There may be more deliveries to claim.
    pub(super) fn more(&self) {
        self.0
            .send_modify(|notice| notice.n_more = notice.n_more.wrapping_add(1));
    }

    /// Claims that are not sent yet may no longer be sent.
    pub(super) fn all_paused(&self) {
        self.0
            .send_modify(|notice| notice.n_pauses = notice.n_pauses.wrapping_add(1));
    }

    /// Claims of a webhook that are not sent yet may no longer be sent.
    pub(super) fn paused(&self, webhook: &str) {
        self.0.send_modify(|notice| {
            let n_pauses = notice.n_pauses_of.entry(webhook.to_owned()).or_default();
            *n_pauses = n_pauses.wrapping_add(1);
        });
    }

    /// Another process took over.
    pub(super) fn superseded(&self) {
        self.0.send_modify(|notice| notice.is_superseded = true);
    }
}
