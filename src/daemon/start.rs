//! Starts the parts of the daemon.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::Stream;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::drain::close;
use super::engines::{Common, Engines, Leaving};
use super::note::Noted;
use super::supervise::feed_watchdog;
use super::{Background, Daemon, DaemonError, Health, Rereading, STANDSTILL, Signals};
use crate::admin::{Admin, control, stream};
use crate::clock::Clock;
use crate::config::{Config, Retention, Webhook};
use crate::dispatch::{self, Dispatcher, QueueHandles, TargetError, Targets};
use crate::domain::state_size::StateSize;
use crate::engine::held_removals::held_before;
use crate::engine::phase::Start;
use crate::error::chain;
use crate::housekeeping::Housekeeping;
use crate::metrics::Metrics;
use crate::os;
use crate::report::Sources;
use crate::store::{
    Fault, Listings, MetaKey, OpenError, RepositoryStore, Store, StoreError, names_of,
};
use crate::traces::{Counter, Exporter, Traces};

/// The maximum number of requests of commands that the supervisor has not taken yet.
const REQUESTS_WAITING: usize = 4;

impl<'a> Daemon<'a> {
    /// Starts all parts on an open state.
    ///
    /// `noted` is the result of [`prepare`]. `leaving` has engines that ran before this process
    /// lost the lease, and have not ended.
    ///
    /// # Errors
    ///
    /// A webhook cannot be used, or the metrics, the traces or a thread cannot be started.
    pub(crate) async fn start(
        config: Arc<Config>,
        store: Store,
        noted: Noted,
        rereading: Rereading<'a>,
        leaving: Vec<Leaving>,
    ) -> Result<Self, DaemonError> {
        os::raise_open_files();
        let clock = Clock::start();
        let targets = Targets::prepare(config.sent_webhooks(), &config.network, |_| false);
        let targets = targets.map_err(first_of)?;
        let configs = config.of_each_repository();
        let queues = Arc::new(QueueHandles::default());
        let metrics = Metrics::new(enabled(&config.webhooks))
            .map_err(|source| refused("metrics", io::Error::other(source)))?;
        let metrics = Arc::new(metrics);
        let (traces, exporter) = start_traces(&config, clock, &metrics)?.unzip();
        let common = Common {
            store: store.clone(),
            clock,
            queues: Arc::clone(&queues),
            traces: traces.clone(),
        };
        let engines = Engines::start(&configs, common, leaving)?;
        engines.statuses.leave_out(noted.left_out.clone());

        let stop = CancellationToken::new();
        let shared = dispatch::Shared {
            metrics: Arc::clone(&metrics),
            store: store.clone(),
            clock,
            queues: Arc::clone(&queues),
            jitter: Arc::new(fastrand::f64),
            traces,
        };
        let dispatcher = Dispatcher::start(shared, targets, stop.clone());
        let (sender, requests) = mpsc::channel(REQUESTS_WAITING);
        let (sizes, state_size) = watch::channel(StateSize::default());
        let sources = Sources {
            statuses: Arc::clone(&engines.statuses),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            dropped_lines: rereading.logging.dropped(),
            clock,
            state_size,
            standstill: STANDSTILL,
            counted: Default::default(),
            config: Arc::clone(&config).into(),
        };
        let admin = Arc::new(Admin::new(
            sources,
            queues,
            sender,
            config.state_dir.clone(),
        ));
        let (retention, kept) = watch::channel(config.retention);
        let background = start_background(&admin, config.state_dir.clone(), kept, sizes, exporter);
        let mut health = Health::new(admin);
        health.keep(config.admin.as_ref()).await;
        Ok(Self {
            health,
            config,
            rereading,
            noted,
            notices: store.notices(),
            store,
            clock,
            engines,
            dispatcher,
            metrics,
            retention,
            requests,
            background,
            stop,
        })
    }
}

/// Opens the state of a configuration.
///
/// # Errors
///
/// The state cannot be used, or another process uses it.
pub(crate) async fn open_store(config: Arc<Config>) -> Result<Store, DaemonError> {
    tokio::task::spawn_blocking(move || Store::of(&config))
        .await
        .map_err(|_| DaemonError::PartEnded { part: "the store" })?
        .map_err(DaemonError::from)
}

/// Refuses the state of one repository for several repositories, and vice versa.
///
/// The keys of projects differ: with several repositories, they contain the repository's name.
fn check_record(store: &Store, config: &Config) -> Result<(), DaemonError> {
    let is_for_several = !config.repositories.is_empty();
    let has_several = store.meta_of(None, MetaKey::HasRepositories)?.is_some();
    if has_several != is_for_several && has_record(|key| store.meta_of(None, key))? {
        let state_dir = config.state_dir.display().to_string();
        return Err(DaemonError::OtherRecord {
            state_dir,
            has_several,
        });
    }
    Ok(())
}

/// The result of recording the names of several repositories.
struct Named {
    /// The recorded names. `None` if the daemon has to record them later.
    names: Option<Vec<String>>,
    /// The names that were recorded before and are no longer configured.
    removed: Vec<String>,
}

/// Records the names of the setting `repositories`. Does nothing without this setting.
fn name_repositories(store: &Store, config: &Config, now: Timestamp) -> Result<Named, DaemonError> {
    let names = config.repository_names();
    if names.is_empty() {
        return Ok(Named {
            names: Some(names),
            removed: Vec::new(),
        });
    }
    let recorded = store.meta_of(None, MetaKey::HasRepositories)?;
    let before = names_of(recorded.as_deref());
    let mut before = before.map_err(|fault| StoreError::new(&store.location().into(), fault))?;
    if config.store.is_none() && before == names {
        return Ok(Named {
            names: Some(names),
            removed: Vec::new(),
        });
    }
    let mut is_noted = true;
    if let Err(error) = store.name_repositories(&names, now) {
        match error.fault() {
            Fault::WatchedTwice(reason) => {
                let (location, reason) = (store.location().into(), reason.clone());
                return Err(OpenError::WatchedTwice { location, reason }.into());
            }
            Fault::NotYet(reason) => {
                let (location, reason) = (store.location().into(), reason.clone());
                return Err(OpenError::NotYet { location, reason }.into());
            }
            // For example, the disk is full: with SQLite, start anyway, and retry later. A first
            // start fails instead. Otherwise its record would look like that of a single
            // repository. A first start has no pending deliveries that a failure could delay.
            _ if config.store.is_none() && recorded.is_some() => {
                debug!(
                    error = %chain(&error),
                    "cannot record the names of the repositories"
                );
                is_noted = false;
            }
            _ => return Err(error.into()),
        }
    }
    before.retain(|name| !names.contains(name));
    Ok(Named {
        names: is_noted.then_some(names),
        removed: before,
    })
}

/// Logs the repositories that were removed from the configuration.
///
/// After a take-over, returns the removed repositories that have projects.
fn report_removed(
    store: &Store,
    config: &Config,
    removed: &[String],
    is_take_over: bool,
) -> Result<Vec<String>, DaemonError> {
    let mut left_out = Vec::new();
    for repository in removed {
        match config.store {
            // The name may be from the configuration of another process. Its absence in this
            // configuration may be a mistake.
            Some(_) => warn!(repository, "{REMOVED}"),
            None => info!(repository, "{REMOVED}"),
        }
        if is_take_over && store.n_defined_of(Some(repository))? > 0 {
            left_out.push(repository.clone());
        }
    }
    Ok(left_out)
}

const REMOVED: &str = "not watching a repository that was removed from the configuration; its record and \
                       its pending deliveries are kept";

/// Checks an open state before a start. Records the names and fingerprints of the configuration.
///
/// # Errors
///
/// The state does not fit the configuration, or the store fails.
pub(crate) async fn prepare(
    config: &Arc<Config>,
    store: &Store,
    is_take_over: bool,
) -> Result<Noted, DaemonError> {
    let clock = Clock::start();
    let (read, of) = (store.clone(), Arc::clone(config));
    let check = move || -> Result<_, DaemonError> {
        warn_of_unmoved(&read, &of)?;
        check_record(&read, &of)?;
        let configs = of.of_each_repository();
        configs
            .iter()
            .try_for_each(|config| keep_held_removals(&read, config))?;
        // Record the names last, because a refused start must change nothing.
        let named = name_repositories(&read, &of, clock.now())?;
        let left_out = report_removed(&read, &of, &named.removed, is_take_over)?;
        Ok((named.names, left_out))
    };
    let (names, left_out) = tokio::task::spawn_blocking(check)
        .await
        .map_err(|_| DaemonError::PartEnded { part: "the store" })??;
    Ok(Noted {
        has_webhooks: note_at_start(store, config, clock).await?,
        names,
        left_out,
        refusal: None,
    })
}

/// Warns if the database has no state yet, but the state directory has one.
fn warn_of_unmoved(store: &Store, config: &Config) -> Result<(), DaemonError> {
    if config.store.is_none() || has_record(|key| store.meta_of(None, key))? {
        return Ok(());
    }
    // After `migrate-store`, the state in the directory can no longer be opened.
    let Ok(former) = Listings::open(&config.state_dir) else {
        return Ok(());
    };
    if has_record(|key| former.meta_of(None, key)).unwrap_or_default() {
        warn!(
            "the state in {} was never moved to {}, so the daemon starts with an empty state, and does \
             not send the old pending deliveries. To move the old state, stop the daemon and run `project-webhooks \
             migrate-store --to postgres` with an empty database (or, for a single repository, another repository.name)",
            config.state_dir.display(),
            store.location()
        );
    }
    Ok(())
}

/// Whether a daemon has ever used a state.
fn has_record(
    meta: impl Fn(MetaKey) -> Result<Option<String>, StoreError>,
) -> Result<bool, StoreError> {
    Ok(meta(MetaKey::HasRepositories)?.is_some() || meta(MetaKey::FirstStart)?.is_some())
}

/// Closes a store with which no daemon was started.
pub(crate) async fn close_store(
    store: Store,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) {
    close(store, std::future::ready(()), false, signals.stop()).await;
}

/// Refuses a new layout while removals are held.
///
/// With a new layout, the held removals would never cause events.
pub(super) fn keep_held_removals(store: &Store, config: &Config) -> Result<(), DaemonError> {
    let store = &RepositoryStore::new(store.clone(), config.repository.name_in_keys());
    let start = Start::judge(
        store.meta(MetaKey::FirstStart)?.as_deref(),
        store.meta(MetaKey::Layout)?.as_deref(),
        &config.repository,
    );
    match held_before(store)?.len() {
        n if n > 0 && start.layout_changed => Err(DaemonError::HeldRemovals {
            repository: config
                .repository
                .name_in_keys()
                .map(|name| name.to_string()),
            n,
        }),
        _ => Ok(()),
    }
}

/// Stores the fingerprints of the configured webhooks. Returns whether this succeeded.
///
/// The daemon starts even after a failure, for instance on a full disk. Otherwise nothing would
/// start the daemon when the disk has space again. Only a damaged or closed store is an error.
/// Until the fingerprints are stored, deliveries that failed with old settings keep their retry
/// schedule.
async fn note_at_start(store: &Store, config: &Config, clock: Clock) -> Result<bool, DaemonError> {
    match dispatch::note_configuration(store, &config.webhooks, clock.now()).await {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.fault(), Fault::Damaged(_) | Fault::Closed) => {
            Err(error.into())
        }
        Err(error) => {
            warn!(
                "cannot save changed webhook settings yet ({}); retrying. Pending deliveries keep \
                 their schedule",
                chain(&error)
            );
            Ok(false)
        }
    }
}

fn start_background(
    admin: &Arc<Admin>,
    state_dir: PathBuf,
    retention: watch::Receiver<Retention>,
    sizes: watch::Sender<StateSize>,
    exporter: Option<Exporter>,
) -> Background {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(control::serve(Arc::clone(admin), state_dir, stop.clone()));
    tasks.spawn(stream::publish(Arc::clone(admin), stop.clone()));
    let sources = &admin.sources;
    let (statuses, clock) = (Arc::clone(&sources.statuses), sources.clock);
    tasks.spawn(feed_watchdog(statuses, clock, stop.clone()));
    let housekeeping = Housekeeping {
        store: sources.store.clone(),
        clock,
        queues: Arc::clone(&admin.queues),
        retention,
        space: Arc::default(),
    };
    tasks.spawn(housekeeping.clone().collect(stop.clone()));
    tasks.spawn(housekeeping.keep_size(sizes, stop.clone()));
    if let Some(exporter) = exporter {
        tasks.spawn(exporter.supervise(stop.clone()));
    }
    Background { tasks, stop }
}

/// Starts the thread that sends traces, if they are on.
pub(super) fn start_traces(
    config: &Config,
    clock: Clock,
    metrics: &Metrics,
) -> Result<Option<(Arc<Traces>, Exporter)>, DaemonError> {
    let Some(otlp) = &config.otlp else {
        return Ok(None);
    };
    let counter = metrics
        .count_spans()
        .map_err(|source| refused("metrics", io::Error::other(source)))?;
    let started = Exporter::start(otlp, clock, Counter::new(counter));
    let started = started.map_err(|source| refused("traces", io::Error::other(source)))?;
    Ok(Some(started))
}

/// Returns the names of the webhooks, each with its setting `enabled`.
pub(super) fn enabled(webhooks: &[Webhook]) -> BTreeMap<String, bool> {
    webhooks
        .iter()
        .map(|webhook| (webhook.name().to_owned(), webhook.enabled))
        .collect()
}

/// Logs all errors and returns the first.
pub(super) fn first_of(errors: Vec<TargetError>) -> DaemonError {
    for error in &errors {
        error!("{}", chain(error));
    }
    match errors.into_iter().next() {
        Some(error) => DaemonError::Webhook(error),
        None => DaemonError::PartEnded {
            part: "the preparation of webhooks",
        },
    }
}

fn refused(what: &'static str, source: io::Error) -> DaemonError {
    DaemonError::System { what, source }
}
