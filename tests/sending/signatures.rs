//! Signatures: those of the specification and of its reference library.

use axum::http::HeaderMap;
use bytes::Bytes;
use jiff::Timestamp;
use project_webhooks::config::{Format, SecretError};
use project_webhooks::domain::event::EventId;
use project_webhooks::receiver::decode::{check, decode};
use project_webhooks::receiver::{Received, ReceiverOptions, Signature};
use project_webhooks::webhook::request::{Callback, Request, RequestSettings, build};
use project_webhooks::webhook::signature::{SigningKey, sign};
use secrecy::SecretString;

use crate::harness;

fn keys(secrets: &[&str]) -> Vec<SigningKey> {
    secrets
        .iter()
        .map(|secret| SigningKey::parse(&SecretString::from(*secret)).unwrap())
        .collect()
}

const VECTORS: [(&str, &str, i64, &[u8], &str); 2] = [
    // From the documentation of Svix, where the specification comes from.
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        br#"{"test": 2432232314}"#,
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    // From the specification's reference libraries.
    (
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1_649_367_553,
        br#"{"email":"test@example.com","username":"test_user"}"#,
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
];

#[test]
fn published_vectors_hold() {
    for (secret, id, timestamp, body, expected) in VECTORS {
        let signature = sign(&keys(&[secret]), id, timestamp, &[body]);
        assert_eq!(signature.as_deref(), Some(expected));
    }
}

#[test]
fn the_reference_library_verifies_both_signatures_of_a_rotation() {
    let now = Timestamp::now().as_second();
    let secrets = [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "a raw text secret",
    ];
    let signatures = sign(&keys(&secrets), "evt_1", now, &[b"bo", b"dy"]).unwrap();
    assert_eq!(signatures.split(' ').count(), 2);
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "evt_1".parse().unwrap());
    headers.insert("webhook-timestamp", now.into());
    headers.insert("webhook-signature", signatures.parse().unwrap());
    let first = standardwebhooks::Webhook::new(secrets[0]).unwrap();
    let second = standardwebhooks::Webhook::from_bytes(secrets[1].into()).unwrap();
    first.verify(b"body", &headers).unwrap();
    second.verify(b"body", &headers).unwrap();
    first.verify(b"other", &headers).unwrap_err();
}

/// Verifies a request with these signatures as a receiver does at the time `now`.
async fn verify(
    keys: &[SigningKey],
    id: &str,
    timestamp: &str,
    body: &[u8],
    signatures: &str,
    now: Timestamp,
) -> Signature {
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", id.parse().unwrap());
    headers.insert("webhook-timestamp", timestamp.parse().unwrap());
    headers.insert("webhook-signature", signatures.parse().unwrap());
    let received = decode("/", &headers, Bytes::copy_from_slice(body), now).await;
    check(&received, keys, ReceiverOptions::new(move || now).tolerance)
}

fn is_wrong(signature: Signature, expected: &str) -> bool {
    matches!(signature, Signature::Wrong(reason) if reason.contains(expected))
}

#[tokio::test]
async fn signatures_of_the_reference_library_verify() {
    let (secret, id, timestamp, body, _) = VECTORS[0];
    let signature = standardwebhooks::Webhook::new(secret)
        .unwrap()
        .sign(id, timestamp, body)
        .unwrap();
    let now = Timestamp::from_second(timestamp).unwrap();
    let signature = format!("v2,x v1,AAAA {signature}");
    let timestamp = timestamp.to_string();
    let (signature, timestamp) = (signature.as_str(), timestamp.as_str());
    let verified = verify(&keys(&[secret]), id, timestamp, body, signature, now).await;
    assert_eq!(verified, Signature::Verified);
    for (secret, id, body, signature, expected) in [
        ("other", id, body, signature, "no signature matches"),
        (secret, "msg_2", body, signature, "no signature matches"),
        (secret, id, b"{}", signature, "no signature matches"),
        (secret, id, body, "v1,", "no signature matches"),
        (secret, id, body, "", "contains no `v1,` signature"),
    ] {
        let verified = verify(&keys(&[secret]), id, timestamp, body, signature, now).await;
        assert!(is_wrong(verified, expected), "{secret} {id} {signature}");
    }
}

#[tokio::test]
async fn the_clock_may_differ_by_the_tolerance_and_no_more() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    let keys = keys(&["secret"]);
    for (seconds, accepted) in [
        (1_000_000 - 301, false),
        (1_000_000 - 300, true),
        (1_000_000 + 300, true),
        (1_000_000 + 301, false),
        (i64::MAX, false),
        (i64::MIN, false),
    ] {
        let signature = sign(&keys, "evt_1", seconds, &[]).unwrap();
        let timestamp = seconds.to_string();
        let verdict = verify(&keys, "evt_1", &timestamp, b"", &signature, now).await;
        assert_eq!(
            verdict == Signature::Verified,
            accepted,
            "{seconds}: {verdict:?}"
        );
    }
    let verdict = verify(&keys, "evt_1", "1e6", b"", "", now).await;
    assert!(is_wrong(verdict, "not a number of seconds"));
}

#[test]
fn secrets_are_parsed_and_never_shown() {
    let parse = |text: &str| SigningKey::parse(&SecretString::from(text)).map(|_| ());
    assert_eq!(parse(""), Err(SecretError::Empty));
    assert_eq!(parse("whsec_"), Err(SecretError::Empty));
    assert_eq!(parse("whsec_not base64"), Err(SecretError::NotBase64));
    assert_eq!(parse("whsec_c2VjcmV0cw"), Ok(()));
    assert_eq!(parse("raw"), Ok(()));
    assert_eq!(
        sign(&keys(&["whsec_c2VjcmV0cw=="]), "a", 1, &[]),
        sign(&keys(&["secrets"]), "a", 1, &[])
    );
    assert_eq!(sign(&[], "a", 1, &[]), None);
    assert_eq!(format!("{:?}", keys(&["raw"])), "[SigningKey(…)]");
}

/// A request of this format with a signature over its headers.
fn signed(format: Format) -> Request {
    signed_callback(format, &harness::callback(b"<schema name=\"a;b\"/>"))
}

/// A request for this callback with a signature over its headers.
fn signed_callback(format: Format, callback: &Callback) -> Request {
    let settings = RequestSettings {
        url: "http://127.0.0.1/hook".parse().unwrap(),
        format: format.into(),
        headers: Vec::new(),
        keys: keys(&["new", "old"]),
        signed_headers: true,
    };
    build(&settings, callback, harness::now()).unwrap()
}

async fn received(request: &Request) -> Received {
    received_with(request, request.body.joined()).await
}

/// Receives the request with another body.
async fn received_with(request: &Request, body: Bytes) -> Received {
    let target = match request.url.query() {
        Some(query) => format!("/hook?{query}"),
        None => "/hook".to_owned(),
    };
    let mut received = decode(&target, &request.headers, body, harness::now()).await;
    let tolerance = ReceiverOptions::new(harness::now).tolerance;
    received.signature = check(&received, &keys(&["old"]), tolerance);
    received
}

#[tokio::test]
async fn signed_headers_cover_the_event_and_the_parameters_of_every_format() {
    for format in Format::ALL {
        let request = signed(format);
        let verified = received(&request).await;
        assert_eq!(verified.signature, Signature::Verified, "{format:?}");
        assert_eq!(verified.not_signed(), None);

        let mut changed = request.clone();
        let event = "project-delete".parse().unwrap();
        changed.headers.insert("webhook-event", event);
        let found = received(&changed).await;
        let expected = "event is not the signed value \"project-publish\"";
        assert!(is_wrong(found.signature, expected), "{format:?}");

        let mut changed = request.clone();
        let header = changed.headers["webhook-signed-headers"].to_str().unwrap();
        let forged = header.replace("project-publish", "project-delete");
        let forged = forged.parse().unwrap();
        changed.headers.insert("webhook-signed-headers", forged);
        let found = received(&changed).await;
        let expected = "webhook-signed-headers or the body was changed";
        assert!(is_wrong(found.signature, expected), "{format:?}");
    }
    // In these formats the parameters are outside the body.
    let mut changed = signed(Format::Xml);
    changed.url.set_query(Some("username=mallory"));
    let found = received(&changed).await;
    assert!(is_wrong(found.signature, "username is not the signed"));
    for added in ["username=mallory", "previousProject=evil"] {
        let mut changed = signed(Format::Xml);
        let query = format!("{}&{added}", changed.url.query().unwrap());
        changed.url.set_query(Some(&query));
        let found = received(&changed).await;
        let expected = "is in the request more often than in the signed content";
        assert!(is_wrong(found.signature, expected), "{added}");
    }
    // These may be part of the configured URL. They are reported instead.
    let mut changed = signed(Format::Xml);
    let query = format!("{}&event=other", changed.url.query().unwrap());
    changed.url.set_query(Some(&query));
    let found = received(&changed).await;
    assert_eq!(found.signature, Signature::Verified);
    assert!(
        found
            .not_signed()
            .unwrap()
            .contains("parameters that are not signed")
    );
    let mut changed = signed(Format::CloudEvents);
    let name = "mallory".parse().unwrap();
    changed.headers.insert("ce-username", name);
    let found = received(&changed).await;
    assert!(is_wrong(found.signature, "username is not the signed"));
    for header in ["ce-username", "ce-previousproject"] {
        let mut changed = signed(Format::CloudEvents);
        let name = axum::http::HeaderName::from_static(header);
        changed.headers.append(name, "mallory".parse().unwrap());
        let found = received(&changed).await;
        let expected = "is in the request more often than in the signed content";
        assert!(is_wrong(found.signature, expected), "{header}");
    }
}

#[tokio::test]
async fn a_receiver_says_what_is_not_signed() {
    for (format, expected) in [
        (Format::Multipart, Some("the event's name is not signed")),
        (Format::Form, Some("the event's name is not signed")),
        (Format::Json, None),
        (
            Format::Xml,
            Some("the event's name and the parameters are not signed"),
        ),
        (
            Format::CloudEvents,
            Some("the event's name and the parameters are not signed"),
        ),
    ] {
        let mut request = signed(format);
        request.headers.remove("webhook-signed-headers");
        let found = received(&request).await;
        assert_eq!(found.signature, Signature::Verified, "{format:?}");
        assert_eq!(found.not_signed(), expected, "{format:?}");
    }
    let mut request = signed(Format::Json);
    let event = "project-delete".parse().unwrap();
    request.headers.insert("webhook-event", event);
    let problem = received(&request).await.problem.unwrap();
    let expected = "webhook-event is \"project-delete\", but the body has \"project-publish\"";
    assert_eq!(problem, expected);
}

#[tokio::test]
async fn neither_signature_can_pass_for_the_other() {
    let request = signed(Format::Xml);
    let header = request.headers["webhook-signed-headers"].to_str().unwrap();
    let (fields, signatures) = header.rsplit_once(';').unwrap();
    let signatures = signatures.replace("h1,", "v1,");
    let id = request.headers["webhook-id"].to_str().unwrap();
    let body = request.body.joined();
    let body = [format!("{}.{fields}.", body.len()).as_bytes(), &body].concat();
    let timestamp = harness::now().as_second().to_string();
    // A receiver that does not look at the id may accept any header's value.
    for id in [id.to_owned(), format!("h1.{id}"), format!("h1{id}")] {
        let keys = keys(&["new", "old"]);
        let found = verify(&keys, &id, &timestamp, &body, &signatures, harness::now()).await;
        assert!(is_wrong(found, "no signature matches"), "{id}");
    }
}

/// The request whose last field and body have these values, with a `v1` signature of its own.
///
/// So only the signature of the header `webhook-signed-headers` can be wrong.
async fn moved(request: &Request, fields: &str, body: &str) -> Signature {
    let mut changed = request.clone();
    let header = request.headers["webhook-signed-headers"].to_str().unwrap();
    let (_, signatures) = header.rsplit_once(';').unwrap();
    let header = format!("{fields};{signatures}").parse().unwrap();
    changed.headers.insert("webhook-signed-headers", header);
    let id = request.headers["webhook-id"].to_str().unwrap();
    let timestamp = harness::now().as_second();
    let signature = sign(&keys(&["old"]), id, timestamp, &[body.as_bytes()]).unwrap();
    let signature = signature.parse().unwrap();
    changed.headers.insert("webhook-signature", signature);
    let body = Bytes::copy_from_slice(body.as_bytes());
    received_with(&changed, body).await.signature
}

#[tokio::test]
async fn nothing_can_be_moved_between_the_signed_fields_and_the_body() {
    let mut callback = harness::callback(b"<schema version=\"2.0\"/>");
    callback.content.parameters.last_mut().unwrap().1 = "2026.1".to_owned();
    let request = signed_callback(Format::Xml, &callback);
    let header = request.headers["webhook-signed-headers"].to_str().unwrap();
    let (fields, _) = header.rsplit_once(';').unwrap();
    let body = String::from_utf8(request.body.joined().into()).unwrap();
    assert_eq!(moved(&request, fields, &body).await, Signature::Verified);

    let (shorter, end) = fields.rsplit_once('.').unwrap();
    let (start, rest) = body.split_once('.').unwrap();
    for (changed_fields, changed_body) in [
        (shorter.to_owned(), format!("{end}.{body}")),
        (format!("{fields}.{start}"), rest.to_owned()),
    ] {
        // Only the place between them differs.
        let joined = format!("{changed_fields}.{changed_body}");
        assert_eq!(joined, format!("{fields}.{body}"));
        let found = moved(&request, &changed_fields, &changed_body).await;
        let expected = "webhook-signed-headers or the body was changed";
        assert!(is_wrong(found, expected), "{changed_fields}");
    }
}

#[tokio::test]
async fn signed_headers_with_a_dot_in_the_id_are_refused() {
    let mut callback = harness::callback(b"<x/>");
    callback.content.id = EventId("evt_0.1".to_owned());
    let found = received(&signed_callback(Format::Xml, &callback)).await;
    let expected = "webhook-signed-headers or the body was changed";
    assert!(is_wrong(found.signature, expected));
}
