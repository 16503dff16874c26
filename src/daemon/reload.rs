//! Reloads the configuration: prepares everything that can fail, then applies it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::start::enabled;
use super::{Daemon, STANDSTILL};
use crate::admin::{Bound, Reloaded};
use crate::config::{self, Config};
use crate::dispatch::{self, Targets};
use crate::engine::Input;
use crate::error::chain;

/// The parts of a reload that can fail. All are made before any of them is used.
struct Prepared {
    config: Arc<Config>,
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
        self.status.count_reload(reloaded.is_applied());
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
        // With a new layout, the held removals would never cause events.
        if let Some(held) = self.status.snapshot().held_removals
            && new.repository.layout != self.config.repository.layout
        {
            return Err(vec![format!(
                "repository.layout cannot change while removals are held (projects: {}). Restore the \
                 projects or run `project-webhooks accept`, and then reload again",
                held.count
            )]);
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
        Ok(Prepared {
            config: Arc::new(new),
            targets,
            admin,
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// Applies a prepared configuration to all parts.
    async fn apply(&mut self, prepared: Prepared) {
        let new = prepared.config;
        self.rereading.logging.change(new.log);
        let (taken, takes) = oneshot::channel();
        self.engine.send(Input::Configure(Arc::clone(&new), taken));
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
        // The engine answers between two steps. Do not wait forever for a stuck engine, because
        // the daemon must handle signals. The watchdog restarts a daemon whose engine remains
        // stuck.
        if tokio::time::timeout(STANDSTILL, takes).await.is_err() {
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
