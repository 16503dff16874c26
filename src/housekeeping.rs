//! Removal of deliveries and events after their retention.
//!
//! Constraint: small batches with pauses, so that removal never delays recording or delivery. The
//! database does not grow without bound.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::config::Retention;
use crate::store::Store;

/// The time between two runs.
const INTERVAL: Duration = Duration::from_secs(60);
/// The pause between two batches of one run.
const PAUSE: Duration = Duration::from_millis(20);
/// The most rows of a kind that one transaction removes.
const BATCH: usize = 500;

/// Removes everything older than `retention`, until `stop`.
pub(crate) async fn run(
    store: Store,
    clock: Clock,
    mut retention: watch::Receiver<Retention>,
    stop: CancellationToken,
) {
    loop {
        let kept = *retention.borrow_and_update();
        let pause = match store.collect(kept, clock.now(), BATCH).await {
            Ok(collected) if collected.is_empty() => INTERVAL,
            Ok(collected) => {
                debug!(?collected, "removed old deliveries and events");
                PAUSE
            }
            Err(error) => {
                warn!(%error, "cannot remove old deliveries and events; retrying");
                INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = retention.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}
