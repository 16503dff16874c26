//! What is finished and old is removed.
//!
//! Constraint: in small batches with a pause between them, so that it never delays recording or
//! delivery, and so that the database does not grow without bound.

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
/// How many rows of a kind are removed in one transaction.
const BATCH: usize = 500;

/// Removes what `retention` no longer keeps, until `stop`.
pub async fn run(
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
                debug!(?collected, "removed what is old");
                PAUSE
            }
            Err(error) => {
                warn!(%error, "what is old cannot be removed; it is tried again");
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
