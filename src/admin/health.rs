//! Serves `/healthz` and `/readyz`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;

use super::Admin;
use super::routes::Server;
use crate::report::{public_summary, summary};

pub(super) async fn healthz(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    if admin.sources.is_alive() {
        (StatusCode::OK, "an engine responds\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no engine responds\n")
    }
}

/// Returns 200 if the daemon watches, else 503, with a line about its state.
///
/// The line names hosts, databases and processes only to clients that `auth` permits.
pub(super) async fn readyz(
    State(server): State<Arc<Server>>,
    request: Request,
) -> (StatusCode, String) {
    let admin = &server.admin;
    let snapshot = admin.sources.snapshot();
    let status = if snapshot.is_watching() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let (parts, _) = request.into_parts();
    let moment = admin.sources.clock.moment();
    let summary = match server.access.shows_names(&parts, moment) {
        true => summary,
        false => public_summary,
    };
    let line = summary(&snapshot, admin.sources.lease().as_ref());
    (status, format!("{line}\n"))
}
