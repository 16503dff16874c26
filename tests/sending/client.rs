//! The client against receivers on this machine.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use project_webhooks::config::{Format, NetworkPolicy};
use project_webhooks::domain::delivery::{ANSWER_MAX, FailureCause, Outcome};
use project_webhooks::receiver::{Reply, Signature};
use project_webhooks::webhook::{Attempt, TrustRoots, WebhookClient};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::Endpoint;
use crate::harness::{
    PATIENT, REFUSED, SECRET, SHORT, callback, client, hanging, host, now, receiver, send, webhook,
    within,
};

/// The attempt at a receiver that gives this answer to a request with this header.
async fn answered(name: &str, value: &str, answer: fn() -> Reply) -> Attempt {
    let (url, _received) = receiver(move |_| answer()).await;
    let mut webhook = webhook(&url);
    webhook.headers = vec![(name.parse().unwrap(), value.parse().unwrap())];
    webhook.secrets = vec![SecretString::from("signing-key-of-the-receiver")];
    client(&webhook).send(&callback(b"<schema/>"), now()).await
}

fn refusal(body: impl Into<Bytes>) -> Reply {
    let mut answer = Reply::status(StatusCode::BAD_REQUEST);
    answer.body = body.into();
    answer
}

#[tokio::test]
async fn an_answer_that_repeats_the_request_is_kept_without_its_secrets() {
    let key = "key-of-the-receiver";
    let attempt = answered("x-key", key, || refusal("you sent key-of-the-receiver")).await;
    assert_eq!(attempt.status, Some(400));
    assert_eq!(attempt.answer, &b"you sent (not shown)"[..]);

    let answer = || refusal("not signed with signing-key-of-the-receiver");
    let attempt = answered("x-key", key, answer).await;
    assert_eq!(attempt.answer, &b"not signed with (not shown)"[..]);

    // The base64 of ada:pass-of-the-receiver. A receiver decodes it.
    let basic = "Basic YWRhOnBhc3Mtb2YtdGhlLXJlY2VpdmVy";
    let attempt = answered("authorization", basic, || {
        refusal("ada has another password than pass-of-the-receiver")
    });
    let attempt = attempt.await;
    assert_eq!(
        attempt.answer,
        &b"ada has another password than (not shown)"[..]
    );

    let cookies = "session=0123456789abcdef; csrf=fedcba9876543210";
    let answer = || refusal("cookie: session=0123456789abcdef; csrf=fedcba9876543210");
    let attempt = answered("cookie", cookies, answer).await;
    assert_eq!(attempt.answer, &b"cookie: (not shown)"[..]);
    let answer = || refusal("the session 0123456789abcdef has ended");
    let attempt = answered("cookie", cookies, answer).await;
    assert_eq!(attempt.answer, &b"the session (not shown) has ended"[..]);
}

#[tokio::test]
async fn no_part_of_a_secret_is_kept_where_a_long_answer_is_cut() {
    let attempt = answered("x-key", "key-of-the-receiver", || {
        let text = "key-of-the-receiver";
        refusal("-".repeat(ANSWER_MAX - text.len() + 1) + text)
    });
    let answer = attempt.await.answer;
    assert!(answer.ends_with(b"---(not shown)"), "{answer:?}");
}

#[tokio::test]
async fn a_redirect_that_repeats_the_request_is_described_without_its_secrets() {
    let attempt = answered("x-key", "key-of-the-receiver", || {
        let mut answer = Reply::status(StatusCode::FOUND);
        let to = "/key-of-the-receiver".parse().unwrap();
        answer.headers.insert("location", to);
        answer
    });
    let error = attempt.await.error.unwrap();
    assert!(error.ends_with("(to /(not shown))"), "{error}");
}

#[tokio::test]
async fn a_callback_arrives_as_it_was_sent_in_every_format() {
    let (url, mut received) = receiver(|_| Reply::status(StatusCode::ACCEPTED)).await;
    let payload = "<?xml version=\"1.0\"?>\r\n<schema name=\"Größe\"/>\n".as_bytes();
    let callback = callback(payload);
    for format in Format::ALL {
        let mut webhook = webhook(&format!("{url}hook?key=1"));
        webhook.format = format.into();
        webhook.secrets = vec![SecretString::from("raw text"), SecretString::from(SECRET)];
        webhook.headers = vec![(
            "authorization".parse().unwrap(),
            "Bearer hush".parse().unwrap(),
        )];
        let attempt = client(&webhook).send(&callback, now()).await;
        assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
        assert_eq!(
            (attempt.status, attempt.error.as_deref()),
            (Some(202), None)
        );
        assert!(!format!("{attempt:?}").contains("hush"));
        let shown = ("authorization".to_owned(), "(not shown)".to_owned());
        assert!(attempt.request_headers.contains(&shown));

        let received = within(received.recv()).await.unwrap();
        assert_eq!(received.format, Some(format));
        assert_eq!(received.problem, None);
        assert_eq!(received.id, "evt_0123456789abcdef");
        assert_eq!(received.event, "project-publish");
        assert_eq!(received.label, "Project Publish");
        assert_eq!(received.attempt, Some(2));
        assert_eq!(received.origin, "redelivery");
        assert_eq!(received.timestamp, Some(now()));
        assert_eq!(received.payload, payload);
        assert_eq!(received.signature, Signature::Verified);
        assert_eq!(received.header("authorization"), Some("Bearer hush"));
        assert_eq!(received.header("transfer-encoding"), None);
        assert_eq!(received.header("expect"), None);
        assert_eq!(received.header("accept-encoding"), None);
        let length = received.body.len().to_string();
        assert_eq!(received.header("content-length"), Some(length.as_str()));
        assert!(received.target.starts_with("/hook?key=1"));
        let mut parameters = received.parameters;
        if format == Format::Xml {
            assert_eq!(parameters.remove(0), ("key".to_owned(), "1".to_owned()));
        }
        let sent: Vec<_> = callback
            .content
            .parameters
            .iter()
            .map(|(parameter, value)| (parameter.as_str().to_owned(), value.clone()))
            .collect();
        assert_eq!(parameters, sent);
    }
}

#[tokio::test]
async fn a_payload_of_several_megabytes_arrives_whole() {
    let (url, mut received) = receiver(|_| Reply::status(StatusCode::OK)).await;
    let payload: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    let attempt = client(&webhook(&url))
        .send(&callback(&payload), now())
        .await;
    assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
    assert!(within(received.recv()).await.unwrap().payload == payload);
}

#[tokio::test]
async fn answers_become_outcomes() {
    let (url, mut received) = receiver(|received| {
        let status = received.target.trim_start_matches('/').parse().unwrap();
        let mut reply = Reply::status(StatusCode::from_u16(status).unwrap());
        reply.headers.insert(
            "retry-after",
            "Fri, 02 Jan 2026 03:05:05 GMT".parse().unwrap(),
        );
        reply.headers.insert("location", "/200".parse().unwrap());
        reply.body = Bytes::from_static(b"because");
        reply
    })
    .await;
    for (status, outcome) in [
        (200, Some(Outcome::Accepted)),
        (302, Some(REFUSED)),
        (410, Some(Outcome::Gone)),
        (
            500,
            Some(Outcome::Failed {
                cause: FailureCause::Endpoint,
                retry_after: None,
            }),
        ),
        (503, None),
    ] {
        let attempt = client(&webhook(&format!("{url}{status}")))
            .send(&callback(b"<x/>"), now())
            .await;
        assert_eq!(attempt.status, Some(status));
        assert_eq!(attempt.answer, "because");
        match outcome {
            Some(outcome) => assert_eq!(attempt.outcome, outcome),
            // The date is a minute after `now`; how long the exchange took is taken off.
            None => assert!(matches!(
                attempt.outcome,
                Outcome::Failed { cause: FailureCause::Unreachable, retry_after: Some(asked) }
                    if asked.wait() <= Duration::from_secs(60)
            )),
        }
        assert_eq!(
            within(received.recv()).await.unwrap().target,
            format!("/{status}")
        );
    }
    // A redirect was not followed, and nothing was sent twice.
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn sixteen_kibibytes_of_an_endless_answer_are_kept() {
    let mut answer = b"HTTP/1.1 500 No\r\nContent-Length: 9999999\r\n\r\n".to_vec();
    answer.extend(vec![b'x'; 100_000]);
    let url = hanging(answer).await;
    let attempt = send(&webhook(&url)).await;
    assert_eq!(attempt.status, Some(500));
    assert_eq!(attempt.answer.len(), ANSWER_MAX);
    let error = attempt.error.unwrap();
    assert_eq!(error, "the answer was 500 Internal Server Error");
}

#[tokio::test]
async fn the_status_decides_even_if_the_body_fails() {
    for (answer, kept) in [
        // It trickles until the timeout.
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", "some"),
        // It breaks its own format.
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nno",
            "some",
        ),
        // It claims to be compressed, and is not.
        (
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nsome",
            "some",
        ),
    ] {
        let url = hanging(answer.as_bytes().to_vec()).await;
        let mut webhook = webhook(&url);
        webhook.timeout = SHORT;
        let attempt = send(&webhook).await;
        assert_eq!(attempt.outcome, Outcome::Accepted, "{answer:?} {attempt:?}");
        assert_eq!(attempt.answer, kept);
        assert_eq!(attempt.error, None);
    }
}

#[tokio::test]
async fn failures_are_described() {
    let silent = hanging(Vec::new()).await;
    let reserved = Endpoint::reserved();
    let closed = reserved.address();
    let nonsense = hanging(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()).await;
    for (url, timeout, expected) in [
        (
            format!("http://{closed}/?token=hush"),
            PATIENT,
            format!("connection refused ({closed})"),
        ),
        (
            silent.clone(),
            SHORT,
            format!("timed out after 5s: no answer from {}", host(&silent)),
        ),
        (
            nonsense.clone(),
            PATIENT,
            format!("invalid HTTP version parsed ({})", host(&nonsense)),
        ),
    ] {
        let mut webhook = webhook(&url);
        webhook.timeout = timeout;
        let attempt = send(&webhook).await;
        assert_eq!(attempt.outcome, Outcome::NO_ANSWER);
        assert_eq!((attempt.status, attempt.answer.len()), (None, 0));
        assert_eq!(attempt.error, Some(expected));
    }
}

#[tokio::test]
async fn a_request_that_the_receiver_does_not_read_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Accepted and never read: the kernel's buffers fill.
    let accepted = tokio::spawn(within(async move { listener.accept().await.unwrap() }));
    let mut webhook = webhook(&format!("http://{address}/"));
    webhook.timeout = SHORT;
    let payload = vec![b'x'; 24_000_000];
    let attempt = client(&webhook).send(&callback(&payload), now()).await;
    let expected = format!("timed out after 5s: no answer from {address}");
    assert_eq!(attempt.error, Some(expected));
    drop(accepted.await.unwrap());
}

#[tokio::test]
async fn an_unknown_host_name_is_described() {
    let url = "http://host.invalid/?token=hush";
    let attempt = client(&webhook(url)).send(&callback(b""), now()).await;
    let error = attempt.error.unwrap();
    let expected = "cannot resolve the host name of host.invalid:80: ";
    assert!(error.starts_with(expected), "{error}");
    assert!(!error.contains("hush"));
}

#[tokio::test]
async fn a_webhook_without_a_secret_is_not_signed() {
    let (url, mut received) = receiver(|_| Reply::status(StatusCode::OK)).await;
    send(&webhook(&url)).await;
    let received = within(received.recv()).await.unwrap();
    assert_eq!(received.signature, Signature::Missing);
}

#[tokio::test]
async fn attempts_share_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = client(&webhook(&url));
    let serve = async {
        // One connection serves both requests; a second one would never be accepted.
        let (mut socket, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let mut request = Vec::new();
            while !request.ends_with(b"--\r\n") {
                assert!(socket.read_buf(&mut request).await.unwrap() > 0);
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            socket.write_all(answer).await.unwrap();
        }
    };
    let send = async {
        for _ in 0..2 {
            let attempt = client.send(&callback(b"<x/>"), now()).await;
            assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
        }
    };
    tokio::join!(serve, send);
}

#[tokio::test]
async fn nothing_is_sent_to_a_denied_address() {
    let (url, mut received) = receiver(|_| Reply::status(StatusCode::OK)).await;
    let policy = Arc::new(NetworkPolicy {
        allow: Vec::new(),
        deny: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
    });
    for (url, range) in [
        (url.clone(), "127.0.0.0/8"),
        (url.replace("127.0.0.1", "127.1"), "127.0.0.0/8"),
        (
            url.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
            "127.0.0.0/8",
        ),
        (url.replace("127.0.0.1", "localhost"), ""),
    ] {
        let client = WebhookClient::new(&webhook(&url), &TrustRoots::empty(), &policy).unwrap();
        let attempt = client.send(&callback(b"<x/>"), now()).await;
        assert_eq!(attempt.outcome, Outcome::NO_ANSWER);
        let error = attempt.error.unwrap();
        let expected = format!("{range} in network.deny; to allow it, add it to network.allow");
        assert!(error.starts_with("cannot connect to "), "{error}");
        assert!(error.ends_with(&expected), "{error}");
    }
    assert!(received.try_recv().is_err());
}
