//! Stops the parts of the daemon in order.

use std::ffi::c_int;
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::join;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Daemon, Signals};
use crate::os;
use crate::store::Store;

/// The reason why the parts are stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The process ends.
    End,
    /// Another process took over. This one waits for its next turn.
    Superseded,
}

/// How the parts stopped.
pub(super) struct Drained {
    /// The engine ended without a panic.
    pub engine_is_fine: bool,
    /// A signal to stop arrived in the meantime.
    pub is_signalled: bool,
}

/// How long requests in progress may take after the daemon was told to stop.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

/// How long closing may take. The database may not answer.
const CLOSE: Duration = Duration::from_secs(3);

/// How long closing may take after a signal to stop immediately.
const CLOSE_IMMEDIATELY: Duration = Duration::from_millis(500);

/// How long the engine may take to end after its store was abandoned.
const ENGINE: Duration = Duration::from_secs(1);

impl Daemon<'_> {
    /// Stops inference, waits for requests in progress, and closes the store.
    ///
    /// A signal in the meantime ends all of that immediately. Each wait has a limit, because a database
    /// or a file system may not answer.
    pub(super) async fn drain(
        self,
        reason: Reason,
        signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    ) -> Drained {
        // Commands that are waiting get no answer.
        drop(self.requests);
        self.engines.begin_stop();
        match reason {
            Reason::End => {
                os::notify_stopping();
                info!("stopping: waiting for requests in progress");
            }
            // systemd would end a service that says that it stops.
            Reason::Superseded => {
                info!("another process took over: waiting for requests in progress");
            }
        }
        self.stop.cancel();
        let mut engines = Box::pin(self.engines.stop());
        let mut engine_ended = None;
        // Requests end also while an engine is stuck.
        let inference = async { engine_ended = Some((&mut engines).await) };
        let is_signalled = wait(self.dispatcher.drain(), inference, signals).await;
        if is_signalled {
            let which = match reason {
                Reason::End => "second ",
                Reason::Superseded => "",
            };
            warn!("stopping immediately after a {which}signal");
        }
        if engine_ended.is_none() {
            self.store.abandon();
            engine_ended = timeout(ENGINE, engines).await.ok();
        }
        if engine_ended.is_none() {
            warn!("inference did not stop in time; the next start repeats its last step");
        }
        let (mut health, background) = (self.health, self.background);
        let others = async {
            health.stop().await;
            background.stop().await;
        };
        let is_signalled = close(self.store, others, is_signalled, signals.stop()).await;
        info!("stopped");
        Drained {
            engine_is_fine: engine_ended.unwrap_or(reason == Reason::End),
            is_signalled,
        }
    }
}

/// Waits for requests in progress and for `others`. Returns whether a signal to stop ended that.
pub(super) async fn wait(
    requests: impl Future<Output = ()>,
    others: impl Future<Output = ()>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) -> bool {
    let requests = async {
        if timeout(DRAIN, requests).await.is_err() {
            warn!(
                "some requests did not finish within {DRAIN:?}; they are sent again after the next start"
            );
        }
    };
    let others = timeout(DRAIN, others);
    tokio::select! {
        _ = join(requests, others) => false,
        () = signals.stop() => true,
    }
}

/// Stops `others` and closes the store. Returns whether a signal to stop arrived, now or before.
pub(super) async fn close(
    store: Store,
    others: impl Future<Output = ()>,
    is_signalled: bool,
    signal: impl Future<Output = ()>,
) -> bool {
    let closed = store.clone();
    let ended = async {
        others.await;
        let _ = tokio::task::spawn_blocking(move || closed.close()).await;
    };
    let limit = if is_signalled {
        CLOSE_IMMEDIATELY
    } else {
        CLOSE
    };
    tokio::select! {
        () = ended => is_signalled,
        () = tokio::time::sleep(limit) => {
            warn!("the store did not close within {limit:?}; the lease in a database ends by itself");
            store.abandon();
            is_signalled
        }
        () = signal => {
            store.abandon();
            true
        }
    }
}
