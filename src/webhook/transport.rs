//! The connections to a receiver or a token endpoint.
//!
//! Constraint: a connection is used for a limited time, so that a changed DNS entry takes effect.
//! The HTTP library cannot limit the age of a connection. So the whole client is replaced, with
//! its pool. Requests in progress keep the old client.
//!
//! A server may accept a request only over HTTP/1.1 (`HTTP_1_1_REQUIRED`). All requests then use
//! HTTP/1.1 until the client is replaced again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::network::Destination;
use super::{ClientError, failure};

/// The time after which new requests use new connections.
const AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// The time after which the client closes an idle connection.
///
/// Common servers close idle connections after 5 s. If the server closes a connection while a
/// callback is being written, the callback fails. So the client closes idle connections earlier.
/// The callbacks of a burst still share connections.
const IDLE: Duration = Duration::from_secs(4);

/// Makes the builder of a client that sends each request once.
///
/// If `to` has a proxy, the client sends through this proxy.
pub(super) fn client_builder(
    tls: rustls::ClientConfig,
    to: &Destination,
) -> Result<reqwest::ClientBuilder, reqwest::Error> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // Only the module `proxy` reads the environment variables.
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(to.connect_timeout)
        .pool_idle_timeout(IDLE);
    Ok(match &to.proxy {
        Some(proxy) => builder.proxy(proxy.for_client()?),
        None => builder,
    })
}

/// The HTTP versions that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// HTTP/2 and HTTP/1.1.
    All,
    /// HTTP/1.1 only.
    Http1,
}

type Make = dyn Fn(Versions) -> Result<reqwest::Client, ClientError> + Send + Sync;

/// Makes and replaces the HTTP client of a destination.
pub(super) struct Transport {
    make: Box<Make>,
    current: Mutex<Current>,
    pub(super) age_max: Duration,
}

struct Current {
    client: reqwest::Client,
    versions: Versions,
    since: Instant,
}

impl Transport {
    pub(super) fn new(make: Box<Make>) -> Result<Self, ClientError> {
        let client = make(Versions::All)?;
        Ok(Self {
            make,
            current: Mutex::new(Current {
                client,
                versions: Versions::All,
                since: Instant::now(),
            }),
            age_max: AGE_MAX,
        })
    }

    /// Returns the client for a new request, and the versions that it offers.
    fn client(&self) -> (reqwest::Client, Versions) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.since.elapsed() >= self.age_max {
            self.replace(&mut current, Versions::All);
        }
        (current.client.clone(), current.versions)
    }

    /// Sends a request. If the server requires HTTP/1.1, sends it a second time.
    ///
    /// # Errors
    ///
    /// There was no answer.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> reqwest::Request,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let (client, versions) = self.client();
        match client.execute(request()).await {
            Err(error) if versions == Versions::All && failure::requires_http_1(&error) => {
                self.http_1().execute(request()).await
            }
            result => result,
        }
    }

    /// Returns a client that offers only HTTP/1.1. If it cannot be made, returns the old client.
    fn http_1(&self) -> reqwest::Client {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.versions != Versions::Http1 {
            self.replace(&mut current, Versions::Http1);
        }
        current.client.clone()
    }

    /// Replaces the client. If this fails, the old client stays.
    fn replace(&self, current: &mut Current, versions: Versions) {
        if let Ok(client) = (self.make)(versions) {
            current.client = client;
            current.versions = versions;
            current.since = Instant::now();
        }
    }
}
