//! Tests of the client: allowed addresses, time limits, and withheld requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use reqwest::dns::{Addrs, Name, Resolving};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::fixtures::webhook;
use crate::domain::event::{EventId, Origin};
use crate::receiver::{Receiver, ReceiverOptions, Reply};
use crate::webhook::CallbackContent;

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Resolves each name to the next of these addresses. Never answers if no address is left.
struct Changing(Mutex<Vec<IpAddr>>);

impl Resolve for Changing {
    fn resolve(&self, _name: Name) -> Resolving {
        let next = self.0.lock().unwrap().pop();
        Box::pin(async move {
            match next {
                Some(address) => {
                    let found = std::iter::once(SocketAddr::new(address, 0));
                    Ok(Box::new(found) as Addrs)
                }
                None => std::future::pending().await,
            }
        })
    }
}

fn client(webhook: &config::Webhook, addresses: &[&str]) -> WebhookClient {
    let addresses = addresses.iter().rev().map(|text| text.parse().unwrap());
    let lookup = Arc::new(Changing(Mutex::new(addresses.collect())));
    WebhookClient::with_lookup(webhook, &TrustRoots::empty(), &Arc::default(), lookup).unwrap()
}

async fn send(client: &WebhookClient) -> Attempt {
    client.send(&callback(), now()).await
}

fn now() -> Timestamp {
    Timestamp::from_second(1_767_323_045).unwrap()
}

fn callback() -> Callback {
    Callback {
        traceparent: None,
        content: CallbackContent::test(EventId("evt_1".to_owned()), now()),
        attempt: 1,
        origin: Origin::Test,
    }
}

#[tokio::test]
async fn a_name_that_changes_to_a_denied_address_is_not_connected_to() {
    let options = ReceiverOptions::new(Timestamp::now).with_answer(|_| {
        let mut reply = Reply::status(StatusCode::OK);
        // Close the connection, so that the next attempt resolves the name again.
        reply.headers.insert("connection", "close".parse().unwrap());
        reply
    });
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let (receiver, mut received) = Receiver::bind(address, options).await.unwrap();
    let url = receiver.url().replace("127.0.0.1", "changing.localhost");
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    tokio::spawn(receiver.serve(CancellationToken::new()));
    let addresses = ["127.0.0.1", "169.254.169.254", "127.0.0.1"];
    let client = client(&webhook(&url), &addresses);
    let first = send(&client).await;
    assert_eq!(first.outcome, Outcome::Accepted, "{first:?}");
    let second = send(&client).await;
    assert_eq!(second.outcome, Outcome::NO_ANSWER);
    let error = second.error.unwrap();
    let expected = format!("cannot connect to {host}: the address 169.254.169.254 is denied");
    assert!(error.starts_with(&expected), "{error}");
    let third = send(&client).await;
    assert_eq!(third.outcome, Outcome::Accepted, "{third:?}");
    for _ in 0..2 {
        timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    }
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn connecting_has_its_own_timeout() {
    // The kernel accepts the connection, but nothing answers the TLS handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    for (url, host) in [
        (format!("https://{silent}/"), silent.to_string()),
        (
            "http://never.localhost:9/".to_owned(),
            "never.localhost:9".to_owned(),
        ),
    ] {
        let mut webhook = webhook(&url);
        webhook.connect_timeout = Duration::from_millis(200);
        let attempt = send(&client(&webhook, &[])).await;
        let expected = format!("timed out after 200ms connecting to {host} (connect_timeout)");
        assert_eq!(attempt.error, Some(expected));
    }
}

/// Without an age limit, a long burst would never notice a changed DNS entry.
#[tokio::test]
async fn connections_have_an_age_limit() {
    let options = ReceiverOptions::new(Timestamp::now);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let (receiver, mut received) = Receiver::bind(address, options).await.unwrap();
    let url = receiver.url().replace("127.0.0.1", "moved.localhost");
    tokio::spawn(receiver.serve(CancellationToken::new()));
    // The second lookup returns an address that is denied.
    let mut client = client(&webhook(&url), &["127.0.0.1", "169.254.169.254"]);
    for _ in 0..2 {
        let attempt = send(&client).await;
        assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
        timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    }
    client.transport.age_max = Duration::ZERO;
    let attempt = send(&client).await;
    let error = attempt.error.unwrap_or_default();
    assert!(error.contains("169.254.169.254 is denied"), "{error}");
}

/// The last check is at the beginning of the body, when the connection is open.
#[tokio::test]
async fn a_request_that_may_no_longer_begin_is_not_received() {
    let options = ReceiverOptions::new(Timestamp::now);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let (receiver, mut received) = Receiver::bind(address, options).await.unwrap();
    let client = client(&webhook(&receiver.url()), &[]);
    tokio::spawn(receiver.serve(CancellationToken::new()));
    for size in [10, 1024 * 1024] {
        let mut callback = callback();
        callback.content.payload = vec![b'x'; size].into();
        // On a new connection, and on an open one.
        for _ in 0..2 {
            let n_checks = AtomicUsize::new(0);
            let once: MayBegin = Arc::new(move || n_checks.fetch_add(1, Ordering::Relaxed) == 0);
            let attempt = client.send_if(&callback, now(), &once).await;
            assert!(attempt.is_withheld, "{attempt:?}");
            let attempt = client.send(&callback, now()).await;
            assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
            assert!(!attempt.is_withheld);
            timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
        }
    }
    assert!(received.try_recv().is_err());
}
