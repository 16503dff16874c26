//! The paths of the admin server.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{self, Access};
use super::error::ApiError;
use super::{Admin, actions, blocking, exposition, guard, health, openapi, page, reads, stream};

/// The state that all handlers share.
pub(super) struct Server {
    pub(super) admin: Arc<Admin>,
    pub(super) access: Access,
    /// Cancelled when the server stops. Streams then end.
    pub(super) stop: CancellationToken,
}

/// The part of the API that the OpenAPI document describes.
pub(super) fn api() -> OpenApiRouter<Arc<Server>> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(reads::status))
        .routes(routes!(reads::events))
        .routes(routes!(reads::event))
        .routes(routes!(reads::deliveries))
        .routes(routes!(reads::delivery))
        .routes(routes!(reads::webhooks))
        .routes(routes!(stream::stream))
        .routes(routes!(actions::redeliver))
        .routes(routes!(actions::cancel))
        .routes(routes!(actions::redeliver_many))
        .routes(routes!(actions::cancel_many))
        .routes(routes!(actions::enable))
        .routes(routes!(actions::disable))
        .routes(routes!(actions::test))
        .routes(routes!(actions::replay))
}

/// Returns all paths.
///
/// `auth` protects all paths except health, metrics, login, logout and the page's files.
pub(super) fn all(server: &Arc<Server>) -> Router {
    let health = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/metrics", get(exposition::metrics))
        .with_state(Arc::clone(&server.admin));
    let readiness = Router::new()
        .route("/readyz", get(health::readyz))
        .with_state(Arc::clone(server));
    let login = Router::new()
        .route("/login", get(auth::form).post(auth::login))
        .route("/logout", post(auth::logout))
        .with_state(Arc::clone(server));
    let (api, _) = api().split_for_parts();
    let protected = api
        .route("/api/v1/openapi.json", get(openapi::document))
        .merge(page::views())
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(
            Arc::clone(server),
            blocking::answer_apart,
        ))
        .layer(middleware::from_fn(guard::short_texts))
        .layer(middleware::from_fn_with_state(
            Arc::clone(server),
            auth::require,
        ))
        .with_state(Arc::clone(server));
    let health = health.merge(readiness);
    guard::bounded(health.merge(page::files()).merge(login).merge(protected))
}

async fn unknown(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if auth::is_page(&parts) {
        return page::no_page();
    }
    let error =
        ApiError::absent("there is nothing at this path; /api/v1/openapi.json lists the paths");
    error.into_response()
}
