//! Records the results of attempts in groups.
//!
//! Constraint: a project is busy until the result of its attempt is recorded. A failed recording is
//! retried, because an unrecorded delivery would be sent again. Results are recorded in groups, so
//! that a burst needs few commits.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::attempt::AttemptResult;
use super::{Shared, next_of};
use crate::domain::project::ProjectKey;
use crate::error::chain;
use crate::store::{Fault, Finish};

/// How long to wait before calling the store again after a failure.
pub(super) const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The queue stops sending when this many results wait for the next recording.
///
/// If the daemon is killed, it repeats the attempts with unrecorded results after the restart.
/// With half this number, a burst has a fifth less throughput (measured: 5,100 to 5,500 calls a
/// second instead of 6,500).
const UNRECORDED_MAX: usize = 64;

/// The number of results that make a commit start immediately.
const GROUP: usize = 32;
/// The longest time that a result waits for other results, to share one commit.
///
/// Fewer, larger commits write less, because consecutive commits partly write the same pages.
/// Without this wait, the commits of a burst had 13 results on average (counted).
const GROUP_WAIT: Duration = Duration::from_millis(10);

/// The unrecorded results of one webhook's attempts.
#[derive(Default)]
pub(super) struct Results {
    waiting: Vec<AttemptResult>,
    /// The monotonic time at which the oldest result in `waiting` was added.
    oldest_at: Duration,
    /// Whether sending waits until a result that pauses the webhook is recorded.
    is_pausing: bool,
    /// The recording in progress, at most one. It returns the deliveries to release.
    recording: JoinSet<Vec<(ProjectKey, i64)>>,
}

impl Results {
    /// Adds a result at this monotonic time.
    pub(super) fn push(&mut self, result: AttemptResult, now: Duration) {
        self.is_pausing |= result.pauses_webhook();
        if self.waiting.is_empty() {
            self.oldest_at = now;
        }
        self.waiting.push(result);
    }

    /// Whether the queue must not send now. The end of a recording may change this.
    pub(super) fn blocks_sending(&self) -> bool {
        self.waiting.len() >= UNRECORDED_MAX || self.is_pausing
    }

    pub(super) fn is_recording(&self) -> bool {
        !self.recording.is_empty()
    }

    /// Returns how long to wait before the next recording.
    ///
    /// `None` if there is nothing to record, or while a recording is in progress. `is_idle` means
    /// that no attempt is in progress, so no further result can join the recording.
    pub(super) fn wait(&self, is_idle: bool, now: Duration) -> Option<Duration> {
        if self.waiting.is_empty() || self.is_recording() {
            None
        } else if is_idle || self.is_pausing || self.waiting.len() >= GROUP {
            Some(Duration::ZERO)
        } else {
            Some(GROUP_WAIT.saturating_sub(now.saturating_sub(self.oldest_at)))
        }
    }

    /// Starts to record the results, if they have waited long enough.
    pub(super) fn record(
        &mut self,
        is_idle: bool,
        shared: &Arc<Shared>,
        webhook: &str,
        stop_of_all: &CancellationToken,
    ) {
        if self.wait(is_idle, shared.clock.moment()) != Some(Duration::ZERO) {
            return;
        }
        let (recorded, finished): (Vec<(ProjectKey, i64)>, Vec<Finish>) =
            std::mem::take(&mut self.waiting)
                .into_iter()
                .map(|result| ((result.project, result.finish.delivery), result.finish))
                .unzip();
        let (shared, webhook) = (Arc::clone(shared), webhook.to_owned());
        let stop_of_all = stop_of_all.clone();
        self.recording.spawn(async move {
            record(&shared, &webhook, finished.into(), &stop_of_all).await;
            recorded
        });
    }

    /// Waits for the end of the recording in progress. Returns `None` if there is none.
    ///
    /// Returns the deliveries to release, each with its project at the time of the claim.
    pub(super) async fn recorded(&mut self) -> Option<Vec<(ProjectKey, i64)>> {
        next_of(&mut self.recording).await
    }

    /// Whether a result that pauses the webhook was recorded since the last call.
    ///
    /// False while other results wait for the next recording.
    pub(super) fn take_paused(&mut self) -> bool {
        self.waiting.is_empty() && std::mem::take(&mut self.is_pausing)
    }
}

/// Records results. Retries while a retry can succeed.
///
/// After `stop_of_all`, gives up after a few failures, so that the queue ends.
///
/// The queue of a removed webhook also retries. Otherwise its deliveries would be sent again when
/// the webhook is added again.
async fn record(
    shared: &Shared,
    webhook: &str,
    finished: Arc<[Finish]>,
    stop_of_all: &CancellationToken,
) {
    let n_results = finished.len();
    let mut n_failures: u32 = 0;
    loop {
        match shared.store.finish(Arc::clone(&finished)).await {
            Ok(()) => {
                if n_failures > 0 {
                    info!(webhook, n_results, "saved delivery results after retrying");
                }
                return;
            }
            // No retry can succeed. The deliveries are sent again, with the same event ids.
            Err(error) if matches!(error.fault(), Fault::Fenced | Fault::Closed) => {
                debug!(webhook, n_results, %error, "cannot save delivery results any more");
                return;
            }
            Err(error) if n_failures == 0 => error!(
                webhook,
                n_results,
                reason = chain(&error),
                "cannot save delivery results; retrying. Check the disk of state_dir, or the \
                 connection to PostgreSQL"
            ),
            Err(error) => debug!(
                webhook,
                n_results,
                reason = chain(&error),
                "still cannot save delivery results"
            ),
        }
        n_failures = n_failures.saturating_add(1);
        if stop_of_all.is_cancelled() && n_failures > 3 {
            // These deliveries are sent again later, with the same event ids.
            return;
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
}
