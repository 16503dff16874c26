//! Stops the parts of the daemon in order.

use std::ffi::c_int;
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::join;
use tokio::time::timeout;
use tracing::{info, warn};

use super::engines::Leaving;
use super::{Daemon, Signals};
use crate::os;
use crate::store::Store;

/// Why the daemon stops its parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The process ends.
    End,
    /// Another process took over. This process becomes a standby.
    Superseded,
}

/// How the parts stopped.
pub(super) struct Drained {
    /// The part that panicked, if any.
    ///
    /// An engine that has not ended is no failure, because its file system may be stuck.
    pub panicked: Option<&'static str>,
    /// Whether a signal to stop arrived during the drain.
    pub is_signalled: bool,
    /// The engines that have not ended.
    pub leaving: Vec<Leaving>,
}

/// How long to wait for requests in progress during a stop.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

/// How long to wait for the store to close. A database may not answer.
const CLOSE: Duration = Duration::from_secs(3);

/// The longest wait for the admin server and the background tasks to end.
const OTHERS: Duration = Duration::from_secs(2);

/// How long to wait for the store to close after a signal to stop immediately.
const CLOSE_IMMEDIATELY: Duration = Duration::from_millis(500);

/// How long to wait for the engines to end once they can record nothing more.
const ENGINES: Duration = Duration::from_secs(1);

impl Daemon<'_> {
    /// Stops inference, waits for requests in progress, and closes the store.
    ///
    /// A signal to stop ends the wait for requests, and shortens the closing of the store. Every
    /// wait has a time limit, because a database or a file system may not answer.
    pub(super) async fn drain(
        self,
        reason: Reason,
        signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    ) -> Drained {
        // Requests that still wait in this channel get no answer.
        drop(self.requests);
        let since = self.clock.now();
        let (engines, mut leaving) = self.engines.stop();
        let limit = match reason {
            Reason::End => {
                os::notify_stopping();
                info!("stopping: waiting for requests in progress");
                DRAIN
            }
            // Do not send `STOPPING=1`, because systemd would then end the service.
            Reason::Superseded => {
                info!("another process took over: waiting for requests in progress");
                ENGINES
            }
        };
        self.stop.cancel();
        let mut have_ended = false;
        // Wait for the engines and the requests at the same time, because an engine may be stuck.
        let inference = async { have_ended = timeout(limit, engines.ended()).await.is_ok() };
        let mut queues_are_fine = true;
        let draining = self.dispatcher.drain();
        let requests = async { queues_are_fine = draining.await };
        let is_signalled = wait(requests, inference, signals).await;
        if is_signalled {
            let which = match reason {
                Reason::End => "second ",
                Reason::Superseded => "",
            };
            warn!("stopping immediately after a {which}signal");
        }
        if !have_ended && reason == Reason::End {
            self.store.abandon();
        }
        let (mut health, background) = (self.health, self.background);
        let others = async {
            health.stop().await;
            background.stop().await;
        };
        let is_signalled = close(self.store, others, is_signalled, signals.stop()).await;
        // The engines can record nothing more. Each ends now, unless its file system is stuck.
        let _ = timeout(ENGINES, engines.ended()).await;
        let engines = engines.ends(since);
        log_stuck(&engines.stuck, reason);
        leaving.extend(engines.stuck);
        info!(
            "{}",
            match reason {
                Reason::Superseded if !is_signalled => "stopped watching",
                _ => "stopped",
            }
        );
        let engine = engines.has_panicked.then_some("the engine");
        let queue = (!queues_are_fine).then_some("a webhook's queue");
        Drained {
            panicked: engine.or(queue),
            is_signalled,
            leaving,
        }
    }
}

/// Logs the repositories whose engines have not ended.
fn log_stuck(stuck: &[Leaving], reason: Reason) {
    if stuck.is_empty() {
        return;
    }
    let stuck: Vec<&str> = stuck.iter().map(Leaving::shown).collect();
    let stuck = stuck.join(", ");
    let consequence = match reason {
        Reason::End => "the next start repeats the last step",
        Reason::Superseded => "the engine records nothing more",
    };
    warn!(
        "inference of {stuck} did not stop in time; {consequence}. Is a disk or network file system stuck?"
    );
}

/// Waits for requests in progress and for `others`. Returns whether a signal to stop ended the
/// wait.
pub(super) async fn wait(
    requests: impl Future<Output = ()>,
    others: impl Future<Output = ()>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) -> bool {
    let requests = async {
        if timeout(DRAIN, requests).await.is_err() {
            warn!("some requests did not finish within {DRAIN:?}; they are sent again later");
        }
    };
    let others = timeout(DRAIN, others);
    tokio::select! {
        _ = join(requests, others) => false,
        () = signals.stop() => true,
    }
}

/// Waits for `others` and closes the store.
///
/// The wait is limited: the store must release its lease even if a part does not end. Returns
/// whether a signal to stop arrived, now or earlier (`is_signalled`).
pub(super) async fn close(
    store: Store,
    others: impl Future<Output = ()>,
    is_signalled: bool,
    signal: impl Future<Output = ()>,
) -> bool {
    let closed = store.clone();
    let limit = if is_signalled {
        CLOSE_IMMEDIATELY
    } else {
        CLOSE
    };
    let ended = async {
        let _ = timeout(OTHERS.min(limit), others).await;
        let closing = tokio::task::spawn_blocking(move || closed.close());
        timeout(limit, closing).await.is_ok()
    };
    tokio::select! {
        is_closed = ended => {
            if !is_closed {
                warn!("the store did not close within {limit:?}; a lease in PostgreSQL expires by itself");
                store.abandon();
            }
            is_signalled
        }
        () = signal => {
            store.abandon();
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::store::MetaKey;

    #[tokio::test]
    async fn a_part_that_does_not_end_does_not_keep_the_store_open() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(close(store.clone(), pending(), true, pending()).await);
        assert!(store.meta_of(None, MetaKey::Layout).is_err());
    }
}
