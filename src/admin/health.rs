//! Serves `/healthz` and `/readyz`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::Admin;
use crate::report::summary;

pub(super) async fn healthz(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    if admin.sources.is_alive() {
        (StatusCode::OK, "the engine responds\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the engine does not respond\n",
        )
    }
}

pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let snapshot = admin.sources.statuses.snapshot();
    let status = if snapshot.is_watching() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        format!("{}\n", summary(&snapshot, admin.sources.lease().as_ref())),
    )
}
