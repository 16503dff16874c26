//! Sends callbacks in a process that does not watch the repository.
//!
//! Constraint: the queues are the same as in a watching process. Only the store differs: it has no
//! lease on the repository, so it cannot record events.

use std::ffi::c_int;
use std::io;
use std::sync::Arc;

use futures_util::Stream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::drain::{DRAIN, close, wait};
use super::reload::{accepts, load};
use super::start::{enabled, first_of, start_traces};
use super::supervise::{HEALTH_KEPT, Seen, next_notice};
use super::{Background, DaemonError, Health, Rereading, Signals};
use crate::admin::{Bound, Served};
use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::{self, Dispatcher, QueueHandles, Targets};
use crate::error::chain;
use crate::metrics::Metrics;
use crate::os;
use crate::store::{Notice, Store};

/// The error after a panic of a queue.
const QUEUE_ENDED: DaemonError = DaemonError::PartEnded {
    part: "a webhook's queue",
};

/// The queues of a process that does not watch.
pub(crate) struct Sending {
    store: Store,
    notices: Option<watch::Receiver<Notice>>,
    seen: Seen,
    queues: Arc<QueueHandles>,
    dispatcher: Dispatcher,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// The task that sends traces, if they are on. It ends after the queues.
    background: Background,
}

impl Sending {
    /// Starts the queues.
    ///
    /// Returns `None` if this process does not have the role `deliver`, or if its state is in
    /// SQLite, which no other process can share.
    pub(crate) async fn start(config: &Arc<Config>) -> Result<Option<Self>, DaemonError> {
        if !config.roles.deliver {
            return Ok(None);
        }
        os::raise_open_files();
        let targets = Targets::prepare(&config.webhooks, &config.network, |_| false);
        let targets = targets.map_err(first_of)?;
        let opened = Arc::clone(config);
        let store = tokio::task::spawn_blocking(move || Store::of_sender(&opened))
            .await
            .map_err(|_| DaemonError::PartEnded { part: "the store" })??;
        let Some(store) = store else {
            return Ok(None);
        };
        let metrics = Metrics::new(enabled(&config.webhooks)).map_err(|source| {
            let source = io::Error::other(source);
            DaemonError::System {
                what: "metrics",
                source,
            }
        })?;
        let (metrics, clock) = (Arc::new(metrics), Clock::start());
        let (traces, exporter) = start_traces(config, clock, &metrics)?.unzip();
        let queues = Arc::new(QueueHandles::default());
        let stop = CancellationToken::new();
        let shared = dispatch::Shared {
            store: store.clone(),
            clock,
            queues: Arc::clone(&queues),
            jitter: Arc::new(fastrand::f64),
            metrics: Arc::clone(&metrics),
            traces,
        };
        let dispatcher = Dispatcher::start(shared, targets, stop.clone());
        let mut background = Background {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        if let Some(exporter) = exporter {
            let end = exporter.supervise(background.stop.clone());
            background.tasks.spawn(end);
        }
        info!("sending callbacks");
        Ok(Some(Self {
            notices: store.notices(),
            store,
            seen: Seen::default(),
            queues,
            dispatcher,
            metrics,
            stop,
            background,
        }))
    }

    /// Whether the database answered the last renewal of this process's lease.
    pub(crate) fn is_reachable(&self) -> bool {
        let view = self.store.fleet();
        view.is_none_or(|view| view.borrow().is_reachable)
    }

    /// Whether the repository of this process is now in the recorded list `repositories`.
    ///
    /// Then no process may watch it alone, so no new deliveries are recorded for this process.
    pub(crate) fn is_listed(&self) -> bool {
        let view = self.store.fleet();
        view.is_some_and(|view| view.borrow().fleet.is_listed)
    }

    /// Whether no process has ever had the lease on the repository. Then it has no deliveries.
    pub(crate) fn is_unknown(&self) -> bool {
        let view = self.store.fleet();
        view.is_some_and(|view| view.borrow().fleet.lease.is_none())
    }

    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Handles notices of the store until a queue or a background task of the store panics.
    pub(crate) async fn run(&mut self) -> DaemonError {
        let mut keep = tokio::time::interval(HEALTH_KEPT);
        loop {
            tokio::select! {
                _ = keep.tick() => if !self.store.is_running() {
                    return DaemonError::PartEnded { part: "the store" };
                },
                notice = next_notice(&mut self.notices) => self.seen.take(&self.queues, notice),
                () = self.dispatcher.failure() => return QUEUE_ENDED,
            }
        }
    }

    /// Waits for requests in progress, then closes the store.
    ///
    /// The wait ends after [`DRAIN`] or with a signal to stop.
    ///
    /// # Errors
    ///
    /// A queue panicked.
    pub(crate) async fn stop(
        self,
        signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    ) -> Result<(), DaemonError> {
        self.stop.cancel();
        let nothing_else = std::future::ready(());
        let mut queues_are_fine = true;
        let draining = self.dispatcher.drain();
        let requests = async { queues_are_fine = draining.await };
        let is_signalled = wait(requests, nothing_else, signals).await;
        let others = self.background.stop();
        close(self.store, others, is_signalled, signals.stop()).await;
        match queues_are_fine {
            true => Ok(()),
            false => Err(QUEUE_ENDED),
        }
    }

    /// Waits for requests in progress, then closes the store.
    ///
    /// The wait ends after [`DRAIN`]. This process has begun to watch, so
    /// [`Daemon::run`](super::Daemon::run) handles signals.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        if tokio::time::timeout(DRAIN, self.dispatcher.drain())
            .await
            .is_err()
        {
            warn!("some requests did not finish within {DRAIN:?}; they are sent again later");
        }
        close(
            self.store,
            self.background.stop(),
            false,
            std::future::pending(),
        )
        .await;
    }

    pub(crate) fn store(&self) -> Store {
        self.store.clone()
    }

    /// Applies the webhooks of a new configuration.
    fn apply(&mut self, config: &Config) -> Result<(), DaemonError> {
        let runs = |webhook: &str| self.dispatcher.runs(webhook);
        let targets = Targets::prepare(&config.webhooks, &config.network, runs);
        self.dispatcher.apply(targets.map_err(first_of)?);
        self.metrics.configure(enabled(&config.webhooks));
        Ok(())
    }
}

/// Reloads the configuration of a process that does not watch.
///
/// A rejected configuration changes nothing.
pub(crate) async fn reread(
    config: &mut Arc<Config>,
    sending: Option<&mut Sending>,
    health: &mut Health<impl Served>,
    rereading: Rereading<'_>,
) {
    info!("SIGHUP: reading the configuration");
    let (new, admin) = match renewed(config, sending, health, &rereading).await {
        Ok(renewed) => renewed,
        Err(errors) => {
            for reason in &errors {
                error!("{reason}");
            }
            health.keep(config.admin.as_ref()).await;
            error!(
                "the configuration is rejected and nothing changed. Run `project-webhooks check` before a reload"
            );
            return;
        }
    };
    rereading.logging.change(new.log);
    health.apply(admin, new.admin.as_ref()).await;
    *config = Arc::new(new);
    info!(
        webhooks = config.webhooks.len(),
        "the configuration is applied"
    );
}

/// Reads the new configuration and applies its webhooks. Returns it with its bound admin server.
///
/// # Errors
///
/// The configuration is rejected. The webhooks are the former ones.
async fn renewed(
    config: &Config,
    sending: Option<&mut Sending>,
    health: &mut Health<impl Served>,
    rereading: &Rereading<'_>,
) -> Result<(Config, Option<Option<Bound>>), Vec<String>> {
    let loaded = load(&config.file, rereading.environment).await?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let mut new = loaded.config;
    if rereading.level_is_fixed {
        new.log.level = config.log.level;
    }
    accepts(config, &new)?;
    let admin = switch(config, &new, sending, health).await;
    Ok((new, admin.map_err(|error| vec![error])?))
}

/// Applies the webhooks of a new configuration once the address of its admin server is bound.
///
/// After an error, the webhooks are the former ones, and the caller restores the admin server.
async fn switch(
    old: &Config,
    new: &Config,
    sending: Option<&mut Sending>,
    health: &mut Health<impl Served>,
) -> Result<Option<Option<Bound>>, String> {
    let prepared = health.prepare(old.admin.as_ref(), new.admin.as_ref());
    let prepared = prepared.await?;
    if let Some(sending) = sending
        && let Err(error) = sending.apply(new)
    {
        if let Some(bound) = prepared.flatten() {
            bound.discard();
        }
        return Err(chain(&error));
    }
    Ok(prepared)
}
