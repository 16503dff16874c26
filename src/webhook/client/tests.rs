//! The client against real sockets on loopback.

mod hostile;
mod hostile_http_2;
mod policy;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::fixtures::webhook;
use crate::config::{Format, Tls, Webhook};
use crate::domain::delivery::FailureCause;
use crate::domain::event::{EventId, EventKind, Origin};
use crate::receiver::{Received, Receiver, ReceiverOptions, Reply, Signature};
use crate::webhook::{CallbackContent, EventName};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn now() -> Timestamp {
    Timestamp::from_second(1_767_323_045).unwrap()
}

fn client(webhook: &Webhook) -> WebhookClient {
    WebhookClient::new(webhook, &TrustRoots::empty(), &Arc::default()).unwrap()
}

fn callback(payload: &[u8]) -> Callback {
    let id = EventId("evt_0123456789abcdef".to_owned());
    let mut content = CallbackContent::test(id, now());
    content.event = EventName::from(EventKind::ProjectPublish);
    content.origin = Origin::CatchUp;
    content.payload = Bytes::copy_from_slice(payload);
    for (index, (_, value)) in content.parameters.iter_mut().enumerate() {
        *value = format!("\"Größe\" & 100% +\r\nx: {index} ");
    }
    Callback {
        content,
        attempt: 2,
        origin: Origin::Redelivery,
    }
}

/// Host and port of a URL.
fn host(url: &str) -> String {
    let url: Url = url.parse().unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

/// A receiver on a free port that answers with what `answer` says.
async fn receiver(
    answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
) -> (String, mpsc::Receiver<Received>) {
    let options = ReceiverOptions::new(now)
        .with_secrets(vec![SecretString::from(SECRET)])
        .with_answer(answer);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let (receiver, received) = Receiver::bind(address, options).await.unwrap();
    let url = receiver.url();
    tokio::spawn(receiver.serve(CancellationToken::new()));
    (url, received)
}

/// A server that reads each request to the end of its head and then writes `answer`, keeping the
/// connection open.
async fn raw_server(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _client_may_be_gone = socket.write_all(&answer).await;
            open.push(socket);
        }
    });
    url
}

#[tokio::test]
async fn a_callback_arrives_as_it_was_sent_in_every_format() {
    let (url, mut received) = receiver(|_| Reply::status(StatusCode::ACCEPTED)).await;
    let payload = "<?xml version=\"1.0\"?>\r\n<schema name=\"Größe\"/>\n".as_bytes();
    let callback = callback(payload);
    for format in [
        Format::Multipart,
        Format::Form,
        Format::Xml,
        Format::Json,
        Format::CloudEvents,
    ] {
        let mut webhook = webhook(&format!("{url}hook?key=1"));
        webhook.format = format;
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
        let shown = ("authorization".to_owned(), HIDDEN.to_owned());
        assert!(attempt.request_headers.contains(&shown));

        let received = received.recv().await.unwrap();
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
    assert!(received.recv().await.unwrap().payload == payload);
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
        (302, Some(Outcome::REFUSED)),
        (410, Some(Outcome::Gone)),
        (500, Some(Outcome::NO_ANSWER)),
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
                Outcome::Failed { cause: FailureCause::Endpoint, retry_after: Some(asked) }
                    if asked <= Duration::from_secs(60)
            )),
        }
        assert_eq!(received.recv().await.unwrap().target, format!("/{status}"));
    }
    // A redirect was not followed, and nothing was sent twice.
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn sixteen_kibibytes_of_an_endless_answer_are_kept() {
    let mut answer = b"HTTP/1.1 500 No\r\nContent-Length: 9999999\r\n\r\n".to_vec();
    answer.extend(vec![b'x'; 100_000]);
    let url = raw_server(answer).await;
    let attempt = client(&webhook(&url)).send(&callback(b"<x/>"), now()).await;
    assert_eq!(attempt.status, Some(500));
    assert_eq!(attempt.answer.len(), answer::ANSWER_MAX);
    let error = attempt.error.unwrap();
    assert_eq!(error, "the answer was 500 Internal Server Error");
}

#[tokio::test]
async fn the_status_decides_whatever_becomes_of_the_body() {
    for (answer, kept) in [
        // It trickles until the timeout.
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", "some"),
        // It breaks its own format.
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nno",
            "some",
        ),
        // It says to be compressed, and is not.
        (
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nsome",
            "some",
        ),
    ] {
        let url = raw_server(answer.as_bytes().to_vec()).await;
        let mut webhook = webhook(&url);
        webhook.timeout = Duration::from_secs(2);
        let attempt = client(&webhook).send(&callback(b"<x/>"), now()).await;
        assert_eq!(attempt.outcome, Outcome::Accepted, "{answer:?} {attempt:?}");
        assert_eq!(attempt.answer, kept);
        assert_eq!(attempt.error, None);
    }
}

#[tokio::test]
async fn failures_are_told_in_words() {
    let silent = raw_server(Vec::new()).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let nonsense = raw_server(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()).await;
    for (url, expected) in [
        (
            format!("http://{closed}/?token=hush"),
            format!("connection refused ({closed})"),
        ),
        (
            silent.clone(),
            format!(
                "timed out after 2s waiting for the answer of {}",
                host(&silent)
            ),
        ),
        (
            nonsense.clone(),
            format!("invalid HTTP version parsed ({})", host(&nonsense)),
        ),
    ] {
        let mut webhook = webhook(&url);
        webhook.timeout = Duration::from_secs(2);
        let attempt = client(&webhook).send(&callback(b"<x/>"), now()).await;
        assert_eq!(attempt.outcome, Outcome::NO_ANSWER);
        assert_eq!((attempt.status, attempt.answer.len()), (None, 0));
        assert_eq!(attempt.error, Some(expected));
    }
}

#[tokio::test]
async fn a_connection_that_takes_no_more_is_told_as_sending() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Accepted and never read: the kernel's buffers fill.
    let accepted = tokio::spawn(async move { listener.accept().await.unwrap() });
    let mut webhook = webhook(&format!("http://{address}/"));
    webhook.timeout = Duration::from_secs(2);
    let payload = vec![b'x'; 24_000_000];
    let attempt = client(&webhook).send(&callback(&payload), now()).await;
    let expected = format!("timed out after 2s sending the request to {address}");
    assert_eq!(attempt.error, Some(expected));
    drop(accepted.await.unwrap());
}

#[tokio::test]
async fn a_host_name_that_is_none_is_told() {
    let url = "http://host.invalid/?token=hush";
    let attempt = client(&webhook(url)).send(&callback(b""), now()).await;
    let error = attempt.error.unwrap();
    let expected = "cannot resolve the host name of host.invalid:80: ";
    assert!(error.starts_with(expected), "{error}");
    assert!(!error.contains("hush"));
}

#[tokio::test]
async fn credentials_of_the_url_become_a_header_that_is_not_shown() {
    let (url, mut received) = receiver(|_| Reply::status(StatusCode::OK)).await;
    let url = url.replace("http://", "http://us%40er:hush@");
    let client = client(&webhook(&url));
    assert!(!format!("{client:?}").contains("hush"));
    let attempt = client.send(&callback(b"<x/>"), now()).await;
    let received = received.recv().await.unwrap();
    assert_eq!(
        received.header("authorization"),
        Some("Basic dXNAZXI6aHVzaA==")
    );
    assert!(!format!("{attempt:?}").contains("aHVzaA"));
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
