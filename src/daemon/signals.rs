//! The signals of the process.
//!
//! Constraint: the daemon notices a signal to stop even while it waits for a database that does not
//! answer. Other signals that arrive during the wait are handled after it.

use std::collections::BTreeSet;
use std::ffi::c_int;

use futures_util::{Stream, StreamExt};
use signal_hook::consts::{SIGINT, SIGTERM};

/// A stream of signals, and the received signals that are not handled yet.
pub(crate) struct Signals<S> {
    stream: S,
    waiting: BTreeSet<c_int>,
}

impl<S: Stream<Item = c_int> + Unpin> Signals<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            waiting: BTreeSet::new(),
        }
    }

    /// Returns the next signal, or SIGTERM at the end of the stream.
    pub(crate) async fn next(&mut self) -> c_int {
        match self.waiting.pop_first() {
            Some(signal) => signal,
            None => self.stream.next().await.unwrap_or(SIGTERM),
        }
    }

    /// Runs `work` to its end. Returns `None` if a signal to stop arrives first.
    pub(crate) async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.stop() => None,
        }
    }

    /// Waits for a signal to stop.
    pub(crate) async fn stop(&mut self) {
        while let Some(signal) = self.stream.next().await {
            if signal == SIGTERM || signal == SIGINT {
                return;
            }
            self.waiting.insert(signal);
        }
        std::future::pending().await
    }
}
