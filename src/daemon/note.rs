//! Records the names of repositories and the fingerprints of webhooks in the state.
//!
//! Constraint: the recorded list has the name of each repository whose engine may still commit.
//! Otherwise another process could watch it too, as its only repository. So a reload adds names
//! before it uses them, and a name is removed only after its engine has ended. After a failure, the
//! list may have too many names, and the supervisor retries.

use std::sync::Arc;

use tracing::{debug, error, info};

use super::{Daemon, DaemonError};
use crate::config::Config;
use crate::dispatch;
use crate::error::chain;
use crate::store::{Fault, StoreError};

/// The recorded parts of the configuration.
#[derive(Debug)]
pub(crate) struct Noted {
    /// Whether the fingerprints of the configured webhooks are stored.
    pub(super) has_webhooks: bool,
    /// The recorded names of several repositories. `None` after a failure.
    pub(super) names: Option<Vec<String>>,
    /// The repositories with projects that the former process watched and this one does not.
    pub(super) left_out: Vec<String>,
    /// The reason why the state refuses the names, as last logged.
    pub(super) refusal: Option<String>,
}

impl Daemon<'_> {
    /// Whether the names and the fingerprints are recorded.
    pub(super) fn is_noted(&self) -> bool {
        self.noted.has_webhooks && self.noted.names.as_ref() == Some(&self.names())
    }

    /// The names to record: those of the configuration, and those of engines that have not ended.
    fn names(&self) -> Vec<String> {
        let leaving = self.engines.leaving().map(str::to_owned);
        united(self.config.repository_names(), leaving)
    }

    /// Records what a new configuration adds, before anything uses it.
    ///
    /// Unlike at a start, a failure rejects the reload, so that the operator sees the error. If a
    /// part was recorded nevertheless, the supervisor records the current configuration again.
    pub(super) async fn note(&mut self, new: &Config) -> Result<(), Vec<String>> {
        let present = self.names();
        let all = united(present.clone(), new.repository_names());
        if all != present {
            self.note_names(all).await.map_err(|error| {
                vec![format!(
                    "cannot record the names of the repositories: {}",
                    chain(&error)
                )]
            })?;
        }
        self.noted.has_webhooks = false;
        self.note_webhooks(new).await.map_err(|error| {
            vec![format!(
                "cannot save the changed webhook settings; fix this and reload again: {}",
                chain(&error)
            )]
        })
    }

    /// Records what is not recorded yet: after a start, a reload, or the end of a removed engine.
    pub(super) async fn note_again(&mut self) {
        let names = self.names();
        match self.note_names(names).await {
            Ok(()) => self.noted.refusal = None,
            Err(error) => self.report(&error),
        }
        if self.noted.has_webhooks {
            return;
        }
        let config = Arc::clone(&self.config);
        match self.note_webhooks(&config).await {
            Ok(()) => {
                self.noted.has_webhooks = true;
                // Deliveries may be due now because the settings changed, so the queues must claim
                // them.
                self.health.admin.queues.wake_all();
                info!("saved the changed webhook settings");
            }
            Err(error) => debug!(%error, "still cannot save the changed webhook settings"),
        }
    }

    /// Logs a refusal of the names once.
    fn report(&mut self, error: &DaemonError) {
        let reason = chain(error);
        let is_refused = matches!(
            error,
            DaemonError::Store(error) if matches!(error.fault(), Fault::WatchedTwice(_))
        );
        if is_refused && self.noted.refusal.as_ref() != Some(&reason) {
            error!("cannot record the names of the repositories; retrying: {reason}");
            self.noted.refusal = Some(reason);
        } else {
            debug!("cannot record the names of the repositories; retrying: {reason}");
        }
    }

    /// Records the names of several repositories, unless they are recorded.
    async fn note_names(&mut self, names: Vec<String>) -> Result<(), DaemonError> {
        if self.noted.names.as_ref() == Some(&names) {
            return Ok(());
        }
        self.noted.names = None;
        let (store, recorded, now) = (self.store.clone(), names.clone(), self.clock.now());
        tokio::task::spawn_blocking(move || store.name_repositories(&recorded, now))
            .await
            .map_err(|_| DaemonError::PartEnded { part: "the store" })??;
        self.noted.names = Some(names);
        Ok(())
    }

    async fn note_webhooks(&self, config: &Config) -> Result<(), StoreError> {
        dispatch::note_configuration(&self.store, &config.webhooks, self.clock.now()).await
    }
}

/// Adds those of `others` that `names` lacks.
fn united(mut names: Vec<String>, others: impl IntoIterator<Item = String>) -> Vec<String> {
    for name in others {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
