//! What is connected to, and how long connecting may take.

use std::net::IpAddr;
use std::sync::Mutex;

use reqwest::dns::{Addrs, Name, Resolving};

use super::*;

/// Finds one of these addresses after the other, whatever the name; nothing, for ever, at the end.
struct Turning(Mutex<Vec<IpAddr>>);

impl Turning {
    fn through(addresses: &[&str]) -> Arc<Self> {
        let addresses = addresses.iter().rev().map(|text| text.parse().unwrap());
        Arc::new(Self(Mutex::new(addresses.collect())))
    }
}

impl Resolve for Turning {
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

fn denying(ranges: &[&str]) -> Arc<NetworkPolicy> {
    Arc::new(NetworkPolicy {
        allow: Vec::new(),
        deny: ranges.iter().map(|text| text.parse().unwrap()).collect(),
    })
}

#[tokio::test]
async fn a_name_that_turns_to_a_denied_address_is_not_followed() {
    let (url, mut received) = receiver(|_| {
        let mut reply = Reply::status(StatusCode::OK);
        // So that the next attempt looks the name up anew.
        reply.headers.insert("connection", "close".parse().unwrap());
        reply
    })
    .await;
    let url = url.replace("127.0.0.1", "turning.localhost");
    let lookup = Turning::through(&["127.0.0.1", "169.254.169.254", "127.0.0.1"]);
    let client = WebhookClient::with_lookup(
        &webhook(&url),
        &TrustRoots::empty(),
        &Arc::default(),
        lookup,
    )
    .unwrap();
    let first = client.send(&callback(b"<x/>"), now()).await;
    assert_eq!(first.outcome, Outcome::Accepted, "{first:?}");
    let second = client.send(&callback(b"<x/>"), now()).await;
    assert_eq!(second.outcome, Outcome::NO_ANSWER);
    assert_eq!(
        second.error.unwrap(),
        format!(
            "cannot connect to {}: the address 169.254.169.254 is denied by default \
             it: 169.254.0.0/16 is link-local, where clouds serve the credentials of their \
             machines; if it is meant, name it in network.allow",
            host(&url)
        )
    );
    let third = client.send(&callback(b"<x/>"), now()).await;
    assert_eq!(third.outcome, Outcome::Accepted, "{third:?}");
    for _ in 0..2 {
        received.recv().await.unwrap();
    }
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn nothing_is_sent_to_what_a_setting_denies() {
    let (url, mut received) = receiver(|_| Reply::status(StatusCode::OK)).await;
    let policy = denying(&["127.0.0.0/8", "::1/128"]);
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
        let expected = format!("{range} in network.deny; an exception goes into network.allow");
        assert!(error.starts_with("cannot connect to "), "{error}");
        assert!(error.ends_with(&expected), "{error}");
    }
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn connecting_has_a_bound_of_its_own() {
    // The kernel accepts, and nobody shakes hands.
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
        let client = WebhookClient::with_lookup(
            &webhook,
            &TrustRoots::empty(),
            &Arc::default(),
            Turning::through(&[]),
        )
        .unwrap();
        let attempt = client.send(&callback(b"<x/>"), now()).await;
        let expected = format!("timed out after 200ms connecting to {host} (connect_timeout)");
        assert_eq!(attempt.error, Some(expected));
    }
}
