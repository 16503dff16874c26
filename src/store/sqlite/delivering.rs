//! Implements [`Delivering`]: claims, attempts, webhooks and the removal of rows.

use std::sync::Arc;

use jiff::Timestamp;

use super::expiry::Expiring;
use super::{SqliteStore, expiry, guard, queue, retention, room, row, schema, webhooks};
use crate::config::Retention;
use crate::store::contract::{Answer, Asking, Delivering};
use crate::store::delivery::{Claims, Finish};
use crate::store::error::StoreError;
use crate::store::listing::{Collected, Space, WebhookState};
use crate::store::retention::{FOR_ROOM, too_old};

impl Delivering for SqliteStore {
    fn claim<'a>(&'a self, webhook: &'a str, asking: Asking) -> Answer<'a, Claims> {
        let webhook = webhook.to_owned();
        Box::pin(self.read(move |connection| queue::claim(connection, &webhook, &asking)))
    }

    fn finish(&self, finished: Arc<[Finish]>) -> Answer<'_, ()> {
        let key = self.shared.key;
        Box::pin(self.write(move |connection| queue::finish(connection, &finished, &key)))
    }

    fn correct_times<'a>(&'a self, webhook: &'a str, now: Timestamp) -> Answer<'a, usize> {
        let webhook = webhook.to_owned();
        Box::pin(self.write(move |connection| queue::correct_times(connection, &webhook, now)))
    }

    fn webhook_states(&self) -> Answer<'_, Vec<WebhookState>> {
        // Counting takes 0.15 s or more for a million deliveries.
        Box::pin(self.read_slowly(webhooks::states))
    }

    fn set_fingerprints(
        &self,
        fingerprints: Vec<(String, [u8; 32])>,
        now: Timestamp,
    ) -> Answer<'_, Vec<String>> {
        let key = self.shared.key;
        Box::pin(async move {
            let changed = self
                .read(move |connection| {
                    let mut changed = Vec::new();
                    for (webhook, fingerprint) in fingerprints {
                        let fingerprint = key.keyed(&fingerprint);
                        if !webhooks::has_fingerprint(connection, &webhook, &fingerprint)? {
                            changed.push((webhook, fingerprint));
                        }
                    }
                    Ok(changed)
                })
                .await?;
            if changed.is_empty() {
                return Ok(Vec::new());
            }
            self.write(move |connection| {
                let mut switched_on = Vec::new();
                for (webhook, fingerprint) in &changed {
                    if webhooks::set_fingerprint(connection, webhook, fingerprint, now)? {
                        switched_on.push(webhook.clone());
                    }
                }
                Ok(switched_on)
            })
            .await
        })
    }

    fn collect(&self, retention: Retention, now: Timestamp, limit: usize) -> Answer<'_, Collected> {
        Box::pin(async move {
            let expiring = match retention.pending {
                Some(age) => {
                    let before = row::milliseconds(now).saturating_sub(row::duration(age));
                    let ids = self
                        .read_slowly(move |connection| expiry::older(connection, before, limit))
                        .await?;
                    Expiring {
                        ids,
                        before,
                        reason: too_old(age),
                    }
                }
                None => Expiring::default(),
            };
            self.collect_and_expire(retention, expiring, now, limit)
                .await
        })
    }

    fn make_room<'a>(
        &'a self,
        reason: &'a str,
        now: Timestamp,
        needed: u64,
        limit: usize,
    ) -> Answer<'a, Collected> {
        Box::pin(async move {
            let limit = self
                .read_slowly(move |connection| room::rows(connection, needed, limit))
                .await?;
            for retention in FOR_ROOM {
                let none = Expiring::default();
                let collected = self.collect_and_expire(retention, none, now, limit).await?;
                if !collected.is_empty() {
                    return Ok(collected);
                }
            }
            let ids = self
                .read_slowly(move |connection| expiry::oldest_of_largest_backlog(connection, limit))
                .await?;
            let [.., retention] = FOR_ROOM;
            let expiring = Expiring {
                ids,
                before: i64::MAX,
                reason: reason.to_owned(),
            };
            self.collect_and_expire(retention, expiring, now, limit)
                .await
        })
    }

    fn space(&self) -> Answer<'_, Space> {
        let (path, identity) = (self.shared.path.clone(), self.shared.identity);
        Box::pin(self.read(move |connection| schema::space(connection, &path, identity)))
    }
}

impl SqliteStore {
    /// Removes rows by `retention`, and makes the `expiring` deliveries dead.
    async fn collect_and_expire(
        &self,
        retention: Retention,
        expiring: Expiring,
        now: Timestamp,
        limit: usize,
    ) -> Result<Collected, StoreError> {
        let garbage = guard(&self.shared.garbage).take();
        let before = garbage.clone();
        let result = self
            .remove(move |connection| {
                let mut garbage = before.clone();
                let expired = expiry::expire(connection, &expiring, now)?;
                let collected =
                    retention::collect(connection, &mut garbage, &retention, now, limit)?;
                Ok((
                    Collected {
                        expired,
                        ..collected
                    },
                    garbage,
                ))
            })
            .await;
        match result {
            Ok((collected, rest)) => {
                guard(&self.shared.garbage).put_back(rest);
                if collected.n_payloads > 0 {
                    // The log may still contain the removed contents.
                    self.shared.writer.truncate_log();
                }
                Ok(collected)
            }
            Err(error) => {
                guard(&self.shared.garbage).put_back(garbage);
                Err(error)
            }
        }
    }
}
