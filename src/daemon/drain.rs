//! Stops the parts of the daemon in order.

use std::ffi::c_int;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{info, warn};

use super::Daemon;
use crate::os;

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
const DRAIN: Duration = Duration::from_secs(10);

impl Daemon<'_> {
    /// Stops inference, waits for requests in progress, and closes the store.
    ///
    /// A signal in the meantime ends the requests immediately.
    pub(super) async fn drain(
        mut self,
        reason: Reason,
        signals: &mut (impl Stream<Item = c_int> + Unpin),
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
        let engine_is_fine = self.engines.stop().await;
        let mut is_signalled = false;
        tokio::select! {
            () = self.dispatcher.drain() => {}
            () = tokio::time::sleep(DRAIN) => {
                warn!("some requests did not finish within {DRAIN:?}; they are sent again after the next start");
            }
            () = signal_to_stop(signals) => {
                is_signalled = true;
                let which = match reason {
                    Reason::End => "second ",
                    Reason::Superseded => "",
                };
                warn!("stopping immediately after a {which}signal");
            }
        }
        self.health.stop().await;
        self.background.stop().await;
        let store = self.store;
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        info!("stopped");
        Drained {
            engine_is_fine,
            is_signalled,
        }
    }
}

/// Waits for SIGTERM or SIGINT.
async fn signal_to_stop(signals: &mut (impl Stream<Item = c_int> + Unpin)) {
    while let Some(signal) = signals.next().await {
        if signal == SIGTERM || signal == SIGINT {
            return;
        }
    }
    std::future::pending().await
}
