//! The daemon: starts all parts, supervises them, reloads, and drains.
//!
//! Constraint: a rejected reload changes nothing. The process never runs on without one of its
//! parts: when a part ends or panics, the daemon ends, and the service manager starts it again.
//!
//! Map: [`mod@start`] makes the parts, [`supervise`] serves signals until the end, [`reload`] changes the
//! configuration, [`drain`] ends the parts in order.

mod drain;
mod reload;
mod start;
mod supervise;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin::{self, Admin, Bound, ReloadRequest};
use crate::clock::Clock;
use crate::config::{Config, Environment, Listen, Retention};
use crate::dispatch::Dispatcher;
use crate::engine::Engine;
use crate::engine::status::Status;
use crate::logging::Logging;
use crate::metrics::Metrics;
use crate::store::{OpenError, Store, StoreError};
use crate::webhook::ClientError;

/// How long the engine's loop may stand still before the daemon counts as not alive.
///
/// Longer than reading the largest file of a slow disk.
const STANDSTILL: Duration = Duration::from_secs(30);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("cannot open the state")]
    Open(#[from] OpenError),
    #[error("cannot use the state")]
    Store(#[from] StoreError),
    #[error("cannot use a webhook")]
    Client(#[from] ClientError),
    #[error("the system refuses {what}")]
    System {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("{part} ended unexpectedly; this is a bug, and the log above says more")]
    PartEnded { part: &'static str },
}

/// How the daemon reads its configuration again.
#[derive(Clone, Copy)]
pub(crate) struct Rereading<'a> {
    /// Where variables and credentials come from.
    pub(crate) environment: &'a dyn Environment,
    /// The log that a reload may change.
    pub(crate) logging: &'a Logging,
    /// Whether the command line fixed the log level.
    pub(crate) level_is_fixed: bool,
}

pub(crate) struct Daemon<'a> {
    config: Arc<Config>,
    rereading: Rereading<'a>,
    /// Whether the store has the settings of the configured webhooks.
    is_noted: bool,
    store: Store,
    clock: Clock,
    engine: Engine,
    engine_end: oneshot::Receiver<()>,
    dispatcher: Dispatcher,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    retention: watch::Sender<Retention>,
    reload_requests: mpsc::Receiver<ReloadRequest>,
    health: Health,
    background: Background,
    /// Ends the queues of the dispatcher.
    stop: CancellationToken,
}

impl Daemon<'_> {
    /// The engine's state, which changes while the daemon runs.
    pub(crate) fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }
}

/// The tasks that serve the daemon until it has drained.
struct Background {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Background {
    async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The server of `/healthz`, `/readyz` and `/metrics`, if configured.
struct Health {
    admin: Arc<Admin>,
    serving: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Health {
    #[expect(clippy::disallowed_methods, reason = "the task is awaited by `stop`")]
    fn serve(&mut self, bound: Bound, listen: &Listen) {
        info!(%listen, "serving health and metrics");
        let stop = CancellationToken::new();
        let task = tokio::spawn(admin::health(Arc::clone(&self.admin), bound, stop.clone()));
        self.serving = Some((stop, task));
    }

    async fn stop(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            stop.cancel();
            let _ = task.await;
        }
    }
}
