//! Sends callbacks with one HTTP client for each webhook.
//!
//! Constraint: an attempt sends one request. The client follows no redirects. It does not decompress
//! answers, so that the limit of 16 KiB is exact. It retries nothing, not even an HTTP/2 request that
//! the server did not process, because the schedule counts attempts. The connection pool has one
//! exception: it replaces an idle connection that turns out to be closed before the request is
//! written.
//!
//! `timeout` limits the whole attempt, from the lookup of the host name to the last byte of the
//! answer. `connect_timeout` limits the part up to the end of the TLS handshake.

mod pieces;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use reqwest::dns::Resolve;
use tokio::time::{Instant, timeout_at};

use super::network::{Destination, GuardedLookup, SystemLookup};
use super::proxy::Proxies;
use super::request::{self, Callback, Request, RequestSettings};
use super::signature::SigningKey;
use super::trust::TrustRoots;
use super::{answer, failure};
use crate::config::{self, NetworkPolicy, SecretError, SystemEnvironment};
use crate::domain::delivery::Outcome;

/// The time after which the client closes an idle connection.
///
/// Common servers close idle connections after 5 s. A callback that is written while the server
/// closes the connection fails, so the client closes it first. A burst still shares connections.
const IDLE: Duration = Duration::from_secs(4);

/// The HTTP/2 flow-control window of an answer, in bytes. The client keeps 16 KiB.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The HTTP/2 flow-control window of a connection, for all its answers together, in bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The largest payload, in bytes, whose request is built on the async thread.
///
/// Building takes about 1 ms for each MiB. A larger request is built on another thread, so that other
/// callbacks do not wait.
const LARGE: usize = 256 * 1024;

/// The placeholder for the value of a configured header in [`Attempt::request_headers`].
const HIDDEN: &str = "(not shown)";

/// Sends callbacks to one webhook.
pub struct WebhookClient {
    http: reqwest::Client,
    to: Destination,
    policy: Arc<NetworkPolicy>,
    settings: Arc<RequestSettings>,
    timeout: Duration,
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WebhookClient")
            .field("host", &self.to.host)
            .field("format", &self.settings.format)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why the client of a webhook cannot be made.
///
/// With a valid configuration, only faulty proxy settings can cause this.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A secret is not a valid signing key.
    #[error("webhook {webhook}: secret {number} cannot be used")]
    Secret {
        /// The name of the webhook.
        webhook: String,
        /// The number of the secret, from 1.
        number: usize,
        /// The cause.
        source: SecretError,
    },
    /// The TLS library rejects the settings.
    #[error("webhook {webhook}: the TLS settings cannot be used")]
    Tls {
        /// The name of the webhook.
        webhook: String,
        /// The cause.
        source: rustls::Error,
    },
    /// The HTTP library rejects the settings, such as those of a proxy.
    #[error("webhook {webhook}: the HTTP client cannot be set up")]
    Setup {
        /// The name of the webhook.
        webhook: String,
        /// The cause.
        source: reqwest::Error,
    },
}

/// The result of one attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The outcome for the delivery.
    pub outcome: Outcome,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The error message, in one line. Absent after a 2xx.
    pub error: Option<String>,
    /// How long the attempt took, until the answer was read or the attempt failed.
    pub duration: Duration,
    /// The first bytes of the answer's body.
    pub answer: Bytes,
    /// The headers of the request, in order. The values of configured headers are hidden.
    pub request_headers: Vec<(String, String)>,
}

impl WebhookClient {
    /// Makes the client of a webhook.
    ///
    /// The client trusts `roots` and the authorities in the webhook's `tls.ca`. It connects only to
    /// addresses that `policy` allows, and uses the proxies of the environment variables.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn new(
        webhook: &config::Webhook,
        roots: &TrustRoots,
        policy: &Arc<NetworkPolicy>,
    ) -> Result<Self, ClientError> {
        Self::with_lookup(webhook, roots, policy, Arc::new(SystemLookup))
    }

    /// Makes the client with this resolver of host names.
    fn with_lookup(
        webhook: &config::Webhook,
        roots: &TrustRoots,
        policy: &Arc<NetworkPolicy>,
        lookup: Arc<dyn Resolve>,
    ) -> Result<Self, ClientError> {
        let name = || webhook.name().to_owned();
        let keys = SigningKey::parse_all(&webhook.secrets).map_err(|(number, source)| {
            ClientError::Secret {
                webhook: name(),
                number,
                source,
            }
        })?;
        let tls = roots
            .client_config(&webhook.tls)
            .map_err(|source| ClientError::Tls {
                webhook: name(),
                source,
            })?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // Only `proxy` reads the variables.
            .no_proxy()
            .tcp_nodelay(true)
            .dns_resolver(GuardedLookup::new(Arc::clone(policy), lookup))
            .connect_timeout(webhook.connect_timeout)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(webhook.concurrency);
        let setup = |source: reqwest::Error| ClientError::Setup {
            webhook: name(),
            source: source.without_url(),
        };
        let proxies = Proxies::of(&SystemEnvironment);
        let to = Destination::new(&webhook.url, &proxies, webhook.connect_timeout);
        if let Some(proxy) = &to.proxy {
            builder = builder.proxy(proxy.for_client().map_err(setup)?);
        }
        let http = builder.build().map_err(setup)?;
        Ok(Self {
            http,
            to,
            policy: Arc::clone(policy),
            settings: Arc::new(RequestSettings {
                url: webhook.url.clone(),
                format: webhook.format,
                headers: sensitive(&webhook.headers),
                keys,
                signed_headers: webhook.signed_headers,
            }),
            timeout: webhook.timeout,
        })
    }

    /// Sends a callback and judges the answer.
    ///
    /// `now` is the time of day, for the signature and for a date in Retry-After. Dropping the future
    /// ends the attempt, but the receiver may already have got the callback.
    pub async fn send(&self, callback: &Callback, now: Timestamp) -> Attempt {
        let made = Instant::now();
        let request = self.request(callback, now).await;
        let too_long = request::check_lengths(&request).err();
        let request_headers = shown_headers(&request.headers);
        let mut post = reqwest::Request::new(Method::POST, request.url);
        *post.headers_mut() = request.headers;
        *post.body_mut() = Some(pieces::body(request.body));
        let mut attempt = Attempt {
            outcome: Outcome::NO_ANSWER,
            status: None,
            error: None,
            duration: Duration::ZERO,
            answer: Bytes::new(),
            request_headers,
        };
        if too_long.is_some() {
            attempt.outcome = Outcome::Unsendable;
            attempt.error = too_long;
            // Headers that are too long are not worth storing.
            attempt.request_headers.clear();
            return attempt;
        }
        let started = Instant::now();
        let time = || now.saturating_add(made.elapsed()).unwrap_or(now);
        self.exchange(post, started, time, &mut attempt).await;
        attempt.duration = started.elapsed();
        attempt
    }

    /// Builds the request. A large one is built on another thread, so that other callbacks do not wait.
    async fn request(&self, callback: &Callback, now: Timestamp) -> Request {
        if callback.content.payload.len() <= LARGE {
            return request::build(&self.settings, callback, now);
        }
        let (settings, given) = (Arc::clone(&self.settings), callback.clone());
        let built =
            tokio::task::spawn_blocking(move || request::build(&settings, &given, now)).await;
        // The other thread is missing only while the runtime shuts down. Then no callback waits.
        built.unwrap_or_else(|_| request::build(&self.settings, callback, now))
    }

    async fn exchange(
        &self,
        post: reqwest::Request,
        started: Instant,
        now: impl Fn() -> Timestamp,
        attempt: &mut Attempt,
    ) {
        if let Err(denied) = self.to.judge(&self.policy) {
            attempt.error = Some(denied);
            return;
        }
        // A timeout that the clock cannot represent never expires.
        let deadline = started.checked_add(self.timeout);
        let mut response = match within(deadline, self.http.execute(post)).await {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                attempt.error = Some(failure::describe(error, &self.to));
                return;
            }
            None => {
                let timeout = humantime::format_duration(self.timeout);
                let error = format!("timed out after {timeout}: no answer from {}", self.to);
                attempt.error = Some(error);
                return;
            }
        };
        let status = response.status();
        attempt.status = Some(status.as_u16());
        attempt.outcome = answer::outcome(status, response.headers(), now());
        attempt.error = answer::complaint(status, response.headers());
        let mut kept = BytesMut::new();
        // At the deadline, the attempt keeps the bytes of the answer that were read so far.
        within(deadline, answer::read(&mut response, &mut kept)).await;
        attempt.answer = answer::keep(&kept);
        // Dropping an answer before its end also closes the connection.
    }
}

/// Marks the values of configured headers as sensitive, so that logs do not show them.
fn sensitive(headers: &[(HeaderName, HeaderValue)]) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = headers.to_vec();
    for (_, value) in &mut headers {
        value.set_sensitive(true);
    }
    headers
}

/// Returns the headers of a request, with the values of configured headers hidden.
fn shown_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = if value.is_sensitive() {
                HIDDEN.to_owned()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// Awaits a future. Returns `None` at the deadline.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests;
