//! Certificates of servers and clients, and ports without TLS.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use project_webhooks::config::Tls;
use project_webhooks::domain::delivery::Outcome;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::harness::{self, webhook};
use crate::tls::{Authority, Server};

async fn send(url: &str, tls: Tls) -> (Outcome, String) {
    let mut webhook = webhook(url);
    webhook.tls = tls;
    let attempt = harness::send(&webhook).await;
    (attempt.outcome, attempt.error.unwrap_or_default())
}

fn serve(authority: &Authority, name: &str, until: i32) -> Server {
    Server::start(&authority.issue(name, until, ServerAuth), None)
}

#[tokio::test]
async fn a_certificate_of_a_configured_authority_is_trusted() {
    let authority = Authority::new("one");
    let server = serve(&authority, "localhost", 2100);
    let (outcome, error) = send(&server.url("localhost"), authority.trusted()).await;
    assert_eq!(outcome, Outcome::Accepted, "{error}");
}

#[tokio::test]
async fn untrusted_certificates_have_distinct_errors() {
    let authority = Authority::new("one");
    let stranger = Authority::new("two");
    let replaced = Authority::new("one");
    let unknown = "is from an unknown issuer; to trust it, add the issuer's \
                   certificate to tls.ca";
    for (name, until, tls, expected) in [
        ("localhost", 2100, stranger.trusted(), unknown),
        ("localhost", 2100, Tls::default(), unknown),
        (
            "localhost",
            2100,
            replaced.trusted(),
            "is not signed with the known key of its issuer; was the issuer's key replaced after \
             tls.ca was written?",
        ),
        (
            "other.example",
            2100,
            authority.trusted(),
            "is not valid for this host name, only for other.example",
        ),
        (
            "localhost",
            2020,
            authority.trusted(),
            "expired on 2020-01-01T00:00:00Z",
        ),
    ] {
        let server = serve(&authority, name, until);
        let (outcome, error) = send(&server.url("localhost"), tls).await;
        assert_eq!(outcome, Outcome::NO_ANSWER);
        let port = server.port();
        assert_eq!(
            error,
            format!("the certificate of localhost:{port} {expected}")
        );
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_on_request() {
    let authority = Authority::new("one");
    let server = authority.issue("localhost", 2100, ServerAuth);
    let server = Server::start(&server, Some(&authority));
    let own = authority.issue("client.example", 2100, ClientAuth);
    let with_identity = Tls {
        identity: Some(Arc::new(own.into_config())),
        ..authority.trusted()
    };
    let (outcome, error) = send(&server.url("localhost"), with_identity).await;
    assert_eq!(outcome, Outcome::Accepted, "{error}");

    let (outcome, error) = send(&server.url("localhost"), authority.trusted()).await;
    assert_eq!(outcome, Outcome::NO_ANSWER);
    let expected = "requires a client certificate; set tls.client_cert and tls.client_key";
    assert!(error.ends_with(expected), "{error}");
}

#[tokio::test]
async fn a_port_without_tls_is_described() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // Reads to the end: closing with unread bytes would reset the connection.
        let _ended = socket.read_to_end(&mut Vec::new());
    });
    let url = format!("https://{address}/");
    let (outcome, error) = send(&url, Tls::default()).await;
    assert_eq!(outcome, Outcome::NO_ANSWER);
    let expected = format!("{address} does not speak TLS; should the url begin with http://?");
    assert!(error.starts_with(&expected), "{error}");
}
