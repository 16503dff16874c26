//! A webhook, its client, its callbacks, and servers without TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use project_webhooks::config::{self, Webhook, WithoutSecrets};
use project_webhooks::domain::delivery::{FailureCause, Outcome};
use project_webhooks::domain::event::{EventId, EventKind, Origin};
use project_webhooks::receiver::{Received, Receiver, ReceiverOptions, Reply};
use project_webhooks::webhook::{
    Attempt, Callback, CallbackContent, EventName, TrustRoots, WebhookClient,
};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

/// The endpoint works and refused the delivery.
pub(crate) const REFUSED: Outcome = Outcome::Failed {
    cause: FailureCause::Delivery,
    retry_after: None,
};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The time of all callbacks.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_767_323_045).unwrap()
}

/// A webhook that waits patiently and signs nothing.
pub(crate) fn webhook(url: &str) -> Webhook {
    let text = format!(
        "{{ repository: {{ path: /nowhere }}, webhooks: [ {{ name: catalog, events: '*', \
         url: '{url}', timeout: 60s, connect_timeout: 60s }} ] }}"
    );
    let loaded = config::load_str(text.as_bytes(), Path::new("config.yaml"), &WithoutSecrets);
    loaded.unwrap().config.webhooks.remove(0)
}

pub(crate) fn client(webhook: &Webhook) -> WebhookClient {
    WebhookClient::new(webhook, &TrustRoots::empty(), &Arc::default()).unwrap()
}

/// Sends a small callback to a webhook.
pub(crate) async fn send(webhook: &Webhook) -> Attempt {
    client(webhook).send(&callback(b"<x/>"), now()).await
}

/// A callback with hostile values.
pub(crate) fn callback(payload: &[u8]) -> Callback {
    let id = EventId("evt_0123456789abcdef".to_owned());
    let mut content = CallbackContent::test(id, now());
    content.event = EventName::from(EventKind::ProjectPublish);
    content.origin = Origin::CatchUp;
    content.payload = Bytes::copy_from_slice(payload);
    for (index, (_, value)) in content.parameters.iter_mut().enumerate() {
        *value = format!("\"Größe\" & 100% +\r\nx: {index} ");
    }
    Callback {
        traceparent: None,
        content,
        attempt: 2,
        origin: Origin::Redelivery,
    }
}

/// Host and port of a URL.
pub(crate) fn host(url: &str) -> String {
    let url: Url = url.parse().unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

/// A receiver on a free port that answers as `answer` decides.
pub(crate) async fn receiver(
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

/// Fails if it takes so long that the other side must be stuck.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(2 * PATIENT, future).await;
    answer.expect("the other side is not stuck")
}

/// A server that behaves like this on its one connection.
pub(crate) async fn peer<T, F>(
    behave: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (String, JoinHandle<T>)
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let task = tokio::spawn(within(async move {
        let (socket, _) = listener.accept().await.unwrap();
        behave(socket).await
    }));
    (url, task)
}

/// Reads a request to the end of its multipart body.
pub(crate) async fn read_request(socket: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"--\r\n") {
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// A server that reads a request, writes `answer` and closes.
pub(crate) async fn answering(answer: Vec<u8>) -> String {
    let (url, _) = peer(|mut socket| async move {
        read_request(&mut socket).await;
        let _client_may_be_gone = socket.write_all(&answer).await;
    })
    .await;
    url
}

/// A server that reads a request, writes `answer` and keeps the connection open.
pub(crate) async fn hanging(answer: Vec<u8>) -> String {
    let (url, _) = peer(|mut socket| async move {
        read_request(&mut socket).await;
        let _client_may_be_gone = socket.write_all(&answer).await;
        let _ended = socket.read(&mut [0]).await;
    })
    .await;
    url
}

/// A timeout that no test reaches, and one that some wait for.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);
pub(crate) const SHORT: Duration = Duration::from_secs(5);
