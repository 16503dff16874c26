//! HTTP/2, with receivers that keep its rules and with some that break them.

use std::sync::Arc;

use bytes::Bytes;
use project_webhooks::config::{Auth, OAuth2, Webhook};
use project_webhooks::domain::delivery::{ANSWER_MAX, Outcome};
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::{REFUSED, callback, client, now, send, webhook, within};
use crate::tls::{self, Authority};

/// How much of an answer the client lets a server send ahead, in bytes.
const WINDOW: usize = 64 * 1024;

/// An HTTP/2 server that answers its one request like this, until the client is gone.
async fn http_2<T, F>(
    behave: impl FnOnce(http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F
    + Send
    + 'static,
) -> (Webhook, JoinHandle<T>)
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let authority = Authority::new("one");
    let identity = authority.issue("localhost", 2100, ServerAuth);
    let mut config = tls::server_config(&identity, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(within(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(socket).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        // Accepting the next request drives the connection.
        let drive = async { while let Some(Ok(_)) = connection.accept().await {} };
        let (behaved, ()) = tokio::join!(behave(request, respond), drive);
        behaved
    }));
    let mut webhook = webhook(&format!("https://localhost:{port}/"));
    webhook.tls = authority.trusted();
    (webhook, task)
}

#[tokio::test]
async fn http_2_is_used_if_the_server_offers_it() {
    let (webhook, serving) = http_2(|request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        let mut length = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            length += chunk.len();
            body.flow_control().release_capacity(chunk.len()).unwrap();
        }
        let answer = http::Response::builder().status(202).body(()).unwrap();
        respond.send_response(answer, true).unwrap();
        (head.headers, length)
    })
    .await;
    let payload = vec![b'x'; 300_000];
    let attempt = client(&webhook).send(&callback(&payload), now()).await;
    assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
    let (headers, length) = serving.await.unwrap();
    assert_eq!(headers["content-length"], length.to_string());
    assert_eq!(headers["webhook-event"], "project-publish");
    assert!(length > 300_000);
}

#[tokio::test]
async fn an_endless_http_2_answer_is_cut_and_sent_no_further_than_its_window() {
    let (webhook, written) = http_2(|request, mut respond| async move {
        let _open = request;
        let answer = http::Response::builder().status(200).body(()).unwrap();
        let mut body = respond.send_response(answer, false).unwrap();
        let mut written = 0;
        loop {
            body.reserve_capacity(10_000);
            let capacity = std::future::poll_fn(|context| body.poll_capacity(context)).await;
            let Some(Ok(capacity)) = capacity else {
                return written;
            };
            let data = Bytes::from(vec![b'x'; capacity]);
            if body.send_data(data, false).is_err() {
                return written;
            }
            written += capacity;
        }
    })
    .await;
    let attempt = send(&webhook).await;
    assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
    assert_eq!(attempt.answer.len(), ANSWER_MAX);
    assert!(written.await.unwrap() <= 2 * WINDOW);
}

#[tokio::test]
async fn too_large_headers_of_http_2_end_the_attempt() {
    let (webhook, task) = http_2(|request, mut respond| async move {
        let _open = request;
        let answer = http::Response::builder().status(200);
        let answer = (0..1_000).fold(answer, |answer, number| {
            answer.header(format!("x-header-{number}"), "x".repeat(1_000))
        });
        let _refused = respond.send_response(answer.body(()).unwrap(), true);
    })
    .await;
    let attempt = send(&webhook).await;
    assert_eq!(attempt.outcome, Outcome::NO_ANSWER);
    assert_eq!(attempt.status, None, "{attempt:?}");
    task.await.unwrap();
}

#[tokio::test]
async fn an_early_http_2_answer_to_a_large_upload_is_the_answer() {
    for _ in 0..20 {
        let (webhook, task) = http_2(|request, mut respond| async move {
            let answer = http::Response::builder().status(413).body(()).unwrap();
            respond.send_response(answer, true).unwrap();
            drop(request);
        })
        .await;
        let payload = vec![b'x'; 8 * 1024 * 1024];
        let attempt = client(&webhook).send(&callback(&payload), now()).await;
        assert_eq!(
            (attempt.status, attempt.outcome),
            (Some(413), REFUSED),
            "{attempt:?}"
        );
        task.await.unwrap();
    }
}

/// A server that resets requests by HTTP/2, and answers this many by HTTP/1.1.
///
/// Requests end like `end`. Returns its port, and at its end the number of requests by HTTP/2.
async fn http_1_only(
    authority: &Authority,
    n: usize,
    end: &'static str,
    answer: &'static str,
) -> (u16, JoinHandle<usize>) {
    let identity = authority.issue("localhost", 2100, ServerAuth);
    let mut config = tls::server_config(&identity, None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(within(async move {
        let mut n_http_2 = 0;
        let mut n_http_1 = 0;
        while n_http_1 < n {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(socket).await.unwrap();
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                n_http_2 += 1;
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
                tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
                continue;
            }
            n_http_1 += 1;
            let mut request = Vec::new();
            while !request.ends_with(end.as_bytes()) {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        n_http_2
    }));
    (port, task)
}

const NO_CONTENT: &str = "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_server_that_asks_for_http_1_gets_the_request_once_more() {
    let authority = Authority::new("one");
    let (port, task) = http_1_only(&authority, 2, "--\r\n", NO_CONTENT).await;
    let mut webhook = webhook(&format!("https://localhost:{port}/"));
    webhook.tls = authority.trusted();
    let client = client(&webhook);
    for _ in 0..2 {
        let attempt = client.send(&callback(b"<x/>"), now()).await;
        assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
    }
    // The second callback is not sent by HTTP/2 first.
    assert_eq!(task.await.unwrap(), 1);
}

#[tokio::test]
async fn a_token_endpoint_that_asks_for_http_1_gets_the_request_once_more() {
    let authority = Authority::new("one");
    let (port, task) = http_1_only(&authority, 2, "--\r\n", NO_CONTENT).await;
    // Each token is used once, as it expires at once.
    let token =
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"access_token\": \"t\", \"expires_in\": 0}";
    let (token_port, tokens) =
        http_1_only(&authority, 2, "grant_type=client_credentials", token).await;
    let mut webhook = webhook(&format!("https://localhost:{port}/"));
    webhook.tls = authority.trusted();
    webhook.auth.scheme = Some(Auth::OAuth2(OAuth2 {
        token_url: format!("https://localhost:{token_port}/").parse().unwrap(),
        client_id: "client".into(),
        client_secret: "hush".into(),
        scope: None,
    }));
    let client = client(&webhook);
    for _ in 0..2 {
        let attempt = client.send(&callback(b"<x/>"), now()).await;
        assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
    }
    assert_eq!((task.await.unwrap(), tokens.await.unwrap()), (1, 1));
}
