//! Threads for work that blocks: resolving names, reading files, building large requests.
//!
//! Constraint: each webhook sends on a thread of its own, and such work would block it. All
//! webhooks share the threads of this module, because a webhook rarely needs one.

use tokio::runtime::Handle;

/// The threads of the runtime that made the client of a webhook.
#[derive(Clone, Debug)]
pub(super) struct BlockingThreads(Option<Handle>);

impl BlockingThreads {
    /// Returns the threads of the current runtime, if there is one.
    pub(super) fn current() -> Self {
        Self(Handle::try_current().ok())
    }

    /// Runs work on one of the threads. `None` if the runtime is shutting down.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let handle = self.0.clone().unwrap_or_else(Handle::current);
        handle.spawn_blocking(work).await.ok()
    }
}
