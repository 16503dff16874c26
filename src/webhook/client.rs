//! The sender: one HTTP client per webhook.
//!
//! Constraint: an attempt sends once. Redirects are not followed; answers are not decompressed,
//! so that 16 KiB are 16 KiB; and the client's own retries are off, also those of HTTP/2 requests
//! that a server refused unprocessed, since the schedule tries again and counts. What remains is
//! the connection pool's: a kept connection that turns out to be closed before anything was
//! written to it is replaced by a new one.
//!
//! `timeout` bounds the whole exchange from the first look-up of the name to the last byte that
//! is read of the answer, `connect_timeout` the part of it up to the end of the TLS handshake.

mod upload;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method};
use hyper_util::client::proxy::matcher::Matcher;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use reqwest::dns::Resolve;
use tokio::time::{Instant, timeout_at};
use url::Url;

use self::upload::{Progress, Stage, Upload};
use super::network::{Destination, GuardedLookup, SystemLookup, is_loopback};
use super::request::{self, Callback, Request};
use super::signature::{SecretError, SigningKey};
use super::trust::{TrustError, TrustRoots};
use super::{answer, failure};
use crate::config::{self, NetworkPolicy};
use crate::domain::delivery::Outcome;

/// How long an unused connection is kept. Common servers close theirs after 5 s; a callback that
/// is written to a connection just being closed fails and waits for its next attempt, so ours
/// goes first. A burst still shares its connections.
const IDLE: Duration = Duration::from_secs(4);

/// How much of an HTTP/2 answer a server may send ahead of its reading: little more than is kept of
/// it, since the rest of an answer is never read.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The same for all answers that share a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The largest payload whose request is built and signed between other callbacks: that takes about
/// a millisecond for each MiB.
const LARGE: usize = 256 * 1024;

/// What stands for the value of a configured header in [`Attempt::request_headers`].
const HIDDEN: &str = "(not shown)";

/// Sends callbacks to one webhook.
pub struct WebhookClient {
    http: reqwest::Client,
    to: Destination,
    policy: Arc<NetworkPolicy>,
    plan: Arc<Plan>,
    timeout: Duration,
}

/// How the requests of a webhook are made.
struct Plan {
    url: Url,
    format: config::Format,
    headers: Vec<(HeaderName, HeaderValue)>,
    keys: Vec<SigningKey>,
}

impl Plan {
    fn request(&self, callback: &Callback, now: Timestamp) -> Request {
        let Self {
            url,
            format,
            headers,
            keys,
        } = self;
        request::build(url, *format, headers, keys, callback, now)
    }
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WebhookClient")
            .field("host", &self.to.host)
            .field("format", &self.plan.format)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why no client can be made for a webhook.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A secret cannot be used.
    #[error("webhook {webhook}: secret {number} cannot be used")]
    Secret {
        /// The webhook's name.
        webhook: String,
        /// Which secret, from 1.
        number: usize,
        /// Why not.
        source: SecretError,
    },
    /// The TLS settings cannot be used.
    #[error("webhook {webhook}: the TLS settings cannot be used")]
    Tls {
        /// The webhook's name.
        webhook: String,
        /// Why not.
        source: TrustError,
    },
    /// The HTTP library refuses the settings, those of a proxy for one.
    #[error("webhook {webhook}: the HTTP client cannot be set up")]
    Setup {
        /// The webhook's name.
        webhook: String,
        /// Why not.
        source: reqwest::Error,
    },
}

/// A request that has only to be sent. It does not print: its headers hold what was configured.
pub struct Prepared {
    post: reqwest::Request,
    progress: Progress,
    shown_headers: Vec<(String, String)>,
    /// The wall clock's time when it was made, and the moment.
    made_at: Timestamp,
    made: Instant,
}

/// What one attempt came to.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What it means for the delivery.
    pub outcome: Outcome,
    /// The status, where there was an answer.
    pub status: Option<u16>,
    /// Why it failed, in one line for a person; absent after a 2xx.
    pub error: Option<String>,
    /// How long it took, until the answer was read or given up.
    pub duration: Duration,
    /// The beginning of the answer's body, at most [`answer::ANSWER_MAX`] bytes.
    pub answer: Bytes,
    /// The headers that were sent, in their order; the values of configured ones are not shown.
    pub request_headers: Vec<(String, String)>,
}

impl WebhookClient {
    /// The client of a webhook, which trusts `roots` and what the webhook names itself, and
    /// connects to what `policy` allows. Proxies are those that the environment names.
    ///
    /// # Errors
    ///
    /// Where a secret or a certificate cannot be used. A valid configuration has neither.
    pub fn new(
        webhook: &config::Webhook,
        roots: &TrustRoots,
        policy: &Arc<NetworkPolicy>,
    ) -> Result<Self, ClientError> {
        Self::with_lookup(webhook, roots, policy, Arc::new(SystemLookup))
    }

    /// The same with another way to look names up.
    fn with_lookup(
        webhook: &config::Webhook,
        roots: &TrustRoots,
        policy: &Arc<NetworkPolicy>,
        lookup: Arc<dyn Resolve>,
    ) -> Result<Self, ClientError> {
        let name = || webhook.name().to_owned();
        let keys = webhook
            .secrets
            .iter()
            .enumerate()
            .map(|(index, secret)| {
                SigningKey::parse(secret).map_err(|source| ClientError::Secret {
                    webhook: name(),
                    number: index.saturating_add(1),
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
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
            .tcp_nodelay(true)
            .dns_resolver(GuardedLookup::new(Arc::clone(policy), lookup))
            .connect_timeout(webhook.connect_timeout)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(webhook.concurrency);
        // A proxy's loopback is another machine's; so these go to the machine they name.
        let proxies = if is_loopback(&webhook.url) {
            builder = builder.no_proxy();
            None
        } else {
            Some(Matcher::from_system())
        };
        let http = builder.build().map_err(|source| ClientError::Setup {
            webhook: name(),
            source: source.without_url(),
        })?;
        let (url, credentials) = split_credentials(&webhook.url);
        let mut headers = webhook.headers.clone();
        if let Some(credentials) = credentials
            && !headers.iter().any(|(name, _)| name == AUTHORIZATION)
        {
            headers.push((AUTHORIZATION, credentials));
        }
        Ok(Self {
            http,
            to: Destination::new(
                &url,
                proxies.as_ref(),
                webhook.connect_timeout,
                webhook.timeout,
            ),
            policy: Arc::clone(policy),
            plan: Arc::new(Plan {
                url,
                format: webhook.format,
                headers,
                keys,
            }),
            timeout: webhook.timeout,
        })
    }

    /// Sends a callback and judges the answer. `now` is the wall clock's time; it goes into the
    /// signature and is what a date in Retry-After is compared with.
    ///
    /// Dropping the future ends the exchange; the receiver may have got the callback.
    pub async fn send(&self, callback: &Callback, now: Timestamp) -> Attempt {
        self.send_prepared(self.prepare(callback, now).await).await
    }

    /// Makes the request of a callback, signed at `now`, the wall clock's time.
    pub async fn prepare(&self, callback: &Callback, now: Timestamp) -> Prepared {
        let request = self.request(callback, now).await;
        let shown_headers = self.shown_headers(&request);
        let upload = Upload::new(request.body);
        let progress = upload.progress();
        let mut post = reqwest::Request::new(Method::POST, request.url);
        *post.headers_mut() = request.headers;
        *post.body_mut() = Some(reqwest::Body::wrap(upload));
        Prepared {
            post,
            progress,
            shown_headers,
            made_at: now,
            made: Instant::now(),
        }
    }

    /// Sends a request that was made before. See [`send`](Self::send).
    pub async fn send_prepared(&self, prepared: Prepared) -> Attempt {
        let started = Instant::now();
        let Prepared {
            post,
            progress,
            shown_headers,
            made_at,
            made,
        } = prepared;
        let mut attempt = Attempt {
            outcome: Outcome::NO_ANSWER,
            status: None,
            error: None,
            duration: Duration::ZERO,
            answer: Bytes::new(),
            request_headers: shown_headers,
        };
        let now = || later(made_at, made.elapsed());
        self.exchange(post, &progress, started, now, &mut attempt)
            .await;
        attempt.duration = started.elapsed();
        attempt
    }

    /// The request. A large one is built and signed on another thread: it takes longer than other
    /// callbacks should wait.
    async fn request(&self, callback: &Callback, now: Timestamp) -> Request {
        let plan = Arc::clone(&self.plan);
        if callback.content.payload.len() <= LARGE {
            return plan.request(callback, now);
        }
        let given = callback.clone();
        let built = tokio::task::spawn_blocking(move || plan.request(&given, now)).await;
        // It fails when the runtime ends, and then nobody waits for what takes long.
        built.unwrap_or_else(|_| self.plan.request(callback, now))
    }

    async fn exchange(
        &self,
        post: reqwest::Request,
        progress: &Progress,
        started: Instant,
        now: impl Fn() -> Timestamp,
        attempt: &mut Attempt,
    ) {
        if let Err(denied) = self.to.judge(&self.policy) {
            attempt.error = Some(denied);
            return;
        }
        // A timeout that no clock can hold is one that never comes.
        let deadline = started.checked_add(self.timeout);
        let sent = within(deadline, self.http.execute(post)).await;
        let mut response = match sent {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                attempt.error = Some(failure::describe(error, &self.to));
                return;
            }
            None => {
                let timeout = humantime::format_duration(self.timeout);
                let to = &self.to;
                attempt.error = Some(match progress.stage() {
                    Stage::Connecting => {
                        format!("timed out after {timeout} connecting to {to}")
                    }
                    Stage::Sending => {
                        format!("timed out after {timeout} sending the request to {to}")
                    }
                    Stage::Sent => {
                        format!("timed out after {timeout} waiting for the answer of {to}")
                    }
                });
                return;
            }
        };
        let answered_at = now();
        let status = response.status();
        attempt.status = Some(status.as_u16());
        attempt.outcome = answer::outcome(status, response.headers(), answered_at);
        attempt.error = answer::complaint(status, response.headers());
        let mut kept = BytesMut::new();
        // Where the deadline comes first, what was read until then is kept.
        within(deadline, answer::read(&mut response, &mut kept)).await;
        attempt.answer = answer::keep(&kept);
        // Dropping an answer that was not read to its end drops its connection with it.
    }

    /// The headers of a request without the values that were configured.
    fn shown_headers(&self, request: &Request) -> Vec<(String, String)> {
        request
            .headers
            .iter()
            .map(|(name, value)| {
                let configured = self.plan.headers.iter().any(|(secret, _)| secret == name);
                let value = if value.is_sensitive() || (configured && !request::is_reserved(name)) {
                    HIDDEN.to_owned()
                } else {
                    String::from_utf8_lossy(value.as_bytes()).into_owned()
                };
                (name.as_str().to_owned(), value)
            })
            .collect()
    }
}

/// The time of day so much later.
fn later(time: Timestamp, elapsed: Duration) -> Timestamp {
    SignedDuration::try_from(elapsed)
        .ok()
        .and_then(|elapsed| time.checked_add(elapsed).ok())
        .unwrap_or(time)
}

/// What a future yields before the deadline, if it does.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// A URL without user name and password, and the header that they stand for.
fn split_credentials(url: &Url) -> (Url, Option<HeaderValue>) {
    let mut stripped = url.clone();
    let password = url.password().unwrap_or_default();
    if url.username().is_empty() && password.is_empty() {
        return (stripped, None);
    }
    // Both fail only for URLs that cannot have credentials, which this one has.
    let _cannot_fail = stripped.set_username("");
    let _cannot_fail = stripped.set_password(None);
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(password));
    let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
    let mut value = request::header_value(&value);
    value.set_sensitive(true);
    (stripped, Some(value))
}

#[cfg(test)]
mod tests;
