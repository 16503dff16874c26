//! The engine: turns hints into recorded events.
//!
//! Constraint: one thread owns all observed state of a repository and loses no change. The engine
//! treats a missing file as removed only if the root is trusted ([`root`]).
//!
//! A step observes due projects, judges the observations, and records the result. Each part owns
//! its state:
//!
//! - `event_loop`: receives inputs, and runs the other parts when they are due.
//! - [`commands`]: passes commands to the engine. The supervisor never waits to send a command.
//! - `worker`: runs a step.
//! - `gather`: observes due projects, and the old directories of projects that may have moved.
//! - `observation`: the observations of a step.
//! - `held_files`: infers the events of reported files that are no longer in their project.
//! - `copies`: remembers which of several projects with the same id are still in their directories.
//! - `kept_ids`: finds recorded projects whose id is not in their definition.
//! - `judge`: turns observations into a batch for the store. Pure; the rules are in
//!   [`crate::domain`].
//! - `portions`: records a large change in several commits.
//! - `actors`: finds the users who made the changes of a step.
//! - `recorder`: commits batches, and reports failures of the store.
//! - `scanner`, `full_scan`: run full scans.
//! - `reported_files`: keeps the files that hints named until their projects are observed.
//! - [`held_removals`]: stores held removals for a restart, and reports them.
//! - `invalid_files`: keeps and logs invalid files.
//! - `unusable`: checks entries outside any project that the daemon cannot use, such as links.
//! - `timers`: the times of recurring tasks.
//! - `phase`: whether the engine is starting, adopting (recording without events) or running.
//! - [`root`]: checks whether the root may be compared with the record.
//! - `mounts`: checks whether recorded file systems below the root are still mounted.
//! - [`status`]: the state that other threads may read. [`statuses`] merges the states of all
//!   engines.

mod actors;
pub(crate) mod commands;
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
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::QueueHandles;
use crate::hint::{Hint, HintSender};
use crate::store::RepositoryStore;
use crate::traces::Traces;

use commands::Commands;
use event_loop::{EventLoop, Inbox, Watched};
use status::Status;

/// The capacity of the input channel.
///
/// If it is full and a hint of a change is lost, a full scan follows. The capacity is the default
/// size of the kernel's inotify queue. The channel allocates memory for all inputs at the start.
const INPUTS: usize = 16_384;

/// The time between two checks whether the repository's former engine has ended.
const FORMER_AGAIN: Duration = Duration::from_millis(100);

/// After this time without progress, a thread is considered stuck.
///
/// This applies to the engine and the watch thread. The engine reports progress before each file
/// that it reads. Reading a file of the maximum size takes less time, even from a slow disk.
pub(crate) const STANDSTILL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) enum Input {
    Hint(Box<Hint>),
    /// A command is pending, or the engine must stop.
    Wake,
}

impl From<Hint> for Input {
    fn from(hint: Hint) -> Self {
        Self::Hint(Box::new(hint))
    }
}

/// The handle of an engine's thread.
///
/// If this value is dropped before [`Engine::begin`], the thread ends without recording anything.
#[derive(Debug)]
pub(crate) struct Engine {
    commands: Commands,
    status: Arc<Status>,
    thread: JoinHandle<()>,
    /// The result of starting the watch thread.
    started: Option<oneshot::Receiver<io::Result<()>>>,
    /// Signals [`Engine::begin`] to the thread.
    go: SyncSender<()>,
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
    ///
    /// `former` is cancelled when the former engine of the repository has ended. The thread does
    /// not touch the repository earlier.
    pub(crate) fn start(
        parts: Parts,
        former: Option<CancellationToken>,
        on_exit: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(INPUTS);
        let has_lost_hints = Arc::new(AtomicBool::new(false));
        let commands = Commands::new(sender.clone());
        let pending = commands.pending();
        let (starting, started) = oneshot::channel();
        let (go, may_begin) = sync_channel(1);
        let status = Arc::clone(&parts.status);
        // With several repositories, each log line of an engine names its repository.
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
                    commands: pending,
                    has_lost_hints: Arc::clone(&has_lost_hints),
                };
                let hints = HintSender::new(sender, has_lost_hints);
                while former.as_ref().is_some_and(|former| !former.is_cancelled()) {
                    if parts.status.is_stopping() {
                        return;
                    }
                    std::thread::sleep(FORMER_AGAIN);
                }
                let watched = match event_loop::start_watch(&parts, hints) {
                    Ok(watch) => Watched { inbox, watch },
                    Err(error) => return drop(starting.send(Err(error))),
                };
                let _ = starting.send(Ok(()));
                if may_begin.recv().is_err() || parts.status.is_stopping() {
                    return;
                }
                if let Some(event_loop) = EventLoop::new(parts, watched) {
                    event_loop.run();
                }
            })?;
        Ok(Self {
            commands,
            status,
            thread,
            started: Some(started),
            go,
        })
    }

    /// Waits until the watch thread has started. Does not wait for the repository.
    pub(crate) async fn started(&mut self) -> io::Result<()> {
        let ended = || Err(io::Error::other("the thread of the engine ended"));
        match self.started.take() {
            Some(started) => started.await.unwrap_or_else(|_| ended()),
            None => Ok(()),
        }
    }

    /// Lets the engine infer and record events.
    pub(crate) fn begin(&self) {
        let _ = self.go.try_send(());
    }

    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// Makes the engine stop. A step in progress records no further portions.
    pub(crate) fn begin_stop(&self) {
        self.status.begin_stop();
        self.commands.wake();
        // If the engine has not begun, this wakes its thread, which then sees the stop.
        self.begin();
    }

    /// Waits for the end of the thread. Returns false if it panicked.
    pub(crate) fn join(self) -> bool {
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
