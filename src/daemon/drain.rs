//! Stops the parts of the daemon in order.

use std::ffi::c_int;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{info, warn};

use super::Daemon;
use crate::os;

/// How long requests in progress may take after the daemon was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

impl Daemon<'_> {
    /// Stops inference, waits for requests in progress, and closes the store.
    ///
    /// A second signal ends the requests immediately. Returns whether the engine ended without a
    /// panic.
    pub(super) async fn drain(mut self, signals: &mut (impl Stream<Item = c_int> + Unpin)) -> bool {
        // Commands that are waiting get no answer.
        drop(self.requests);
        self.engine.begin_stop();
        os::notify_stopping();
        info!("stopping: waiting for requests in progress");
        self.stop.cancel();
        let engine = self.engine;
        let engine_is_fine = tokio::task::spawn_blocking(move || engine.stop())
            .await
            .unwrap_or(false);
        tokio::select! {
            () = self.dispatcher.drain() => {}
            () = tokio::time::sleep(DRAIN) => {
                warn!("some requests did not finish within {DRAIN:?}; they are sent again after the next start");
            }
            () = second_signal(signals) => warn!("stopping immediately after a second signal"),
        }
        self.health.stop().await;
        self.background.stop().await;
        let store = self.store;
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        info!("stopped");
        engine_is_fine
    }
}

/// Waits for a second SIGTERM or SIGINT.
async fn second_signal(signals: &mut (impl Stream<Item = c_int> + Unpin)) {
    while let Some(signal) = signals.next().await {
        if signal == SIGTERM || signal == SIGINT {
            return;
        }
    }
    std::future::pending().await
}
