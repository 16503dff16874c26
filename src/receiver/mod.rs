//! A receiver of callbacks, for `listen`, `demo` and tests.
//!
//! Constraint: the receiver keeps the received bytes unchanged. It accepts POST requests of any
//! software, and decodes every part that it can. The channel of decoded requests is bounded. When
//! the channel is full, the senders of requests wait for their answers. If the reader has closed
//! the channel, the receiver still answers.
//!
//! Modules: `received` has the decoded request, and [`decode`] makes it. `pass_on` passes requests
//! on to another receiver. This file serves HTTP.

pub mod decode;
mod pass_on;
mod received;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::pass_on::{PassOn, PassedOn};
pub use self::received::{Received, Signature};
use crate::config::SecretError;
use crate::http_server::{self, Bounds};
use crate::webhook::signature::{SigningKey, TOLERANCE};

/// The largest accepted body, in bytes.
///
/// A project.xml of the default `max_file_size` fits, even if encoding doubles its size.
const BODY_MAX: usize = 128 * 1024 * 1024;

/// The limits of the server. The largest `concurrency` of a webhook is also 1024.
const BOUNDS: Bounds = Bounds {
    connections: 1024,
    stop: Duration::from_secs(10),
};

/// The capacity of the channel, in requests.
pub(crate) const WAITING_MAX: usize = 64;

/// An answer to a request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The body of the answer.
    pub body: Bytes,
    /// How long to wait before answering.
    pub delay: Duration,
}

impl Reply {
    /// Makes a reply with this status, without a body and without a delay.
    pub fn status(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
        }
    }
}

/// Chooses the reply to a request.
pub type Answer = Box<dyn Fn(&Received) -> Reply + Send + Sync>;

/// Returns the time of day.
pub type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The options of a receiver.
pub struct ReceiverOptions {
    /// The secrets for checking signatures. Without secrets, signatures are not checked.
    pub secrets: Vec<SecretString>,
    /// Chooses the replies.
    pub answer: Answer,
    /// The clock for the times of requests and for checking signatures.
    pub clock: Clock,
    /// The largest allowed difference between the time of a signature and the clock.
    pub tolerance: Duration,
    /// Passes requests on to another receiver, whose answers replace `answer`.
    pub(crate) pass_on: Option<PassOn>,
}

impl ReceiverOptions {
    /// Makes the default options: answer every request with 204, and check no signatures.
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self {
            secrets: Vec::new(),
            answer: Box::new(|_| Reply::status(StatusCode::NO_CONTENT)),
            clock: Box::new(clock),
            tolerance: TOLERANCE,
            pass_on: None,
        }
    }

    /// Checks signatures against these secrets.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Vec<SecretString>) -> Self {
        self.secrets = secrets;
        self
    }

    /// Answers every request with this status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        self.with_answer(move |_| Reply::status(status))
    }

    /// Answers each request with the result of this function.
    #[must_use]
    pub fn with_answer(
        mut self,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        self.answer = Box::new(answer);
        self
    }
}

impl fmt::Debug for ReceiverOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ReceiverOptions")
            .field("n_secrets", &self.secrets.len())
            .field("tolerance", &self.tolerance)
            .finish_non_exhaustive()
    }
}

/// The reason why a receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// Listening on the address failed.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A secret is not a valid signing key.
    #[error("secret {number} cannot be used")]
    Secret {
        /// The number of the secret, from 1.
        number: usize,
        /// The cause.
        source: SecretError,
    },
}

/// A receiver that listens on an address. [`Receiver::serve`] answers requests.
#[derive(Debug)]
pub struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// The state that all requests share.
struct Shared {
    keys: Vec<SigningKey>,
    options: ReceiverOptions,
    received: mpsc::Sender<Received>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(formatter)
    }
}

impl Receiver {
    /// Listens on an address. Port 0 stands for any free port.
    ///
    /// Also returns the channel of decoded requests.
    ///
    /// # Errors
    ///
    /// The address cannot be bound, for example because it is in use. Or a secret is not a signing
    /// key.
    pub async fn bind(
        address: SocketAddr,
        options: ReceiverOptions,
    ) -> Result<(Self, mpsc::Receiver<Received>), ReceiverError> {
        let keys = SigningKey::parse_all(&options.secrets)
            .map_err(|(number, source)| ReceiverError::Secret { number, source })?;
        let fail = |source| ReceiverError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let local = listener.local_addr().map_err(fail)?;
        let (sender, received) = mpsc::channel(WAITING_MAX);
        let receiver = Self {
            listener,
            address: local,
            shared: Arc::new(Shared {
                keys,
                options,
                received: sender,
            }),
        };
        Ok((receiver, received))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL for callbacks.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Serves until `shutdown` is cancelled. Then finishes requests in progress for up to 10 s.
    pub async fn serve(self, shutdown: CancellationToken) {
        let router = Router::new().fallback(handle).with_state(self.shared);
        http_server::serve(self.listener, router, BOUNDS, shutdown).await;
    }
}

/// Decodes one request, passes it on if configured, and answers.
async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Ok(body) = to_bytes(body, BODY_MAX).await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let now = (shared.options.clock)();
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut received = decode::decode(target, &head.headers, body, now).await;
    received.signature = decode::check(&received, &shared.keys, shared.options.tolerance);
    if let Some(pass_on) = &shared.options.pass_on {
        // Send the callback first, so that it is printed before its answer.
        let _reader_gone = shared.received.send(received.clone()).await;
        let request = (head.method, &head.uri, &head.headers);
        return pass_on
            .answer(&received, &shared.options.clock, request)
            .await;
    }
    let reply = (shared.options.answer)(&received);
    // This fails if nobody reads the requests. The sender gets an answer anyway.
    let _reader_gone = shared.received.send(received).await;
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
