//! The engine: turns hints into recorded events.
//!
//! Constraint: one thread owns all observed state and loses no change. A missing file counts as
//! removed only if the root is the recorded one.
//!
//! A step observes due projects, judges the observations, and records the result. Each part owns
//! its state:
//!
//! - `event_loop`: takes inputs, and runs the other parts when they are due.
//! - `worker`: runs a step.
//! - `gather`: observes due projects, and the old directories of projects that may have moved.
//! - `observation`: the observations of a step. `held_files` judges their held files.
//! - `judge`: turns observations into a batch. Pure; the rules are in [`crate::domain`].
//! - `portions`: records a large change in several commits.
//! - `actors`: finds the users who made the changes of a step.
//! - `recorder`: commits batches, and reports failures of the store.
//! - `scanner`, `full_scan`: run full scans.
//! - `reported_files`: keeps the files that hints named. Some of them are open.
//! - [`held_removals`]: keeps and reports held removals.
//! - `invalid_files`: keeps and logs invalid files. `unusable` has those outside any project.
//! - `timers`: the times of recurring tasks.
//! - `phase`: the phase of the start, such as the first full scan.
//! - [`root`]: checks whether the root is the recorded one.
//! - `mounts`: checks whether recorded file systems below the root are still mounted.
//! - [`status`]: the state that other threads may read. [`statuses`] has those of several engines.

mod actors;
mod copies;
mod event_loop;
mod full_scan;
mod gather;
mod held_files;
pub(crate) mod held_removals;
mod invalid_files;
mod judge;
mod kept_ids;
pub(crate) mod mounts;
mod observation;
pub(crate) mod phase;
mod portions;
mod recorder;
mod reported_files;
pub(crate) mod root;
mod scanner;
pub(crate) mod status;
pub(crate) mod statuses;
mod timers;
mod unusable;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::QueueHandles;
use crate::domain::rescan::RescanReason;
use crate::hint::{Hint, HintSender};
use crate::store::RepositoryStore;
use crate::traces::Traces;

use held_removals::{Accepted, HeldProjects};

use event_loop::{EventLoop, Inbox};
use status::Status;

/// The capacity of the input channel. A hint that does not fit causes a full scan.
///
/// It is the default size of the kernel's inotify queue. The channel allocates all of it at the
/// start.
const INPUTS: usize = 16_384;

#[derive(Debug)]
pub(crate) enum Input {
    Hint(Box<Hint>),
    /// Set all watches again and run a full scan.
    Rescan(RescanReason),
    /// List the held removals, and send the list as the answer.
    ListHeld(oneshot::Sender<HeldProjects>),
    /// Release the held removals that this token identifies ([`HeldProjects`]).
    Accept(String, oneshot::Sender<Accepted>),
    /// Apply this configuration, and notify the sender. A new layout may take effect later.
    Configure(Arc<Config>, oneshot::Sender<()>),
    Stop,
}

impl From<Hint> for Input {
    fn from(hint: Hint) -> Self {
        Self::Hint(Box::new(hint))
    }
}

/// The engine's thread.
#[derive(Debug)]
pub(crate) struct Engine {
    inputs: SyncSender<Input>,
    status: Arc<Status>,
    thread: JoinHandle<()>,
}

/// The parts of the program that the engine uses.
#[derive(Clone)]
pub(crate) struct Parts {
    pub config: Arc<Config>,
    pub store: RepositoryStore,
    pub clock: Clock,
    pub status: Arc<Status>,
    pub queues: Arc<QueueHandles>,
    pub traces: Option<Arc<Traces>>,
}

impl Engine {
    /// Starts the thread. It calls `on_exit` when it ends, even by a panic.
    pub(crate) fn start(parts: Parts, on_exit: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (inputs, receiver) = sync_channel(INPUTS);
        let has_lost_hints = Arc::new(AtomicBool::new(false));
        let sender = inputs.clone();
        let status = Arc::clone(&parts.status);
        // With several repositories, each log line names its own.
        let span = match parts.config.repository.name_in_keys() {
            Some(repository) => tracing::error_span!("engine", %repository),
            None => tracing::Span::none(),
        };
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                // The guard also runs on a panic, so that the supervisor notices the end.
                let _guard = OnDrop(Some(on_exit));
                let _entered = span.entered();
                let inbox = Inbox {
                    inputs: receiver,
                    has_lost_hints: Arc::clone(&has_lost_hints),
                };
                let hints = HintSender::new(sender, has_lost_hints);
                if let Some(event_loop) = EventLoop::new(parts, inbox, hints) {
                    event_loop.run();
                }
            })?;
        Ok(Self {
            inputs,
            status,
            thread,
        })
    }

    /// Sends an input. Returns whether the engine is still running.
    pub(crate) fn send(&self, input: Input) -> bool {
        self.inputs.send(input).is_ok()
    }

    /// A further sender of inputs.
    pub(crate) fn inputs(&self) -> SyncSender<Input> {
        self.inputs.clone()
    }

    /// Makes a step in progress end after its current portion.
    pub(crate) fn begin_stop(&self) {
        self.status.begin_stop();
    }

    /// Stops the engine and waits for its last commit. Returns false if it panicked.
    pub(crate) fn stop(self) -> bool {
        self.begin_stop();
        let _ = self.inputs.send(Input::Stop);
        self.thread.join().is_ok()
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}
