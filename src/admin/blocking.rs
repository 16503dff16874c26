//! Reads and changes the store for the API, on threads of their own.
//!
//! Constraint: requests delay neither the engine nor the queues. So they have their own connections, and
//! only a few at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Admin;
use super::error::ApiError;
use crate::store::{Listings, Operations};

/// The maximum number of reads at the same time.
const READS: usize = 4;

/// The maximum number of test requests at the same time.
const TESTS: usize = 4;

/// The bounds of concurrent work for the API.
pub(crate) struct Bounded {
    reads: Arc<Semaphore>,
    /// Changes wait for one another, as commands of an operator do.
    changes: Arc<Semaphore>,
    tests: Arc<Semaphore>,
}

impl Default for Bounded {
    fn default() -> Self {
        Self {
            reads: Arc::new(Semaphore::new(READS)),
            changes: Arc::new(Semaphore::new(1)),
            tests: Arc::new(Semaphore::new(TESTS)),
        }
    }
}

impl Admin {
    /// Reads the recorded state.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Listings) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let config = self.sources.config();
        self.run_read(move || work(&Listings::of(&config)?)).await
    }

    /// Runs work that reads the recorded state.
    pub(super) async fn run_read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        run(&self.bounded.reads, work).await
    }

    /// Changes deliveries or webhooks, and wakes the queues. Ends even if the client leaves.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Operations) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let config = self.sources.config();
        let queues = Arc::clone(&self.queues);
        let done = run(&self.bounded.changes, move || {
            let done = work(&mut Operations::of(&config)?);
            queues.wake_all();
            done
        })
        .await;
        self.sources.forget_states().await;
        done
    }
}

impl Admin {
    /// Prepares a test request. The permit bounds the number of tests at the same time.
    pub(super) async fn prepare<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), ApiError> {
        let busy = || ApiError::unavailable("too many tests are running; try again later");
        let permit = Arc::clone(&self.bounded.tests).try_acquire_owned();
        let permit = permit.map_err(|_| busy())?;
        let prepared = tokio::task::spawn_blocking(work).await;
        Ok((prepared.map_err(|_| busy())??, permit))
    }
}

async fn run<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let stopping = || ApiError::unavailable("the daemon is stopping");
    let permit = Arc::clone(permits).acquire_owned().await;
    let permit = permit.map_err(|_| stopping())?;
    let task = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    task.await.map_err(|_| stopping())?
}
