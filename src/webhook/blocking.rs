//! Runs blocking work on other threads: resolving names, reading files, building large requests.
//!
//! Constraint: such work must not block the thread on which a webhook sends. All webhooks share the
//! threads of this module, because a webhook rarely needs one. If a DNS server or a file system
//! does not answer, a thread stays busy long after the request timed out. So a webhook uses only a
//! few of these threads at a time.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// The maximum number of threads that one [`BlockingThreads`] uses at a time.
///
/// A webhook has two values of this type: one for host names, and one for other work. The runtime
/// has up to 512 threads.
const AT_ONCE: usize = 8;

/// At most [`AT_ONCE`] blocking threads of the runtime in which a webhook's client was made.
#[derive(Clone, Debug)]
pub(super) struct BlockingThreads {
    runtime: Option<Handle>,
    free: Arc<Semaphore>,
}

impl BlockingThreads {
    /// Returns the threads of the current runtime.
    ///
    /// Without one, [`Self::run`] uses the runtime in which it is called.
    pub(super) fn current() -> Self {
        Self {
            runtime: Handle::try_current().ok(),
            free: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Runs work on one of the threads, once one is free.
    ///
    /// Returns `None` if the runtime is shutting down or the work panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let runtime = self.runtime.clone().unwrap_or_else(Handle::current);
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        let work = move || {
            let result = work();
            // Release the permit only now, even if nobody waits for the result any more.
            drop(permit);
            result
        };
        runtime.spawn_blocking(work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_uses_few_threads() {
        let threads = BlockingThreads::current();
        let (hold, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for _ in 0..3 * AT_ONCE {
            let held = Arc::clone(&held);
            let hangs = move || held.lock().unwrap_or_else(PoisonError::into_inner).recv();
            // The timeout ends the wait for work that has begun, or that waits for a thread.
            let ended = tokio::time::timeout(Duration::ZERO, threads.run(hangs)).await;
            assert!(ended.is_err());
        }
        assert_eq!(threads.free.available_permits(), 0);
        // The work of another webhook still gets a thread.
        assert_eq!(BlockingThreads::current().run(|| 7).await, Some(7));
        drop(hold);
        assert_eq!(threads.run(|| 7).await, Some(7));
    }
}
