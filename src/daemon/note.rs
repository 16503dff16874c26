//! Records the names of repositories and the fingerprints of webhooks in the state.
//!
//! A fingerprint is a hash of a webhook's settings.
//!
//! Constraint: the recorded names include every repository whose engine may still commit. Otherwise
//! another process with the setting `repository` could watch such a repository too. So a reload
//! records new names before it applies them. A name is removed only after the repository's engine
//! has ended. After a failure, too many names may be recorded until a retry succeeds.

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
    /// The recorded names of the repositories. `None` after a failure to record them.
    ///
    /// Empty with the setting `repository`.
    pub(super) names: Option<Vec<String>>,
    /// The repositories that have projects, and that only the former process watched.
    ///
    /// Empty unless this process took over from another process.
    pub(super) left_out: Vec<String>,
    /// The last logged reason why the state refuses the names.
    pub(super) refusal: Option<String>,
}

impl Daemon<'_> {
    /// Whether the names and the fingerprints are recorded.
    pub(super) fn is_noted(&self) -> bool {
        self.noted.has_webhooks && self.noted.names.as_ref() == Some(&self.names())
    }

    /// Returns the names of the configured repositories and of stopping engines.
    fn names(&self) -> Vec<String> {
        let leaving = self.engines.leaving().map(str::to_owned);
        united(self.config.repository_names(), leaving)
    }

    /// Records the names and fingerprints of a new configuration before it is applied.
    ///
    /// A failure rejects the reload, so that the operator sees the error. The supervisor then
    /// removes new names that were recorded before the failure.
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
                "cannot save the changed webhook settings; fix the cause and reload again: {}",
                chain(&error)
            )]
        })
    }

    /// Records the names and fingerprints again if the recorded values are outdated.
    ///
    /// For example, they are outdated after a failure, or after the end of a removed engine.
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
                info!("saved the webhook settings of the running configuration");
            }
            Err(error) => debug!(
                error = %chain(&error),
                "still cannot save the webhook settings of the running configuration"
            ),
        }
    }

    /// Logs why the names cannot be recorded. Only a new refusal is logged as an error.
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

    /// Records these names of repositories, unless they are recorded already.
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

/// Adds the names in `others` that are not in `names`.
fn united(mut names: Vec<String>, others: impl IntoIterator<Item = String>) -> Vec<String> {
    for name in others {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
