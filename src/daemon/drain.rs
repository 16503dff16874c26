//! Ends the parts of the daemon in order.

use std::ffi::c_int;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{info, warn};

use super::Daemon;
use crate::os;

/// How long running requests may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

impl Daemon<'_> {
    /// Stops taking in changes, lets running requests finish, and closes the store.
    ///
    /// Returns whether the engine ended without a panic. A second signal ends it at once.
    pub(super) async fn drain(mut self, signals: &mut (impl Stream<Item = c_int> + Unpin)) -> bool {
        // Commands that wait for a reload get no answer.
        drop(self.reload_requests);
        os::notify_stopping();
        info!("stopping: waiting for running requests to finish");
        self.stop.cancel();
        let engine = self.engine;
        let engine_is_fine = tokio::task::spawn_blocking(move || engine.stop())
            .await
            .unwrap_or(false);
        tokio::select! {
            () = self.dispatcher.drain() => {}
            () = tokio::time::sleep(DRAIN) => {
                warn!("some requests are still running after {DRAIN:?}; they are sent again after the next start");
            }
            () = second_signal(signals) => warn!("ending at once after a second signal"),
        }
        self.health.stop().await;
        self.background.stop().await;
        let store = self.store;
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        info!("stopped");
        engine_is_fine
    }
}

/// Waits for a second signal to end.
async fn second_signal(signals: &mut (impl Stream<Item = c_int> + Unpin)) {
    while let Some(signal) = signals.next().await {
        if signal == SIGTERM || signal == SIGINT {
            return;
        }
    }
    std::future::pending().await
}
