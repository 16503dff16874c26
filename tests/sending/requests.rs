//! The headers and URLs of requests.

use axum::http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use project_webhooks::config::Format;
use project_webhooks::domain::event::{EventId, EventKind, Origin};
use project_webhooks::webhook::request::{AGENT, Request, RequestSettings, build, header_text};
use project_webhooks::webhook::signature::{SigningKey, sign};
use project_webhooks::webhook::{Callback, CallbackContent};
use secrecy::SecretString;

fn callback() -> Callback {
    let occurred_at = "2026-01-02T03:04:05.678Z".parse().unwrap();
    let mut content = CallbackContent::test(EventId("evt_1".to_owned()), occurred_at);
    content.event = EventKind::ProjectPublish.into();
    Callback {
        traceparent: None,
        content,
        attempt: 3,
        origin: Origin::Redelivery,
    }
}

fn request(url: &str, format: Format, configured: &[(&'static str, &str)]) -> Request {
    let configured: Vec<_> = configured
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
    let settings = RequestSettings {
        url: url.parse().unwrap(),
        format: format.into(),
        headers: configured,
        keys: vec![SigningKey::parse(&SecretString::from("secret")).unwrap()],
        signed_headers: false,
    };
    let now = Timestamp::from_second(1_767_323_045).unwrap();
    build(&settings, &callback(), now).unwrap()
}

#[test]
fn every_request_has_the_headers_of_the_contract() {
    let request = request("http://localhost/", Format::Json, &[]);
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    let keys = [SigningKey::parse(&SecretString::from("secret")).unwrap()];
    let signature = sign(&keys, "evt_1", 1_767_323_045, &request.body.parts()).unwrap();
    assert_eq!(
        headers,
        [
            "content-type: application/json".to_owned(),
            "webhook-id: evt_1".to_owned(),
            "webhook-timestamp: 1767323045".to_owned(),
            "webhook-event: project-publish".to_owned(),
            "webhook-attempt: 3".to_owned(),
            "webhook-origin: redelivery".to_owned(),
            format!("user-agent: {AGENT}"),
            format!("webhook-signature: {signature}"),
        ]
    );
}

#[test]
fn configured_headers_are_added_and_replace_nothing() {
    let request = request(
        "http://localhost/",
        Format::CloudEvents,
        &[
            ("authorization", "Bearer x"),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("content-type", "text/html"),
            ("webhook-id", "evt_2"),
            ("ce-id", "evt_2"),
            ("expect", "100-continue"),
        ],
    );
    let values = |name: &str| -> Vec<&str> {
        let values = request.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    };
    assert_eq!(values("authorization"), ["Bearer x"]);
    assert_eq!(values("x-twice"), ["1", "2"]);
    assert_eq!(values("content-type"), ["application/xml"]);
    assert_eq!(values("webhook-id"), ["evt_1"]);
    assert_eq!(values("ce-id"), ["evt_1"]);
    assert!(values("expect").is_empty());
}

#[test]
fn the_xml_format_appends_to_the_query_that_is_there() {
    let query = "username=test&projectName=Test&organizationName=test&organizationId=test\
                 &versionTag=test&projectId=00000000-0000-0000-0000-000000000000\
                 &previousProject=test";
    for (url, expected) in [
        ("http://localhost/hook", format!("?{query}")),
        ("http://localhost/hook?", format!("?{query}")),
        (
            "http://localhost/hook?key=a%20b",
            format!("?key=a%20b&{query}"),
        ),
    ] {
        let with_query = request(url, Format::Xml, &[]).url;
        assert_eq!(
            with_query.as_str(),
            format!("http://localhost/hook{expected}")
        );
        assert_eq!(request(url, Format::Form, &[]).url.as_str(), url);
    }
}

proptest::proptest! {
    #[test]
    fn any_text_fits_a_header(text in ".*") {
        let escaped = header_text(&text);
        let value = HeaderValue::from_str(&escaped).unwrap();
        let back = percent_encoding::percent_decode(value.as_bytes()).decode_utf8().unwrap();
        proptest::prop_assert_eq!(back, text);
    }
}
