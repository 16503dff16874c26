//! Implements [`Delivering`]: claims, results of attempts, webhooks, and retention.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::claims::Claiming;
use super::retention::{Collection, Expiring};
use super::session::{LOCK, LOCK_AS_HOLDER, Statement, statement};
use super::{PostgresStore, Shared, claims, guard, queue, retention, row, webhooks};
use crate::config::Retention;
use crate::store::contract::{Alone, Answer, Asking, Delivering};
use crate::store::delivery::{Claims, Finish};
use crate::store::error::Fault;
use crate::store::listing::{Collected, Space, WebhookState};
use crate::store::retention::{FOR_ROOM, too_old};

/// Results of attempts that wait while another transaction records earlier ones.
///
/// The next transaction records all waiting results, so a burst needs fewer commits.
#[derive(Default)]
pub(super) struct Finishing {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

/// Results of attempts, and the channel for the reply to their caller.
type Waiting = (Arc<[Finish]>, oneshot::Sender<Result<(), Fault>>);

impl Shared {
    /// Records results of attempts, together with the waiting results of other callers.
    async fn finish(&self, finished: Arc<[Finish]>) -> Result<(), Fault> {
        let (reply, mut answer) = oneshot::channel();
        guard(&self.finishing.waiting).push((finished, reply));
        let _turn = self.finishing.turn.lock().await;
        // Another caller may have recorded these results, or failed to.
        if let Ok(result) = answer.try_recv() {
            return result;
        }
        let group = std::mem::take(&mut *guard(&self.finishing.waiting));
        let all: Vec<Finish> = group.iter().flat_map(|(some, _)| some.to_vec()).collect();
        let result = async {
            let (mut session, repository) = self.session().await?;
            let sender = self.sender.lease(&mut session).await?.id;
            let finishing = queue::Finishing {
                repository,
                sender,
                finished: &all,
                key: &self.key,
                is_watching: self.is_watching,
            };
            let result = finishing.finish(&mut session).await;
            let result = session.end(result).await;
            self.statistics.changed(all.len());
            result
        }
        .await;
        for (_, reply) in group {
            // The caller may no longer wait for the result.
            let _ = reply.send(result.clone());
        }
        answer.try_recv().unwrap_or(Err(Fault::Closed))
    }

    /// Returns the statement that locks the repository.
    ///
    /// In a watching process, the statement returns no row if the lease was lost.
    fn lock(&self) -> Statement {
        match self.is_watching {
            true => statement!(LOCK_AS_HOLDER, self.lease.repository, self.lease.epoch),
            false => statement!(LOCK, self.lease.repository),
        }
    }

    async fn claim(&self, webhook: String, asking: Asking) -> Result<Claims, Fault> {
        let (mut session, repository) = self.session().await?;
        let lease = self.sender.lease(&mut session).await?;
        let sender = lease.id;
        if let Some(keeping) = asking.keeping {
            let released = claims::release(repository, sender, &webhook, keeping);
            session.transact(released).await?;
        }
        let claiming = Claiming {
            repository,
            sender,
            webhook,
            now: asking.now,
            limit: asking.limit,
            excluding: asking.excluding,
        };
        if asking.alone == Alone::IfDue && !self.sender.is_sole(&claiming.webhook) {
            // Do not become the sole sender while nothing is due: others would have to stop.
            let next_due = claiming.next_due(&mut session, Vec::new()).await?;
            if next_due.is_none_or(|due| due > claiming.now) {
                return Ok(Claims::later(next_due));
            }
        }
        let alone = asking.alone != Alone::No;
        // If the database has not confirmed the lease in time, another sender may have removed it.
        // In this case, claim nothing until a renewal succeeds.
        if (alone || claiming.limit > 0) && !lease.hold.is_valid() {
            return Ok(Claims::default());
        }
        let own = self
            .sender
            .own(&mut session, sender, &claiming.webhook, alone);
        if !own.await? {
            return Ok(Claims::default());
        }
        if claiming.limit == 0 {
            let next_due = claiming.next_due(&mut session, Vec::new()).await?;
            return Ok(Claims::later(next_due));
        }
        match claiming.claim(&mut session).await? {
            Some(claims) => Ok(Claims {
                hold: lease.hold,
                ..claims
            }),
            None => {
                self.sender.lose(sender).await;
                Ok(Claims::default())
            }
        }
    }

    async fn set_fingerprints(
        &self,
        fingerprints: &[(String, [u8; 32])],
        now: Timestamp,
    ) -> Result<Vec<String>, Fault> {
        let (mut session, repository) = self.session().await?;
        let now = row::milliseconds(now);
        let changes = |rows: &[tokio_postgres::Row]| -> Result<_, Fault> {
            let recorded = webhooks::recorded_fingerprints(rows)?;
            Ok(webhooks::set_fingerprints(
                repository,
                &recorded,
                fingerprints,
                &self.key,
                now,
            ))
        };
        // Usually nothing changed, so first read without the lock. Taking the lock would increase
        // the version of the state.
        let (statements, _) = changes(&session.rows(webhooks::fingerprints(repository)).await?)?;
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let result = async {
            let read = vec![self.lock(), webhooks::fingerprints(repository)];
            let answers = session.begin("BEGIN", read).await?;
            let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
            if rows(0).is_empty() {
                return Err(Fault::Fenced);
            }
            let (statements, switched_on) = changes(rows(1))?;
            session.commit(statements).await?;
            Ok(switched_on)
        }
        .await;
        session.end(result).await
    }

    /// Estimates how many rows to remove to free `needed` bytes, from 1 to `limit`.
    ///
    /// The estimate uses the average size of the compressed payloads of the 100 oldest events.
    async fn rows_for(&self, needed: u64, limit: usize) -> Result<usize, Fault> {
        let (mut session, repository) = self.session().await?;
        let rows = session
            .rows(statement!(
                "SELECT coalesce(avg(length(p.compressed)), 0)::bigint + 1024 FROM \
                 (SELECT payload FROM events WHERE repository = $1 ORDER BY sequence LIMIT 100) e \
                 JOIN payloads p ON p.repository = $1 AND p.hash = e.payload",
                repository
            ))
            .await?;
        let average = row::count(super::client::number(&rows)?).max(1);
        let n_rows = usize::try_from(needed.div_ceil(average)).unwrap_or(usize::MAX);
        Ok(n_rows.clamp(1, limit.max(1)))
    }

    /// Removes rows older than their `retention`, and makes `expiring` deliveries dead.
    async fn collect(
        &self,
        retention: Retention,
        expiring: Expiring,
        now: Timestamp,
        limit: usize,
    ) -> Result<Collected, Fault> {
        let (mut session, repository) = self.session().await?;
        let collection = Collection {
            repository,
            epoch: self.lease.epoch,
            retention,
            now,
            limit,
            expiring,
        };
        let before = guard(&self.garbage).take();
        let mut garbage = before.clone();
        let result = retention::collect(&mut session, &mut garbage, &collection).await;
        let result = session.end(result).await;
        let kept = if result.is_ok() { garbage } else { before };
        guard(&self.garbage).put_back(kept);
        result
    }
}

impl Delivering for PostgresStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn shared_now(&self) -> Option<Timestamp> {
        Some(self.shared.sender.now())
    }

    fn claim<'a>(&'a self, webhook: &'a str, asking: Asking) -> Answer<'a, Claims> {
        let webhook = webhook.to_owned();
        Box::pin(self.run(move |shared| async move { shared.claim(webhook, asking).await }))
    }

    fn finish(&self, finished: Arc<[Finish]>) -> Answer<'_, ()> {
        Box::pin(self.run(move |shared| async move { shared.finish(finished).await }))
    }

    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize> {
        let webhook = webhook.to_owned();
        let now = row::milliseconds(now);
        Box::pin(self.run(move |shared| async move {
            let (mut session, repository) = shared.session().await?;
            let statements = vec![
                shared.lock(),
                webhooks::correct_rest(repository, &webhook, now),
                queue::correct_times(repository, &webhook, now),
            ];
            let result = session.begin("BEGIN", statements).await;
            let result = result.and_then(|answers| match answers.first() {
                Some(lock) if !lock.is_empty() => Ok(answers.get(2).map_or(0, Vec::len)),
                _ => Err(Fault::Fenced),
            });
            session.end(result).await
        }))
    }

    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>> {
        Box::pin(self.run(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            let result = webhooks::states(&mut session, repository).await;
            session.end(result).await
        }))
    }

    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>> {
        Box::pin(
            self.run(
                move |shared| async move { shared.set_fingerprints(&fingerprints, now).await },
            ),
        )
    }

    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected> {
        let expiring = match retention.pending {
            Some(age) => Expiring::Older(
                row::milliseconds(now).saturating_sub(row::duration(age)),
                too_old(age),
            ),
            None => Expiring::None,
        };
        Box::pin(self.run(move |shared| async move {
            shared.collect(retention, expiring, now, limit).await
        }))
    }

    fn make_room<'a>(
        &'a self,
        reason: &'a str,
        now: Timestamp,
        needed: u64,
        limit: usize,
    ) -> Answer<'a, Collected> {
        let reason = reason.to_owned();
        Box::pin(self.run(move |shared| async move {
            let limit = shared.rows_for(needed, limit).await?;
            for retention in FOR_ROOM {
                let collected = shared
                    .collect(retention, Expiring::None, now, limit)
                    .await?;
                if !collected.is_empty() {
                    return Ok(collected);
                }
            }
            let [.., retention] = FOR_ROOM;
            let expiring = Expiring::LargestBacklog(reason);
            shared.collect(retention, expiring, now, limit).await
        }))
    }

    fn space(&self) -> Answer<'_, Space> {
        Box::pin(self.run(|shared| async move {
            let (mut session, _) = shared.session().await?;
            let sql = "SELECT pg_database_size(current_database())";
            let used = super::client::number(&session.rows(statement!(sql)).await?)?;
            Ok(Space {
                used: row::count(used),
                log: 0,
                disk: None,
            })
        }))
    }
}
