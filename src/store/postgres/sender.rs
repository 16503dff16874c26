//! Senders: the processes that send deliveries, any number at the same time.
//!
//! Constraint: two processes should not send deliveries of one lane at the same time. (A lane has
//! the pending deliveries of one project to one webhook.) So a sender *claims* a delivery before it
//! sends the delivery. While the claim exists, no other sender claims a delivery of the same lane.
//!
//! Each sender has a lease for all of its claims, and renews the lease while it runs. So a renewal
//! updates one row, even if many requests are in flight. If a lease expires, another sender removes
//! the lease with its claims. But after a long outage of the database, the leases of all senders
//! have expired. So a running sender removes other leases only if its own renewals have succeeded
//! for the length of a lease.
//!
//! A process may be stopped until its lease has expired, and then continue. By then, its claims may
//! be removed. If so, the store ignores the results of its attempts, and another sender sends the
//! same deliveries again, with the same ids and bodies. To keep this rare, no request begins unless
//! the database has recently confirmed the lease: see [`Hold`].
//!
//! If requests to a webhook are limited to a rate, one sender must send all of them. It becomes the
//! *sole sender* of the webhook: other senders claim none of its deliveries. The limit is either
//! the setting `rate`, or learned from waits that the receiver asked for. If the sole sender cannot
//! reach the endpoint, others perhaps can, so it lets them try.
//!
//! Senders claim and record results at the same time ([`claims`](super::claims)). To become the
//! sole sender or to remove leases, a sender needs the exclusive lock of the repository. Leases
//! expire by the server's clock.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::changes::{self, Kind};
use super::connect::renewal_max;
use super::fleet::{self, LastRead};
use super::lease::Notices;
use super::server_time::ServerTime;
use super::session::{LOCK, LOCK_ALONE, LOCK_SHARED, Session, statement};
use super::{guard, row, transfer};
use crate::error::chain;
use crate::store::error::Fault;
use crate::store::hold::Hold;
use crate::store::transfer::MARK;

/// A lease of this process as a sender.
#[derive(Clone)]
pub(super) struct SenderLease {
    pub(super) id: i64,
    /// Whether the claims of this lease are certain to exclude other senders.
    pub(super) hold: Hold,
}

/// This process as a sender.
pub(super) struct Sender {
    repository: i32,
    /// The name that operators see.
    name: String,
    /// The time after which the lease expires without a renewal.
    length: Duration,
    /// The server's clock, which decides which deliveries are due.
    time: ServerTime,
    /// The lease. `None` until one is needed, and after the lease was lost or removed.
    lease: tokio::sync::Mutex<Option<SenderLease>>,
    /// The webhooks whose sole sender this process is or may be.
    owned: Mutex<HashMap<String, Owned>>,
}

/// Whether this process is the sole sender of a webhook.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owned {
    /// A request to become the sole sender or to stop being it has no answer yet.
    ///
    /// Its answer may also be lost.
    Perhaps,
    Surely,
}

impl Sender {
    pub(super) fn new(repository: i32, name: String, length: Duration, time: ServerTime) -> Self {
        Self {
            repository,
            name,
            length,
            time,
            lease: tokio::sync::Mutex::default(),
            owned: Mutex::default(),
        }
    }

    /// Returns the time by the server's clock.
    pub(super) fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Returns the lease of this process. Requests one if there is none.
    pub(super) async fn lease(&self, session: &mut Session) -> Result<SenderLease, Fault> {
        let mut lease = self.lease.lock().await;
        if let Some(lease) = &*lease {
            return Ok(lease.clone());
        }
        let requested = Instant::now();
        // A transfer may end at the same time. The lock ensures that either the transfer finds this
        // sender, or this sender finds the mark of the transfer.
        let answers = session
            .transact(vec![
                statement!(LOCK_SHARED, self.repository),
                transfer::read_mark(self.repository),
                statement!(
                    "INSERT INTO senders (repository, name, leased_until) SELECT $1::int, $2::text, \
                     clock_timestamp() + make_interval(secs => $3) WHERE NOT EXISTS \
                     (SELECT 1 FROM meta WHERE repository = $1 AND key = $4 \
                     AND value NOT LIKE '{\"state\":\"arrived\"%') RETURNING id",
                    self.repository,
                    self.name.clone(),
                    self.length.as_secs_f64(),
                    MARK
                ),
            ])
            .await?;
        let rows = answers.get(2).map(Vec::as_slice).unwrap_or_default();
        if rows.is_empty() {
            transfer::unless_moved(answers.get(1))?;
            return Err(Fault::Closed);
        }
        let new = SenderLease {
            id: super::client::number(rows)?,
            hold: Hold::of_lease(requested, self.length),
        };
        *lease = Some(new.clone());
        Ok(new)
    }

    /// Forgets the lease with this id, because another process removed it.
    pub(super) async fn lose(&self, lost: i64) {
        let mut lease = self.lease.lock().await;
        if let Some(lost) = lease.take_if(|lease| lease.id == lost) {
            lost.hold.end();
            guard(&self.owned).clear();
            warn!(
                "another process took over the deliveries of this process, because this process did not renew its lease for longer than store.lease"
            );
        }
    }

    /// Tries to become the sole sender of a webhook, or to stop being it.
    ///
    /// It stops if `alone` is false. Returns false if this process must not claim deliveries of the
    /// webhook now.
    pub(super) async fn own(
        &self,
        session: &mut Session,
        sender: i64,
        webhook: &str,
        alone: bool,
    ) -> Result<bool, Fault> {
        let known = guard(&self.owned).get(webhook).copied();
        if known == alone.then_some(Owned::Surely) {
            return Ok(true);
        }
        if alone && self.is_owned_by_other(session, sender, webhook).await? {
            // Keep `Owned::Perhaps`, if set. An earlier request that got no answer may still
            // succeed when the other sender stops.
            return Ok(false);
        }
        let kind = if alone {
            Kind::Alone(webhook)
        } else {
            Kind::New
        };
        guard(&self.owned).insert(webhook.to_owned(), Owned::Perhaps);
        let answers = session
            .transact(vec![
                statement!(LOCK_ALONE, self.repository),
                super::webhooks::ensure(self.repository, webhook),
                statement!(
                    "WITH owned AS (UPDATE webhooks SET sole_sender = CASE WHEN $4 THEN $3::bigint END \
                     WHERE repository = $1 AND name = $2 AND coalesce(sole_sender, $3) = $3 \
                     AND EXISTS (SELECT 1 FROM senders WHERE id = $3) RETURNING 1) \
                     SELECT pg_notify('project_webhooks', $5) FROM owned",
                    self.repository,
                    webhook.to_owned(),
                    sender,
                    alone,
                    kind.payload(self.repository)
                ),
            ])
            .await?;
        let is_done = answers.get(2).is_some_and(|rows| !rows.is_empty());
        let mut owned = guard(&self.owned);
        match is_done && alone {
            true => owned.insert(webhook.to_owned(), Owned::Surely),
            false => owned.remove(webhook),
        };
        Ok(is_done)
    }

    /// Whether this process is certainly the sole sender of a webhook.
    pub(super) fn is_sole(&self, webhook: &str) -> bool {
        guard(&self.owned).get(webhook) == Some(&Owned::Surely)
    }

    /// Whether another process is the sole sender of a webhook.
    ///
    /// A waiting sender calls this repeatedly, so it takes no lock and writes nothing.
    async fn is_owned_by_other(
        &self,
        session: &mut Session,
        sender: i64,
        webhook: &str,
    ) -> Result<bool, Fault> {
        let sql =
            "SELECT 1 FROM webhooks WHERE repository = $1 AND name = $2 AND sole_sender <> $3";
        let asked = statement!(sql, self.repository, webhook.to_owned(), sender);
        Ok(!session.rows(asked).await?.is_empty())
    }

    /// Renews the lease until `stop`, and then removes it.
    ///
    /// Renews it after each third of its length, and sooner after a failure. Also removes the
    /// expired leases of other senders with their claims. The first pool is only for renewals,
    /// because a removal may wait for a long commit.
    pub(super) async fn keep(
        &self,
        (renewals, pool): (Pool, Pool),
        notices: Notices,
        last_read: Option<LastRead>,
        stop: CancellationToken,
    ) {
        let ended = Notify::new();
        let renewing = async {
            let mut n_changes = None;
            // The time of the first successful renewal since the start or the last failure.
            let mut reached_at = None;
            let mut is_warned = false;
            loop {
                let requested = Instant::now();
                let mut again = self.length / 3;
                match self.renew(&renewals, &notices, last_read.as_ref()).await {
                    Ok((found, have_ended)) => {
                        let reached = reached_at.get_or_insert_with(Instant::now).elapsed();
                        if std::mem::take(&mut is_warned) {
                            info!("the database answers again; sending callbacks again");
                        }
                        if n_changes.is_some_and(|before| before != found) {
                            notices.changed();
                        }
                        n_changes = Some(found);
                        // After a long outage, all leases have expired. So first give the other
                        // senders time to renew theirs.
                        if have_ended && reached >= self.length {
                            ended.notify_one();
                        }
                    }
                    Err(fault) => {
                        reached_at = None;
                        if let Some(last_read) = &last_read {
                            last_read.unanswered();
                        }
                        debug!(
                            fault = %chain(&fault),
                            "cannot renew the lease of the sender; retrying"
                        );
                        if !is_warned && self.has_ended().await {
                            is_warned = true;
                            warn!(fault = %chain(&fault), "{}", self.unconfirmed());
                        }
                        again = self.length / 10;
                    }
                }
                // Subtract the time that the renewal took. On a slow link, no pause may remain.
                tokio::time::sleep(again.saturating_sub(requested.elapsed())).await;
            }
        };
        let removing = async {
            loop {
                ended.notified().await;
                if let Err(fault) = self.remove(&pool, None).await {
                    debug!(
                        fault = %chain(&fault),
                        "cannot remove expired leases of senders; retrying"
                    );
                }
            }
        };
        let both = async { tokio::join!(renewing, removing) };
        tokio::select! {
            _ = both => {}
            () = stop.cancelled() => {}
        }
        if let Some(lease) = self.lease.lock().await.take()
            && let Err(fault) = self.remove(&pool, Some(lease.id)).await
        {
            debug!(
                fault = %chain(&fault),
                "cannot remove the lease of the sender; it expires by itself"
            );
        }
    }

    /// Whether this process has a lease that the database did not confirm in time.
    async fn has_ended(&self) -> bool {
        let lease = self.lease.lock().await;
        lease.as_ref().is_some_and(|lease| !lease.hold.is_valid())
    }

    /// Describes why this process sends nothing.
    fn unconfirmed(&self) -> String {
        let length = humantime::format_duration(self.length);
        format!(
            "sending no callbacks: the database has not confirmed the lease of this process for {length} \
             (store.lease), so other processes may send the same deliveries. If the link to the database is slow, \
             raise store.lease"
        )
    }

    /// Renews the lease if there is one. Forgets the lease if it was removed.
    ///
    /// Returns the number of changes by operators, and whether a sender's lease has expired.
    async fn renew(
        &self,
        pool: &Pool,
        notices: &Notices,
        last_read: Option<&LastRead>,
    ) -> Result<(i64, bool), Fault> {
        let session = Session::of(pool).await?;
        let mut session = session.answers_within(renewal_max(self.length));
        let lease = self.lease.lock().await.clone();
        let id = lease.as_ref().map(|lease| lease.id);
        let requested = Instant::now();
        let length = self.length.as_secs_f64();
        let mut statements = vec![
            statement!(
                "UPDATE senders SET seen = clock_timestamp(), leased_until = clock_timestamp() + \
                 make_interval(secs => $2) WHERE id = $1 RETURNING 1",
                id.unwrap_or(0),
                length
            ),
            statement!(
                "SELECT changes, EXISTS (SELECT 1 FROM senders WHERE repository = $1 \
                 AND leased_until < clock_timestamp()) FROM repositories WHERE id = $1",
                self.repository
            ),
            ServerTime::statement(),
        ];
        if last_read.is_some() {
            statements.extend(fleet::statements(self.repository, length));
        }
        let answers = session.pipeline(statements).await?;
        let time = answers.get(2).map_or(&[][..], Vec::as_slice);
        self.time.set(time, requested)?;
        if let Some(last_read) = last_read {
            last_read.set(fleet::of_rows(answers.get(3..).unwrap_or_default())?);
        }
        if let Some(lease) = lease {
            if answers.first().is_none_or(Vec::is_empty) {
                self.lose(lease.id).await;
                notices.all_paused();
            } else {
                lease.hold.renewed(requested, self.length);
            }
        }
        let found = answers.get(1).and_then(|rows| rows.first());
        let Some(found) = found else {
            return Ok((0, false));
        };
        Ok((row::number(found, 0)?, found.try_get(1)?))
    }

    /// Removes the lease `id` with its claims. If `id` is `None`, removes all expired leases.
    ///
    /// A sender that stops removes only its own lease: right after an outage, the leases of all
    /// senders have expired.
    async fn remove(&self, pool: &Pool, id: Option<i64>) -> Result<(), Fault> {
        let mut session = Session::of(pool).await?;
        session
            .transact(vec![
                statement!(LOCK, self.repository),
                statement!(
                    // Keep the counts of the removed senders, because `Listing::version` adds the
                    // counts of all senders and must not shrink.
                    "WITH gone AS (DELETE FROM senders WHERE repository = $1 \
                     AND (id = $2 OR ($2 IS NULL AND leased_until < clock_timestamp())) \
                     RETURNING n_recordings) \
                     UPDATE repositories SET version = version \
                     + (SELECT coalesce(sum(n_recordings), 0) FROM gone)::bigint WHERE id = $1",
                    self.repository,
                    id
                ),
                statement!(
                    "DELETE FROM claims c WHERE c.repository = $1 \
                     AND NOT EXISTS (SELECT 1 FROM senders s WHERE s.id = c.sender)",
                    self.repository
                ),
                statement!(
                    "UPDATE webhooks w SET sole_sender = NULL WHERE w.repository = $1 \
                     AND w.sole_sender IS NOT NULL \
                     AND NOT EXISTS (SELECT 1 FROM senders s WHERE s.id = w.sole_sender)",
                    self.repository
                ),
                changes::notify_senders(self.repository, Kind::New),
            ])
            .await?;
        Ok(())
    }
}

/// Returns the name of a sender with a valid lease, if there is one.
pub(super) async fn running(
    session: &mut Session,
    repository: i32,
) -> Result<Option<String>, Fault> {
    let sql = "SELECT name FROM senders WHERE repository = $1 AND leased_until > clock_timestamp()";
    let rows = session.rows(statement!(sql, repository)).await?;
    rows.first().map(|found| row::text(found, 0)).transpose()
}
