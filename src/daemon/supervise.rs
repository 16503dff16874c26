//! Handles signals and commands until the daemon must stop.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use signal_hook::consts::{SIGHUP, SIGUSR1};
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::drain::Reason;
use super::engines::{Leaving, Next};
use super::{Daemon, DaemonError, STANDSTILL, Signals};
use crate::admin::{self, Request};
use crate::clock::Clock;
use crate::dispatch::QueueHandles;
use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;
use crate::engine::commands::Command;
use crate::engine::status::Trouble;
use crate::engine::statuses::{OfRepository, Statuses};
use crate::os;
use crate::report::summary;
use crate::store::{LeaseView, Notice};

/// The time between two attempts to record names and fingerprints.
const NOTED_AGAIN: Duration = Duration::from_secs(1);

/// The time between two checks of the admin server, the log thread and the store's threads.
///
/// The daemon then also retries notifications that systemd has not received.
pub(super) const HEALTH_KEPT: Duration = Duration::from_secs(5);

/// The longest time between two checks whether the engines respond.
const CHECKED: Duration = Duration::from_secs(15);

/// The state that was last sent to systemd.
#[derive(Default)]
struct Announced {
    is_started: bool,
    line: String,
}

impl Daemon<'_> {
    /// Runs until a signal, a take-over or a failure stops the daemon, then drains.
    ///
    /// Adds the engines that have not ended to `leaving`.
    ///
    /// # Errors
    ///
    /// A part of the daemon ended unexpectedly. Or another process took over, and no signal to stop
    /// arrived during the drain.
    pub(crate) async fn run(
        mut self,
        signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
        leaving: &mut Vec<Leaving>,
    ) -> Result<(), DaemonError> {
        let ended = self.supervise(signals).await;
        let reason = match ended {
            Err(DaemonError::Superseded) => Reason::Superseded,
            _ => Reason::End,
        };
        let drained = self.drain(reason, signals).await;
        leaving.extend(drained.leaving);
        match (ended, drained.panicked) {
            (Ok(()) | Err(DaemonError::Superseded | DaemonError::EngineEnded), Some(part)) => {
                Err(DaemonError::PartEnded { part })
            }
            (Err(DaemonError::Superseded), None) if drained.is_signalled => Ok(()),
            (ended, _) => ended,
        }
    }

    async fn supervise(
        &mut self,
        signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    ) -> Result<(), DaemonError> {
        let part_ended = |part| Err(DaemonError::PartEnded { part });
        let mut lease = self.store.fleet();
        let mut announced = Announced::default();
        let mut seen = Seen::default();
        let mut retry = tokio::time::interval(NOTED_AGAIN);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keep = tokio::time::interval(HEALTH_KEPT);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = retry.tick(), if !self.is_noted() => {
                    let Some(()) = signals.unless_stopped(self.note_again()).await else {
                        return Ok(());
                    };
                }
                _ = keep.tick() => {
                    os::notify_again();
                    if !self.rereading.logging.is_running() {
                        return part_ended("the log");
                    }
                    if !self.store.is_running() {
                        return part_ended("the store");
                    }
                    self.health.keep(self.config.admin.as_ref()).await;
                    // A stuck engine reports no change, so check the states regularly.
                    self.announce(&mut announced);
                }
                signal = signals.next() => match signal {
                    SIGHUP => {
                        let reload = self.announced_reload("SIGHUP", &mut announced);
                        let Some(_) = signals.unless_stopped(reload).await else {
                            return Ok(());
                        };
                    }
                    SIGUSR1 => {
                        info!("SIGUSR1: rescanning everything");
                        self.engines.give_all(|| Command::Rescan(RescanReason::Signal));
                    }
                    _ => return Ok(()),
                },
                notice = next_notice(&mut self.notices) => {
                    if notice.is_superseded {
                        return Err(DaemonError::Superseded);
                    }
                    seen.take(&self.health.admin.queues, notice);
                }
                Some(request) = self.requests.recv() => {
                    let served = self.serve(request, &mut announced);
                    let Some(()) = signals.unless_stopped(served).await else {
                        return Ok(());
                    };
                }
                () = self.dispatcher.failure() => return part_ended("a webhook's queue"),
                Some(ended) = self.background.tasks.join_next() => {
                    // A task may end normally, for example after the answer to a command.
                    if ended.is_err() {
                        return part_ended("a background task");
                    }
                }
                next = self.engines.next() => match next {
                    Next::Ended => return Err(DaemonError::EngineEnded),
                    Next::Changed => self.announce(&mut announced),
                },
                () = next_view(&mut lease) => self.announce(&mut announced),
            }
        }
    }

    /// Handles a request from a command. The command may have stopped waiting for the answer.
    async fn serve(&mut self, request: Request, announced: &mut Announced) {
        match request {
            Request::Reload(answer) => {
                let _ = answer.send(self.announced_reload("reload command", announced).await);
            }
            // An engine answers only between two steps, and the daemon must still handle signals.
            Request::ListHeld(answer) => {
                let asking = self.engines.asking();
                self.spawn(answered(answer, async move { asking.list_held().await }));
            }
            Request::Accept(token, answer) => {
                let asking = self.engines.asking();
                self.spawn(answered(answer, async move { asking.accept(token).await }));
            }
        }
    }

    /// Spawns a task that waits for engines. Stopping the daemon cancels the task.
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.background.stop.clone();
        self.background.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Reloads. If the start is complete, notifies systemd before and after the reload.
    async fn announced_reload(
        &mut self,
        trigger: &str,
        announced: &mut Announced,
    ) -> admin::Reloaded {
        if announced.is_started {
            os::notify_reloading();
        }
        let reloaded = self.reload(trigger).await;
        if announced.is_started {
            announced.line = self.status_line();
            os::notify_ready(&announced.line);
        } else {
            // The reload may have removed the repository that delays the start.
            self.announce(announced);
        }
        reloaded
    }

    /// Notifies systemd if the status line has changed, and once when the start is complete.
    fn announce(&self, announced: &mut Announced) {
        let statuses = &self.engines.statuses;
        let is_started = statuses.is_started(self.clock.moment(), STANDSTILL);
        announced.change(is_started, self.status_line());
    }

    fn status_line(&self) -> String {
        let view = self.store.fleet().map(|lease| lease.borrow().clone());
        let (statuses, now) = (&self.engines.statuses, self.clock.moment());
        statuses.with(now, STANDSTILL, |state| summary(state, view.as_ref()))
    }
}

/// Sends the result of `work` as the answer to a request.
///
/// If nobody waits for the answer any more, drops `work`. An engine that has not begun to handle
/// the request then ignores it.
async fn answered<T>(mut answer: oneshot::Sender<T>, work: impl Future<Output = T>) {
    tokio::select! {
        biased;
        () = answer.closed() => {}
        done = work => {
            let _ = answer.send(done);
        }
    }
}

/// The last notice that was passed to the queues.
#[derive(Default)]
pub(super) struct Seen(Notice);

impl Seen {
    /// Wakes or pauses the queues that a notice concerns.
    pub(super) fn take(&mut self, queues: &QueueHandles, notice: Notice) {
        if self.0.n_changes != notice.n_changes {
            queues.wake_all();
        }
        if self.0.n_more != notice.n_more {
            queues.wake_for_more();
        }
        let are_all_paused = self.0.n_pauses != notice.n_pauses;
        queues.pause(|webhook| {
            let [before, after] = [&self.0, &notice].map(|one| one.n_pauses_of.get(webhook));
            are_all_paused || before != after
        });
        self.0 = notice;
    }
}

/// Waits for the next notice of the store. Without `notices`, waits forever.
pub(super) async fn next_notice(notices: &mut Option<watch::Receiver<Notice>>) -> Notice {
    if let Some(notices) = notices
        && notices.changed().await.is_ok()
    {
        return notices.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Waits until the last known state of the lease changes. Without a lease, waits forever.
async fn next_view(lease: &mut Option<watch::Receiver<LeaseView>>) {
    if let Some(lease) = lease
        && lease.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Announced {
    /// Sends a changed status line to systemd, and `READY=1` once after the start.
    fn change(&mut self, is_started: bool, line: String) {
        if is_started && !self.is_started {
            self.is_started = true;
            os::notify_ready(&line);
        } else if line != self.line {
            os::notify_status(&line);
        }
        self.line = line;
    }
}

/// Feeds systemd's watchdog while any engine responds. Logs engines that do not respond.
pub(super) async fn feed_watchdog(statuses: Arc<Statuses>, clock: Clock, stop: CancellationToken) {
    let watchdog = os::watchdog_interval();
    let interval = watchdog.unwrap_or(CHECKED).min(CHECKED);
    let mut stuck = BTreeSet::new();
    loop {
        let now = clock.moment();
        log_stuck(&statuses.all(), now, &mut stuck);
        if statuses.is_alive(now, STANDSTILL) {
            os::notify_watchdog();
        } else if watchdog.is_some() {
            error!(
                "no engine responds; not feeding the watchdog, so that systemd restarts the daemon"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Logs the engines that stopped responding, and those that respond again.
///
/// `stuck` has the repositories whose engines did not respond at the previous call.
fn log_stuck(all: &[OfRepository], now: Moment, stuck: &mut BTreeSet<String>) {
    stuck.retain(|name| all.iter().any(|one| one.shown() == name));
    for one in all {
        let repository = one.shown();
        if one.is_alive(now, STANDSTILL) {
            if stuck.remove(repository) {
                info!(repository, "the engine responds again");
            }
        } else if stuck.insert(repository.to_owned()) {
            match one.standstill(now, STANDSTILL) {
                Some((Trouble::Store, text)) => error!(repository, "{text}"),
                _ => error!(
                    repository,
                    "the engine has not responded for {STANDSTILL:?}. Is the repository's disk or network file system stuck?"
                ),
            }
        }
    }
}
