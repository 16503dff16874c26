//! The thread of the store. Its runtime drives the connections and runs all jobs.
//!
//! Constraint: inference calls the store from threads that block, and queues call it from tasks.
//! Both send a job to this thread and wait for the result of the job. So no connection depends on
//! the runtime of a caller. The number of waiting jobs is bounded, and so is the time that closing
//! takes.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::store::error::{Fault, OpenError};

/// The maximum number of jobs that wait for the thread. Further callers wait.
const JOBS_WAITING: usize = 256;

/// The maximum number of jobs that run at the same time.
const JOBS_RUNNING: usize = 256;

/// How long closing waits at most for jobs to end. Some of the jobs release leases.
///
/// If the database does not answer, the process must still end soon.
const CLOSE_MAX: Duration = Duration::from_secs(3);

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The handle of the thread.
pub(super) struct Worker {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    abandoned: CancellationToken,
    /// Whether a job panicked.
    has_panicked: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread. Error messages contain `location`.
    pub(super) fn start(location: &str) -> Result<Self, OpenError> {
        Self::spawn().map_err(|source| OpenError::Io {
            what: "start a thread for",
            path: location.into(),
            source,
        })
    }

    fn spawn() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (jobs, waiting) = mpsc::channel(JOBS_WAITING);
        let abandoned = CancellationToken::new();
        let is_abandoned = abandoned.clone();
        let has_panicked = Arc::new(AtomicBool::new(false));
        let panicked = Arc::clone(&has_panicked);
        let thread = thread::Builder::new()
            .name("store-postgres".to_owned())
            .spawn(move || {
                runtime.block_on(run(waiting, is_abandoned, &panicked));
                // Dropping the runtime would wait for running look-ups of host names.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            abandoned,
            has_panicked,
        })
    }

    /// Runs a job on the thread, and waits for its result.
    ///
    /// A job that has begun continues even if the caller no longer waits.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        let jobs = super::guard(&self.jobs).clone().ok_or(Fault::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::pin(async move {
            // The caller may no longer wait for the result.
            let _ = reply.send(work.await);
        });
        jobs.send(job).await.map_err(|_| Fault::Closed)?;
        drop(jobs);
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Starts a job on the thread, without waiting for its end.
    pub(super) fn start_job(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Fault> {
        let jobs = super::guard(&self.jobs).clone().ok_or(Fault::Closed)?;
        jobs.try_send(Box::pin(work)).map_err(|_| Fault::Closed)
    }

    /// Runs a job on the thread, and blocks until it has a result.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        block_on(self.run(work))
    }

    /// Whether the thread runs and no job has panicked.
    ///
    /// The job that panicked may be needed until the store closes, such as the renewal of a lease.
    /// The thread goes on with the other jobs until [`Worker::close`], so that results are recorded
    /// and leases released.
    pub(super) fn is_running(&self) -> bool {
        let thread = super::guard(&self.thread);
        let runs = thread.as_ref().is_some_and(|thread| !thread.is_finished());
        runs && !self.has_panicked.load(Ordering::Relaxed)
    }

    /// Ends all jobs immediately. Does not block.
    pub(super) fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// Waits until the jobs have ended, for at most [`CLOSE_MAX`], and ends the thread.
    pub(super) fn close(&self) {
        super::guard(&self.jobs).take();
        if let Some(thread) = super::guard(&self.thread).take() {
            // If the thread panicked, the panic was already reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.close();
    }
}

async fn run(
    mut waiting: mpsc::Receiver<Job>,
    abandoned: CancellationToken,
    has_panicked: &AtomicBool,
) {
    let mut running = JoinSet::new();
    let all = async {
        loop {
            tokio::select! {
                job = waiting.recv(), if running.len() < JOBS_RUNNING => match job {
                    Some(job) => { running.spawn(job); }
                    None => break,
                },
                Some(ended) = running.join_next() => if ended.is_err() {
                    has_panicked.store(true, Ordering::Relaxed);
                },
            }
        }
        let ended = async { while running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_MAX, ended).await;
    };
    // The callers of jobs that are dropped get `Fault::Closed`.
    tokio::select! {
        () = all => {}
        () = abandoned.cancelled() => {}
    }
}

/// Wakes a thread that blocks in [`block_on`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread until a future is ready. This works inside a runtime, too.
///
/// No runtime polls the future, so the future must not use timers or sockets.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn panics() -> Result<(), Fault> {
        panic!("a job panics")
    }

    #[tokio::test]
    async fn a_panic_is_noticed_and_other_jobs_go_on() {
        let worker = Worker::start("nowhere").unwrap();
        assert!(worker.is_running());
        let ended = worker.run(panics()).await;
        assert!(matches!(ended, Err(Fault::Closed)), "{ended:?}");
        let noticed = tokio::time::timeout(Duration::from_secs(60), async {
            while worker.is_running() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        noticed.await.unwrap();
        let other = worker.run(async { Ok(7) }).await;
        assert!(matches!(other, Ok(7)), "{other:?}");
    }
}
