//! From recorded deliveries to callbacks.
//!
//! Constraint: one webhook never waits for another, and within a webhook one project's deliveries
//! go strictly in order. Each webhook has a `queue` of its own; what waits stays in the store,
//! and only what is in flight is held here. A claim is a lease in memory: a restart resolves it by
//! forgetting it. The engine passes what it just committed directly; the queue asks the store for the
//! rest.
//!
//! Map: `queue` is one webhook's, `ahead` what it claimed and waits for room, `attempt` one exchange
//! and what follows from it, `repeats` what the log says of it. This file has the queues as a set:
//! which run, what a reload does to them, and how they end.

mod ahead;
mod attempt;
mod queue;
mod repeats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Mutex as Gate, Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{self, NetworkPolicy};
use crate::metrics::Metrics;
use crate::store::{Claim, NewDeliveries, READY_BYTES, READY_MAX, Store, StoreError};
use crate::webhook::{ClientError, TrustRoots, WebhookClient};

/// The engine's and the operator's side of a webhook's queue.
#[derive(Debug, Default)]
struct QueueHandle {
    wakes: Notify,
    /// Whether an operator changed something since the queue asked last.
    is_changed_by_operator: AtomicBool,
    /// Deliveries that were just committed, for a queue that has room.
    ready: Mutex<Vec<Claim>>,
    /// The newest delivery that was ever claimed for the webhook, by this queue or one before it.
    newest: AtomicI64,
}

impl QueueHandle {
    async fn woken(&self) {
        self.wakes.notified().await;
    }

    /// Passes a committed delivery to the queue if there is room. The queue finds the others in the
    /// store.
    fn deliver(&self, claim: Claim) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = ready.iter().map(|claim| claim.payload.len()).sum();
        if ready.len() < READY_MAX && bytes.saturating_add(claim.payload.len()) <= READY_BYTES {
            ready.push(claim);
        }
    }

    /// Takes the committed deliveries, oldest first.
    fn take_ready(&self) -> Vec<Claim> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut ready)
    }

    /// Whether a delivery is newer than all that were claimed. The queue may have claimed, sent and
    /// recorded an older one before it was passed here.
    fn is_news(&self, delivery: i64) -> bool {
        delivery > self.newest.load(Ordering::Acquire)
    }

    /// Notes that a delivery is claimed.
    fn claimed(&self, delivery: i64) {
        self.newest.fetch_max(delivery, Ordering::AcqRel);
    }

    /// Whether an operator changed something since the last call.
    fn take_changed_by_operator(&self) -> bool {
        self.is_changed_by_operator.swap(false, Ordering::AcqRel)
    }
}

/// The handles of all queues, by webhook.
#[derive(Debug, Default)]
pub struct QueueHandles {
    handles: Mutex<HashMap<String, Arc<QueueHandle>>>,
}

impl QueueHandles {
    /// The handle of this webhook's queue.
    fn of(&self, webhook: &str) -> Arc<QueueHandle> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(handles.entry(webhook.to_owned()).or_default())
    }

    /// Passes committed deliveries to their queues, and wakes those that find more in the store.
    pub fn deliver(&self, deliveries: NewDeliveries) {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for (webhook, claim) in deliveries.ready {
            if let Some(handle) = handles.get(&webhook) {
                handle.deliver(claim);
            }
        }
        for webhook in &deliveries.webhooks {
            if let Some(handle) = handles.get(webhook) {
                handle.wakes.notify_one();
            }
        }
    }

    /// Wakes all queues because an operator changed something in the store: what is due is tried
    /// without waiting for the next probe of an endpoint that is down.
    pub fn wake_all(&self) {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.values() {
            handle.is_changed_by_operator.store(true, Ordering::Release);
            handle.wakes.notify_one();
        }
    }
}

/// A webhook with its client.
#[derive(Debug)]
pub struct Target {
    /// Its settings.
    pub webhook: config::Webhook,
    /// What sends to it.
    pub client: WebhookClient,
    /// The fingerprint of the settings.
    fingerprint: [u8; 32],
}

/// Targets made of a configuration, before any of them is used: a reload is applied whole or not
/// at all.
#[derive(Debug)]
pub struct Targets(Vec<Arc<Target>>);

impl Targets {
    /// Makes the clients of these webhooks, or says for each that fails why.
    pub fn prepare(
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
}

/// A source of jitter from 0 to 1.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// What every queue works with.
#[derive(Clone)]
pub struct Shared {
    /// The store.
    pub store: Store,
    /// The clock.
    pub clock: Clock,
    /// The handles of the queues.
    pub queues: Arc<QueueHandles>,
    /// The source of jitter.
    pub jitter: Jitter,
    /// Where attempts are counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// The running queues.
pub struct Dispatcher {
    shared: Shared,
    queues: HashMap<String, Running>,
    /// One gate for each name. A queue holds it while it runs: where a webhook goes and comes back,
    /// its new queue waits for what the old one has in flight, which would be sent twice otherwise.
    gates: HashMap<String, Arc<Gate<()>>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

struct Running {
    target: watch::Sender<Arc<Target>>,
    stop: CancellationToken,
}

impl Dispatcher {
    /// Starts a queue for each target. Cancelling `stop` ends them: nothing new is claimed, and
    /// what is in flight goes on until it is done.
    pub fn start(shared: Shared, targets: Targets, stop: CancellationToken) -> Self {
        let mut dispatcher = Self {
            shared,
            queues: HashMap::new(),
            gates: HashMap::new(),
            tasks: JoinSet::new(),
            stop,
        };
        dispatcher.apply(targets);
        dispatcher
    }

    /// Works with these targets from now on. What is in flight finishes with the old settings,
    /// what waits uses the new ones; the deliveries of a webhook that is gone stay in the store.
    pub fn apply(&mut self, targets: Targets) {
        let names: BTreeSet<&str> = targets
            .0
            .iter()
            .map(|target| target.webhook.name())
            .collect();
        self.queues.retain(|name, queue| {
            let stays = names.contains(name.as_str());
            if !stays {
                info!(
                    webhook = name,
                    "the webhook is off; what waits for it is parked"
                );
                queue.stop.cancel();
            }
            stays
        });
        for target in targets.0 {
            let name = target.webhook.name().to_owned();
            match self.queues.get(&name) {
                Some(queue) => {
                    queue.target.send_replace(target);
                }
                None => self.open(name, target),
            }
        }
    }

    fn open(&mut self, name: String, target: Arc<Target>) {
        let (sender, receiver) = watch::channel(target);
        let stop = self.stop.child_token();
        let queue = queue::Queue::new(self.shared.clone(), receiver, stop.clone());
        let gate = Arc::clone(self.gates.entry(name.clone()).or_default());
        self.tasks.spawn(async move {
            let _held = gate.lock_owned().await;
            queue.run().await;
        });
        let running = Running {
            target: sender,
            stop,
        };
        self.queues.insert(name, running);
    }

    /// Waits until a queue ends by a panic. Never returns otherwise.
    pub async fn failure(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if ended.is_err() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Waits until everything in flight is done. Call it after cancelling the token.
    pub async fn drain(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Records what the configuration says of each webhook. Where that changed, one that was switched
/// off by its receiver is switched on again, and what waits after a failure is tried with the new
/// settings at once.
pub async fn note_configuration(
    store: &Store,
    webhooks: &[config::Webhook],
    now: Timestamp,
) -> Result<(), StoreError> {
    let fingerprints = webhooks
        .iter()
        .map(|webhook| {
            let fingerprint = config::fingerprint(webhook);
            (webhook.name().to_owned(), fingerprint)
        })
        .collect();
    for webhook in store.set_fingerprints(fingerprints, now).await? {
        info!(
            webhook,
            "its configuration changed: the webhook that its receiver switched off is on again"
        );
    }
    Ok(())
}
