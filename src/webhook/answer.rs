//! Turns an HTTP answer into an outcome.
//!
//! Constraint: no other module decides anything by an HTTP status; they get the [`Outcome`].
//! Nothing that a peer sends can cause a panic, an endless wait or large memory use. The status
//! alone decides: a body that breaks off, trickles or never ends changes nothing.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

use crate::domain::delivery::{ANSWER_MAX, FailureCause, Outcome};

/// Returns the outcome of an answer with this status and these headers, received at `now`.
///
/// Failures of the endpoint itself are 5xx and 429, as well as no answer
/// ([`Outcome::NO_ANSWER`]). After any other answer the endpoint works, and refused this delivery.
pub fn outcome(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    if status.is_success() {
        return Outcome::Accepted;
    }
    if status == StatusCode::GONE {
        return Outcome::Gone;
    }
    let may_ask_for_time = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    let is_endpoints_own = status.as_u16() >= 500 || status == StatusCode::TOO_MANY_REQUESTS;
    Outcome::Failed {
        cause: if is_endpoints_own {
            FailureCause::Endpoint
        } else {
            FailureCause::Delivery
        },
        retry_after: headers
            .get(RETRY_AFTER)
            .filter(|_| may_ask_for_time)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after(value, now)),
    }
}

/// Parses the value of a Retry-After header that came at `now`.
///
/// The value is a number of seconds, or a date in one of the three forms of RFC 9110. A date in
/// the past is a wait of zero. A number too large to hold is the longest wait there is.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only a number too large to hold fails here.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let date = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let now = now.as_duration().unsigned_abs();
    Some(date.saturating_sub(now))
}

/// Explains to a person why an answer is a failure; `None` for 2xx.
pub fn complaint(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    if status.is_success() {
        return None;
    }
    let reason = status.canonical_reason().unwrap_or("unknown status");
    let mut text = format!("the answer was {} {reason}", status.as_u16());
    if status.is_redirection() {
        text.push_str("; redirects are not followed");
        // The target helps to fix the url. Its query, fragment and user name may be secrets.
        if let Some(location) = headers.get(http::header::LOCATION) {
            let location = String::from_utf8_lossy(location.as_bytes());
            let location = location.split(['?', '#']).next().unwrap_or_default();
            if !location.contains('@') {
                let shown: String = location
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect();
                text.push_str(&format!(" (to {shown})"));
            }
        }
    }
    Some(text)
}

/// Reads an answer's body into `kept`, up to [`ANSWER_MAX`] bytes, until it ends or fails.
///
/// When the caller drops this future at its deadline, `kept` has what was read until then.
pub(super) async fn read(response: &mut reqwest::Response, kept: &mut BytesMut) {
    while kept.len() < ANSWER_MAX {
        // The status has decided already, so an error is the end of the body.
        let Ok(Some(chunk)) = response.chunk().await else {
            return;
        };
        let room = ANSWER_MAX - kept.len();
        kept.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
}

/// Copies a kept answer out of its read buffer, which may be much larger.
pub(super) fn keep(kept: &BytesMut) -> Bytes {
    Bytes::copy_from_slice(kept)
}
