//! Reloads the configuration: prepares everything that can fail, then applies it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::start::{enabled, keep_held_removals};
use super::{Daemon, DaemonError};
use crate::admin::{Bound, Reloaded};
use crate::config::{self, Config, Environment, Loaded, Repository};
use crate::dispatch::Targets;
use crate::error::chain;

/// The prepared parts of a reload. Preparing can fail, and applies nothing.
struct Prepared {
    config: Arc<Config>,
    /// The configuration of each engine.
    configs: Vec<Arc<Config>>,
    targets: Targets,
    /// The new socket if a setting below `admin` changed. `Some(None)` if `admin` was removed.
    admin: Option<Option<Bound>>,
    warnings: Vec<String>,
}

/// The time limit for reading the configuration and the files that it names.
const LOAD_MAX: Duration = Duration::from_secs(20);

/// Reads the configuration on a separate thread. An error lists all problems.
///
/// A file system may hang, and the daemon must still handle signals.
pub(super) async fn load(
    file: &Path,
    environment: &'static (dyn Environment + Sync),
) -> Result<Loaded, Vec<String>> {
    let path = file.to_owned();
    let loading = tokio::task::spawn_blocking(move || config::load(&path, environment));
    match tokio::time::timeout(LOAD_MAX, loading).await {
        Ok(Ok(loaded)) => loaded.map_err(|problems| {
            let errors = problems.errors.iter();
            errors.map(ToString::to_string).collect()
        }),
        Ok(Err(_)) => Err(vec![format!(
            "{}: reading the configuration panicked; please report this bug",
            file.display()
        )]),
        Err(_) => Err(vec![format!(
            "{}: reading the configuration and its files takes longer than {LOAD_MAX:?}; is a disk or \
             network file system stuck?",
            file.display()
        )]),
    }
}

/// Refuses changes that need a restart, and new names of recorded repositories.
pub(super) fn accepts(old: &Config, new: &Config) -> Result<(), Vec<String>> {
    let refused = old.needing_restart(new);
    if !refused.is_empty() {
        return Err(vec![format!(
            "{} cannot change while the daemon runs; restart the daemon to apply the change",
            refused.join(", ")
        )]);
    }
    keep_names(old, new)
}

/// Refuses to rename one of several repositories.
///
/// The record of a repository belongs to its name. Under a new name, the repository would begin a
/// new record. Then unrecorded changes and held removals would cause no events.
fn keep_names(old: &Config, new: &Config) -> Result<(), Vec<String>> {
    let gone = |one: &&Repository| {
        new.repositories
            .iter()
            .all(|other| one.name() != other.name())
    };
    for removed in old.repositories.iter().filter(gone) {
        let mut others = new.repositories.iter();
        if let Some(renamed) = others.find(|other| other.path == removed.path) {
            return Err(vec![format!(
                "repositories: {} is now named {}, but its record belongs to the former name. Keep \
                 the former name. To begin a new record, remove the repository in one reload and add it \
                 in the next",
                removed.name(),
                renamed.name()
            )]);
        }
    }
    Ok(())
}

impl Daemon<'_> {
    /// Reads the configuration again. Applies it completely or not at all.
    pub(super) async fn reload(&mut self, trigger: &str) -> Reloaded {
        let file = self.config.file.display().to_string();
        info!(file, "{trigger}: reading the configuration");
        let reloaded = match self.prepare().await {
            Ok(prepared) => {
                let mut warnings = prepared.warnings.clone();
                self.noted.has_webhooks = true;
                let late = self.apply(prepared).await;
                for warning in &late {
                    warn!("{warning}");
                }
                warnings.extend(late);
                Reloaded {
                    errors: Vec::new(),
                    warnings,
                }
            }
            Err(errors) => {
                for reason in &errors {
                    error!("{reason}");
                }
                self.engines.reject_added().await;
                self.health.keep(self.config.admin.as_ref()).await;
                error!(
                    "the configuration is rejected and nothing changed. Run `project-webhooks check` before a reload"
                );
                Reloaded {
                    errors,
                    warnings: Vec::new(),
                }
            }
        };
        self.engines.statuses.count_reload(reloaded.is_applied());
        reloaded
    }

    /// Prepares a reload: does everything that can fail, and applies nothing.
    async fn prepare(&mut self) -> Result<Prepared, Vec<String>> {
        let loaded = load(&self.config.file, self.rereading.environment).await?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let mut new = loaded.config;
        if self.rereading.level_is_fixed {
            new.log.level = self.config.log.level;
        }
        accepts(&self.config, &new)?;
        // Refuse a new layout while removals are held: under it, they would cause no events.
        let new = Arc::new(new);
        let configs = new.of_each_repository();
        for config in &configs {
            self.keep_held_removals(config)?;
        }
        self.keep_recorded_removals(&configs).await?;
        let runs = |webhook: &str| self.dispatcher.runs(webhook);
        let targets = Targets::prepare(new.sent_webhooks(), &new.network, runs)
            .map_err(|errors| errors.iter().map(|error| chain(error)).collect::<Vec<_>>())?;
        let health = &mut self.health;
        let admin = health.prepare(self.config.admin.as_ref(), new.admin.as_ref());
        let admin = admin.await.map_err(|error| vec![error])?;
        if let Err(errors) = self.begin(&new, &configs).await {
            if let Some(bound) = admin.flatten() {
                bound.discard();
            }
            return Err(errors);
        }
        Ok(Prepared {
            config: new,
            configs,
            targets,
            admin,
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// Starts the added engines, and records the names and fingerprints.
    async fn begin(
        &mut self,
        new: &Arc<Config>,
        configs: &[Arc<Config>],
    ) -> Result<(), Vec<String>> {
        // The added engines record nothing yet. They end if the reload is rejected.
        let added = self.engines.start_added(configs).await;
        added.map_err(|error| vec![chain(&error)])?;
        // Record last, because this changes the state.
        self.note(new).await
    }

    /// Refuses a new layout for a running repository while its removals are held.
    fn keep_held_removals(&self, new: &Config) -> Result<(), Vec<String>> {
        let before = self.config.of_each_repository();
        let name = new.repository.name_in_keys();
        let same = before
            .iter()
            .find(|one| one.repository.name_in_keys() == name);
        let is_new_layout =
            same.is_some_and(|same| same.repository.layout != new.repository.layout);
        let held = self
            .engines
            .snapshot_of(new)
            .and_then(|state| state.held_removals);
        match held {
            Some(held) if is_new_layout => Err(vec![held_removals(name.as_deref(), held.count)]),
            _ => Ok(()),
        }
    }

    /// Refuses a new layout for an added repository whose old record has held removals.
    async fn keep_recorded_removals(&self, configs: &[Arc<Config>]) -> Result<(), Vec<String>> {
        let added = configs
            .iter()
            .filter(|config| self.engines.snapshot_of(config).is_none());
        let added: Vec<Arc<Config>> = added.cloned().collect();
        let store = self.store.clone();
        let check = move || {
            added
                .iter()
                .try_for_each(|config| keep_held_removals(&store, config))
        };
        let checked = tokio::task::spawn_blocking(check).await;
        checked
            .map_err(|_| DaemonError::PartEnded { part: "the store" })
            .flatten()
            .map_err(|error| match error {
                DaemonError::HeldRemovals { repository, n } => {
                    vec![held_removals(repository.as_deref(), n)]
                }
                error => vec![chain(&error)],
            })
    }

    /// Applies a prepared configuration to all parts.
    ///
    /// Returns a warning for each engine that has not applied it yet.
    async fn apply(&mut self, prepared: Prepared) -> Vec<String> {
        let new = prepared.config;
        self.rereading.logging.change(new.log);
        // By reloading, the operator confirms the list of repositories. So no repository is
        // reported as left out any more.
        self.engines.statuses.leave_out(Vec::new());
        let switching = self.engines.apply(&prepared.configs);
        self.dispatcher.apply(prepared.targets);
        self.metrics.configure(enabled(&new.webhooks));
        self.health.admin.sources.configure(&new);
        self.retention.send_replace(new.retention);
        self.health.apply(prepared.admin, new.admin.as_ref()).await;
        self.config = new;
        // An engine answers between two steps. The wait for a stuck engine is limited, because the
        // daemon must handle signals. If all engines stay stuck, systemd's watchdog restarts the
        // daemon.
        let switched = switching.finish().await;
        self.engines.keep_leaving(switched.leaving);
        self.note_again().await;
        info!(
            webhooks = self.config.webhooks.len(),
            "the configuration is applied"
        );
        switched.late.iter().map(|name| late(name)).collect()
    }
}

/// Returns the warning that an engine applies the configuration later.
fn late(repository: &str) -> String {
    format!(
        "{repository}: the engine does not respond. It keeps the former settings, and applies the new \
         settings once it responds"
    )
}

/// Returns the error that the layout cannot change.
///
/// `repository` is the name of the repository, if there are several. `n` is the number of projects
/// with held removals.
fn held_removals(repository: Option<&str>, n: usize) -> String {
    let of = repository
        .map(|name| format!("{name}: "))
        .unwrap_or_default();
    format!(
        "{of}repository.layout cannot change while removals are held (projects: {n}). Restore the \
         projects or run `project-webhooks accept`, and then reload again"
    )
}
