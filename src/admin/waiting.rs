//! The paths of the admin server of a process that waits or sends, but does not watch.
//!
//! Constraint: this server must release its address before the daemon starts. It serves only
//! `/healthz`, `/readyz` and `/metrics`. `/readyz` names hosts, databases and processes only to
//! clients that `auth` permits.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Served;
use super::auth::Access;
use super::exposition::{self, FORMAT};
use crate::config::AdminServer;
use crate::metrics::Metrics;

/// The state of a process that does not watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wait {
    /// Why the process does not watch.
    pub(crate) reason: String,
    /// The reason without names of hosts, databases and processes.
    pub(crate) public_reason: &'static str,
    /// False if the database could not be used at the last attempt.
    pub(crate) is_reachable: bool,
    /// Whether the process does all the work of its roles.
    pub(crate) is_ready: bool,
    /// The counts of attempts, if the process sends.
    pub(crate) metrics: Option<Arc<Metrics>>,
}

impl Served for Arc<watch::Sender<Wait>> {
    fn router(self, settings: &AdminServer, is_socket: bool, _stop: &CancellationToken) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(Arc::new(Shown {
                wait: self.subscribe(),
                access: Access::new(settings.token.as_ref(), is_socket, Arc::default()),
                began: Instant::now(),
            }))
    }
}

/// The state that the handlers share.
struct Shown {
    wait: watch::Receiver<Wait>,
    access: Access,
    began: Instant,
}

type Waits = State<Arc<Shown>>;

async fn healthz() -> &'static str {
    "the process responds\n"
}

/// Returns 200 if the process does all the work of its roles, else 503.
async fn readyz(State(shown): Waits, request: Request) -> (StatusCode, String) {
    let (parts, _) = request.into_parts();
    let wait = shown.wait.borrow().clone();
    let status = match wait.is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let reason = match shown.access.shows_names(&parts, shown.began.elapsed()) {
        true => wait.reason,
        false => wait.public_reason.to_owned(),
    };
    (status, format!("{reason}\n"))
}

async fn metrics(State(shown): Waits) -> Response {
    let wait = shown.wait.borrow().clone();
    match exposition::of_waiting(wait.is_reachable, wait.metrics.as_deref()) {
        Ok(text) => ([(CONTENT_TYPE, FORMAT)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}
