//! TLS with certificates made for the test.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(super) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key in PEM, for this name, valid until this year.
fn issue(
    authority: &Authority,
    name: &str,
    until: i32,
    usage: ExtendedKeyUsagePurpose,
) -> [String; 2] {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    [certificate.pem(), key.serialize_pem()]
}

pub(super) fn server_certificate(authority: &Authority, name: &str, until: i32) -> [String; 2] {
    issue(authority, name, until, ExtendedKeyUsagePurpose::ServerAuth)
}

/// A server's settings, with client certificates of `clients` wanted.
pub(super) fn server_config(
    [certificate, key]: [String; 2],
    clients: Option<&Authority>,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    builder.with_single_cert(chain, key).unwrap()
}

/// A server that answers one request with 200.
fn serve(certificate: [String; 2], clients: Option<&Authority>) -> String {
    let config = Arc::new(server_config(certificate, clients));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(config).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(b"--\r\n") {
            match stream.read(&mut buffer) {
                Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
                // A handshake that failed; the alert is sent before the socket closes.
                _ => {
                    let _alert = stream.flush();
                    return;
                }
            }
        }
        let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let _sent = stream.flush();
    });
    format!("https://localhost:{port}/")
}

async fn send(url: &str, tls: Tls) -> (Outcome, String) {
    let mut webhook = webhook(url);
    webhook.tls = tls;
    let attempt = client(&webhook).send(&callback(b"<x/>"), now()).await;
    (attempt.outcome, attempt.error.unwrap_or_default())
}

pub(super) fn trusting(authority: &Authority) -> Tls {
    Tls {
        ca: Some(authority.pem().into_bytes()),
        ..Tls::default()
    }
}

#[tokio::test]
async fn a_certificate_of_a_configured_authority_is_trusted() {
    let authority = authority("one");
    let url = serve(server_certificate(&authority, "localhost", 2100), None);
    let (outcome, error) = send(&url, trusting(&authority)).await;
    assert_eq!(outcome, Outcome::Accepted, "{error}");
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_offers_it() {
    let authority = authority("one");
    let mut config = server_config(server_certificate(&authority, "localhost", 2100), None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let payload = vec![b'x'; 300_000];
    let serving = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(socket).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let (head, mut body) = request.into_parts();
        let read = async {
            let mut length = 0;
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                length += chunk.len();
                body.flow_control().release_capacity(chunk.len()).unwrap();
            }
            let answer = http::Response::builder().status(202).body(()).unwrap();
            respond.send_response(answer, true).unwrap();
            (head.headers, length)
        };
        // The connection moves only while it is asked for the next request.
        let drive = async { while connection.accept().await.is_some() {} };
        let (read, ()) = tokio::join!(read, drive);
        read
    });
    let mut webhook = webhook(&format!("https://localhost:{port}/"));
    webhook.tls = trusting(&authority);
    let client = client(&webhook);
    let attempt = client.send(&callback(&payload), now()).await;
    assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
    drop(client);
    let (headers, length) = serving.await.unwrap();
    assert_eq!(headers["content-length"], length.to_string());
    assert_eq!(headers["webhook-event"], "project-publish");
    assert!(length > 300_000);
}

#[tokio::test]
async fn certificates_that_are_not_trusted_are_told_apart() {
    let authority = authority("one");
    let stranger = self::authority("two");
    let replaced = self::authority("one");
    for (certificate, tls, expected) in [
        (
            server_certificate(&authority, "localhost", 2100),
            trusting(&stranger),
            "is from an unknown issuer; if it is to be trusted, name the issuer's certificate \
             in tls.ca",
        ),
        (
            server_certificate(&authority, "localhost", 2100),
            Tls::default(),
            "is from an unknown issuer; if it is to be trusted, name the issuer's certificate \
             in tls.ca",
        ),
        (
            server_certificate(&authority, "localhost", 2100),
            trusting(&replaced),
            "is not signed by the issuer it names; was the issuer's key replaced since tls.ca \
             was written?",
        ),
        (
            server_certificate(&authority, "other.example", 2100),
            trusting(&authority),
            "is not valid for this host name, only for other.example",
        ),
        (
            server_certificate(&authority, "localhost", 2020),
            trusting(&authority),
            "has expired on 2020-01-01T00:00:00Z",
        ),
    ] {
        let url = serve(certificate, None);
        let host = host(&url);
        let (outcome, error) = send(&url, tls).await;
        assert_eq!(outcome, Outcome::NO_ANSWER);
        assert_eq!(error, format!("the certificate of {host} {expected}"));
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let authority = authority("one");
    let [certificate, key] = issue(
        &authority,
        "client.example",
        2100,
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    let with_identity = Tls {
        client_cert: Some(certificate.clone().into_bytes()),
        client_key: Some(SecretString::from(key)),
        ..trusting(&authority)
    };
    let server = || server_certificate(&authority, "localhost", 2100);
    let url = serve(server(), Some(&authority));
    let (outcome, error) = send(&url, with_identity).await;
    assert_eq!(outcome, Outcome::Accepted, "{error}");

    let url = serve(server(), Some(&authority));
    let (outcome, error) = send(&url, trusting(&authority)).await;
    assert_eq!(outcome, Outcome::NO_ANSWER);
    let expected = "asks for a client certificate; set tls.client_cert and tls.client_key";
    assert!(error.ends_with(expected), "{error}");

    let half = Tls {
        client_cert: Some(certificate.into_bytes()),
        ..trusting(&authority)
    };
    let mut webhook = webhook(&url);
    webhook.tls = half;
    let refused = WebhookClient::new(&webhook, &TrustRoots::empty(), &Arc::default()).unwrap_err();
    assert!(refused.to_string().contains("catalog"), "{refused}");
}

#[tokio::test]
async fn a_port_without_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // Reads what the client says, so that closing does not reset the answer away.
        let _ended = socket.read_to_end(&mut Vec::new());
    });
    let url = format!("https://{address}/");
    let (outcome, error) = send(&url, Tls::default()).await;
    assert_eq!(outcome, Outcome::NO_ANSWER);
    let expected = format!("{address} does not speak TLS; should the url start with http: ?");
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn pem_settings_that_hold_something_else_are_told() {
    let roots = TrustRoots::empty();
    let authority = authority("one");
    let [certificate, _] = server_certificate(&authority, "localhost", 2100);
    let pem = |text: &str| Some(text.as_bytes().to_vec());
    let key = |text: &str| Some(SecretString::from(text));
    for (tls, expected) in [
        (
            Tls {
                ca: pem("no PEM"),
                ..Tls::default()
            },
            "tls.ca is not a PEM file with a certificate",
        ),
        (
            Tls {
                client_cert: pem(&certificate),
                client_key: key("no PEM"),
                ..Tls::default()
            },
            "tls.client_key is not a PEM file with a private key",
        ),
        (
            Tls {
                client_key: key("x"),
                ..Tls::default()
            },
            "tls.client_cert and tls.client_key must be given together",
        ),
        (
            Tls {
                client_cert: pem(&certificate),
                client_key: key(&KeyPair::generate().unwrap().serialize_pem()),
                ..Tls::default()
            },
            "tls.client_cert and tls.client_key cannot be used together",
        ),
    ] {
        assert_eq!(roots.client_config(&tls).unwrap_err().to_string(), expected);
    }
}
