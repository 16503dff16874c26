//! Runs one engine for each repository.
//!
//! Constraint: a stuck file system of one repository must not delay the engines of other
//! repositories. So every wait for an engine to answer or to stop has a time limit.
//!
//! At most one engine works on a repository. A removed repository cannot be added again before its
//! engine has ended. If this process loses the lease and gets it again, the new engine of a
//! repository waits until the former engine has ended. So stuck threads do not accumulate. If an
//! engine ends unexpectedly, the daemon ends too.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt, join, join_all, pending, select_all};
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::asking::{Asked, Asking};
use super::{DaemonError, STANDSTILL};
use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::QueueHandles;
use crate::domain::settle::Moment;
use crate::engine::commands::Command;
use crate::engine::status::{Snapshot, Status};
use crate::engine::statuses::{EndingReport, OfRepository, Statuses};
use crate::engine::{Engine, Parts};
use crate::store::{RepositoryStore, Store};
use crate::traces::Traces;

/// How long a reload waits for engines to end.
const REMOVED: Duration = Duration::from_secs(5);

/// The parts that all engines share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) queues: Arc<QueueHandles>,
    pub(super) traces: Option<Arc<Traces>>,
}

pub(super) struct Running {
    repository: OfRepository,
    engine: Engine,
    /// Cancelled when the engine's thread has ended.
    end: CancellationToken,
    changes: watch::Receiver<Snapshot>,
}

impl Running {
    /// Starts the thread of an engine.
    ///
    /// The thread does not touch the repository until `former` is cancelled. It records nothing
    /// until [`Engine::begin`] is called.
    fn start(
        config: &Arc<Config>,
        common: &Common,
        former: Option<CancellationToken>,
    ) -> Result<Self, DaemonError> {
        let repository = OfRepository::new(&config.repository);
        let end = CancellationToken::new();
        let ended = end.clone();
        let on_end = move || ended.cancel();
        let (status, clock) = (Arc::clone(&repository.status), common.clock);
        let store = RepositoryStore::new(common.store.clone(), repository.name.clone());
        let parts = Parts {
            config: Arc::clone(config),
            store: store.on_call(move |waits| status.beat_at_store(waits, clock.moment())),
            clock: common.clock,
            status: Arc::clone(&repository.status),
            queues: Arc::clone(&common.queues),
            traces: common.traces.clone(),
        };
        let engine = Engine::start(parts, former, on_end).map_err(|source| DaemonError::Watch {
            repository: config.repository.name(),
            source,
        })?;
        Ok(Self {
            changes: repository.status.subscribe(),
            repository,
            engine,
            end,
        })
    }

    fn is_alive(&self, now: Moment) -> bool {
        self.repository.is_alive(now, STANDSTILL)
    }

    fn name(&self) -> &str {
        self.repository.name.as_deref().unwrap_or_default()
    }

    /// Logs how the engine of a removed repository ended.
    fn log_removed(self) {
        let repository = self.name().to_owned();
        match self.engine.join() {
            false => error!(
                repository,
                "the engine of a removed repository panicked; please report this bug. Its record and its \
                 pending deliveries are kept"
            ),
            true => info!(
                repository,
                "no longer watching a removed repository; its record and its pending deliveries are kept"
            ),
        }
    }
}

/// An engine that is stopping but has not ended. Its file system may be stuck.
pub(crate) struct Leaving {
    running: Running,
    /// The time when the stop began.
    since: Timestamp,
}

impl Leaving {
    fn has_ended(&self) -> bool {
        self.running.end.is_cancelled()
    }

    /// Returns the name of the repository, or its path if it is the only repository.
    pub(super) fn shown(&self) -> &str {
        self.running.repository.shown()
    }

    fn report(&self) -> EndingReport {
        EndingReport {
            name: self.shown().to_owned(),
            path: self.running.repository.path.clone(),
            since: self.since,
        }
    }

    /// Logs how the engine ended.
    fn log_ended(self) {
        let repository = self.shown().to_owned();
        match self.running.engine.join() {
            true => info!(
                repository,
                "the former engine of the repository has ended; the repository can be watched again"
            ),
            false => error!(
                repository,
                "the former engine of the repository panicked; please report this bug"
            ),
        }
    }
}

/// The engines that are stopping.
pub(super) struct Stopping(Vec<Running>);

impl Stopping {
    /// Waits until the threads of all engines have ended.
    pub(super) async fn ended(&self) {
        join_all(self.0.iter().map(|one| one.end.cancelled())).await;
    }

    /// Returns how the engines ended, and the engines that have not ended yet.
    pub(super) fn ends(self, since: Timestamp) -> Ends {
        let mut ends = Ends::default();
        for running in self.0 {
            if !running.end.is_cancelled() {
                ends.stuck.push(Leaving { running, since });
            } else if !running.engine.join() {
                ends.has_panicked = true;
            }
        }
        ends
    }
}

/// How the engines ended.
#[derive(Default)]
pub(super) struct Ends {
    /// Whether an engine panicked.
    pub(super) has_panicked: bool,
    /// The engines that have not ended.
    pub(super) stuck: Vec<Leaving>,
}

/// A change that the supervisor must handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The state of an engine changed, or a stopping engine ended.
    Changed,
    /// An engine ended unexpectedly.
    Ended,
}

/// The result of applying a new configuration to the engines.
pub(super) struct Switched {
    /// The removed engines that have not ended.
    pub(super) leaving: Vec<Leaving>,
    /// The repositories whose engines have not applied the configuration yet.
    pub(super) late: Vec<String>,
}

/// The engines that are applying a new configuration, and the removed engines.
pub(super) struct Switching {
    answers: Vec<Answer>,
    removed: Vec<Running>,
    since: Timestamp,
}

/// The pending answer of an engine to a new configuration.
struct Answer {
    repository: String,
    takes: oneshot::Receiver<()>,
    /// How long to wait for the answer. Zero for a stuck engine, which applies the configuration
    /// later.
    limit: Duration,
}

impl Answer {
    /// Returns the repository if its engine did not apply the configuration in time.
    async fn wait(self) -> Option<String> {
        let taken = tokio::time::timeout(self.limit, self.takes).await;
        taken.is_err().then_some(self.repository)
    }
}

impl Switching {
    /// Stops the removed engines, and waits for all engines at the same time.
    pub(super) async fn finish(self) -> Switched {
        let since = self.since;
        let answers = join_all(self.answers.into_iter().map(Answer::wait));
        let removed = join_all(self.removed.into_iter().map(stop_removed));
        let (late, leaving) = join(answers, removed).await;
        let leaving = leaving.into_iter().flatten();
        Switched {
            leaving: leaving.map(|running| Leaving { running, since }).collect(),
            late: late.into_iter().flatten().collect(),
        }
    }
}

/// The running engines, in the order of the configuration.
pub(super) struct Engines {
    running: Vec<Running>,
    /// The engines that a reload adds. They record nothing until the reload is applied.
    ///
    /// After a rejected reload, they stay here until they have ended.
    added: Vec<Running>,
    /// The engines that are stopping.
    ///
    /// They watched removed repositories, or ran before this process lost the lease.
    leaving: Vec<Leaving>,
    common: Common,
    /// The states of the engines, for other threads.
    pub(super) statuses: Arc<Statuses>,
}

impl Engines {
    /// Starts an engine for each configuration.
    ///
    /// If `leaving` has a former engine of the repository, the new engine waits for its end.
    pub(super) fn start(
        configs: &[Arc<Config>],
        common: Common,
        leaving: Vec<Leaving>,
    ) -> Result<Self, DaemonError> {
        let running = configs.iter().map(|config| {
            let name = config.repository.name_in_keys();
            let mut former = leaving.iter().map(|one| &one.running);
            let former = former.find(|one| one.repository.name == name);
            Running::start(config, &common, former.map(|one| one.end.clone()))
        });
        let engines = Self {
            running: running.collect::<Result<_, _>>()?,
            added: Vec::new(),
            leaving,
            common,
            statuses: Arc::default(),
        };
        for one in &engines.running {
            one.engine.begin();
        }
        engines.publish();
        Ok(engines)
    }

    fn publish(&self) {
        let all = self.running.iter();
        self.statuses
            .replace(all.map(|one| one.repository.clone()).collect());
        let ending = self.leaving.iter().map(Leaving::report);
        self.statuses.set_ending(ending.collect());
    }

    /// Removes the stopping engines that have ended, and logs their ends.
    fn forget_ended(&mut self) {
        let leaving = std::mem::take(&mut self.leaving).into_iter();
        let (ended, leaving): (Vec<_>, Vec<_>) = leaving.partition(Leaving::has_ended);
        self.leaving = leaving;
        if ended.is_empty() {
            return;
        }
        ended.into_iter().for_each(Leaving::log_ended);
        self.publish();
    }

    pub(super) fn first_status(&self) -> Arc<Status> {
        let first = self.running.first();
        first.map_or_else(Arc::default, |one| Arc::clone(&one.repository.status))
    }

    fn find(&self, name: Option<&str>) -> Option<&Running> {
        let mut running = self.running.iter();
        running.find(|one| one.repository.name.as_deref() == name)
    }

    /// Returns the state of the running engine for a configuration, if any.
    pub(super) fn snapshot_of(&self, config: &Config) -> Option<Snapshot> {
        let found = self.find(config.repository.name_in_keys().as_deref());
        found.map(|one| one.repository.status.snapshot())
    }

    pub(super) fn give_all(&self, command: impl Fn() -> Command) {
        for one in &self.running {
            one.engine.commands().give(command());
        }
    }

    /// Waits until the state of an engine changes or an engine ends.
    pub(super) async fn next(&mut self) -> Next {
        self.forget_ended();
        let leaving = self.leaving.iter();
        let leaving = leaving.map(|one| Box::pin(one.running.end.cancelled()));
        let left = match leaving.collect::<Vec<_>>() {
            none if none.is_empty() => pending().left_future(),
            some => select_all(some).right_future(),
        };
        let (mut changes, mut ends) = (Vec::new(), Vec::new());
        for one in &mut self.running {
            changes.push(Box::pin(one.changes.changed()));
            ends.push(Box::pin(one.end.cancelled()));
        }
        tokio::select! {
            _ = select_all(ends) => Next::Ended,
            (Ok(()), ..) = select_all(changes) => Next::Changed,
            _ = left => Next::Changed,
            else => Next::Ended,
        }
    }

    /// Starts the engines of added repositories. They record nothing until [`Self::apply`].
    ///
    /// If the reload is rejected, [`Self::reject_added`] ends them.
    ///
    /// # Errors
    ///
    /// A thread cannot be started, or an earlier engine of a repository has not ended.
    pub(super) async fn start_added(&mut self, configs: &[Arc<Config>]) -> Result<(), DaemonError> {
        self.forget_ended();
        self.added.retain(|one| !one.end.is_cancelled());
        for config in configs {
            if self.snapshot_of(config).is_some() {
                continue;
            }
            let name = config.repository.name_in_keys();
            let leaving = self.leaving.iter().map(|one| &one.running);
            let mut former = leaving.chain(&self.added);
            if former.any(|one| one.repository.name == name) {
                let repository = config.repository.name();
                return Err(DaemonError::StillEnding { repository });
            }
            let mut running = Running::start(config, &self.common, None)?;
            let started = running.engine.started().await;
            started.map_err(|source| DaemonError::Watch {
                repository: config.repository.name(),
                source,
            })?;
            self.added.push(running);
        }
        Ok(())
    }

    /// Stops the engines that a rejected reload added. Keeps those that do not end in time.
    pub(super) async fn reject_added(&mut self) {
        for one in &self.added {
            one.engine.begin_stop();
        }
        let ends = join_all(self.added.iter().map(|one| one.end.cancelled()));
        let _ = tokio::time::timeout(REMOVED, ends).await;
        self.added.retain(|one| !one.end.is_cancelled());
    }

    /// Applies the configurations of a reload. [`Switching::finish`] waits for the engines.
    pub(super) fn apply(&mut self, configs: &[Arc<Config>]) -> Switching {
        let now = self.common.clock.moment();
        let mut removed: Vec<Running> = std::mem::take(&mut self.running);
        let mut answers = Vec::new();
        for config in configs {
            let name = config.repository.name_in_keys();
            let known = removed.iter().position(|one| one.repository.name == name);
            let Some(known) = known else {
                let is_added = |one: &mut Running| one.repository.name == name;
                if let Some(running) = self.added.extract_if(.., is_added).next() {
                    info!(repository = %config.repository.name(), "watching an added repository");
                    running.engine.begin();
                    self.running.push(running);
                }
                continue;
            };
            let mut one = removed.swap_remove(known);
            let (taken, takes) = oneshot::channel();
            let command = Command::Configure(Arc::clone(config), taken);
            one.engine.commands().give(command);
            one.repository.path = config.repository.path.display().to_string();
            answers.push(Answer {
                repository: one.repository.shown().to_owned(),
                takes,
                limit: if one.is_alive(now) {
                    STANDSTILL
                } else {
                    Duration::ZERO
                },
            });
            self.running.push(one);
        }
        self.publish();
        Switching {
            answers,
            removed,
            since: self.common.clock.now(),
        }
    }

    /// Keeps the removed engines that have not ended.
    pub(super) fn keep_leaving(&mut self, leaving: Vec<Leaving>) {
        self.leaving.extend(leaving);
        self.publish();
    }

    /// Returns the names of repositories whose former engines have not ended.
    ///
    /// The repository of the setting `repository` has no name here, so it is left out.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &str> {
        let leaving = self.leaving.iter().filter(|one| !one.has_ended());
        leaving.filter_map(|one| one.running.repository.name.as_deref())
    }

    /// Returns a handle that sends requests to all engines.
    pub(super) fn asking(&self) -> Asking {
        let asked = |one: &Running| Asked {
            repository: one.repository.clone(),
            commands: one.engine.commands().clone(),
        };
        let all = self.running.iter().map(asked).collect();
        Asking::new(all, self.common.clock)
    }

    /// Begins to stop the running engines. Also returns those that were stopping already.
    pub(super) fn stop(self) -> (Stopping, Vec<Leaving>) {
        for one in &self.running {
            one.engine.begin_stop();
        }
        (Stopping(self.running), self.leaving)
    }
}

/// Stops the engine of a removed repository. Returns the engine if it does not end in time.
///
/// The record of the repository is kept. If the repository is added again, its new engine compares
/// the files with this record.
async fn stop_removed(removed: Running) -> Option<Running> {
    removed.engine.begin_stop();
    let end = removed.end.cancelled();
    if tokio::time::timeout(REMOVED, end).await.is_ok() {
        removed.log_removed();
        return None;
    }
    warn!(
        repository = removed.name(),
        "the engine of a removed repository did not end within {REMOVED:?}. It stops after its current \
         step. Until then, the repository cannot be added again"
    );
    Some(removed)
}
