//! Turns an HTTP answer into an outcome.
//!
//! Constraint: only this module derives an [`Outcome`] from an HTTP status. An answer cannot cause
//! a panic, an endless wait or large memory use. The outcome depends only on the status and the
//! headers, even if the body breaks off or never ends.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, COOKIE, DATE, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use url::Url;

use crate::config;
use crate::domain::delivery::{ANSWER_MAX, FailureCause, Outcome, RetryAfter};

/// Returns the outcome of an answer that was received at `now`.
///
/// A date in Retry-After is compared with the answer's `Date`, because both come from the
/// receiver's clock. Without a valid `Date`, it is compared with `now`.
///
/// The statuses 5xx and 429 are failures of the endpoint. With 502, 503 or 504, a gateway may have
/// failed to reach the endpoint. So the cause is the same as without an answer
/// ([`Outcome::NO_ANSWER`]). With any other status, the endpoint works, but may refuse this
/// delivery.
pub fn outcome(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    if status.is_success() {
        return Outcome::Accepted;
    }
    if status == StatusCode::GONE {
        return Outcome::Gone;
    }
    let asked = || {
        let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
        retry_after(value, answered_at(headers).unwrap_or(now))
    };
    let retry_after = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            asked().map(RetryAfter::Webhook)
        }
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => asked().map(RetryAfter::Delivery),
        _ => None,
    };
    let cause = match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            FailureCause::Unreachable
        }
        StatusCode::TOO_MANY_REQUESTS => FailureCause::Endpoint,
        _ if status.as_u16() >= 500 => FailureCause::Endpoint,
        _ => FailureCause::Delivery,
    };
    Outcome::Failed { cause, retry_after }
}

/// Returns the time of an answer according to the receiver's clock.
fn answered_at(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let date = httpdate::parse_http_date(date.trim()).ok()?;
    Timestamp::try_from(date).ok()
}

/// Parses the value of a Retry-After header that was sent at `now`.
///
/// The value is a number of seconds, or a date in one of the three forms of RFC 9110. A date in
/// the past gives a wait of zero. A number above 64 bits gives the longest possible wait. Any other
/// value gives `None`.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // The text has only digits, so parsing fails only for a number above 64 bits.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let date = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let now = now.as_duration().unsigned_abs();
    Some(date.saturating_sub(now))
}

/// Returns the error message for an answer. `None` for the statuses 2xx.
pub fn complaint(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    if status.is_success() {
        return None;
    }
    let reason = status.canonical_reason().unwrap_or("unknown status");
    let mut text = format!("the answer was {} {reason}", status.as_u16());
    if status.is_redirection() {
        text.push_str("; redirects are not followed");
        // The target helps the operator to correct the url. Its parts that may be secrets are not
        // shown.
        if let Some(location) = headers.get(http::header::LOCATION) {
            let location = String::from_utf8_lossy(location.as_bytes());
            let location = location.split(['?', '#']).next().unwrap_or_default();
            if let Some(shown) = shown(location) {
                text.push_str(&format!(" (to {shown})"));
            }
        }
    }
    Some(text)
}

/// Returns the target of a redirect without parts that may be secrets.
///
/// `None` if the target is not a URL, or has a user name or a password.
fn shown(location: &str) -> Option<String> {
    // A relative target has the receiver's host, which the message need not repeat.
    let base = Url::parse("http://receiver.invalid/").ok()?;
    let url = base.join(location).ok()?;
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let shown = config::shown_url(&url);
    let shown = shown
        .strip_prefix("http://receiver.invalid")
        .unwrap_or(&shown);
    Some(
        shown
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect(),
    )
}

/// Reads the body of an answer into `kept`, up to [`ANSWER_MAX`] bytes.
///
/// If the caller drops this future at its deadline, `kept` has the bytes read so far.
pub(super) async fn read(response: &mut reqwest::Response, kept: &mut BytesMut) {
    while kept.len() < ANSWER_MAX {
        // The outcome does not depend on the body, so an error just ends the reading.
        let Ok(Some(chunk)) = response.chunk().await else {
            return;
        };
        let room = ANSWER_MAX - kept.len();
        kept.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
}

/// The text that replaces a secret.
pub(super) const HIDDEN: &str = "(not shown)";

/// The minimum length, in bytes, of a secret that is replaced in an answer.
///
/// A shorter text, such as `1` or `prod`, also occurs in answers without being a secret.
pub(super) const SECRET_MIN: usize = 8;

/// Returns the secrets in the headers of a request that are long enough to be replaced.
pub(super) fn secrets_in(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let mut secrets = Vec::new();
    for (name, value) in headers {
        if !value.is_sensitive() {
            continue;
        }
        let value = value.as_bytes();
        // A receiver may repeat the token of `Bearer TOKEN` alone.
        let space = value.iter().position(|byte| *byte == b' ');
        let (scheme, secret) = space
            .and_then(|at| value.split_at_checked(at + 1))
            .unwrap_or((b"", value));
        secrets.push(secret.to_vec());
        // Other headers may have a secret before the space, too.
        if ![AUTHORIZATION, PROXY_AUTHORIZATION].contains(name) {
            secrets.push(value.to_vec());
        }
        if *name == COOKIE {
            secrets.extend(cookies(value).map(<[u8]>::to_vec));
        }
        if scheme.eq_ignore_ascii_case(b"basic ") {
            // The receiver decodes the user name and the password.
            let decoded = BASE64_STANDARD.decode(secret).unwrap_or_default();
            let parts = decoded.splitn(2, |byte| *byte == b':');
            secrets.extend(parts.map(<[u8]>::to_vec));
        }
    }
    secrets.retain(|secret| secret.len() >= SECRET_MIN);
    secrets
}

/// Returns the value of each cookie in a header `Cookie`.
fn cookies(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let pairs = header.split(|byte| *byte == b';');
    pairs.filter_map(|pair| {
        let value = pair.splitn(2, |byte| *byte == b'=').last()?;
        Some(value.trim_ascii())
    })
}

/// Copies the kept bytes of an answer without these secrets.
///
/// Some receivers repeat the request in their answer, for instance in an error page. Copying also
/// frees the read buffer, which may be much larger.
pub(super) fn keep(kept: &[u8], secrets: &[impl AsRef<[u8]>]) -> Bytes {
    let mut secrets: Vec<&[u8]> = secrets.iter().map(AsRef::as_ref).collect();
    // A secret may be a part of a longer one, whose rest must not stay.
    secrets.sort_by_key(|secret| Reverse(secret.len()));
    let secrets = secrets.into_iter();
    let answer = secrets.fold(kept.to_vec(), |answer, secret| without(&answer, secret));
    answer.into()
}

/// Returns a text without these secrets.
pub(super) fn cleaned(text: &str, secrets: &[impl AsRef<[u8]>]) -> String {
    String::from_utf8_lossy(&keep(text.as_bytes(), secrets)).into_owned()
}

/// Replaces a secret in a text.
///
/// The text may be cut. So the beginning of a secret at the end of the text is replaced too, if it
/// has at least [`SECRET_MIN`] bytes.
fn without(text: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(text.len());
    let mut end = 0;
    for start in memchr::memmem::find_iter(text, secret) {
        replaced.extend_from_slice(text.get(end..start).unwrap_or_default());
        replaced.extend_from_slice(HIDDEN.as_bytes());
        end = start.saturating_add(secret.len());
    }
    let rest = text.get(end..).unwrap_or_default();
    let mut begins = (SECRET_MIN..secret.len())
        .rev()
        .filter_map(|length| secret.get(..length));
    match begins.find_map(|begin| rest.strip_suffix(begin)) {
        Some(rest) => {
            replaced.extend_from_slice(rest);
            replaced.extend_from_slice(HIDDEN.as_bytes());
        }
        None => replaced.extend_from_slice(rest),
    }
    replaced
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn an_answer_is_kept_without_the_secrets_of_the_request() {
        let mut sent = HeaderMap::new();
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).unwrap();
            value.set_sensitive(true);
            value
        };
        sent.insert(AUTHORIZATION, secret("Bearer token-of-the-hook"));
        sent.insert(HeaderName::from_static("x-key"), secret("key-of-the-hook"));
        sent.insert(HeaderName::from_static("x-stage"), secret("prod"));
        let longer = secret("key-of-the-hook-and-more");
        sent.insert(HeaderName::from_static("x-longer"), longer);
        let words = secret("first-word second-word");
        sent.insert(HeaderName::from_static("x-words"), words);
        let cookies = "session=0123456789abcdef; csrf=fedcba9876543210==";
        sent.insert(COOKIE, secret(cookies));
        let shown = HeaderValue::from_static("evt_0123456789");
        sent.insert(HeaderName::from_static("webhook-id"), shown);
        for (answer, kept) in [
            (
                "authorization: Bearer token-of-the-hook\nx-key: key-of-the-hook\n",
                "authorization: Bearer (not shown)\nx-key: (not shown)\n",
            ),
            ("evt_0123456789 in prod", "evt_0123456789 in prod"),
            ("key-of-the-hookkey-of-the-hook", "(not shown)(not shown)"),
            ("key-of-the-hook-and-more", "(not shown)"),
            ("first-word second-word", "(not shown)"),
            ("second-word", "(not shown)"),
            (cookies, "(not shown)"),
            (
                "csrf: fedcba9876543210==, session: 0123456789abcdef",
                "csrf: (not shown), session: (not shown)",
            ),
            ("session=01234", "(not shown)"),
            ("", ""),
        ] {
            assert_eq!(keep(answer.as_bytes(), &secrets_in(&sent)), kept.as_bytes());
        }
    }
}
