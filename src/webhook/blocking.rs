//! Threads for work that blocks: resolving names, reading files, building large requests.
//!
//! Constraint: each webhook sends on a thread of its own, and such work would keep it busy. Threads for
//! it are shared by all webhooks, because most of the time a webhook needs none.

use tokio::runtime::Handle;

/// The threads of the runtime in which the client of a webhook was made.
#[derive(Clone, Debug)]
pub(super) struct BlockingThreads(Option<Handle>);

impl BlockingThreads {
    /// Takes the threads of the current runtime, if there is one.
    pub(super) fn current() -> Self {
        Self(Handle::try_current().ok())
    }

    /// Runs work on one of the threads. `None` if the runtime shuts down.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let handle = self.0.clone().unwrap_or_else(Handle::current);
        handle.spawn_blocking(work).await.ok()
    }
}
