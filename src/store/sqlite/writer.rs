//! Writes to the database, on the writer's thread or on the caller's thread.
//!
//! Constraint: a write succeeds only when it is durable.
//!
//! Jobs wait in a queue ([`Writer`]). The thread that has the writing connection commits up to
//! [`GROUP_MAX`] queued jobs in one transaction, so a burst costs few disk writes. The writer's
//! thread does this for asynchronous tasks. A caller that may block takes the connection and
//! commits the queued jobs itself, which saves two context switches.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::committer::Committer;
use super::{guard, schema};
use crate::store::error::Fault;

/// The maximum number of jobs in one transaction.
const GROUP_MAX: usize = 256;

/// The maximum number of unfinished jobs of asynchronous tasks. Further tasks wait.
const QUEUE_MAX: usize = 256;

/// The number of commits after which an idle writer checkpoints the log.
///
/// With small commits, the log then has about 1 MB.
const COMMITS_IN_LOG: u32 = 16;

/// The time after which an idle writer tries again to truncate a log in use.
const HELD_AGAIN: Duration = Duration::from_secs(5);

/// The writer is idle when the queue has been empty for this time.
const IDLE: Duration = Duration::from_millis(50);

/// A job of the writer. It can run again if its transaction fails.
pub(super) trait Write: Send {
    /// Runs the job. Keeps the result until the commit.
    fn run(&mut self, connection: &Connection) -> Result<(), Fault>;
    /// Whether the job removes rows, and so frees space. It may then use the reserve.
    fn removes_rows(&self) -> bool;
    /// Sends the result, or the error of the transaction.
    fn reply(self: Box<Self>, committed: Result<(), Fault>);
}

struct Task<T, W> {
    work: W,
    removes_rows: bool,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, Fault>>,
}

impl<T, W> Write for Task<T, W>
where
    T: Send,
    W: FnMut(&Connection) -> Result<T, Fault> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), Fault> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn removes_rows(&self) -> bool {
        self.removes_rows
    }

    fn reply(self: Box<Self>, committed: Result<(), Fault>) {
        let Task { result, reply, .. } = *self;
        // The caller may have stopped waiting for the result.
        let _ = reply.send(committed.and_then(|()| result.ok_or(Fault::Closed)));
    }
}

/// Makes a job, and the receiver of its result.
fn write<T: Send + 'static>(
    removes_rows: bool,
    work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
) -> (Box<dyn Write>, oneshot::Receiver<Result<T, Fault>>) {
    let (reply, answer) = oneshot::channel();
    let job = Box::new(Task {
        work,
        removes_rows,
        result: None,
        reply,
    });
    (job, answer)
}

/// The writing connection and its queue of jobs.
pub(super) struct Writer {
    committer: Mutex<Option<Committer>>,
    queue: Mutex<Queue>,
    /// Wakes the writer's thread for a job, for a checkpoint, or to end.
    wake: Condvar,
    /// Limits jobs of asynchronous tasks. A job keeps its permit until it is finished.
    permits: Arc<Semaphore>,
    /// Counts commits since the last checkpoint of the writer's thread.
    ///
    /// [`Writer::truncate_log`] raises the count to request a checkpoint.
    n_commits: AtomicU32,
    /// Whether the log must be truncated, because it contains removed data.
    must_truncate: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Box<dyn Write>, Option<OwnedSemaphorePermit>)>,
    is_closed: bool,
}

impl Writer {
    pub(super) fn new(committer: Committer) -> Self {
        Self {
            committer: Mutex::new(Some(committer)),
            queue: Mutex::default(),
            wake: Condvar::new(),
            permits: Arc::new(Semaphore::new(QUEUE_MAX)),
            n_commits: AtomicU32::new(0),
            must_truncate: AtomicBool::new(false),
        }
    }

    /// Makes the idle writer truncate the log, because the log contains removed data.
    pub(super) fn truncate_log(&self) {
        // While the queue is locked, the thread is not between its check of the counter and its
        // sleep. So this wake-up is not lost.
        let queue = guard(&self.queue);
        self.must_truncate.store(true, Ordering::Relaxed);
        self.n_commits.fetch_max(COMMITS_IN_LOG, Ordering::Relaxed);
        drop(queue);
        self.wake.notify_one();
    }

    /// Closes the queue. The writer's thread commits the queued jobs and ends.
    pub(super) fn close(&self) {
        guard(&self.queue).is_closed = true;
        self.wake.notify_all();
    }

    /// Queues a job for the writer's thread, and waits for its result.
    ///
    /// A caller of [`Writer::write_here`] may run the job instead.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.run_queued(write(false, work)).await
    }

    /// Like [`Writer::write`], for a job that removes rows and may use the reserve.
    pub(super) async fn remove<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.run_queued(write(true, work)).await
    }

    async fn run_queued<T>(
        &self,
        (job, answer): (Box<dyn Write>, oneshot::Receiver<Result<T, Fault>>),
    ) -> Result<T, Fault> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        self.enqueue(job, permit.ok())?;
        self.wake.notify_one();
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Commits a job and the queued jobs on the caller's thread.
    ///
    /// If another thread has the connection, that thread may run the job.
    pub(super) fn write_here<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (job, mut answer) = write(false, work);
        // This job needs no permit: the caller blocks, so each caller has only one job.
        self.enqueue(job, None)?;
        loop {
            let mut committer = guard(&self.committer);
            // Another thread may have run the job in the meantime.
            match answer.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Closed) => return Err(Fault::Closed),
                Err(TryRecvError::Empty) => {}
            }
            // The job is still queued, because no other thread has the connection.
            let committer = committer.as_mut().ok_or(Fault::Closed)?;
            self.commit_queued(committer);
        }
    }

    fn enqueue(
        &self,
        job: Box<dyn Write>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Fault> {
        let mut queue = guard(&self.queue);
        if queue.is_closed {
            return Err(Fault::Closed);
        }
        queue.jobs.push_back((job, permit));
        Ok(())
    }
}

/// Closes the queue when the writer's thread ends, so that no caller waits forever.
struct End<'a>(&'a Writer);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let unanswered = {
            let mut queue = guard(&self.0.queue);
            queue.is_closed = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(unanswered);
        guard(&self.0.committer).take();
    }
}

impl Writer {
    /// Commits queued jobs until the queue is closed and empty.
    ///
    /// When idle, the thread checkpoints the log with a separate connection. Otherwise some commits
    /// would include a checkpoint and take much longer.
    pub(super) fn run(&self, checkpointer: &Connection, log: &Path) {
        let _end = End(self);
        let mut is_held = false;
        while self.wait(checkpointer, log, &mut is_held) {
            if let Some(committer) = guard(&self.committer).as_mut() {
                self.commit_queued(committer);
            }
        }
    }

    /// Waits for jobs. Meanwhile, checkpoints the log when due.
    ///
    /// Returns false if the queue is closed and empty.
    fn wait(&self, checkpointer: &Connection, log: &Path, is_held: &mut bool) -> bool {
        let mut queue = guard(&self.queue);
        while queue.jobs.is_empty() && !queue.is_closed {
            let is_due = self.n_commits.load(Ordering::Relaxed) >= COMMITS_IN_LOG;
            let patience = if *is_held && !is_due {
                HELD_AGAIN
            } else if !is_due {
                queue = self
                    .wake
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            } else {
                IDLE
            };
            let (back, waited) = self
                .wake
                .wait_timeout(queue, patience)
                .unwrap_or_else(PoisonError::into_inner);
            queue = back;
            if waited.timed_out() && queue.jobs.is_empty() {
                drop(queue);
                self.n_commits.store(0, Ordering::Relaxed);
                *is_held = !self.checkpoint(checkpointer, log);
                queue = guard(&self.queue);
            }
        }
        !queue.jobs.is_empty()
    }

    /// Copies the log into the database, and truncates the log if necessary.
    ///
    /// Truncation is necessary if the log is too large or contains removed data. Returns false if
    /// the truncation failed, for instance because a reader or another process uses the log. A part
    /// of the log that could not be copied is copied later: by the next call, or by a commit when
    /// the log is large.
    fn checkpoint(&self, connection: &Connection, log: &Path) -> bool {
        let checkpoint = |mode: &str| {
            let done = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                let (is_busy, n_pages, n_copied): (bool, i64, i64) =
                    (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(!is_busy && n_pages == n_copied)
            });
            done.unwrap_or_else(|error| {
                tracing::debug!(%error, "cannot copy the write-ahead log into the database; retrying");
                false
            })
        };
        let is_complete = checkpoint("PASSIVE");
        let is_large = schema::log_size(log) > schema::LOG_SIZE.unsigned_abs();
        // Another thread may remove data during the truncation, and request the next one.
        let must_truncate = self.must_truncate.swap(false, Ordering::Relaxed);
        if !is_large && !must_truncate {
            return true;
        }
        let is_truncated = is_complete && checkpoint("TRUNCATE");
        if must_truncate && !is_truncated {
            self.must_truncate.store(true, Ordering::Relaxed);
        }
        is_truncated
    }

    /// Commits queued jobs, at most [`GROUP_MAX`].
    fn commit_queued(&self, committer: &mut Committer) {
        let (group, permits): (Vec<_>, Vec<_>) = {
            let mut queue = guard(&self.queue);
            let n_jobs = queue.jobs.len().min(GROUP_MAX);
            queue.jobs.drain(..n_jobs).unzip()
        };
        if group.is_empty() {
            return;
        }
        committer.commit(group);
        drop(permits);
        self.count_commit();
    }

    /// Counts a commit, and wakes the thread after every [`COMMITS_IN_LOG`] commits.
    ///
    /// The thread may sleep without a timeout. Waking it after each commit would cost two context
    /// switches. If a wake-up is lost because the thread is just going to sleep, later commits wake
    /// the thread.
    fn count_commit(&self) {
        let before = self.n_commits.fetch_add(1, Ordering::Relaxed);
        if before.saturating_add(1).is_multiple_of(COMMITS_IN_LOG) {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reserve::Reserve;
    use super::*;

    /// A lost request would leave the removed contents in the log until the next removal.
    #[test]
    fn a_removal_during_a_truncation_requests_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let connection = schema::open_and_migrate(directory.path()).unwrap();
        let committer = Committer::new(connection, Reserve::take(directory.path())).unwrap();
        let writer = Arc::new(Writer::new(committer));
        writer
            .write_here(|connection| {
                Ok(connection.execute("INSERT INTO webhooks (name) VALUES ('a')", [])?)
            })
            .unwrap();
        writer.truncate_log();
        let reader = schema::open_for_reading(directory.path()).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        reader
            .query_row("SELECT count(*) FROM webhooks", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap();
        let mut checkpointer = schema::open_for_checkpoints(directory.path()).unwrap();
        // The truncation waits for the reader. Meanwhile, rows are removed.
        let other = Arc::clone(&writer);
        let wait = move |_: i32| {
            other.truncate_log();
            reader.execute_batch("COMMIT").is_ok()
        };
        checkpointer.busy_handler(Some(wait)).unwrap();
        let log = schema::log(directory.path());
        assert!(writer.checkpoint(&checkpointer, &log));
        assert!(writer.must_truncate.load(Ordering::Relaxed));
        assert!(writer.checkpoint(&checkpointer, &log));
        assert!(!writer.must_truncate.load(Ordering::Relaxed));
    }
}
