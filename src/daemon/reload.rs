//! Reloads the configuration: prepares everything that can fail, then applies it.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::engines::Running;
use super::start::enabled;
use super::{Daemon, STANDSTILL};
use crate::admin::{Bound, Reloaded};
use crate::config::{self, Config};
use crate::dispatch::{self, Targets};
use crate::error::chain;

/// The parts of a reload that can fail. All are made before any of them is used.
struct Prepared {
    config: Arc<Config>,
    /// The configuration of each engine.
    configs: Vec<Arc<Config>>,
    /// The engines of added repositories. They run already.
    added: Vec<Running>,
    targets: Targets,
    /// The new socket if `admin.listen` changed. `Some(None)` if the setting was removed.
    admin: Option<Option<Bound>>,
    warnings: Vec<String>,
}

impl Daemon<'_> {
    /// Reads the configuration again. Applies it completely or not at all.
    pub(super) async fn reload(&mut self, trigger: &str) -> Reloaded {
        let file = self.config.file.display().to_string();
        info!(file, "{trigger}: reading the configuration");
        let reloaded = match self.prepare().await {
            Ok(prepared) => {
                let warnings = prepared.warnings.clone();
                self.is_noted = true;
                self.apply(prepared).await;
                Reloaded {
                    errors: Vec::new(),
                    warnings,
                }
            }
            Err(errors) => {
                for reason in &errors {
                    error!("{reason}");
                }
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

    /// Prepares the parts of a reload that can fail, without changing anything.
    async fn prepare(&mut self) -> Result<Prepared, Vec<String>> {
        let loaded =
            config::load(&self.config.file, self.rereading.environment).map_err(|problems| {
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
        if self.rereading.level_is_fixed {
            new.log.level = self.config.log.level;
        }
        let refused = self.config.needing_restart(&new);
        if !refused.is_empty() {
            return Err(vec![format!(
                "{} cannot change while the daemon runs; restart the daemon to change it",
                refused.join(", ")
            )]);
        }
        // Under a new layout, the removals of held projects would cause no events.
        let new = Arc::new(new);
        let configs = new.of_each_repository();
        for config in &configs {
            self.keep_held_removals(config)?;
        }
        let runs = |webhook: &str| self.dispatcher.runs(webhook);
        let targets = Targets::prepare(new.sent_webhooks(), &new.network, runs)
            .map_err(|errors| errors.iter().map(|error| chain(error)).collect::<Vec<_>>())?;
        let admin = match &new.admin {
            same if *same == self.config.admin => None,
            None => Some(None),
            Some(server) => Some(Some(self.health.bind(server).await.map_err(|error| {
                vec![format!(
                    "admin.listen: cannot listen on {}: {error}",
                    server.listen
                )]
            })?)),
        };
        // Unlike at a start, a failure rejects the reload. The daemon continues with the old
        // settings, and the operator sees the error.
        dispatch::note_configuration(&self.store, &new.webhooks, self.clock.now())
            .await
            .map_err(|error| {
                vec![format!(
                    "cannot save the changed webhook settings; fix this and reload again: {}",
                    chain(&error)
                )]
            })?;
        // Last, because added engines begin at once.
        let added = self.engines.start_added(&configs);
        let added = added.map_err(|error| vec![chain(&error)])?;
        Ok(Prepared {
            config: new,
            configs,
            added,
            targets,
            admin,
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// Refuses a new layout of a repository while its removals are held.
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
            Some(held) if is_new_layout => Err(vec![format!(
                "repository.layout cannot change while removals are held (projects: {}). Restore the \
                 projects or run `project-webhooks accept`, and then reload again",
                held.count
            )]),
            _ => Ok(()),
        }
    }

    /// Applies a prepared configuration to all parts.
    async fn apply(&mut self, prepared: Prepared) {
        let new = prepared.config;
        self.rereading.logging.change(new.log);
        let switching = self.engines.apply(&prepared.configs, prepared.added);
        self.dispatcher.apply(prepared.targets);
        self.metrics.configure(enabled(&new.webhooks));
        self.health.admin.sources.configure(&new);
        self.retention.send_replace(new.retention);
        if let Some(bound) = prepared.admin {
            self.health.stop().await;
            if let (Some(bound), Some(server)) = (bound, &new.admin) {
                self.health.serve(bound, server);
            }
        }
        self.config = new;
        // The engines answer between two steps. Do not wait longer for a stuck engine: the daemon must
        // handle signals. The watchdog restarts a daemon whose engines stay stuck.
        if !switching.finish().await {
            warn!(
                "the engine has been busy for more than {STANDSTILL:?}; it applies the \
                 new configuration later. `project-webhooks status` shows its state"
            );
        }
        info!(
            webhooks = self.config.webhooks.len(),
            "the configuration is applied"
        );
    }
}
