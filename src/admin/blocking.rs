//! Runs requests, and their reads and changes of the store, on separate threads.
//!
//! Constraint: requests must not delay health, the engine or the queues. So the reads and changes
//! here use their own connections to the store, and only a few of them run at the same time.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::Admin;
use super::error::ApiError;
use super::routes::Server;
use crate::store::{Listings, Operations};

/// The maximum number of reads at the same time.
const READS: usize = 4;

/// The maximum number of test requests at the same time.
const TESTS: usize = 4;

/// The maximum number of downloads at the same time.
const DOWNLOADS: usize = 16;

/// The maximum number of requests that are answered at the same time.
///
/// Further requests wait.
const ANSWERS: usize = 16;

/// How long an answer may continue after the server begins to stop.
const STOP_MAX: Duration = Duration::from_secs(1);

/// The limits of concurrent work for the API.
pub(crate) struct Bounded {
    answers: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Allows one change at a time. Further changes wait.
    changes: Arc<Semaphore>,
    /// Allows one read of the configuration file at a time.
    ///
    /// The file system may hang. Then only one thread hangs.
    files: Arc<Semaphore>,
    tests: Arc<Semaphore>,
}

impl Default for Bounded {
    fn default() -> Self {
        Self {
            answers: Arc::new(Semaphore::new(ANSWERS)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            reads: Arc::new(Semaphore::new(READS)),
            changes: Arc::new(Semaphore::new(1)),
            files: Arc::new(Semaphore::new(1)),
            tests: Arc::new(Semaphore::new(TESTS)),
        }
    }
}

impl Admin {
    /// Reads the recorded state.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Listings) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let config = self.sources.config();
        self.run_read(move || work(&Listings::of(&config)?)).await
    }

    /// Runs `work`, which reads the recorded state through its own connection.
    pub(super) async fn run_read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        run(&self.bounded.reads, work).await
    }

    /// Runs work that reads the configuration file.
    pub(super) async fn read_file<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        run(&self.bounded.files, work).await
    }

    /// Counts the deliveries or events that a change would select. Wakes no queue.
    pub(super) async fn count<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Operations) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let config = self.sources.config();
        self.run_read(move || work(&Operations::of(&config)?)).await
    }

    /// Changes deliveries or webhooks, and wakes the queues.
    ///
    /// A change that has begun finishes even if the client disconnects. A refused request changed
    /// nothing, so it wakes no queue: each woken queue of a webhook that is down sends a probe.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Operations) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let config = self.sources.config();
        let queues = Arc::clone(&self.queues);
        let done = run(&self.bounded.changes, move || {
            let done = work(&mut Operations::of(&config)?);
            if !is_refused(&done) {
                queues.wake_all();
            }
            done
        })
        .await;
        if !is_refused(&done) {
            self.sources.forget_states().await;
        }
        done
    }
}

impl Admin {
    /// Prepares a test request. The permit limits the number of concurrent tests.
    pub(super) async fn prepare<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), ApiError> {
        let busy = || ApiError::unavailable("too many tests are running; try again later");
        let permit = Arc::clone(&self.bounded.tests).try_acquire_owned();
        let permit = permit.map_err(|_| busy())?;
        let prepared = tokio::task::spawn_blocking(work).await;
        Ok((prepared.map_err(failed)??, permit))
    }
}

impl Admin {
    /// Returns a permit for a download, or an error if too many downloads are running.
    pub(super) fn download(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.bounded.downloads).try_acquire_owned();
        place.map_err(|_| {
            ApiError::unavailable(format!(
                "{DOWNLOADS} downloads are running; try again later"
            ))
        })
    }
}

/// Answers a request on a separate thread, because large JSON and pages take time.
///
/// Meanwhile the server's thread can answer health checks. Once an answer has begun, it does not
/// end early if the client disconnects.
pub(super) async fn answer_apart(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let places = Arc::clone(&server.admin.bounded.answers);
    let answer = apart(places, server.stop.clone(), next.run(request)).await;
    answer.unwrap_or_else(IntoResponse::into_response)
}

/// Runs a future on a separate thread.
///
/// # Errors
///
/// The future panics, or takes longer than [`STOP_MAX`] after the server begins to stop.
async fn apart<T: Send + 'static>(
    places: Arc<Semaphore>,
    stop: CancellationToken,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    let place = places.acquire_owned().await.map_err(|_| stopping())?;
    let runtime = Handle::current();
    let run = move || {
        let _place = place;
        runtime.block_on(async {
            let stopped = async {
                stop.cancelled().await;
                tokio::time::sleep(STOP_MAX).await;
            };
            tokio::select! {
                done = work => Some(done),
                () = stopped => None,
            }
        })
    };
    let done = tokio::task::spawn_blocking(run).await;
    done.map_err(failed)?.ok_or_else(stopping)
}

/// Whether the request was refused.
///
/// After other errors, some changes may have been made.
fn is_refused<T>(done: &Result<T, ApiError>) -> bool {
    done.as_ref()
        .is_err_and(|error| error.status.is_client_error())
}

async fn run<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = Arc::clone(permits).acquire_owned().await;
    let permit = permit.map_err(|_| stopping())?;
    let task = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    task.await.map_err(failed)?
}

/// The error while the daemon stops.
fn stopping() -> ApiError {
    ApiError::unavailable("the daemon is stopping")
}

/// The error of a task that panicked or was cancelled. A panic is also logged.
fn failed(error: JoinError) -> ApiError {
    match error.is_panic() {
        true => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request failed unexpectedly; see the log",
        ),
        false => stopping(),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[test]
    fn an_answer_that_takes_long_leaves_the_runtime_free() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (places, stop) = (Arc::new(Semaphore::new(1)), CancellationToken::new());
        let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
        let answered = runtime.block_on(async {
            // This future blocks its thread until the runtime's thread has run `other`.
            let blocking = async move { wait.recv() };
            let other = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                go.send(())
            };
            tokio::join!(apart(places, stop, blocking), other)
        });
        let (answer, other) = answered;
        assert_eq!((answer.unwrap(), other), (Ok(()), Ok(())));
    }

    /// Runs a future apart from a server, and returns the status of its error.
    fn failed_with(
        work: impl Future<Output = ()> + Send + 'static,
        stop: &CancellationToken,
    ) -> StatusCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let places = Arc::new(Semaphore::new(1));
        let answer = runtime.block_on(apart(places, stop.clone(), work));
        answer.unwrap_err().status
    }

    #[test]
    fn a_stop_ends_an_answer() {
        let stop = CancellationToken::new();
        stop.cancel();
        let status = failed_with(std::future::pending(), &stop);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn an_answer_that_panics_is_an_internal_error() {
        let panics = std::future::poll_fn(|_| -> Poll<()> { panic!("this handler has a bug") });
        let status = failed_with(panics, &CancellationToken::new());
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
