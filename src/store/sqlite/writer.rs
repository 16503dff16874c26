//! Who writes: a thread, and callers that may block.
//!
//! Constraint: a write is answered only when it is durable.
//!
//! Operation: writes wait in a line ([`Writer`]). Whoever has the writing connection takes all that
//! waits, up to [`GROUP_MAX`] jobs, and commits it as one transaction, so that a burst costs one
//! write to the disk instead of one each. That is the writer's thread for jobs of asynchronous
//! tasks, and for a caller that may block the caller itself: two switches of threads cost more than
//! the work of a small commit.
//! Where one of the jobs fails, or the commit, everything is undone and each job gets a transaction
//! of its own, so that a large batch that does not fit on the disk does not take small ones with
//! it. (A savepoint for each job would spare the others this, and made every write half as fast:
//! SQLite keeps the page before each change of it once more.)

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::guard;
use super::transaction::transact;
use crate::store::error::Fault;

/// The most jobs that one transaction holds.
const GROUP_MAX: usize = 256;

/// The jobs of asynchronous tasks that can wait before who brings one waits.
const LINE_MAX: usize = 256;

/// How many commits the log holds before an idle moment is used to empty it: about a megabyte.
const COMMITS_IN_LOG: u32 = 16;

/// How long nothing waits before the moment counts as idle.
const IDLE: Duration = Duration::from_millis(50);

/// A job of the writer. It can run again where its transaction failed.
pub(super) trait Write: Send {
    /// Does the work and keeps the result until it is committed.
    fn run(&mut self, connection: &Connection) -> Result<(), Fault>;
    /// Answers: with the result, or with what the transaction failed on.
    fn reply(self: Box<Self>, committed: Result<(), Fault>);
}

struct Task<T, W> {
    work: W,
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

    fn reply(self: Box<Self>, committed: Result<(), Fault>) {
        let Task { result, reply, .. } = *self;
        // Whoever asked may have gone.
        let _ = reply.send(committed.and_then(|()| result.ok_or(Fault::Closed)));
    }
}

/// A job that answers with what `work` returns, once that is durable.
fn write<T: Send + 'static>(
    work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
) -> (Box<dyn Write>, oneshot::Receiver<Result<T, Fault>>) {
    let (reply, answer) = oneshot::channel();
    let job = Box::new(Task {
        work,
        result: None,
        reply,
    });
    (job, answer)
}

/// The writing connection, and the line of jobs that wait for it.
pub(super) struct Writer {
    connection: Mutex<Option<Connection>>,
    line: Mutex<Line>,
    /// Rung when a job came for the thread, or the line was closed.
    came: Condvar,
    /// Bounds the line: a job holds a permit until it is answered.
    room: Arc<Semaphore>,
    /// Commits since the log was last emptied.
    n_commits: AtomicU32,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<(Box<dyn Write>, Option<OwnedSemaphorePermit>)>,
    is_closed: bool,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Mutex::new(Some(connection)),
            line: Mutex::default(),
            came: Condvar::new(),
            room: Arc::new(Semaphore::new(LINE_MAX)),
            n_commits: AtomicU32::new(0),
        }
    }

    /// Takes no more jobs; the thread commits what waits and ends.
    pub(super) fn close(&self) {
        guard(&self.line).is_closed = true;
        self.came.notify_all();
    }

    /// Writes on the writer's thread.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (job, answer) = write(work);
        let permit = Arc::clone(&self.room).acquire_owned().await;
        self.queue(job, permit.ok())?;
        self.came.notify_one();
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Writes on the caller's thread, together with what waits.
    pub(super) fn write_here<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (job, mut answer) = write(work);
        // Without a permit: whoever comes here is one thread, and waits.
        self.queue(job, None)?;
        loop {
            let connection = guard(&self.connection);
            // The thread may have done the job meanwhile.
            match answer.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Closed) => return Err(Fault::Closed),
                Err(TryRecvError::Empty) => {}
            }
            // It waits in line, since nobody else has the connection.
            let connection = connection.as_ref().ok_or(Fault::Closed)?;
            self.commit_waiting(connection);
        }
    }

    fn queue(
        &self,
        job: Box<dyn Write>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Fault> {
        let mut line = guard(&self.line);
        if line.is_closed {
            return Err(Fault::Closed);
        }
        line.jobs.push_back((job, permit));
        Ok(())
    }
}

/// What a thread that ends leaves behind: nothing is accepted that nobody would answer.
struct End<'a>(&'a Writer);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let unanswered = {
            let mut line = guard(&self.0.line);
            line.is_closed = true;
            std::mem::take(&mut line.jobs)
        };
        drop(unanswered);
        guard(&self.0.connection).take();
    }
}

impl Writer {
    /// The thread's work: commits what waits, until the line is closed. While nothing waits it moves
    /// what was committed from the log into the database by a connection of its own, so that no
    /// commit has to do it, which would make one in some thirty take ten times as long.
    pub(super) fn run(&self, checkpointer: &Connection) {
        let _end = End(self);
        while self.wait(checkpointer) {
            if let Some(connection) = guard(&self.connection).as_ref() {
                self.commit_waiting(connection);
            }
        }
    }

    /// Waits until there are jobs. False when there are none and none will come.
    fn wait(&self, checkpointer: &Connection) -> bool {
        let mut line = guard(&self.line);
        while line.jobs.is_empty() && !line.is_closed {
            if self.n_commits.load(Ordering::Relaxed) < COMMITS_IN_LOG {
                line = self.came.wait(line).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (back, waited) = self
                .came
                .wait_timeout(line, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            line = back;
            if waited.timed_out() && line.jobs.is_empty() {
                drop(line);
                self.n_commits.store(0, Ordering::Relaxed);
                checkpoint(checkpointer);
                line = guard(&self.line);
            }
        }
        !line.jobs.is_empty()
    }

    /// Commits what waits in line, as far as one transaction takes it.
    fn commit_waiting(&self, connection: &Connection) {
        let (group, permits): (Vec<_>, Vec<_>) = {
            let mut line = guard(&self.line);
            let n_jobs = line.jobs.len().min(GROUP_MAX);
            line.jobs.drain(..n_jobs).unzip()
        };
        if group.is_empty() {
            return;
        }
        commit_group(connection, group);
        drop(permits);
        self.count_commit();
    }

    /// Counts a commit, and rings for the thread when there are enough to empty the log: it may sleep
    /// without end. Not for each that is more, which would cost two switches of threads; but now and
    /// then, since a ring is lost while the thread is on its way to sleep.
    fn count_commit(&self) {
        let before = self.n_commits.fetch_add(1, Ordering::Relaxed);
        if before.saturating_add(1).is_multiple_of(COMMITS_IN_LOG) {
            self.came.notify_one();
        }
    }
}

fn commit_group(connection: &Connection, mut group: Vec<Box<dyn Write>>) {
    let committed = attempt(connection, &mut group);
    match committed {
        // Where another process keeps the database busy, each would wait for it again.
        Err(fault) if group.len() > 1 && !matches!(fault, Fault::Busy(_)) => {
            for mut job in group {
                let committed = attempt(connection, std::slice::from_mut(&mut job));
                job.reply(committed);
            }
        }
        committed => {
            for job in group {
                job.reply(committed.clone());
            }
        }
    }
}

/// Runs the jobs in one transaction. After an error nothing of it is there.
fn attempt(connection: &Connection, group: &mut [Box<dyn Write>]) -> Result<(), Fault> {
    transact(connection, |connection| {
        group.iter_mut().try_for_each(|job| job.run(connection))
    })
}

/// Moves what is in the log into the database, as far as readers allow. What remains, and what a
/// failure leaves, is done by the next, or by a commit when the log has grown long.
fn checkpoint(connection: &Connection) {
    let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(error) = done {
        tracing::debug!(%error, "the log could not be moved into the database");
    }
}
