//! The engines: one for each repository.
//!
//! Constraint: a fault of one repository stops no other engine. An engine that ends unexpectedly ends the
//! daemon, as every other part does.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use futures_util::future::{join_all, select_all};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use super::{DaemonError, STANDSTILL};
use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::QueueHandles;
use crate::engine::held_removals::{Accepted, HeldProjects};
use crate::engine::status::{Snapshot, Status};
use crate::engine::statuses::{OfRepository, Statuses};
use crate::engine::{Engine, Input, Parts};
use crate::store::{RepositoryStore, Store};
use crate::traces::Traces;

/// The parts that all engines share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) queues: Arc<QueueHandles>,
    pub(super) traces: Option<Arc<Traces>>,
}

/// A running engine.
pub(super) struct Running {
    repository: OfRepository,
    engine: Engine,
    end: oneshot::Receiver<()>,
    changes: watch::Receiver<Snapshot>,
}

impl Running {
    fn start(config: &Arc<Config>, common: &Common) -> Result<Self, DaemonError> {
        let repository = OfRepository::new(&config.repository);
        let (ended, end) = oneshot::channel();
        let on_end = move || {
            let _ = ended.send(());
        };
        let parts = Parts {
            config: Arc::clone(config),
            store: RepositoryStore::new(common.store.clone(), repository.name.clone()),
            clock: common.clock,
            status: Arc::clone(&repository.status),
            queues: Arc::clone(&common.queues),
            traces: common.traces.clone(),
        };
        let engine = Engine::start(parts, on_end).map_err(|source| DaemonError::System {
            what: "a thread",
            source,
        })?;
        Ok(Self {
            changes: repository.status.subscribe(),
            repository,
            engine,
            end,
        })
    }
}

/// What happened to the engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The state of an engine changed.
    Changed,
    /// An engine ended.
    Ended,
}

/// The engines that are taking a new configuration or end.
pub(super) struct Switching {
    answers: Vec<oneshot::Receiver<()>>,
    removed: Vec<Running>,
}

impl Switching {
    /// Waits for the engines. Returns whether every engine took its configuration in time.
    pub(super) async fn finish(self) -> bool {
        for removed in self.removed {
            stop_removed(removed).await;
        }
        let all = join_all(self.answers);
        tokio::time::timeout(STANDSTILL, all).await.is_ok()
    }
}

/// The running engines, in the order of the configuration.
pub(super) struct Engines {
    running: Vec<Running>,
    common: Common,
    /// The states of the engines, for other threads.
    pub(super) statuses: Arc<Statuses>,
}

impl Engines {
    /// Starts an engine for each of these configurations.
    pub(super) fn start(configs: &[Arc<Config>], common: Common) -> Result<Self, DaemonError> {
        let running = configs.iter().map(|config| Running::start(config, &common));
        let engines = Self {
            running: running.collect::<Result<_, _>>()?,
            common,
            statuses: Arc::default(),
        };
        engines.publish();
        Ok(engines)
    }

    fn publish(&self) {
        let all = self.running.iter();
        self.statuses
            .replace(all.map(|one| one.repository.clone()).collect());
    }

    /// The state of the first engine.
    pub(super) fn first_status(&self) -> Arc<Status> {
        let first = self.running.first();
        first.map_or_else(Arc::default, |one| Arc::clone(&one.repository.status))
    }

    fn find(&self, name: Option<&str>) -> Option<&Running> {
        let mut running = self.running.iter();
        running.find(|one| one.repository.name.as_deref() == name)
    }

    /// The state of the engine of a configuration, if it runs.
    pub(super) fn snapshot_of(&self, config: &Config) -> Option<Snapshot> {
        let found = self.find(config.repository.name_in_keys().as_deref());
        found.map(|one| one.repository.status.snapshot())
    }

    pub(super) fn send_all(&self, input: impl Fn() -> Input) {
        for one in &self.running {
            one.engine.send(input());
        }
    }

    /// Waits until a state changes or an engine ends.
    pub(super) async fn next(&mut self) -> Next {
        let (mut changes, mut ends) = (Vec::new(), Vec::new());
        for one in &mut self.running {
            changes.push(Box::pin(one.changes.changed()));
            ends.push(&mut one.end);
        }
        tokio::select! {
            _ = select_all(ends) => Next::Ended,
            (Ok(()), ..) = select_all(changes) => Next::Changed,
            else => Next::Ended,
        }
    }

    /// Starts the engines of added repositories. Without an error, [`Self::apply`] follows.
    pub(super) fn start_added(&self, configs: &[Arc<Config>]) -> Result<Vec<Running>, DaemonError> {
        let is_added = |config: &&Arc<Config>| self.snapshot_of(config).is_none();
        let mut added = Vec::new();
        for config in configs.iter().filter(is_added) {
            match Running::start(config, &self.common) {
                Ok(running) => added.push(running),
                Err(error) => {
                    for running in added {
                        running.engine.begin_stop();
                    }
                    return Err(error);
                }
            }
        }
        Ok(added)
    }

    /// Sends the configurations of a reload to the engines. [`Switching::finish`] waits for them.
    pub(super) fn apply(&mut self, configs: &[Arc<Config>], added: Vec<Running>) -> Switching {
        let mut removed: Vec<Running> = std::mem::take(&mut self.running);
        let mut added = added.into_iter();
        let mut answers = Vec::new();
        for config in configs {
            let name = config.repository.name_in_keys();
            let known = removed.iter().position(|one| one.repository.name == name);
            let Some(known) = known else {
                // They are in the same order.
                if let Some(running) = added.next() {
                    info!(repository = %config.repository.name(), "watching an added repository");
                    self.running.push(running);
                }
                continue;
            };
            let mut one = removed.swap_remove(known);
            let (taken, takes) = oneshot::channel();
            one.engine.send(Input::Configure(Arc::clone(config), taken));
            one.repository.path = config.repository.path.display().to_string();
            answers.push(takes);
            self.running.push(one);
        }
        self.publish();
        Switching { answers, removed }
    }

    pub(super) fn inputs(&self) -> Inputs {
        let all = self.running.iter();
        Inputs(
            all.map(|one| (one.repository.name.clone(), one.engine.inputs()))
                .collect(),
        )
    }

    /// Makes steps in progress end soon.
    pub(super) fn begin_stop(&self) {
        for one in &self.running {
            one.engine.begin_stop();
        }
    }

    /// Stops all engines. Returns whether all ended without a panic.
    pub(super) async fn stop(self) -> bool {
        let stop = |one: Running| tokio::task::spawn_blocking(move || one.engine.stop());
        let stopping: Vec<_> = self.running.into_iter().map(stop).collect();
        let ended = join_all(stopping).await;
        ended.into_iter().all(|ended| ended.unwrap_or(false))
    }
}

/// Stops the engine of a repository that was removed from the configuration.
///
/// Its record stays, so that a repository that is added again is compared with it.
async fn stop_removed(removed: Running) {
    let name = removed.repository.name.clone().unwrap_or_default();
    let stop = tokio::task::spawn_blocking(move || removed.engine.stop());
    if tokio::time::timeout(STANDSTILL, stop).await.is_ok() {
        info!(
            repository = %name,
            "no longer watching a removed repository; its record and its pending deliveries are kept"
        );
    } else {
        warn!(
            repository = %name,
            "the engine of a removed repository has been busy for more than {STANDSTILL:?}; it ends later"
        );
    }
}

/// The inputs of all engines, for requests whose answer takes a while.
pub(super) struct Inputs(Vec<(Option<Arc<str>>, SyncSender<Input>)>);

impl Inputs {
    /// Lists the held removals of all engines.
    pub(super) async fn list_held(&self) -> HeldProjects {
        whole(self.held().await)
    }

    /// The held removals of each engine, in the same order.
    async fn held(&self) -> Vec<HeldProjects> {
        let mut held = Vec::new();
        for (name, inputs) in &self.0 {
            let (sender, answer) = oneshot::channel();
            let _ = inputs.send(Input::ListHeld(sender));
            let mut one = answer.await.unwrap_or_default();
            if let (Some(name), Some(reason)) = (name, &mut one.reason) {
                *reason = format!("{name}: {reason}");
            }
            held.push(one);
        }
        held
    }

    /// Accepts the held removals of all engines, if they are those that the token identifies.
    pub(super) async fn accept(&self, token: String) -> Accepted {
        let held = self.held().await;
        if whole(held.clone()).token != token {
            return Accepted::Changed;
        }
        let (mut n_released, mut refused) = (0_usize, None);
        for (one, (_, inputs)) in held.into_iter().zip(&self.0) {
            if one.reason.is_none() {
                continue;
            }
            let (sender, answer) = oneshot::channel();
            let _ = inputs.send(Input::Accept(one.token, sender));
            match answer.await {
                Ok(Accepted::Released(n)) => n_released = n_released.saturating_add(n),
                Ok(other) => refused = refused.or(Some(other)),
                Err(_) => refused = refused.or(Some(Accepted::Changed)),
            }
        }
        match refused {
            Some(refused) if n_released == 0 => refused,
            _ => Accepted::Released(n_released),
        }
    }
}

/// Merges the held removals of all engines.
fn whole(held: Vec<HeldProjects>) -> HeldProjects {
    let mut held = held.into_iter().filter(|one| one.reason.is_some());
    let first = held.next().unwrap_or_default();
    held.fold(first, HeldProjects::and)
}
