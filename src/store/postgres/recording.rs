//! Implements [`Recording`]: reads the record and records batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::record::Recording as Job;
use super::session::{ANSWER_MAX, Session};
use super::{PostgresStore, Shared, guard, names, record, recorded, write};
use crate::domain::project::{ContentHash, Identity, Mark, ProjectKey, Recorded};
use crate::store::batch::{Batch, Change, Committed, MetaKey};
use crate::store::contract::{Recording, Records};
use crate::store::error::{Fault, StoreError};
use crate::store::listing::RecordedProblem;
use crate::store::payload::{Given, prepare};

impl Shared {
    pub(super) async fn session(&self) -> Result<(Session, i32), Fault> {
        Ok((Session::of(&self.pool).await?, self.lease.repository))
    }
}

impl Records for PostgresStore {
    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        let recorded = self.recorded_many(std::slice::from_ref(key))?;
        Ok(recorded.into_iter().next().unwrap_or_default())
    }

    fn keys_of(&self, name: Option<&str>) -> Result<Vec<ProjectKey>, StoreError> {
        let name = name.map(str::to_owned);
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::keys(&mut session, repository, name.as_deref()).await
        })
    }

    fn n_defined_of(&self, name: Option<&str>) -> Result<usize, StoreError> {
        let name = name.map(str::to_owned);
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::n_defined(&mut session, repository, name.as_deref()).await
        })
    }

    fn meta_of(&self, name: Option<&str>, key: MetaKey) -> Result<Option<String>, StoreError> {
        let stored = key.stored(name).into_owned();
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::meta(&mut session, repository, stored).await
        })
    }

    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::problems(&mut session, repository, limit).await
        })
    }
}

impl Recording for PostgresStore {
    fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError> {
        let keys = keys.to_vec();
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::projects(&mut session, repository, &keys).await
        })
    }

    fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError> {
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::marks(&mut session, repository, &keys).await
        })
    }

    fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError> {
        let organization = organization.to_owned();
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::keys_in(&mut session, repository, organization).await
        })
    }

    fn with_identities(&self, wanted: &[Identity]) -> Result<Vec<Vec<ProjectKey>>, StoreError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = wanted.to_vec();
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::with_identities(&mut session, repository, &wanted).await
        })
    }

    fn kept_ids(&self) -> Result<Vec<(ProjectKey, String)>, StoreError> {
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            recorded::kept_ids(&mut session, repository).await
        })
    }

    fn record(&self, mut batch: Batch) -> Result<Committed, StoreError> {
        let payloads = prepare(&mut batch, &self.shared.location, |hashes| {
            self.run_blocking(|shared| async move {
                let (mut session, repository) = shared.session().await?;
                recorded::stored(&mut session, repository, &hashes).await
            })
        })?;
        let replaced: Vec<ContentHash> =
            batch.changes.iter().filter_map(Change::replaced).collect();
        let sent: Vec<ContentHash> = write::large(&payloads).map(|(one, _)| one.hash()).collect();
        let committed = self.run_blocking(|shared| commit(shared, batch, payloads));
        // If the transaction failed, the payloads that were sent before it may be unneeded.
        let unneeded = if committed.is_ok() { replaced } else { sent };
        guard(&self.shared.garbage).add(unneeded);
        committed
    }

    fn name_repositories(&self, names: &[String], _: Timestamp) -> Result<(), StoreError> {
        let names = names.to_vec();
        self.run_blocking(|shared| async move {
            let (mut session, repository) = shared.session().await?;
            let epoch = shared.lease.epoch;
            let result = names::record(&mut session, repository, epoch, &names).await;
            session.end(result).await
        })
    }
}

/// Records a batch in a transaction.
///
/// Engines of several repositories record at the same time. Their batches take turns, because each
/// batch must first find out whether the previous commit succeeded. A waiting batch needs no
/// connection.
async fn commit(
    shared: Arc<Shared>,
    batch: Batch,
    payloads: Vec<Given>,
) -> Result<Committed, Fault> {
    send_large(&shared, &payloads).await?;
    let mut doubt = shared.doubt.lock().await;
    let (mut session, repository) = shared.session().await?;
    let job = Job {
        repository,
        epoch: shared.lease.epoch,
        batch: &batch,
        payloads: &payloads,
        repetition: shared.repetition.load(Ordering::Relaxed),
    };
    let result = job.run(&mut session, &mut doubt).await;
    if doubt.is_open() {
        // The commit may have succeeded, so make the queues look for new deliveries.
        shared.notices.more();
    }
    let record::Outcome {
        committed,
        repetition,
    } = session.end(result).await?;
    shared.repetition.store(repetition, Ordering::Relaxed);
    let n_events = committed.events.len();
    shared
        .statistics
        .changed(batch.changes.len().saturating_add(n_events));
    Ok(committed)
}

/// The lowest expected rate of sending a large payload, in bytes per second.
const RATE_MIN: u64 = 16 * 1024;

/// Sends large payloads before the transaction of their batch.
///
/// Other writers wait for that transaction, so it must be short.
async fn send_large(shared: &Shared, payloads: &[Given]) -> Result<(), Fault> {
    for (given, compressed) in write::large(payloads) {
        let (session, repository) = shared.session().await?;
        let longer = Duration::from_secs(compressed.len() as u64 / RATE_MIN);
        let mut session = session.answers_within(ANSWER_MAX.saturating_add(longer));
        let insert = write::payload(repository, shared.lease.epoch, given, compressed);
        session.rows(insert).await?;
    }
    Ok(())
}
