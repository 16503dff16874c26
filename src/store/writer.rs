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
//! What waits in the journal is written out first, by whoever writes next. Where that fails, its
//! entries too get a transaction each, in their order and as far as they go. While one is left nothing
//! is written but the answers to deliveries that are in their tables ([`Writer::write_apart`]).
//! A read of a few rows may use the connection where it is free ([`Writer::read_here`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::error::Fault;
use super::guard;
use super::journal::{self, Entry};
use super::transaction::transact;
use crate::domain::project::ProjectKey;

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
    /// Whether it may be done before what is in the journal, whose first delivery is this one.
    fn may_precede(&self, delivery: i64) -> bool;
    /// Answers: with the result, or with what the transaction failed on.
    fn reply(self: Box<Self>, committed: Result<(), Fault>);
}

struct Task<T, W> {
    work: W,
    /// The last delivery that it is about, where it is about nothing but deliveries.
    newest: Option<i64>,
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

    fn may_precede(&self, delivery: i64) -> bool {
        self.newest.is_some_and(|newest| newest < delivery)
    }

    fn reply(self: Box<Self>, committed: Result<(), Fault>) {
        let Task { result, reply, .. } = *self;
        // Whoever asked may have gone.
        let _ = reply.send(committed.and_then(|()| result.ok_or(Fault::Closed)));
    }
}

/// A job that answers with what `work` returns, once that is durable.
fn write<T: Send + 'static>(
    newest: Option<i64>,
    work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
) -> (Box<dyn Write>, oneshot::Receiver<Result<T, Fault>>) {
    let (reply, answer) = oneshot::channel();
    let job = Box::new(Task {
        work,
        newest,
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
    /// What is in the journal, in its order. Changed only by who has the connection.
    journal: Mutex<Vec<Arc<Entry>>>,
    /// Is told the webhooks that have deliveries in what was written out.
    told: OnceLock<Told>,
}

/// Is told of a webhook.
pub(super) type Told = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct Line {
    jobs: VecDeque<(Box<dyn Write>, Option<OwnedSemaphorePermit>)>,
    is_closed: bool,
}

impl Writer {
    /// With what is in the journal.
    pub(super) fn new(connection: Connection, journal: Vec<Entry>) -> Self {
        Self {
            journal: Mutex::new(journal.into_iter().map(Arc::new).collect()),
            told: OnceLock::new(),
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

    /// Reads by the writing connection, on the caller's thread, where it is free; gives the work back
    /// where not. What it wrote last is in its cache, while a reading connection has to read each
    /// changed page again: a fourth of the time for a read of one project. Not for long reads, which
    /// writes would wait for. Each statement of the work sees a state of its own: only what this
    /// process writes is the same for all, since nobody else has the connection meanwhile.
    pub(super) fn read_here<T, W>(&self, work: W) -> Result<Result<T, Fault>, W>
    where
        W: FnOnce(&Connection) -> Result<T, Fault>,
    {
        let connection = match self.connection.try_lock() {
            Ok(connection) => connection,
            Err(_) => return Err(work),
        };
        match connection.as_ref() {
            Some(connection) => Ok(work(connection)),
            None => Err(work),
        }
    }

    /// Writes on the writer's thread.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.write_queued(None, work).await
    }

    /// The same for what changes nothing but deliveries, of which `newest` has the highest number:
    /// where all of them are in their tables it does not wait for a journal that cannot be written
    /// out. The lane of a delivery in the journal was empty when it came there, so that the order
    /// of the two makes no difference.
    pub(super) async fn write_apart<T: Send + 'static>(
        &self,
        newest: i64,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.write_queued(Some(newest), work).await
    }

    async fn write_queued<T: Send + 'static>(
        &self,
        newest: Option<i64>,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (job, answer) = write(newest, work);
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
        let (job, mut answer) = write(None, work);
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

    /// Has `told` told of what is written out from now on. The first one counts.
    pub(super) fn tell(&self, told: Told) {
        let _ = self.told.set(told);
    }

    /// Journals what `work` makes of what waits already, where nobody else writes and there is room.
    /// Nothing where it was not journaled, for whatever reason: then nothing was changed.
    pub(super) fn journal<T>(
        &self,
        work: impl FnOnce(&Connection, &[Arc<Entry>]) -> Result<Option<(Entry, T)>, Fault>,
    ) -> Option<T> {
        let connection = match self.connection.try_lock() {
            Ok(connection) => connection,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let connection = connection.as_ref()?;
        {
            let line = guard(&self.line);
            if line.is_closed || !line.jobs.is_empty() {
                return None;
            }
        }
        let waiting = self.waiting();
        if waiting.len() >= journal::WAITING_MAX {
            return None;
        }
        match transact(connection, |connection| work(connection, &waiting)) {
            Ok(Some((entry, result))) => {
                guard(&self.journal).push(Arc::new(entry));
                self.count_commit();
                Some(result)
            }
            Ok(None) => None,
            Err(fault) => {
                tracing::debug!(%fault, "a batch could not be journaled; it is recorded without");
                None
            }
        }
    }

    fn waiting(&self) -> Vec<Arc<Entry>> {
        guard(&self.journal).clone()
    }

    /// Whether the record of one of these projects is to be written out.
    pub(super) fn is_waiting_for(&self, keys: &[ProjectKey]) -> bool {
        let journal = guard(&self.journal);
        journal
            .iter()
            .any(|entry| keys.iter().any(|key| entry.is_about(key)))
    }

    /// Writes out what is in the journal, on the caller's thread.
    pub(super) fn write_out(&self) -> Result<(), Fault> {
        if self.has_journal() {
            self.write_here(|_| Ok(()))?;
        }
        Ok(())
    }

    /// Whether anything is in the journal.
    pub(super) fn has_journal(&self) -> bool {
        !guard(&self.journal).is_empty()
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
        // What is in the journal still. Where that fails the next start does it.
        if let Some(connection) = guard(&self.connection).as_ref() {
            self.commit_waiting(connection);
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

    /// Commits what waits in the journal and in line, as far as one transaction takes it.
    fn commit_waiting(&self, connection: &Connection) {
        let (group, permits): (Vec<_>, Vec<_>) = {
            let mut line = guard(&self.line);
            let n_jobs = line.jobs.len().min(GROUP_MAX);
            line.jobs.drain(..n_jobs).unzip()
        };
        if group.is_empty() && !self.has_journal() {
            return;
        }
        self.commit_group(connection, group);
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

    fn commit_group(&self, connection: &Connection, mut group: Vec<Box<dyn Write>>) {
        let committed = self.attempt(connection, &mut group);
        let n_parts = group.len().saturating_add(self.waiting().len());
        match committed {
            // Where another process keeps the database busy, each would wait for it again.
            Err(fault) if n_parts > 1 && !matches!(fault, Fault::Busy(_)) => {
                let written_out = self.write_out_each(connection);
                for mut job in group {
                    let committed = match &written_out {
                        Ok(()) => self.attempt(connection, std::slice::from_mut(&mut job)),
                        Err((first, _)) if job.may_precede(*first) => {
                            transact(connection, |connection| job.run(connection))
                        }
                        Err((_, fault)) => Err(fault.clone()),
                    };
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

    /// Writes out the journal and runs the jobs, in one transaction. After an error nothing of it is
    /// there.
    fn attempt(&self, connection: &Connection, group: &mut [Box<dyn Write>]) -> Result<(), Fault> {
        let waiting = self.waiting();
        transact(connection, |connection| {
            for entry in &waiting {
                journal::write_out(connection, entry)?;
            }
            group.iter_mut().try_for_each(|job| job.run(connection))
        })?;
        self.written_out(&waiting);
        Ok(())
    }

    /// Writes out the journal, each entry in a transaction of its own, up to one that fails. Returns
    /// the first delivery of that one and why it does.
    fn write_out_each(&self, connection: &Connection) -> Result<(), (i64, Fault)> {
        for entry in self.waiting() {
            transact(connection, |connection| {
                journal::write_out(connection, &entry)
            })
            .map_err(|fault| (entry.id(), fault))?;
            self.written_out(std::slice::from_ref(&entry));
        }
        Ok(())
    }

    /// The first entries of the journal, these, are in their tables.
    fn written_out(&self, entries: &[Arc<Entry>]) {
        if entries.is_empty() {
            return;
        }
        guard(&self.journal).drain(..entries.len());
        if let Some(told) = self.told.get() {
            let webhooks = entries.iter().flat_map(|entry| entry.webhooks());
            webhooks.for_each(told);
        }
    }
}

/// Moves what is in the log into the database, as far as readers allow. What remains, and what a
/// failure leaves, is done by the next, or by a commit when the log has grown long.
fn checkpoint(connection: &Connection) {
    let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(error) = done {
        tracing::debug!(%error, "the log could not be moved into the database");
    }
}
