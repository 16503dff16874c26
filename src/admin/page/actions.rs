//! Answers the buttons of the views: runs an action of the API, then shows a view.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maud::html;

use super::parts::{duration, headers, or_none, pairs, state};
use super::shell::{Failure, Page, Section, page};
use crate::admin::actions::{self, DisableOptions, NoOptions, TestOptions};
use crate::admin::error::{ApiError, Json, Named, Options};
use crate::admin::hosts;
use crate::admin::routes::Server;

/// Refuses a form unless a page of this server sent it.
pub(super) async fn own_forms(request: Request, next: Next) -> Response {
    let is_form = !matches!(*request.method(), Method::GET | Method::HEAD);
    if is_form && !hosts::is_from_own_page(request.headers()) {
        let error = "the form may come from another site, because the request has no header Origin; does \
                     a proxy remove the header?";
        return Failure::from(ApiError::new(StatusCode::FORBIDDEN, error)).into_response();
    }
    next.run(request).await
}

/// Redirects the browser to a view, so that reloading does not send the form again.
fn to(path: String) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, path)]).into_response()
}

pub(super) async fn redeliver(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Response, Failure> {
    let path = format!("/deliveries/{}", super::parts::segment(&id));
    actions::redeliver(State(server), Named(id), Options(NoOptions {})).await?;
    Ok(to(path))
}

pub(super) async fn cancel(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Response, Failure> {
    let path = format!("/deliveries/{}", super::parts::segment(&id));
    actions::cancel(State(server), Named(id), Options(NoOptions {})).await?;
    Ok(to(path))
}

pub(super) async fn enable(
    State(server): State<Arc<Server>>,
    Named(name): Named,
) -> Result<Response, Failure> {
    actions::enable(State(server), Named(name), Options(NoOptions {})).await?;
    Ok(to("/webhooks".to_owned()))
}

pub(super) async fn disable(
    State(server): State<Arc<Server>>,
    Named(name): Named,
) -> Result<Response, Failure> {
    let options = Options(DisableOptions::default());
    actions::disable(State(server), Named(name), options).await?;
    Ok(to("/webhooks".to_owned()))
}

/// Sends a test request, and shows it with its answer.
pub(super) async fn test(
    State(server): State<Arc<Server>>,
    Named(name): Named,
) -> Result<Page, Failure> {
    let options = Options(TestOptions::default());
    let Json(exchange) = actions::test(State(server), Named(name), options).await?;
    let status = exchange.status.map(|status| status.to_string());
    let word = if exchange.delivered {
        "delivered"
    } else {
        "not delivered"
    };
    let content = html! {
        div role="status" {
            (pairs(&[
                ("Webhook", html! { (exchange.webhook) }),
                ("URL", html! { (exchange.url) }),
                ("Format", html! { (exchange.format) }),
                ("Result", state(word)),
                ("Status", or_none(status.as_deref())),
                ("Took", html! { (duration(exchange.duration_ms)) }),
                ("Error", or_none(exchange.error.as_deref())),
            ]))
        }
        h2 { "Request headers" }
        (headers(&exchange.request_headers))
        h2 { "Answer" }
        pre tabindex="0" { (exchange.answer) }
        p { a href="/webhooks" { "Webhooks" } }
    };
    Ok(page(Section::Webhooks, "Test request", &content))
}
