//! The two threads: one that writes, one that reads.
//!
//! Constraint: a write is answered only when it is durable, and a read never waits for a write.
//!
//! Operation: the writer takes whatever waits in its channel, up to [`GROUP_MAX`] jobs, and
//! commits it as one transaction, so that a burst costs one write to the disk instead of one each.
//! Where one of the jobs fails, or the commit, everything is undone and each job gets a transaction
//! of its own, so that a large batch that does not fit on the disk does not take small ones with
//! it. (A savepoint for each job would spare the others this, and made every write half as fast:
//! SQLite keeps the page before each change of it once more.) The reader has a connection that
//! cannot write; what it reads in one job is one consistent state.

use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::Fault;

/// The most jobs that one transaction holds.
const GROUP_MAX: usize = 256;

/// The jobs that can wait for a thread before the sender waits.
const CHANNEL_SIZE: usize = 256;

/// A way into a thread; closing it lets the thread finish what waits and end.
pub(super) struct Mailbox<J>(Mutex<Option<mpsc::Sender<J>>>);

impl<J> Mailbox<J> {
    /// A mailbox and the thread's end of it.
    pub(super) fn new() -> (Self, mpsc::Receiver<J>) {
        let (sender, receiver) = mpsc::channel(CHANNEL_SIZE);
        (Self(Mutex::new(Some(sender))), receiver)
    }

    /// Takes no more jobs.
    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn sender(&self) -> Result<mpsc::Sender<J>, Fault> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or(Fault::Closed)
    }

    /// Sends a job and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        job: J,
        answer: oneshot::Receiver<Result<T, Fault>>,
    ) -> Result<T, Fault> {
        self.sender()?.send(job).await.map_err(|_| Fault::Closed)?;
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Sends a job and waits for its answer, on a thread that may wait.
    pub(super) fn ask_blocking<T>(
        &self,
        job: J,
        answer: oneshot::Receiver<Result<T, Fault>>,
    ) -> Result<T, Fault> {
        self.sender()?
            .blocking_send(job)
            .map_err(|_| Fault::Closed)?;
        answer.blocking_recv().map_err(|_| Fault::Closed)?
    }
}

/// A job of the reader.
pub(super) type Read = Box<dyn FnOnce(&Connection) + Send>;

/// A job of the reader that answers with what `work` returns.
pub(super) fn read<T: Send + 'static>(
    work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
) -> (Read, oneshot::Receiver<Result<T, Fault>>) {
    let (reply, answer) = oneshot::channel();
    let job = Box::new(move |connection: &Connection| {
        let result = connection
            .unchecked_transaction()
            .map_err(Fault::from)
            .and_then(|_whole| work(connection));
        // Whoever asked may have gone.
        let _ = reply.send(result);
    });
    (job, answer)
}

/// Reads until the mailbox is closed.
pub(super) fn run_reader(connection: &Connection, mut jobs: mpsc::Receiver<Read>) {
    while let Some(job) = jobs.blocking_recv() {
        job(connection);
    }
}

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

/// A job of the writer that answers with what `work` returns, once that is durable.
pub(super) fn write<T: Send + 'static>(
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

/// Writes until the mailbox is closed and what waits in it is committed.
pub(super) fn run_writer(connection: &Connection, mut jobs: mpsc::Receiver<Box<dyn Write>>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX {
            match jobs.try_recv() {
                Ok(job) => group.push(job),
                Err(_) => break,
            }
        }
        commit_group(connection, group);
    }
}

fn commit_group(connection: &Connection, mut group: Vec<Box<dyn Write>>) {
    match attempt(connection, &mut group) {
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
    let result = run_all(connection, group);
    if result.is_err() && !connection.is_autocommit() {
        // SQLite has often done so itself; where even this fails, the next BEGIN says so.
        let _ = connection.execute_batch("ROLLBACK");
    }
    result
}

fn run_all(connection: &Connection, group: &mut [Box<dyn Write>]) -> Result<(), Fault> {
    // IMMEDIATE: waiting for another process happens here, before anything was done.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for job in group {
        job.run(connection)?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}
