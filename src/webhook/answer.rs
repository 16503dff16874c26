//! Turns an HTTP answer into an outcome (contract section 4).
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn retry_after_accepts_all_its_forms() {
        let now = at("1994-11-06T08:49:07Z");
        for (value, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(30)),
            ("Sun Nov  6 08:49:37 1994", Some(30)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1e300", None),
            ("soon", None),
            ("NaN", None),
            ("١٢", None),
            ("Sun, 31 Feb 9999 99:99:99 GMT", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(value, now), expected, "{value:?}");
        }
    }

    #[test]
    fn statuses_have_the_outcomes_of_the_contract() {
        let now = at("2026-01-01T00:00:00Z");
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "60".parse().unwrap());
        let asked = Outcome::Failed {
            cause: FailureCause::Endpoint,
            retry_after: Some(Duration::from_secs(60)),
        };
        let failed = Outcome::NO_ANSWER;
        let refused = Outcome::REFUSED;
        for (status, expected) in [
            (200, Outcome::Accepted),
            (202, Outcome::Accepted),
            (204, Outcome::Accepted),
            (299, Outcome::Accepted),
            (301, refused),
            (302, refused),
            (304, refused),
            (307, refused),
            (400, refused),
            (404, refused),
            (410, Outcome::Gone),
            (429, asked),
            (500, failed),
            (502, asked),
            (503, asked),
            (504, asked),
            (999, failed),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(outcome(status, &headers, now), expected, "{status}");
            let complains = complaint(status, &headers).is_some();
            assert_eq!(complains, expected != Outcome::Accepted, "{status}");
        }
        headers.insert(
            RETRY_AFTER,
            http::HeaderValue::from_bytes(b"\xff1").unwrap(),
        );
        assert_eq!(outcome(StatusCode::BAD_GATEWAY, &headers, now), failed);
    }

    #[test]
    fn a_redirect_target_is_shown_without_its_secrets() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "location",
            "https://new.example/hook?token=x#y".parse().unwrap(),
        );
        assert_eq!(
            complaint(StatusCode::PERMANENT_REDIRECT, &headers).unwrap(),
            "the answer was 308 Permanent Redirect; redirects are not followed \
             (to https://new.example/hook)"
        );
        headers.insert("location", "https://user:x@new.example/".parse().unwrap());
        assert_eq!(
            complaint(StatusCode::FOUND, &headers).unwrap(),
            "the answer was 302 Found; redirects are not followed"
        );
    }

    proptest! {
        #[test]
        fn any_retry_after_is_safe(value in ".*", seconds in -377_705_023_201_i64..253_402_207_200) {
            let now = Timestamp::from_second(seconds).unwrap_or(Timestamp::MIN);
            let _asked = retry_after(&value, now);
        }

        #[test]
        fn any_date_is_safe(
            day in "Mon|Sunday|Sun", number in "[0-9]{1,3}", month in "Jan|Feb|Xyz",
            year in "[0-9]{2,5}", time in "[0-9]{2}:[0-9]{2}:[0-9]{2}",
        ) {
            for value in [
                format!("{day}, {number} {month} {year} {time} GMT"),
                format!("{day}, {number}-{month}-{year} {time} GMT"),
                format!("{day} {month} {number} {time} {year}"),
            ] {
                let _asked = retry_after(&value, Timestamp::MAX);
                let _asked = retry_after(&value, Timestamp::MIN);
            }
        }

        #[test]
        fn seconds_are_taken_as_they_are(seconds: u64) {
            let asked = retry_after(&seconds.to_string(), Timestamp::UNIX_EPOCH);
            prop_assert_eq!(asked, Some(Duration::from_secs(seconds)));
        }
    }
}
