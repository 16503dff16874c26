//! Webhooks with their clients.
//!
//! Constraint: a reload is applied whole or not at all, so all clients are made before one is used.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::config::{self, NetworkPolicy};
use crate::store::{Store, StoreError};
use crate::webhook::{ClientError, TrustRoots, WebhookClient};

/// A webhook with its client.
#[derive(Debug)]
pub(super) struct Target {
    /// Its settings.
    pub(super) webhook: config::Webhook,
    /// The client that sends to it.
    pub(super) client: WebhookClient,
    /// The fingerprint of the settings.
    pub(super) fingerprint: [u8; 32],
}

/// The targets of a configuration.
#[derive(Debug)]
pub(crate) struct Targets(Vec<Arc<Target>>);

impl Targets {
    /// Makes the clients of the enabled webhooks, or returns the error of each that fails.
    pub(crate) fn prepare(
        webhooks: &[config::Webhook],
        network: &NetworkPolicy,
    ) -> Result<Self, Vec<ClientError>> {
        let network = Arc::new(network.clone());
        let roots = TrustRoots::load();
        if let Some(warning) = roots.warning(webhooks) {
            warn!("{warning}");
        }
        let mut targets = Vec::new();
        let mut errors = Vec::new();
        for webhook in webhooks.iter().filter(|webhook| webhook.enabled) {
            match WebhookClient::new(webhook, &roots, &network) {
                Ok(client) => targets.push(Arc::new(Target {
                    webhook: webhook.clone(),
                    client,
                    fingerprint: config::fingerprint(webhook),
                })),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self(targets))
        } else {
            Err(errors)
        }
    }

    pub(super) fn into_vec(self) -> Vec<Arc<Target>> {
        self.0
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|target| target.webhook.name())
    }
}

/// Records the fingerprint of each webhook's settings.
///
/// If they changed, a webhook that its receiver switched off is on again, and failed deliveries are
/// due at once, since the new settings may work.
pub(crate) async fn note_configuration(
    store: &Store,
    webhooks: &[config::Webhook],
    now: Timestamp,
) -> Result<(), StoreError> {
    let fingerprints = webhooks
        .iter()
        .map(|webhook| (webhook.name().to_owned(), config::fingerprint(webhook)))
        .collect();
    for webhook in store.set_fingerprints(fingerprints, now).await? {
        info!(
            webhook,
            "its configuration changed: the webhook that its receiver switched off is on again"
        );
    }
    Ok(())
}
