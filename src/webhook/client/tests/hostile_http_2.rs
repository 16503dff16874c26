//! Peers that break the rules of HTTP/2, or use all that it gives them.

use tokio::task::JoinHandle;

use super::*;

/// An HTTP/2 server that answers its one request so, for as long as the client is there.
async fn http_2<T, F>(
    behave: impl FnOnce(h2::server::SendResponse<Bytes>) -> F + Send + 'static,
) -> (Webhook, JoinHandle<T>)
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let authority = tls::authority("one");
    let certificate = tls::server_certificate(&authority, "localhost", 2100);
    let mut config = tls::server_config(certificate, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(socket).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        // The connection moves only while it is asked for the next request.
        let drive = async { while let Some(Ok(_)) = connection.accept().await {} };
        let (behaved, ()) = tokio::join!(behave(respond), drive);
        drop(request);
        behaved
    });
    let mut webhook = webhook(&format!("https://localhost:{port}/"));
    webhook.tls = tls::trusting(&authority);
    (webhook, task)
}

#[tokio::test]
async fn an_endless_http_2_answer_is_cut_and_sent_no_further_than_its_window() {
    let (webhook, written) = http_2(|mut respond| async move {
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
    let client = client(&webhook);
    let attempt = client.send(&callback(b"<x/>"), now()).await;
    assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
    assert_eq!(attempt.answer.len(), answer::ANSWER_MAX);
    drop(client);
    assert!(written.await.unwrap() <= 2 * STREAM_WINDOW as usize);
}

#[tokio::test]
async fn too_large_headers_of_http_2_end_the_attempt() {
    let (webhook, task) = http_2(|mut respond| async move {
        let answer = http::Response::builder().status(200);
        let answer = (0..1_000).fold(answer, |answer, number| {
            answer.header(format!("x-header-{number}"), "x".repeat(1_000))
        });
        let _refused = respond.send_response(answer.body(()).unwrap(), true);
    })
    .await;
    let client = client(&webhook);
    let attempt = client.send(&callback(b"<x/>"), now()).await;
    assert_eq!(attempt.outcome, Outcome::NO_ANSWER);
    assert_eq!(attempt.status, None, "{attempt:?}");
    drop(client);
    task.await.unwrap();
}
