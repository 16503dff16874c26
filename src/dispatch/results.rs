//! Records the results of attempts in groups.
//!
//! Constraint: a project is released only when the result of its attempt is recorded. Recording is
//! retried until it works: sending again instead would be a second callback for one event. Results
//! are recorded in groups, so that a burst costs the store few commits.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::attempt::AttemptResult;
use super::{Shared, next_of};
use crate::domain::delivery::Verdict;
use crate::domain::project::ProjectKey;
use crate::store::Finish;

/// The pause before the store is asked again after it failed.
pub(super) const STORE_PAUSE: Duration = Duration::from_secs(1);

/// How many results may be unrecorded before no more is sent.
///
/// A kill makes these attempts again, as well as those being recorded and those without an answer.
/// Half as many would cost a fifth of the throughput of a burst (measured: 5,100 to 5,500 calls a
/// second instead of 6,500).
const UNRECORDED_MAX: usize = 64;

/// How many results are recorded at once, and how long one waits for others at most.
///
/// Without this wait the commits of a burst had 13 results (counted), each with pages that the next
/// commit writes again.
const GROUP: usize = 32;
const GROUP_WAIT: Duration = Duration::from_millis(10);

/// The results of one webhook's attempts that are not recorded yet.
#[derive(Default)]
pub(super) struct Results {
    waiting: Vec<AttemptResult>,
    /// The monotonic time of the oldest waiting result.
    oldest_at: Duration,
    /// Whether a result that switches the webhook off is not recorded yet.
    is_switching_off: bool,
    /// The recording in progress, at most one. It returns the deliveries to release.
    recording: JoinSet<Vec<(ProjectKey, i64)>>,
}

impl Results {
    /// Adds a result at this monotonic time.
    pub(super) fn push(&mut self, result: AttemptResult, now: Duration) {
        self.is_switching_off |= result.finish.verdict == Verdict::SwitchOff;
        if self.waiting.is_empty() {
            self.oldest_at = now;
        }
        self.waiting.push(result);
    }

    /// Whether nothing more may be sent before the next recording.
    pub(super) fn blocks_sending(&self) -> bool {
        self.waiting.len() >= UNRECORDED_MAX || self.is_switching_off
    }

    pub(super) fn is_recording(&self) -> bool {
        !self.recording.is_empty()
    }

    /// Returns how long to wait before the next recording; `None` without one to come.
    ///
    /// `is_idle` means that no attempt is in flight whose result could join.
    pub(super) fn wait(&self, is_idle: bool, now: Duration) -> Option<Duration> {
        if self.waiting.is_empty() || self.is_recording() {
            None
        } else if is_idle || self.is_switching_off || self.waiting.len() >= GROUP {
            Some(Duration::ZERO)
        } else {
            Some(GROUP_WAIT.saturating_sub(now.saturating_sub(self.oldest_at)))
        }
    }

    /// Starts to record the waiting results, if their wait is over.
    pub(super) fn record(
        &mut self,
        is_idle: bool,
        shared: &Arc<Shared>,
        webhook: &str,
        stop: &CancellationToken,
    ) {
        if self.wait(is_idle, shared.clock.moment()) != Some(Duration::ZERO) {
            return;
        }
        let (recorded, finished): (Vec<(ProjectKey, i64)>, Vec<Finish>) =
            std::mem::take(&mut self.waiting)
                .into_iter()
                .map(|result| ((result.project, result.finish.delivery), result.finish))
                .unzip();
        let (shared, webhook, stop) = (Arc::clone(shared), webhook.to_owned(), stop.clone());
        self.recording.spawn(async move {
            record(&shared, &webhook, finished.into(), &stop).await;
            recorded
        });
    }

    /// Waits for the end of the recording; returns the deliveries to release, each with the project
    /// it was claimed for.
    pub(super) async fn recorded(&mut self) -> Option<Vec<(ProjectKey, i64)>> {
        next_of(&mut self.recording).await
    }

    /// Whether the store knows now that the receiver switched the webhook off.
    pub(super) fn take_switched_off(&mut self) -> bool {
        self.waiting.is_empty() && std::mem::take(&mut self.is_switching_off)
    }
}

/// Records results, and retries for as long as the store fails.
async fn record(shared: &Shared, webhook: &str, finished: Arc<[Finish]>, stop: &CancellationToken) {
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
            Err(error) if n_failures == 0 => error!(
                webhook, n_results, %error,
                "cannot save delivery results; retrying. Is the disk full?"
            ),
            Err(error) => debug!(webhook, n_results, %error, "still cannot save delivery results"),
        }
        n_failures = n_failures.saturating_add(1);
        if stop.is_cancelled() && n_failures > 3 {
            // The next start sends them again, with the same ids.
            return;
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
}
