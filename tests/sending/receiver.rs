//! The receiver: it decodes requests, checks signatures and serves until it is stopped.

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use bytes::Bytes;
use jiff::Timestamp;
use project_webhooks::config::Format;
use project_webhooks::receiver::decode::{check, decode};
use project_webhooks::receiver::{Received, Receiver, ReceiverError, ReceiverOptions};
use project_webhooks::webhook::signature::{SigningKey, sign};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::harness::{host, within};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

async fn decoded(headers: &[(&'static str, &str)], target: &str, body: &[u8]) -> Received {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    decode(target, &map, Bytes::copy_from_slice(body), at(1)).await
}

#[tokio::test]
async fn a_form_of_another_sender_is_decoded() {
    let received = decoded(
        &[(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )],
        "/hook",
        b"payload=a%20b%2B+%ff&username=j%C3%BCrgen+x&username=2&flag",
    )
    .await;
    assert_eq!(received.format, Some(Format::Form));
    assert_eq!(received.payload, &b"a b+ \xff"[..]);
    let pairs = [("username", "jürgen x"), ("username", "2"), ("flag", "")];
    let expected = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(received.parameters, expected);
    assert_eq!(received.problem, None);
}

#[tokio::test]
async fn json_parameters_keep_their_order() {
    let received = decoded(
        &[("content-type", "application/json")],
        "/",
        br#"{"payload":"<x/>","parameters":{"z":"1","a":"2"},"label":"L","more":[1]}"#,
    )
    .await;
    let pairs = [("z", "1"), ("a", "2")];
    let expected = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(received.parameters, expected);
    assert_eq!(received.label, "L");
    assert_eq!(received.parameter("a"), Some("2"));
    assert_eq!(received.parameter("b"), None);
}

#[tokio::test]
async fn a_request_that_is_no_callback_is_passed_on_with_its_problem() {
    for (content_type, body, problem) in [
        ("application/json", &b"{"[..], true),
        (
            "application/json",
            b"{\"label\":\"x\",\"parameters\":[],\"payload\":\"\"}",
            true,
        ),
        ("multipart/form-data", b"", true),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disp",
            true,
        ),
        (
            "application/x-www-form-urlencoded",
            b"%%%&=&&\xff=\xff",
            false,
        ),
        ("text/plain", b"hello", false),
        ("\u{1F600}", b"hello", false),
    ] {
        let received = decoded(&[("content-type", content_type)], "?", body).await;
        assert_eq!(received.problem.is_some(), problem, "{content_type}");
        assert_eq!(received.body, body);
        assert_eq!(received.id, "");
        assert_eq!(received.attempt, None);
    }
    let received = decoded(
        &[
            ("webhook-attempt", "-1"),
            ("webhook-timestamp", "99999999999999999"),
        ],
        "/?a=b",
        b"x",
    )
    .await;
    assert_eq!((received.attempt, received.timestamp), (None, None));
    assert_eq!(received.parameters, [("a".to_owned(), "b".to_owned())]);
}

#[tokio::test]
async fn signatures_are_checked() {
    let key = |secret: &str| SigningKey::parse(&SecretString::from(secret)).unwrap();
    let signature = sign(&[key("right")], "evt_1", 1, &[b"x"]).unwrap();
    let headers = [
        ("webhook-id", "evt_1"),
        ("webhook-timestamp", "1"),
        ("webhook-signature", signature.as_str()),
    ];
    let signed = decoded(&headers, "/", b"x").await;
    let tolerance = ReceiverOptions::new(|| at(1)).tolerance;
    let check =
        |received: &Received, keys: &[SigningKey]| check(received, keys, tolerance).as_str();
    assert_eq!(check(&signed, &[]), "not-checked");
    assert_eq!(check(&signed, &[key("wrong")]), "wrong");
    assert_eq!(check(&signed, &[key("wrong"), key("right")]), "verified");
    let unsigned = decoded(&headers[..2], "/", b"x").await;
    assert_eq!(check(&unsigned, &[key("right")]), "missing");
    let changed = decoded(&headers, "/", b"y").await;
    assert_eq!(check(&changed, &[key("right")]), "wrong");
}

#[tokio::test]
async fn it_serves_until_it_is_stopped() {
    let options = ReceiverOptions::new(|| at(1)).with_status(StatusCode::IM_A_TEAPOT);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let (receiver, mut received) = Receiver::bind(address, options).await.unwrap();
    let address = host(&receiver.url());
    let taken = Receiver::bind(address.parse().unwrap(), ReceiverOptions::new(|| at(1))).await;
    assert!(matches!(taken, Err(ReceiverError::Bind { .. })));
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(receiver.serve(shutdown.clone()));

    let request = |line: &'static str| exchange(&address, line);
    let teapot = "HTTP/1.1 418";
    assert!(request("POST /a?b=c").await.starts_with(teapot));
    let first = within(received.recv()).await.unwrap();
    assert_eq!(first.target, "/a?b=c");
    assert_eq!(first.body, "x");
    assert!(request("GET /").await.starts_with("HTTP/1.1 405"));
    // Requests are answered without a reader as well.
    drop(received);
    assert!(request("POST /").await.starts_with(teapot));

    shutdown.cancel();
    within(serving).await.unwrap();
}

/// Sends a request with the body `x` and returns the whole answer.
async fn exchange(address: &str, line: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}
