//! An HTTP endpoint that decodes callbacks of every format, for `listen`, `demo` and tests.
//!
//! Constraint: it shows exactly the bytes on the wire. It takes requests of other senders as well:
//! a request that is no callback is passed on with all that could be read of it. The channel is
//! bounded, so a receiver that nobody reads makes its senders wait. Without a reader, it only
//! answers.
//!
//! Map: `received` has the decoded request, [`decode`] makes it, this module serves.

pub mod decode;
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

pub use self::received::{Received, Signature};
use crate::config::SecretError;
use crate::webhook::signature::{SigningKey, TOLERANCE};

/// The largest accepted body, in bytes.
///
/// It holds the largest project.xml by default, which at most triples in a form.
const BODY_MAX: usize = 128 * 1024 * 1024;

/// How many requests may wait in the channel.
const WAITING_MAX: usize = 64;

/// An answer to a request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The wait before answering.
    pub delay: Duration,
}

impl Reply {
    /// Makes a reply of this status, at once and without a body.
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

/// Reads the wall clock.
pub type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The options of a receiver.
pub struct ReceiverOptions {
    /// The secrets to check signatures with; without any, they are not checked.
    pub secrets: Vec<SecretString>,
    /// Chooses the replies.
    pub answer: Answer,
    /// The clock for the time of requests and for checking signatures.
    pub clock: Clock,
    /// The largest difference between a signature's time and the clock.
    pub tolerance: Duration,
}

impl ReceiverOptions {
    /// Answers every request with 204 and checks no signature.
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self {
            secrets: Vec::new(),
            answer: Box::new(|_| Reply::status(StatusCode::NO_CONTENT)),
            clock: Box::new(clock),
            tolerance: TOLERANCE,
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

/// Why a receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// It cannot listen on the address.
    #[error("cannot listen on {address}; another process may have the port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// A secret is no signing key.
    #[error("secret {number} cannot be used")]
    Secret {
        /// The secret's number, from 1.
        number: usize,
        /// The reason.
        source: SecretError,
    },
}

/// A listening endpoint. [`Receiver::serve`] answers its requests.
#[derive(Debug)]
pub struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// The parts that all requests share.
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
    /// Listens on an address; port 0 takes a free port. The channel yields the requests.
    ///
    /// # Errors
    ///
    /// When the address is in use or not this machine's, or a secret is no signing key.
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

    /// Returns the URL for callbacks.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Serves until `shutdown` is cancelled and the requests that came before are answered.
    ///
    /// # Errors
    ///
    /// When the listening socket fails.
    pub async fn serve(self, shutdown: CancellationToken) -> io::Result<()> {
        let router = Router::new().fallback(handle).with_state(self.shared);
        axum::serve(self.listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
    }
}

/// Decodes one request, passes it on and answers.
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
    let reply = (shared.options.answer)(&received);
    // It fails without a reader, which is no concern of the sender.
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
