//! The daemon: its parts put together, supervised, reloaded and drained.
//!
//! Constraint: a rejected reload changes nothing, and the process does not limp on without one of
//! its parts: when one ends that should not, by a panic too, all of it ends and the service
//! manager starts it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::admin::{self, Bound, Known, ReloadRequest, Reloaded};
use crate::clock::Clock;
use crate::config::{self, Config, Environment, Listen, Retention};
use crate::dispatch::{self, Dispatcher, Doorbells, Targets};
use crate::domain::rescan::RescanReason;
use crate::engine::status::Status;
use crate::engine::{Engine, Input, Parts};
use crate::housekeeping;
use crate::logging::Logging;
use crate::metrics::Metrics;
use crate::os;
use crate::store::{Fault, OpenError, Store, StoreError};
use crate::webhook::ClientError;

/// How long deliveries in flight may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the loop may stand before the daemon counts as not alive: longer than reading the
/// largest file of a slow disk.
const STANDSTILL: Duration = Duration::from_secs(30);

/// How long it takes until what the configuration says of webhooks is recorded, where the store could
/// not at the start.
const NOTED_AGAIN: Duration = Duration::from_secs(1);

/// How many commands may wait for a reload; it is one reload after the other.
const RELOADS_WAITING: usize = 4;

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The store cannot be opened.
    #[error("the state cannot be opened")]
    Open(#[from] OpenError),
    /// The store cannot be used.
    #[error("the state cannot be used")]
    Store(#[from] StoreError),
    /// A webhook's client cannot be made.
    #[error("a webhook cannot be used")]
    Client(#[from] ClientError),
    /// A thread or a signal handler cannot be had.
    #[error("the system refuses {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A part ended that should not.
    #[error("{part} ended; this is a defect of the program, and its log says more")]
    PartEnded {
        /// Which part.
        part: String,
    },
}

/// Runs until a signal ends it.
///
/// # Errors
///
/// The state or a webhook cannot be used, or a part of the daemon ended.
#[expect(
    clippy::disallowed_methods,
    reason = "the tasks are awaited when the daemon ends"
)]
pub async fn run(
    config: Arc<Config>,
    environment: &dyn Environment,
    logging: Option<&Logging>,
    level_is_fixed: bool,
) -> Result<(), DaemonError> {
    os::raise_open_files();
    let clock = Clock::start();
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1]).map_err(|source| DaemonError::System {
            what: "signal handlers",
            source,
        })?;
    let targets = Targets::prepare(&config.webhooks, &config.network).map_err(|errors| {
        for error in &errors {
            error!("{}", chain(error));
        }
        first_of(errors)
    })?;
    let store = open_store(config.state_dir.clone()).await?;
    let is_noted = note_at_start(&store, &config, clock).await?;

    let status = Arc::new(Status::default());
    let doorbells = Arc::new(Doorbells::default());
    store.on_written_out({
        let doorbells = Arc::clone(&doorbells);
        move |webhook| doorbells.ring_for(webhook)
    });
    let (engine_ended, engine_end) = oneshot::channel();
    let engine = Engine::start(
        Parts {
            config: Arc::clone(&config),
            store: store.clone(),
            clock,
            status: Arc::clone(&status),
            doorbells: Arc::clone(&doorbells),
        },
        move || {
            let _ = engine_ended.send(());
        },
    )
    .map_err(|source| DaemonError::System {
        what: "a thread",
        source,
    })?;

    let stop = CancellationToken::new();
    let metrics = Metrics::new(enabled(&config)).map_err(|source| DaemonError::System {
        what: "metrics",
        source: std::io::Error::other(source),
    })?;
    let metrics = Arc::new(metrics);
    let shared = dispatch::Shared {
        metrics: Arc::clone(&metrics),
        store: store.clone(),
        clock,
        doorbells: Arc::clone(&doorbells),
        jitter: Arc::new(fastrand::f64),
    };
    let dispatcher = Dispatcher::start(shared, targets, stop.clone());
    let served = CancellationToken::new();
    let (reloads, mut reload_requests) = mpsc::channel(RELOADS_WAITING);
    let known = Arc::new(Known {
        reloads,
        metrics: Arc::clone(&metrics),
        status: Arc::clone(&status),
        store: store.clone(),
        doorbells,
        clock,
        standstill: STANDSTILL,
    });
    let control = tokio::spawn(admin::control(
        Arc::clone(&known),
        config.state_dir.clone(),
        served.clone(),
    ));
    let mut health = Health {
        known,
        stop: served.clone(),
        serving: None,
    };
    if let Some(listen) = &config.admin {
        match admin::bind(listen).await {
            Ok(bound) => health.serve(bound, listen),
            Err(error) => {
                error!(%listen, %error, "admin.listen cannot be had; the daemon goes on without it: free the address or choose another, and reload");
            }
        }
    }
    let heart = tokio::spawn(beat(Arc::clone(&status), clock, served.clone()));
    let (retention, kept) = watch::channel(config.retention);
    let housekeeper = tokio::spawn(housekeeping::run(
        store.clone(),
        clock,
        kept,
        served.clone(),
    ));

    let mut daemon = Daemon {
        config,
        is_noted,
        store: store.clone(),
        clock,
        engine,
        dispatcher,
        metrics,
        status,
        retention,
        health,
    };
    let ended = daemon
        .supervise(
            &mut signals,
            &mut reload_requests,
            engine_end,
            Rereading {
                environment,
                logging,
                level_is_fixed,
            },
        )
        .await;

    // Who waits for a reload hears that there will be none.
    drop(reload_requests);
    os::notify_stopping();
    info!("stopping: deliveries in flight finish");
    let Daemon {
        engine,
        dispatcher,
        mut health,
        ..
    } = daemon;
    stop.cancel();
    let engine_fine = tokio::task::spawn_blocking(move || engine.stop())
        .await
        .unwrap_or(false);
    tokio::select! {
        () = dispatcher.drain() => {}
        () = tokio::time::sleep(DRAIN) => {
            warn!("deliveries are still in flight after {DRAIN:?}; they are sent again at the next start");
        }
        () = second_signal(&mut signals) => warn!("ended at once, by a second signal"),
    }
    served.cancel();
    let _ = control.await;
    health.stop().await;
    let _ = heart.await;
    let _ = housekeeper.await;
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    info!("stopped");
    match ended {
        Ok(()) if !engine_fine => Err(DaemonError::PartEnded {
            part: "the engine".to_owned(),
        }),
        ended => ended,
    }
}

async fn open_store(state_dir: PathBuf) -> Result<Store, DaemonError> {
    tokio::task::spawn_blocking(move || Store::open(&state_dir))
        .await
        .map_err(|_| DaemonError::PartEnded {
            part: "the store".to_owned(),
        })?
        .map_err(DaemonError::from)
}

/// Notes what the configuration says of webhooks, and returns whether that could be done. A start does
/// not depend on it: a daemon that does not run delivers nothing of what waits, and nobody would start
/// it again when the disk has space. All that waits with it is what a change of settings hurries.
async fn note_at_start(store: &Store, config: &Config, clock: Clock) -> Result<bool, DaemonError> {
    match dispatch::note_configuration(store, &config.webhooks, clock.now()).await {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.fault(), Fault::Damaged(_) | Fault::Closed) => {
            Err(error.into())
        }
        Err(error) => {
            warn!(
                "that the settings of webhooks changed cannot be recorded yet; it is tried until it \
                 can, and what waits by the old settings goes out by its schedule: {}",
                chain(&error)
            );
            Ok(false)
        }
    }
}

/// The webhooks of a configuration, and whether it enables them.
fn enabled(config: &Config) -> BTreeMap<String, bool> {
    let webhooks = config.webhooks.iter();
    webhooks
        .map(|webhook| (webhook.name().to_owned(), webhook.enabled))
        .collect()
}

fn first_of(errors: Vec<ClientError>) -> DaemonError {
    match errors.into_iter().next() {
        Some(error) => DaemonError::Client(error),
        None => DaemonError::PartEnded {
            part: "the making of clients".to_owned(),
        },
    }
}

struct Daemon {
    config: Arc<Config>,
    /// Whether what it says of webhooks is on record.
    is_noted: bool,
    store: Store,
    clock: Clock,
    engine: Engine,
    dispatcher: Dispatcher,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    retention: watch::Sender<Retention>,
    health: Health,
}

/// What reading the configuration again needs beside its file.
#[derive(Clone, Copy)]
struct Rereading<'a> {
    environment: &'a dyn Environment,
    logging: Option<&'a Logging>,
    /// Whether the command line said which level is logged.
    level_is_fixed: bool,
}

/// Everything of a reload, made and checked before any of it is used.
struct Prepared {
    config: Arc<Config>,
    targets: Targets,
    /// Where health is served from now on, where that changes.
    admin: Option<Option<Bound>>,
}

/// Health, served or not.
struct Health {
    known: Arc<Known>,
    stop: CancellationToken,
    serving: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Health {
    #[expect(clippy::disallowed_methods, reason = "the task is awaited by `stop`")]
    fn serve(&mut self, bound: Bound, listen: &Listen) {
        info!(%listen, "serving health");
        let stop = self.stop.child_token();
        let task = tokio::spawn(admin::health(Arc::clone(&self.known), bound, stop.clone()));
        self.serving = Some((stop, task));
    }

    async fn stop(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            stop.cancel();
            let _ = task.await;
        }
    }
}

impl Daemon {
    /// Serves signals until one of them, or a part that failed, ends the daemon.
    async fn supervise(
        &mut self,
        signals: &mut Signals,
        reload_requests: &mut mpsc::Receiver<ReloadRequest>,
        mut engine_end: oneshot::Receiver<()>,
        rereading: Rereading<'_>,
    ) -> Result<(), DaemonError> {
        let mut status = self.status.subscribe();
        let mut announced = false;
        let mut said = String::new();
        let mut again = tokio::time::interval(NOTED_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = again.tick(), if !self.is_noted => self.note_again().await,
                signal = signals.next() => match signal {
                    Some(SIGHUP) => {
                        self.reload("SIGHUP", rereading, announced.then_some(&mut said)).await;
                    }
                    Some(SIGUSR1) => {
                        info!("SIGUSR1: comparing everything");
                        self.engine.tell(Input::Rescan(RescanReason::Signal));
                    }
                    Some(_) | None => return Ok(()),
                },
                Some(request) = reload_requests.recv() => {
                    let reloaded = self
                        .reload("a command", rereading, announced.then_some(&mut said))
                        .await;
                    // It may have lost its patience.
                    let _ = request.send(reloaded);
                }
                _ = &mut engine_end => {
                    return Err(DaemonError::PartEnded { part: "the engine".to_owned() });
                }
                () = self.dispatcher.failure() => {
                    return Err(DaemonError::PartEnded { part: "a webhook's queue".to_owned() });
                }
                changed = status.changed() => {
                    if changed.is_err() {
                        continue;
                    }
                    let known = status.borrow_and_update().clone();
                    let line = admin::summary(&known);
                    if known.ready && !announced {
                        announced = true;
                        os::notify_ready(&line);
                    } else if line != said {
                        os::notify_status(&line);
                    }
                    said = line;
                }
            }
        }
    }

    /// Notes what could not be noted at the start.
    async fn note_again(&mut self) {
        let now = self.clock.now();
        match dispatch::note_configuration(&self.store, &self.config.webhooks, now).await {
            Ok(()) => {
                self.is_noted = true;
                // What it made due is found when somebody asks.
                self.health.known.doorbells.hurry_all();
                info!("that the settings of webhooks changed is recorded");
            }
            Err(error) => debug!(%error, "the settings of webhooks are still not recorded"),
        }
    }

    /// Reads the configuration again, and tells the service manager of it. Before the first scan
    /// there is no readiness to take back or to give, and no line that was `said`.
    async fn reload(
        &mut self,
        asked_by: &str,
        rereading: Rereading<'_>,
        said: Option<&mut String>,
    ) -> Reloaded {
        if said.is_some() {
            os::notify_reloading();
        }
        let file = self.config.file.display().to_string();
        info!(file, "{asked_by}: reading the configuration again");
        let reloaded = match self.prepare(rereading).await {
            Ok((prepared, warnings)) => {
                self.is_noted = true;
                self.apply(prepared, rereading.logging).await;
                Reloaded {
                    errors: Vec::new(),
                    warnings,
                }
            }
            Err(errors) => {
                for reason in &errors {
                    error!("{reason}");
                }
                error!(
                    "the configuration is rejected; nothing changes. `project-webhooks check` says the same before a reload"
                );
                Reloaded {
                    errors,
                    warnings: Vec::new(),
                }
            }
        };
        self.status.count_reload(reloaded.is_applied());
        if let Some(said) = said {
            *said = admin::summary(&self.status.snapshot());
            os::notify_ready(said);
        }
        reloaded
    }

    /// Works by what was prepared from now on.
    async fn apply(&mut self, prepared: Prepared, logging: Option<&Logging>) {
        let Prepared {
            config: new,
            targets,
            admin,
        } = prepared;
        if let Some(logging) = logging {
            logging.change(new.log);
        }
        let new_retention = new.retention;
        let (taken, takes) = oneshot::channel();
        self.engine.tell(Input::Configure(Arc::clone(&new), taken));
        self.dispatcher.apply(targets);
        self.metrics.configure(enabled(&new));
        self.retention.send_replace(new_retention);
        if let Some(bound) = admin {
            self.health.stop().await;
            if let (Some(bound), Some(listen)) = (bound, &new.admin) {
                self.health.serve(bound, listen);
            }
        }
        self.config = new;
        // A loop that stands is the watchdog's business, and no reason to hold up signals.
        if tokio::time::timeout(STANDSTILL, takes).await.is_err() {
            warn!(
                "the loop is busy for more than {STANDSTILL:?}; it takes the configuration over \
                 when it turns again, and `status` says what it does"
            );
        }
        info!(
            webhooks = self.config.webhooks.len(),
            "the configuration is applied"
        );
    }

    /// Everything of a reload that can fail, before anything is changed.
    async fn prepare(
        &self,
        rereading: Rereading<'_>,
    ) -> Result<(Prepared, Vec<String>), Vec<String>> {
        let loaded =
            config::load(&self.config.file, rereading.environment).map_err(|problems| {
                problems
                    .errors
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            })?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let mut new = loaded.config;
        if rereading.level_is_fixed {
            new.log.level = self.config.log.level;
        }
        let new = Arc::new(new);
        let change = config::change::between(&self.config, &new);
        if !change.needs_restart.is_empty() {
            return Err(vec![format!(
                "{} cannot change while the daemon runs; restart it for that",
                change.needs_restart.join(", ")
            )]);
        }
        let targets = Targets::prepare(&new.webhooks, &new.network)
            .map_err(|errors| errors.iter().map(|error| chain(error)).collect::<Vec<_>>())?;
        let admin = match &new.admin {
            same if *same == self.config.admin => None,
            None => Some(None),
            Some(listen) => Some(Some(admin::bind(listen).await.map_err(|error| {
                vec![format!("admin.listen: {listen} cannot be had: {error}")]
            })?)),
        };
        dispatch::note_configuration(&self.store, &new.webhooks, self.clock.now())
            .await
            .map_err(|error| {
                // Unlike at a start, there are settings to go on with and somebody who hears of it.
                vec![format!(
                    "that the settings of webhooks changed cannot be recorded; mend this and reload \
                     again: {}",
                    chain(&error)
                )]
            })?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        let prepared = Prepared {
            config: new,
            targets,
            admin,
        };
        Ok((prepared, warnings))
    }
}

/// Tells the service manager that the loop turns, as long as it does, and what it does.
async fn beat(status: Arc<Status>, clock: Clock, stop: CancellationToken) {
    let Some(interval) = os::watchdog_interval() else {
        return stop.cancelled().await;
    };
    loop {
        if clock.moment().saturating_sub(status.last_beat()) < STANDSTILL {
            os::notify_watchdog();
        } else {
            error!(
                "the loop has not turned for {STANDSTILL:?}; the watchdog is not fed, and systemd restarts the daemon. Is the repository's disk or network file system stuck?"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Waits for a second signal to end.
async fn second_signal(signals: &mut Signals) {
    while let Some(signal) = signals.next().await {
        if signal == SIGTERM || signal == SIGINT {
            return;
        }
    }
    std::future::pending().await
}

/// An error with its causes, once each.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The path of the control socket in a state directory.
pub fn control_socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}
