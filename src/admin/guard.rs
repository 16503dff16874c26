//! Limits the bodies and texts of requests, and adds security headers to answers.
//!
//! Constraint: file names and receivers' answers are untrusted text. A browser must never run such
//! text as code.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::auth::is_page;
use super::error::{ApiError, refuse};

/// The maximum size of a request body, in bytes.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// How long a client may take to send a request body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The content security policy: a page loads only files of this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    // With `no-referrer`, browsers would send `Origin: null` with forms, which `hosts` refuses.
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Limits the size of all request bodies of a router, and the time to receive them.
pub(super) fn bounded(router: Router) -> Router {
    router.layer(middleware::from_fn(whole_body))
}

/// Adds the security headers to all answers of a router, unless an answer has them.
pub(super) fn harmless(router: Router) -> Router {
    router.layer(middleware::map_response(with_headers))
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Reads the whole body, then passes the request on. Refuses a large or slow body.
async fn whole_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, BODY_MAX)).await;
    let is_page = is_page(&parts);
    let (status, error) = match read {
        Ok(Ok(body)) => return next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(_)) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than 64 KiB, or it ended early",
        ),
        Err(_) => (
            StatusCode::REQUEST_TIMEOUT,
            "receiving the body took longer than 10 s",
        ),
    };
    let close = [(CONNECTION, HeaderValue::from_static("close"))];
    (close, refuse(is_page, ApiError::new(status, error))).into_response()
}

/// Refuses requests with a text that is too long, for example a name or a filter.
///
/// [`whole_body`] must have read the body already.
pub(super) async fn short_texts(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_MAX).await;
    let body = body.unwrap_or_default();
    let Some(long) = long_text(&parts, &body) else {
        return next.run(Request::from_parts(parts, Body::from(body))).await;
    };
    let error = ApiError::invalid(format!("{long} is longer than 1,024 bytes"));
    refuse(is_page(&parts), error)
}

/// The maximum size of a text in a request, in bytes.
const TEXT_MAX: usize = 1_024;

/// Returns the name of a text that is too long, if there is one.
fn long_text(parts: &Parts, body: &[u8]) -> Option<String> {
    let mut segments = parts.uri.path().split('/');
    if segments.any(|segment| percent_decode_str(segment).count() > TEXT_MAX) {
        return Some("a part of the path".to_owned());
    }
    let query = parts.uri.query().unwrap_or_default();
    // The page reads any body as a form, also one that is JSON.
    let is_api = parts.uri.path().starts_with("/api/");
    long_field(query.as_bytes()).or_else(|| match body.trim_ascii_start().first() {
        Some(b'{') if is_api => {
            // If the body is not valid JSON, no handler of the API uses it.
            let json = serde_json::from_slice(body).unwrap_or_default();
            long_in_json("the body", &json)
        }
        _ => long_field(body),
    })
}

fn long_field(form: &[u8]) -> Option<String> {
    let mut fields = form_urlencoded::parse(form);
    let (name, _) = fields.find(|(name, value)| name.len() > TEXT_MAX || value.len() > TEXT_MAX)?;
    Some(named(&name))
}

/// Returns the name of a field, or a placeholder if the name is too long.
fn named(name: &str) -> String {
    let name = if name.len() > TEXT_MAX {
        "a name"
    } else {
        name
    };
    name.to_owned()
}

fn long_in_json(name: &str, json: &Value) -> Option<String> {
    match json {
        Value::String(text) => (text.len() > TEXT_MAX).then(|| named(name)),
        Value::Array(items) => items.iter().find_map(|item| long_in_json(name, item)),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let is_long = name.len() > TEXT_MAX;
            if is_long {
                Some(named(name))
            } else {
                long_in_json(name, value)
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}
