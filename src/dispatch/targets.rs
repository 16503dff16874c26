//! Makes the HTTP clients of the webhooks.
//!
//! Constraint: a reload is applied completely or not at all. So all clients are made before the
//! first of them is used.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::config::{self, NetworkPolicy, SystemEnvironment};
use crate::store::{Store, StoreError};
use crate::webhook::{ClientError, Proxies, TrustRoots, WebhookClient};

/// A webhook with its client.
#[derive(Debug)]
pub(super) struct Target {
    /// The settings of the webhook.
    pub(super) webhook: config::Webhook,
    /// The client that sends to the webhook.
    pub(super) client: WebhookClient,
    /// The fingerprint of the settings.
    pub(super) fingerprint: [u8; 32],
}

/// The targets of a configuration.
#[derive(Debug)]
pub(crate) struct Targets(Vec<Arc<Target>>);

impl Targets {
    /// Makes the clients of the enabled webhooks. Returns the errors of those that fail.
    pub(crate) fn prepare(
        webhooks: &[config::Webhook],
        network: &NetworkPolicy,
    ) -> Result<Self, Vec<ClientError>> {
        let network = Arc::new(network.clone());
        let roots = TrustRoots::load();
        let proxies = Proxies::of(&SystemEnvironment);
        for warning in roots.warning(webhooks).iter().chain(proxies.warnings()) {
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
/// If they changed, failed deliveries become due at once, because the new settings may work. A
/// webhook that its receiver switched off is switched on again.
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
            "the configuration changed, so the webhook that its receiver had switched off is on again"
        );
    }
    Ok(())
}
