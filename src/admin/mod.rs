//! The admin server (health and metrics over HTTP) and the control socket.
//!
//! Constraint: neither changes anything itself. Both answer even if all other parts are stuck.
//!
//! Map: [`control`] is the control socket, [`socket`] binds addresses, `hosts`
//! refuses requests for other hosts, and this module serves health
//! and metrics.

pub(crate) mod control;
mod exposition;
mod hosts;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub(crate) use self::socket::{Bound, SocketFile, bind};
use crate::dispatch::QueueHandles;
use crate::engine::held_removals::{Accepted, HeldProjects};
use crate::http_server::{self, Bounds};
use crate::report::{Sources, summary};

/// The parts of the daemon that the admin server and the control socket reach.
pub(crate) struct Admin {
    pub(crate) sources: Sources,
    /// The queues, which are woken when a command changed deliveries or webhooks.
    pub(crate) queues: Arc<QueueHandles>,
    pub(crate) requests: mpsc::Sender<Request>,
}

/// A request of a command to the supervisor, with the channel for the answer.
pub(crate) enum Request {
    Reload(oneshot::Sender<Reloaded>),
    /// List the held removals.
    ListHeld(oneshot::Sender<HeldProjects>),
    /// Accept the held removals that this token identifies.
    Accept(String, oneshot::Sender<Accepted>),
}

/// The outcome of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// Why the configuration was rejected. Empty if it was applied.
    pub(crate) errors: Vec<String>,
    /// Warnings about settings that are valid but probably not intended.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

impl Reloaded {
    pub(crate) fn is_applied(&self) -> bool {
        self.errors.is_empty()
    }
}

/// The bounds of the admin server.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    stop: Duration::from_secs(1),
};

/// Serves health and metrics until `stop`.
///
/// Over TCP, requests must name one of these hosts or this machine.
pub(crate) async fn health(
    admin: Arc<Admin>,
    bound: Bound,
    hosts: Vec<String>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition::metrics))
        .with_state(admin);
    match bound {
        Bound::Tcp(listener) => {
            let router = hosts::refuse_foreign(router, hosts);
            http_server::serve(listener, router, BOUNDS, stop).await;
        }
        Bound::Unix(listener, _) => http_server::serve(listener, router, BOUNDS, stop).await,
    }
}

async fn healthz(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    if admin.sources.is_alive() {
        (StatusCode::OK, "the engine responds\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the engine does not respond\n",
        )
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let snapshot = admin.sources.status.snapshot();
    let status = if snapshot.is_watching() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, format!("{}\n", summary(&snapshot)))
}
