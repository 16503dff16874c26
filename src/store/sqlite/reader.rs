//! Who reads: a thread, and callers that may block.
//!
//! Constraint: a read never waits for a write, cannot write, and what it reads in one job is one
//! consistent state.
//!
//! Operation: one connection for the thread, which answers asynchronous tasks, one for callers that
//! may block, and one for reads that take long.

use std::sync::Mutex;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::guard;
use super::transaction::consistently;
use crate::store::error::Fault;

/// The reads that can wait for the thread before the sender waits.
const CHANNEL_SIZE: usize = 256;

/// A job of the reader.
pub(super) type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The way to the reader's thread, and the connections of callers that may block.
pub(super) struct Reader {
    jobs: Mutex<Option<mpsc::Sender<Read>>>,
    direct: Mutex<Option<Connection>>,
    apart: Mutex<Option<Connection>>,
}

impl Reader {
    /// With the connections of callers that may block. Returns the thread's end as well.
    pub(super) fn new(direct: Connection, apart: Connection) -> (Self, mpsc::Receiver<Read>) {
        let (sender, receiver) = mpsc::channel(CHANNEL_SIZE);
        let reader = Self {
            jobs: Mutex::new(Some(sender)),
            direct: Mutex::new(Some(direct)),
            apart: Mutex::new(Some(apart)),
        };
        (reader, receiver)
    }

    /// Reads no more.
    pub(super) fn close(&self) {
        guard(&self.jobs).take();
        guard(&self.direct).take();
        guard(&self.apart).take();
    }

    /// Reads on the reader's thread.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(move |connection: &Connection| {
            // Whoever asked may have gone.
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

    /// Reads on the caller's thread what takes long, so that the other callers do not wait for it.
    pub(super) fn read_apart<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        read_by(&self.apart, work)
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

/// Reads until there is nobody left to ask.
pub(super) fn run(connection: &Connection, mut jobs: mpsc::Receiver<Read>) {
    while let Some(job) = jobs.blocking_recv() {
        job(connection);
    }
}
