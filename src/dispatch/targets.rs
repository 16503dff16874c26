//! Makes the HTTP clients of the webhooks, and the threads of new queues.
//!
//! Constraint: a reload is applied completely or not at all. So all clients and threads are made
//! before any of them is used.

use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use tracing::{info, warn};

use super::thread::QueueThread;
use crate::config::{self, NetworkPolicy, SystemEnvironment};
use crate::store::{Store, StoreError};
use crate::webhook::{ClientError, Proxies, TrustRoots, WebhookClient};

/// A webhook with its client.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) webhook: config::Webhook,
    pub(super) client: WebhookClient,
    /// A hash of the settings.
    pub(super) fingerprint: [u8; 32],
}

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("webhook {webhook}: cannot start a thread")]
    Thread { webhook: String, source: io::Error },
}

/// A target, and a thread if its webhook has no queue yet.
pub(super) struct Prepared {
    pub(super) target: Arc<Target>,
    pub(super) thread: Option<QueueThread>,
}

/// The targets of a configuration.
pub(crate) struct Targets(Vec<Prepared>);

impl Targets {
    /// Makes the clients of the enabled webhooks. An error lists all failures.
    ///
    /// `runs` tells whether a webhook has a queue already. If not, it gets a thread.
    pub(crate) fn prepare(
        webhooks: &[config::Webhook],
        network: &NetworkPolicy,
        runs: impl Fn(&str) -> bool,
    ) -> Result<Self, Vec<TargetError>> {
        let network = Arc::new(network.clone());
        let roots = TrustRoots::load();
        let proxies = Proxies::of(&SystemEnvironment);
        for warning in roots.warning(webhooks).iter().chain(proxies.warnings()) {
            warn!("{warning}");
        }
        let mut targets = Vec::new();
        let mut errors = Vec::new();
        for webhook in webhooks.iter().filter(|webhook| webhook.enabled) {
            match prepare(webhook, &roots, &network, runs(webhook.name())) {
                Ok(prepared) => targets.push(prepared),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self(targets))
        } else {
            Err(errors)
        }
    }

    pub(super) fn into_vec(self) -> Vec<Prepared> {
        self.0
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|one| one.target.webhook.name())
    }
}

fn prepare(
    webhook: &config::Webhook,
    roots: &TrustRoots,
    network: &Arc<NetworkPolicy>,
    runs: bool,
) -> Result<Prepared, TargetError> {
    let target = Target {
        webhook: webhook.clone(),
        client: WebhookClient::new(webhook, roots, network)?,
        fingerprint: config::fingerprint(webhook),
    };
    let thread = if runs {
        None
    } else {
        let failed = |source| TargetError::Thread {
            webhook: webhook.name().to_owned(),
            source,
        };
        Some(QueueThread::start().map_err(failed)?)
    };
    Ok(Prepared {
        target: Arc::new(target),
        thread,
    })
}

/// Records the fingerprint of each webhook's settings.
///
/// If the settings of a webhook changed, its failed deliveries become due immediately, because the
/// new settings may work. If its receiver had switched it off, it is switched on again.
pub(crate) async fn note_configuration(
    store: &Store,
    webhooks: &[config::Webhook],
    now: Timestamp,
) -> Result<(), StoreError> {
    let now = store.shared_now().unwrap_or(now);
    let fingerprints = webhooks
        .iter()
        .map(|webhook| (webhook.name().to_owned(), config::fingerprint(webhook)))
        .collect();
    for webhook in store.set_fingerprints(fingerprints, now).await? {
        info!(
            webhook,
            "the webhook is on again, because its configuration changed. Its receiver had switched it off (410)"
        );
    }
    Ok(())
}
