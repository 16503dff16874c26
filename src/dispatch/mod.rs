//! Sends recorded deliveries as callbacks.
//!
//! Constraint: no webhook waits for another, and the deliveries of one project to one webhook are
//! sent strictly in order. So each webhook has its own `queue`.
//!
//! Pending deliveries stay in the store. A queue *claims* a delivery before sending, so that nobody
//! else sends the same delivery. With SQLite, a claim is only in memory, so a restart drops the
//! claim. With PostgreSQL, the claims are in the database. If a process is killed, its claims are
//! removed after its lease has expired. With SQLite, the engine passes some of the newly committed
//! deliveries directly to the queues. The queues claim all other deliveries from the store.
//!
//! Modules: this file starts, changes and ends the queues. [`targets`] makes the HTTP clients of
//! the webhooks, and [`thread`] makes the threads of the queues. Other tasks use the `handle` of a
//! queue. `queue` is the loop of one webhook. `prefetch` has the claimed deliveries of a queue, and
//! `in_flight` has the attempts in progress. `attempt` makes one attempt. `results` records the
//! results in groups, and `log` logs the results.

mod attempt;
mod handle;
mod in_flight;
mod log;
mod prefetch;
mod queue;
mod results;
mod targets;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::clock::{Clock, Reading};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::traces::Traces;

pub(crate) use handle::QueueHandles;
use targets::Prepared;
use targets::Target;
pub(crate) use targets::{TargetError, Targets, note_configuration};
use thread::QueueThread;

/// A source of jitter from 0 to 1.
pub(crate) type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// The parts that all queues share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) queues: Arc<QueueHandles>,
    /// The source of jitter for retries and probes.
    pub(crate) jitter: Jitter,
    pub(crate) metrics: Arc<Metrics>,
    /// The traces of attempts, if they are on.
    pub(crate) traces: Option<Arc<Traces>>,
}

impl Shared {
    /// Returns the time of day that decides which deliveries are due.
    ///
    /// If other processes may send too, this is the time of the database, which all processes
    /// share.
    fn now(&self) -> Timestamp {
        let shared = self.store.shared_now();
        shared.unwrap_or_else(|| self.clock.now())
    }

    fn reading(&self) -> Reading {
        Reading::of(self.now(), self.clock.moment())
    }
}

/// The running queues.
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    queues: HashMap<String, RunningQueue>,
    /// A lock for each webhook name. A queue holds the lock of its name while it runs.
    ///
    /// If a webhook is removed and added again, its new queue waits until the old queue has ended.
    /// Otherwise both queues might send the same delivery.
    locks: HashMap<String, Arc<Mutex<()>>>,
    /// Waits for the end of each queue. A task returns false if its queue panicked.
    tasks: JoinSet<bool>,
    stop: CancellationToken,
}

struct RunningQueue {
    target: watch::Sender<Arc<Target>>,
    stop: CancellationToken,
}

impl Dispatcher {
    /// Starts a queue for each target.
    ///
    /// Cancelling `stop` ends the queues: they claim nothing more, but finish attempts in
    /// progress.
    pub(crate) fn start(shared: Shared, targets: Targets, stop: CancellationToken) -> Self {
        let mut dispatcher = Self {
            shared: Arc::new(shared),
            queues: HashMap::new(),
            locks: HashMap::new(),
            tasks: JoinSet::new(),
            stop,
        };
        dispatcher.apply(targets);
        dispatcher
    }

    /// Replaces the targets.
    ///
    /// Attempts in progress finish with the old settings, and later attempts use the new settings.
    /// The deliveries of a removed webhook stay in the store.
    pub(crate) fn apply(&mut self, targets: Targets) {
        let names: BTreeSet<&str> = targets.names().collect();
        self.queues.retain(|name, queue| {
            let stays = names.contains(name.as_str());
            if !stays {
                info!(
                    webhook = name,
                    "the webhook was removed or disabled. Its pending deliveries are kept"
                );
                queue.stop.cancel();
            }
            stays
        });
        for Prepared { target, thread } in targets.into_vec() {
            let name = target.webhook.name().to_owned();
            match (self.queues.get(&name), thread) {
                (Some(queue), _) => {
                    queue.target.send_replace(target);
                }
                (None, Some(thread)) => self.start_queue(name, target, thread),
                // Impossible: a target lacks a thread only if its webhook has a queue.
                (None, None) => {}
            }
        }
    }

    /// Whether a webhook has a queue. If not, its target needs a thread.
    pub(crate) fn runs(&self, webhook: &str) -> bool {
        self.queues.contains_key(webhook)
    }

    fn start_queue(&mut self, name: String, target: Arc<Target>, thread: QueueThread) {
        let (sender, receiver) = watch::channel(target);
        let stop = self.stop.child_token();
        let queue = queue::Queue::new(Arc::clone(&self.shared), receiver, stop.clone());
        let lock = Arc::clone(self.locks.entry(name.clone()).or_default());
        let stop_of_all = self.stop.clone();
        self.tasks.spawn(thread.run(async move {
            let _held = lock.lock_owned().await;
            queue.run(stop_of_all).await;
        }));
        let target = sender;
        self.queues.insert(name, RunningQueue { target, stop });
    }

    /// Waits until a queue panics. If no queue panics, waits forever.
    pub(crate) async fn failure(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if !matches!(ended, Ok(true)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Waits until all queues have ended. Returns false if a queue panicked.
    ///
    /// The caller must cancel `stop` first.
    pub(crate) async fn drain(mut self) -> bool {
        let mut is_fine = true;
        while let Some(ended) = self.tasks.join_next().await {
            is_fine &= matches!(ended, Ok(true));
        }
        is_fine
    }
}

/// Waits until the next task of a set ends. Returns `None` if the set is empty.
///
/// If the task panicked, panics too.
async fn next_of<T: 'static>(tasks: &mut JoinSet<T>) -> Option<T> {
    match tasks.join_next().await? {
        Ok(done) => Some(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The task was aborted, because the runtime ends.
        Err(_) => None,
    }
}

/// Returns the result of a task that has ended, if there is one.
///
/// If the task panicked, panics too.
fn ended_of<T: 'static>(tasks: &mut JoinSet<T>) -> Option<T> {
    match tasks.try_join_next()? {
        Ok(done) => Some(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
