//! The page at `/`: the listings and actions of the API, for a browser.
//!
//! Constraint: the page keeps no data and has no rules. It calls the handlers of the API and
//! renders the types of their answers. Only charts, payloads and settings are not in the API. File
//! names and receivers' answers are untrusted text. So only `maud`, which escapes text, makes HTML.
//! All views and actions work without JavaScript. Actions use forms.
//!
//! Modules: `shell` is the HTML around each view. `overview`, `webhooks`, `deliveries`, `bulk`,
//! `events`, `payload`, `replay` and `settings` are the views. `charts` draws the charts of the
//! overview. `actions` answers buttons. `filters` and `parts` have elements that several views
//! share.

mod actions;
mod bulk;
mod charts;
mod deliveries;
mod events;
mod filters;
mod overview;
mod parts;
mod payload;
mod replay;
mod settings;
mod shell;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::middleware;
use axum::routing::{get, post};

pub(super) use self::shell::{login, no_page, refused};
use super::routes::Server;

/// The files of the page, built into the program.
const FILES: [(&str, &str, &str); 3] = [
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page.css"),
    ),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page.js"),
    ),
    ("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// Serves the files of the page.
///
/// The files need no login, because the login form uses them. So the files must contain no data of
/// the daemon.
pub(super) fn files() -> Router {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            let headers: [(HeaderName, &str); 2] =
                [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")];
            router.route(path, get(move || async move { (headers, text) }))
        })
}

/// The views and the forms.
pub(super) fn views() -> Router<Arc<Server>> {
    Router::new()
        .route("/", get(overview::view))
        .route("/webhooks", get(webhooks::view))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/bulk", get(bulk::count).post(bulk::apply))
        .route("/deliveries/{id}", get(deliveries::one))
        .route("/deliveries/{id}/redeliver", post(actions::redeliver))
        .route("/deliveries/{id}/cancel", post(actions::cancel))
        .route("/events", get(events::list))
        .route("/events/replay", get(replay::form).post(replay::apply))
        .route("/events/{id}", get(events::one))
        .route("/events/{id}/payload", get(payload::view))
        .route("/events/{id}/project.xml", get(payload::download))
        .route("/files", get(overview::files))
        .route("/settings", get(settings::view))
        .route("/webhooks/{name}/enable", post(actions::enable))
        .route("/webhooks/{name}/disable", post(actions::disable))
        .route("/webhooks/{name}/test", post(actions::test))
        .layer(middleware::from_fn(actions::own_forms))
}
