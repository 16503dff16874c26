//! Sends callbacks with one HTTP client for each webhook.
//!
//! Constraint: an attempt sends one request, because the schedule counts attempts. The client
//! follows no redirects and retries nothing. It does not even repeat an HTTP/2 request that the
//! server did not process. There are only these exceptions:
//!
//! - If an idle connection was closed before the request was written, the connection pool opens
//!   another connection.
//! - After an answer 401 or 403, the attempt sends a second request if a file with credentials has
//!   changed. If none has changed, it sends one only after a 401, with a new token from the
//!   authorization server. If that server refuses the credentials and a file with credentials has
//!   changed, the attempt starts again with the new credentials.
//! - If the server requires HTTP/1.1, or closes the connection during a large upload, the attempt
//!   sends a second request.
//!
//! `timeout` limits the whole attempt, from the request for a token to the last byte of the answer.
//! `connect_timeout` limits the time to connect, up to the end of the TLS handshake.
//!
//! Answers are not decompressed, so that the limit of 16 KiB is exact.

mod connections;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use reqwest::dns::Resolve;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};

use self::connections::{Connections, Credentials};
use super::authorization::NoToken;
use super::blocking::BlockingThreads;
use super::network::{Destination, SystemLookup};
use super::proxy::Proxies;
use super::request::{self, Callback, Request, RequestSettings};
use super::start::{MayBegin, Start, guarded};
use super::transport::Transport;
use super::trust::TrustRoots;
use super::{answer, failure, upload};
use crate::config::{self, BodyFormat, NetworkPolicy, SecretError, SystemEnvironment};
use crate::domain::delivery::Outcome;

/// The largest payload whose request is built on the queue's thread, in bytes.
///
/// Building takes about 1 ms for each MiB. A larger request is built on another thread, so that
/// other callbacks do not wait.
const LARGE: usize = 256 * 1024;

/// Sends callbacks to one webhook.
pub struct WebhookClient {
    transport: Transport,
    to: Destination,
    connections: Connections,
    /// The credentials. After a refusal, they are replaced if one of their files has changed.
    credentials: RwLock<Arc<Credentials>>,
    threads: BlockingThreads,
    timeout: Duration,
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WebhookClient")
            .field("host", &self.to.host)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why the client of a webhook cannot be made.
///
/// If the configuration is valid, only proxy settings can be the cause.
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
    /// The HTTP status. `None` without an answer.
    pub status: Option<u16>,
    /// The error message, in one line. `None` after a 2xx.
    pub error: Option<String>,
    /// The time until the answer was read or the attempt failed.
    pub duration: Duration,
    /// The first bytes of the answer's body.
    pub answer: Bytes,
    /// The headers of the request, in order. Values that may be secrets are hidden.
    pub request_headers: Vec<(String, String)>,
    /// Whether no request was allowed to begin, so no body was sent. Then `outcome` has no meaning.
    pub is_withheld: bool,
}

/// How the credentials of a request were refused.
enum Refusal {
    /// The receiver answered 401 to a request with this header Authorization.
    Unauthorized(Option<HeaderValue>),
    /// The receiver answered 403.
    Forbidden,
    /// The authorization server refused the client. No request was sent to the receiver.
    NoToken,
}

impl WebhookClient {
    /// Makes the client of a webhook.
    ///
    /// The client trusts `roots`, unless `tls.ca_only` is set, and the authorities in the webhook's
    /// `tls.ca`. It connects only to addresses that `policy` allows. It uses the proxies in the
    /// environment variables.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn new(
        webhook: &config::Webhook,
        roots: &TrustRoots,
        policy: &Arc<NetworkPolicy>,
    ) -> Result<Self, ClientError> {
        let lookup = SystemLookup(BlockingThreads::current());
        Self::with_lookup(webhook, roots, policy, Arc::new(lookup))
    }

    /// Makes a client that resolves host names with `lookup`.
    fn with_lookup(
        webhook: &config::Webhook,
        roots: &TrustRoots,
        policy: &Arc<NetworkPolicy>,
        lookup: Arc<dyn Resolve>,
    ) -> Result<Self, ClientError> {
        let tls = roots
            .client_config(&webhook.tls)
            .map_err(|source| ClientError::Tls {
                webhook: webhook.name().to_owned(),
                source,
            })?;
        let connections = Connections {
            tls,
            policy: Arc::clone(policy),
            lookup,
        };
        let proxies = Proxies::of(&SystemEnvironment);
        let mut to = Destination::new(&webhook.url, &proxies, webhook.connect_timeout);
        if webhook.url.is_hidden() {
            to.hide(&webhook.url);
        }
        let (shared, made_for) = (connections.clone(), webhook.clone());
        let transport = Transport::new(Box::new(move |versions| {
            let proxies = Proxies::of(&SystemEnvironment);
            let to = Destination::new(&made_for.url, &proxies, made_for.connect_timeout);
            shared.http(&made_for, &to, versions)
        }))?;
        let credentials = connections.credentials(webhook)?;
        Ok(Self {
            transport,
            to,
            connections,
            credentials: RwLock::new(Arc::new(credentials)),
            threads: BlockingThreads::current(),
            timeout: webhook.timeout,
        })
    }

    /// Sends a callback and judges the answer.
    ///
    /// `now` is the time of day, for the signature and for a date in Retry-After. Dropping the
    /// future ends the attempt, but the receiver may have received the callback.
    pub async fn send(&self, callback: &Callback, now: Timestamp) -> Attempt {
        let always: MayBegin = Arc::new(|| true);
        self.send_if(callback, now, &always).await
    }

    /// Sends a callback like [`send`](Self::send), if `may_begin` allows it.
    ///
    /// The last check is when the body of the request begins.
    pub(crate) async fn send_if(
        &self,
        callback: &Callback,
        now: Timestamp,
        may_begin: &MayBegin,
    ) -> Attempt {
        let start = Start::new(may_begin);
        let started = Instant::now();
        let time = || now.saturating_add(started.elapsed()).unwrap_or(now);
        let mut attempt = Attempt {
            outcome: Outcome::NO_ANSWER,
            status: None,
            error: None,
            duration: Duration::ZERO,
            answer: Bytes::new(),
            request_headers: Vec::new(),
            is_withheld: false,
        };
        let credentials = self.credentials();
        let refusal = self.request_once(
            &credentials,
            callback,
            (started, &start),
            &time,
            &mut attempt,
        );
        // A timeout that the clock cannot represent never ends.
        let deadline = started.checked_add(self.timeout);
        if let Some(refusal) = refusal.await {
            let renewed = self.renew(&credentials, &refusal);
            if within(deadline, renewed).await == Some(true) && start.check().is_ok() {
                let credentials = self.credentials();
                self.request_once(
                    &credentials,
                    callback,
                    (started, &start),
                    &time,
                    &mut attempt,
                )
                .await;
            }
        }
        // The receiver may repeat the secret URL in the text of an error.
        let error = attempt.error.take();
        attempt.error = error.map(|error| answer::cleaned(&error, self.to.secrets()));
        attempt.duration = started.elapsed();
        attempt.is_withheld = start.is_withheld();
        attempt
    }

    fn credentials(&self) -> Arc<Credentials> {
        // A panic cannot leave the value half changed, so a poisoned lock is harmless.
        let credentials = self.credentials.read();
        Arc::clone(&credentials.unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends one request. Returns a refusal of its credentials, if any.
    async fn request_once(
        &self,
        credentials: &Credentials,
        callback: &Callback,
        (started, start): (Instant, &Arc<Start>),
        now: &impl Fn() -> Timestamp,
        attempt: &mut Attempt,
    ) -> Option<Refusal> {
        let deadline = started.checked_add(self.timeout);
        let unsent = credentials.secrets.iter().map(ExposeSecret::expose_secret);
        let of_url = self.to.secrets().iter().map(String::as_str);
        let mut secrets: Vec<Vec<u8>> = unsent.chain(of_url).map(Into::into).collect();
        let authorization = match within(deadline, credentials.authorization.value()).await {
            Some(Ok(value)) => value,
            found => {
                let missing = found.and_then(Result::err).unwrap_or_else(|| {
                    let host = credentials.authorization.token_host().unwrap_or_default();
                    NoToken::because(self.timed_out(&format!("no token from {host}")))
                });
                (attempt.outcome, attempt.status) = (Outcome::NO_ANSWER, None);
                attempt.error = Some(answer::cleaned(&missing.error, &secrets));
                attempt.answer = Bytes::new();
                return missing.is_refusal.then_some(Refusal::NoToken);
            }
        };
        let built = request_of(&credentials.settings, callback, now(), &self.threads);
        let Some(built) = within(deadline, built).await else {
            (attempt.outcome, attempt.status) = (Outcome::NO_ANSWER, None);
            attempt.error = Some(self.timed_out("the request was not built"));
            attempt.answer = Bytes::new();
            return None;
        };
        let checked = built.and_then(|request| request::check_lengths(&request).map(|()| request));
        let mut request = match checked {
            Ok(request) => request,
            Err(error) => {
                (attempt.outcome, attempt.error) = (Outcome::Unsendable, Some(error));
                // Do not store headers of a request that is not sent. They may be too long.
                attempt.request_headers.clear();
                return None;
            }
        };
        if let Some(value) = &authorization {
            request.headers.insert(AUTHORIZATION, value.clone());
        }
        attempt.request_headers = shown_headers(&request.headers);
        secrets.extend(answer::secrets_in(&request.headers));
        self.exchange(&request, &secrets, (deadline, start), now, attempt)
            .await;
        match attempt.status {
            Some(401) => Some(Refusal::Unauthorized(authorization)),
            Some(403) => Some(Refusal::Forbidden),
            _ => None,
        }
    }

    /// Replaces refused credentials. Returns whether other credentials are available now.
    ///
    /// If a file with credentials has changed, uses its new value. Otherwise, after a 401, forgets
    /// the token, so that the next request fetches a new token.
    async fn renew(&self, refused: &Arc<Credentials>, refusal: &Refusal) -> bool {
        if !Arc::ptr_eq(refused, &self.credentials()) {
            // Another attempt has replaced the credentials already.
            return true;
        }
        if !refused.webhook.auth.files.is_empty() {
            let credentials = Arc::clone(refused);
            let read = move || config::read_again(&credentials.webhook);
            let found = self.threads.run(read).await.flatten();
            let found = found.and_then(|webhook| self.connections.credentials(&webhook).ok());
            if let Some(found) = found {
                let current = self.credentials.write();
                let mut current = current.unwrap_or_else(PoisonError::into_inner);
                // If several attempts were refused, the first one replaces the credentials.
                if Arc::ptr_eq(refused, &current) {
                    *current = Arc::new(found);
                }
                return true;
            }
        }
        match refusal {
            Refusal::Unauthorized(value) => refused.authorization.renew(value.as_ref()).await,
            Refusal::Forbidden | Refusal::NoToken => false,
        }
    }

    /// Makes the error of an attempt that reached the time limit.
    fn timed_out(&self, what: &str) -> String {
        let timeout = humantime::format_duration(self.timeout);
        format!("timed out after {timeout}: {what}")
    }

    /// Sends the request.
    ///
    /// If the server closes the connection during a large upload, its answer may be lost. The
    /// request is then sent a second time.
    async fn execute(
        &self,
        request: &Request,
        start: &Arc<Start>,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let send = |wait| self.transport.send(move || post(request, wait, start));
        match send(Duration::ZERO).await {
            Err(error) if is_cut_off(request, &error) => send(upload::WAIT).await,
            result => result,
        }
    }

    async fn exchange(
        &self,
        request: &Request,
        secrets: &[Vec<u8>],
        (deadline, start): (Option<Instant>, &Arc<Start>),
        now: &impl Fn() -> Timestamp,
        attempt: &mut Attempt,
    ) {
        (attempt.outcome, attempt.status) = (Outcome::NO_ANSWER, None);
        attempt.answer = Bytes::new();
        if let Err(denied) = self.to.judge(&self.connections.policy) {
            attempt.error = Some(denied);
            return;
        }
        if let Err(withheld) = start.check() {
            attempt.error = Some(withheld.to_string());
            return;
        }
        let mut response = match within(deadline, self.execute(request, start)).await {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                if is_cut_off(request, &error) {
                    attempt.outcome = Outcome::REFUSED;
                }
                let error = failure::describe(error, &self.to);
                attempt.error = Some(answer::cleaned(&error, secrets));
                return;
            }
            None => {
                attempt.error = Some(self.timed_out(&format!("no answer from {}", self.to)));
                return;
            }
        };
        let status = response.status();
        attempt.status = Some(status.as_u16());
        attempt.outcome = answer::outcome(status, response.headers(), now());
        // A redirect may repeat the secret URL.
        let nothing = HeaderMap::new();
        let headers = if self.to.is_hidden() {
            &nothing
        } else {
            response.headers()
        };
        let complaint = answer::complaint(status, headers);
        attempt.error = complaint.map(|error| answer::cleaned(&error, secrets));
        let mut kept = BytesMut::new();
        // At the deadline, the bytes that were read so far are kept.
        within(deadline, answer::read(&mut response, &mut kept)).await;
        attempt.answer = answer::keep(&kept, secrets);
        // Dropping an unfinished answer closes the connection or its HTTP/2 stream.
    }
}

/// Builds the request.
///
/// A large request, or a request with a template, is built on another thread. So other callbacks do
/// not wait.
async fn request_of(
    settings: &Arc<RequestSettings>,
    callback: &Callback,
    now: Timestamp,
    threads: &BlockingThreads,
) -> Result<Request, String> {
    let is_fixed = matches!(settings.format, BodyFormat::Fixed(_));
    if is_fixed && callback.content.payload.len() <= LARGE {
        return request::build(settings, callback, now);
    }
    let (settings, given) = (Arc::clone(settings), callback.clone());
    let shared = Arc::clone(&settings);
    let built = threads.run(move || request::build(&shared, &given, now));
    // `None` if the runtime is shutting down or the work panicked. Then build the request on this
    // thread, although this blocks it.
    let built = built.await;
    built.unwrap_or_else(|| request::build(&settings, callback, now))
}

/// Whether the server closed the connection during a large upload.
fn is_cut_off(request: &Request, error: &reqwest::Error) -> bool {
    request.body.len() > upload::LARGE && failure::is_closed_during_upload(error)
}

/// Makes the request for the HTTP library. A large body begins after `wait`.
fn post(request: &Request, wait: Duration, start: &Arc<Start>) -> reqwest::Request {
    let mut post = reqwest::Request::new(Method::POST, request.url.clone());
    *post.headers_mut() = request.headers.clone();
    let body = upload::body(request.body.clone(), wait);
    *post.body_mut() = Some(guarded(body, start));
    post
}

/// Returns the headers of a request, without values that may be secrets.
fn shown_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = if value.is_sensitive() {
                answer::HIDDEN.to_owned()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// Awaits a future until the deadline. Returns `None` at the deadline.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests;
