//! The thread of one webhook's queue.
//!
//! Constraint: a receiver can occupy the thread that reads its answers. For instance, the HTTP
//! library reads a flood of interim answers (`100 Continue`) for seconds before it yields to other
//! tasks. So each queue has its own thread, and nothing waits for the thread's end.

use std::io;
use std::pin::Pin;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// The name of the threads, as `ps -T` shows it.
const NAME: &str = "queue";

/// A queue to run, and the channel that reports its end.
struct Job {
    queue: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: oneshot::Sender<()>,
}

/// A thread that waits for a queue to run. Dropping this value ends the thread.
pub(super) struct QueueThread(oneshot::Sender<Job>);

impl QueueThread {
    /// Starts a thread.
    ///
    /// # Errors
    ///
    /// No more threads or file descriptors are available.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (sender, receiver) = oneshot::channel::<Job>();
        std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let Ok(Job { queue, mut ended }) = receiver.await else {
                        return;
                    };
                    let is_done = tokio::select! {
                        biased;
                        // The future of `run` was dropped.
                        () = ended.closed() => false,
                        () = queue => true,
                    };
                    if is_done {
                        let _ = ended.send(());
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Self(sender))
    }

    /// Runs a queue on the thread. Returns whether the queue ended without a panic.
    ///
    /// If the future is dropped, the queue ends at its next wait.
    pub(super) fn run(
        self,
        queue: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = bool> + Send + 'static {
        let (sender, ended) = oneshot::channel();
        // If the thread has ended, this drops the job, and the future returns false.
        let _ = self.0.send(Job {
            queue: Box::pin(queue),
            ended: sender,
        });
        async move { ended.await.is_ok() }
    }
}
