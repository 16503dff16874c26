//! A URL that is a secret: no failure and no answer shows a part of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use project_webhooks::config::{self, NetworkPolicy, Tls, Webhook};
use project_webhooks::webhook::{Attempt, TrustRoots, WebhookClient};
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;

use crate::harness::{answering, callback, hanging, now};
use crate::tls::{Authority, Server};

/// The path and the query of all hidden URLs.
const REST: &str = "services/secret-path/secret%20token?key=secret-query";

/// The parts of the hidden URLs, and what their names resolve to.
const SECRETS: [&str; 8] = [
    "secret-",
    "secret%20",
    "secret token",
    "169.254",
    "127.0.0",
    "::1",
    "localhost",
    "other.example",
];

/// A webhook whose URL comes from the environment.
fn hidden(url: &str) -> Webhook {
    let text = "{ repository: { path: /nowhere }, webhooks: [ { name: catalog, events: '*', \
                url: { env: HOOK }, timeout: 60s, connect_timeout: 60s } ] }";
    let environment = BTreeMap::from([("HOOK".to_owned(), format!("{url}{REST}"))]);
    let loaded = config::load_str(text.as_bytes(), Path::new("config.yaml"), &environment);
    loaded.unwrap().config.webhooks.remove(0)
}

/// Makes one attempt, and returns its error.
async fn fail(webhook: &Webhook, denied: &[&str]) -> String {
    let policy = NetworkPolicy {
        deny: denied.iter().map(|range| range.parse().unwrap()).collect(),
        ..NetworkPolicy::default()
    };
    let client = WebhookClient::new(webhook, &TrustRoots::empty(), &Arc::new(policy)).unwrap();
    let attempt = client.send(&callback(b"<x/>"), now()).await;
    assert_shows_nothing(&attempt);
    let shown = format!("{client:?} {webhook:?}");
    assert!(!shown.contains("secret-"), "{shown}");
    attempt.error.unwrap()
}

fn assert_shows_nothing(attempt: &Attempt) {
    let answer = String::from_utf8_lossy(&attempt.answer);
    let shown = format!("{attempt:?} {answer}");
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

#[tokio::test]
async fn no_denied_address_of_a_hidden_url_is_shown() {
    let by_setting = "cannot connect to the receiver: its address is denied by network.deny; to allow \
                      it, add it to network.allow";
    for (url, denied, expected) in [
        (
            "http://169.254.7.7/",
            &[][..],
            "cannot connect to the receiver: its address is denied by default (link-local, where \
             clouds serve machine credentials); to allow it, add it to network.allow",
        ),
        ("http://127.0.0.1:9/", &["127.0.0.1/32"], by_setting),
        ("http://[::1]:9/", &["::1/128"], by_setting),
        (
            "http://localhost:9/",
            &["127.0.0.0/8", "::1/128"],
            by_setting,
        ),
    ] {
        assert_eq!(fail(&hidden(url), denied).await, expected, "{url}");
    }
}

#[tokio::test]
async fn no_failure_of_a_connection_shows_a_hidden_url() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: http://{silent}/{REST}\r\n\r\n");
    for (url, expected) in [
        (
            "http://secret-host.invalid/".to_owned(),
            "cannot resolve the host name of the receiver: ",
        ),
        (
            format!("http://{silent}/"),
            "timed out after 3s: no answer from the receiver",
        ),
        (
            format!("https://{silent}/"),
            "timed out after 200ms connecting to the receiver (connect_timeout)",
        ),
        (
            hanging(Vec::new()).await,
            "timed out after 3s: no answer from the receiver",
        ),
        (
            "http://127.0.0.1:1/".to_owned(),
            "connection refused (the receiver)",
        ),
        (answering(b"no HTTP".to_vec()).await, "invalid HTTP"),
        (
            answering(redirect.into_bytes()).await,
            "the answer was 302 Found; redirects are not followed",
        ),
    ] {
        // Others take as long as a busy machine needs.
        let mut webhook = hidden(&url);
        if expected.contains("connect_timeout") {
            webhook.connect_timeout = Duration::from_millis(200);
        } else if expected.starts_with("timed out") {
            webhook.timeout = Duration::from_secs(3);
        }
        let error = fail(&webhook, &[]).await;
        assert!(error.starts_with(expected), "{url}: {error}");
    }
}

#[tokio::test]
async fn no_failure_of_tls_shows_a_hidden_url() {
    let authority = Authority::new("one");
    let of = "the certificate of the receiver";
    for (name, until, tls, expected) in [
        (
            "other.example",
            2100,
            authority.trusted(),
            format!("{of} is not valid for this host name"),
        ),
        (
            "localhost",
            2100,
            Tls::default(),
            format!(
                "{of} is from an unknown issuer; to trust it, add the issuer's certificate to tls.ca"
            ),
        ),
        (
            "localhost",
            2020,
            authority.trusted(),
            format!("{of} expired on 2020-01-01T00:00:00Z"),
        ),
    ] {
        let server = Server::start(&authority.issue(name, until, ServerAuth), None);
        let mut webhook = hidden(&server.url("localhost"));
        webhook.tls = tls;
        assert_eq!(fail(&webhook, &[]).await, expected);
    }
}

/// Error pages of servers and proxies repeat the URL of the request.
#[tokio::test]
async fn no_kept_answer_shows_a_hidden_url() {
    let page = "GET http://localhost/services/secret-path/secret%20token?key=secret-query \
                at localhost: no /services/secret-path/secret token here (secret-query)";
    let answer = format!(
        "HTTP/1.1 404 No\r\nContent-Length: {}\r\n\r\n{page}",
        page.len()
    );
    let url = answering(answer.into_bytes()).await;
    let url = url.replace("127.0.0.1", "localhost");
    let client = WebhookClient::new(&hidden(&url), &TrustRoots::empty(), &Arc::default()).unwrap();
    let attempt = client.send(&callback(b"<x/>"), now()).await;
    assert_eq!(attempt.status, Some(404), "{attempt:?}");
    assert_shows_nothing(&attempt);
    assert!(
        attempt.answer.ends_with(b" here ((not shown))"),
        "{attempt:?}"
    );
}
