//! The outcomes of answers.

use std::time::Duration;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use project_webhooks::domain::delivery::{FailureCause, Outcome, RetryAfter};
use project_webhooks::webhook::answer::{complaint, outcome, retry_after};
use proptest::prelude::*;

use crate::harness::REFUSED;

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

/// The clocks of the receiver and of this machine may differ.
#[test]
fn a_date_in_retry_after_is_read_by_the_receivers_clock() {
    let now = at("2026-01-01T00:00:00Z");
    for (date, expected) in [
        // Ten minutes behind, an hour ahead, and no valid date.
        (Some("Wed, 31 Dec 2025 23:50:00 GMT"), 630),
        (Some("Thu, 01 Jan 2026 00:00:10 GMT"), 20),
        (Some("soon"), 30),
        (None, 30),
    ] {
        let mut headers = HeaderMap::new();
        let asked = "Thu, 01 Jan 2026 00:00:30 GMT";
        headers.insert(RETRY_AFTER, asked.parse().unwrap());
        if let Some(date) = date {
            headers.insert(http::header::DATE, date.parse().unwrap());
        }
        let found = outcome(StatusCode::TOO_MANY_REQUESTS, &headers, now);
        let wait = Duration::from_secs(expected);
        let expected = Outcome::Failed {
            cause: FailureCause::Endpoint,
            retry_after: Some(RetryAfter::Webhook(wait)),
        };
        assert_eq!(found, expected, "{date:?}");
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn statuses_have_the_outcomes_of_the_contract() {
    let now = at("2026-01-01T00:00:00Z");
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, "60".parse().unwrap());
    let failed = |cause, retry_after| Outcome::Failed { cause, retry_after };
    let asked = |cause, retry_after| failed(cause, Some(retry_after));
    let (endpoint, gateway) = (FailureCause::Endpoint, FailureCause::Unreachable);
    for (status, expected) in [
        (200, Outcome::Accepted),
        (202, Outcome::Accepted),
        (204, Outcome::Accepted),
        (299, Outcome::Accepted),
        (301, REFUSED),
        (302, REFUSED),
        (304, REFUSED),
        (307, REFUSED),
        (400, REFUSED),
        (404, REFUSED),
        (410, Outcome::Gone),
        (429, asked(endpoint, RetryAfter::Webhook(MINUTE))),
        (500, failed(endpoint, None)),
        (502, asked(gateway, RetryAfter::Delivery(MINUTE))),
        (503, asked(gateway, RetryAfter::Webhook(MINUTE))),
        (504, asked(gateway, RetryAfter::Delivery(MINUTE))),
        (999, failed(endpoint, None)),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(outcome(status, &headers, now), expected, "{status}");
        let complains = complaint(status, &headers).is_some();
        assert_eq!(complains, expected != Outcome::Accepted, "{status}");
    }
    headers.insert(RETRY_AFTER, HeaderValue::from_bytes(b"\xff1").unwrap());
    let found = outcome(StatusCode::BAD_GATEWAY, &headers, now);
    assert_eq!(found, Outcome::NO_ANSWER);
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
    headers.insert("location", "/services/T0/hush".parse().unwrap());
    assert_eq!(
        complaint(StatusCode::FOUND, &headers).unwrap(),
        "the answer was 302 Found; redirects are not followed (to /services/…)"
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
