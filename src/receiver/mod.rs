//! The receiving side: an HTTP endpoint that takes callbacks apart, whatever their format.
//!
//! Constraint: it serves `listen`, `demo` and the tests, and shows what really came over the
//! wire. So it takes what another sender might send as well: a request that is no callback is
//! passed on with what could be read of it. Requests wait for room in the bounded channel; a
//! receiver that nobody reads makes its senders wait, and one whose reader has gone just answers.
//!
//! Map: [`received`] is what came, [`decode`] reads it out of a request, this module serves.

pub mod decode;
pub mod received;

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

/// The largest body that is taken, in bytes: the largest project.xml by default, which triples
/// at most in a form, with room to spare.
const BODY_MAX: usize = 128 * 1024 * 1024;

/// How many requests may wait to be looked at.
const WAITING_MAX: usize = 64;

/// What a request is answered with.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How long to wait before answering.
    pub delay: Duration,
}

impl Reply {
    /// A reply of this status at once, without a body.
    pub fn status(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
        }
    }
}

/// Decides what a request is answered with.
pub type Answer = Box<dyn Fn(&Received) -> Reply + Send + Sync>;

/// Reads the wall clock.
pub type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// How a receiver behaves.
pub struct ReceiverOptions {
    /// The secrets that callbacks may be signed with; without any, signatures are not checked.
    pub secrets: Vec<SecretString>,
    /// What requests are answered with.
    pub answer: Answer,
    /// The clock that stamps requests and that signatures are compared with.
    pub clock: Clock,
    /// How far a signature's time may be from the clock.
    pub tolerance: Duration,
}

impl ReceiverOptions {
    /// A receiver that answers every request with 204 and checks no signature.
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

    /// Answers each request with what this function makes of it.
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

/// Why there is no receiver.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; another process may have the port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A secret cannot be used.
    #[error("secret {number} cannot be used")]
    Secret {
        /// Which one, from 1.
        number: usize,
        /// Why not.
        source: SecretError,
    },
}

/// An endpoint that listens, and serves once [`Receiver::serve`] runs.
#[derive(Debug)]
pub struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What every request needs.
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
    /// Listens on an address; port 0 takes one that is free. What comes arrives in the channel.
    ///
    /// # Errors
    ///
    /// Where the address is taken or not this machine's, or a secret cannot be used.
    pub async fn bind(
        address: SocketAddr,
        options: ReceiverOptions,
    ) -> Result<(Self, mpsc::Receiver<Received>), ReceiverError> {
        let keys = options
            .secrets
            .iter()
            .enumerate()
            .map(|(index, secret)| {
                SigningKey::parse(secret).map_err(|source| ReceiverError::Secret {
                    number: index.saturating_add(1),
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
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

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL that callbacks are sent to.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Serves until `shutdown` is cancelled, and then until the requests that came before are
    /// answered. The caller runs it as a task of its own.
    ///
    /// # Errors
    ///
    /// Where the listening socket fails.
    pub async fn serve(self, shutdown: CancellationToken) -> io::Result<()> {
        let router = Router::new().fallback(handle).with_state(self.shared);
        axum::serve(self.listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
    }
}

/// Takes one request: decodes it, passes it on, answers.
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
    // Fails where the reader has gone, which is no concern of the sender of the request.
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

#[cfg(test)]
mod tests;
