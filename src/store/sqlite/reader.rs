//! Reads from the database, on the reader's thread or on the caller's thread.
//!
//! Constraint: a read never waits for a write, cannot write, and reads one consistent state.
//!
//! There are three connections: one on the reader's thread, for asynchronous tasks; one for
//! callers that may block; and one for slow reads.

use std::sync::Mutex;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::guard;
use super::transaction::consistently;
use crate::store::error::Fault;

/// The capacity of the channel to the reader's thread, in reads.
const CHANNEL_SIZE: usize = 256;

/// A job of the reader's thread.
pub(super) type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The channel to the reader's thread, and the other two connections.
pub(super) struct Reader {
    jobs: Mutex<Option<mpsc::Sender<Read>>>,
    direct: Mutex<Option<Connection>>,
    slow: Mutex<Option<Connection>>,
}

impl Reader {
    /// Makes a reader, and the receiving end of its channel for the reader's thread.
    pub(super) fn new(direct: Connection, slow: Connection) -> (Self, mpsc::Receiver<Read>) {
        let (sender, receiver) = mpsc::channel(CHANNEL_SIZE);
        let reader = Self {
            jobs: Mutex::new(Some(sender)),
            direct: Mutex::new(Some(direct)),
            slow: Mutex::new(Some(slow)),
        };
        (reader, receiver)
    }

    /// Closes the channel, and drops the other two connections. Later reads fail.
    pub(super) fn close(&self) {
        guard(&self.jobs).take();
        guard(&self.direct).take();
        guard(&self.slow).take();
    }

    /// Reads on the reader's thread.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(move |connection: &Connection| {
            // The caller may have stopped waiting for the result.
            let _ = reply.send(consistently(connection, work));
        });
        let jobs = guard(&self.jobs).clone().ok_or(Fault::Closed)?;
        jobs.send(job).await.map_err(|_| Fault::Closed)?;
        answer.await.map_err(|_| Fault::Closed)?
    }

    /// Reads on the caller's thread.
    pub(super) fn read_here<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        read_by(&self.direct, work)
    }

    /// Reads on the caller's thread with the connection for slow reads.
    pub(super) fn read_slowly<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        read_by(&self.slow, work)
    }
}

fn read_by<T>(
    connection: &Mutex<Option<Connection>>,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    match guard(connection).as_ref() {
        Some(connection) => consistently(connection, work),
        None => Err(Fault::Closed),
    }
}

/// Runs jobs until all senders are dropped.
pub(super) fn run(connection: &Connection, mut jobs: mpsc::Receiver<Read>) {
    while let Some(job) = jobs.blocking_recv() {
        job(connection);
    }
}
