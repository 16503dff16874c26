//! Makes the header Authorization: a fixed value, or a token of an authorization server.
//!
//! Constraint: only one request at a time fetches a token, which is used until shortly before it
//! expires, or until the receiver rejects it. If a token cannot be fetched, the error says why,
//! because the receiver is not the cause. No error contains a secret value.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::network::Destination;
use super::request::AGENT;
use super::transport::Transport;
use super::{answer, failure};
use crate::config::{self, Auth, NetworkPolicy, OAuth2};

/// How long before its expiry a token is replaced.
///
/// A token with a short lifetime is replaced a tenth of the lifetime before its expiry.
const MARGIN: Duration = Duration::from_secs(30);

/// The maximum lifetime of a token, if the server states a lifetime.
const LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Why there is no token.
#[derive(Clone, Debug)]
pub(super) struct NoToken {
    /// The reason, in one line.
    pub(super) error: String,
    /// Whether the server may have refused the client's credentials.
    ///
    /// Then other credentials may help.
    pub(super) is_refusal: bool,
}

impl NoToken {
    /// Makes the error for a failure that does not depend on the client's credentials.
    pub(super) fn because(error: String) -> Self {
        Self {
            error,
            is_refusal: false,
        }
    }
}

impl From<String> for NoToken {
    fn from(error: String) -> Self {
        Self::because(error)
    }
}

/// How a webhook's requests get their header Authorization.
pub(super) enum Authorization {
    /// The setting `auth` is absent.
    None,
    /// The same value for each request.
    Fixed(HeaderValue),
    /// A token of an authorization server.
    Token(Box<TokenSource>),
}

impl Authorization {
    /// Makes the authorization of a webhook. `connect` makes the HTTP client of a token endpoint.
    ///
    /// # Errors
    ///
    /// The errors of `connect`.
    pub(super) fn new<E>(
        auth: Option<&Auth>,
        policy: &Arc<NetworkPolicy>,
        connect: impl FnOnce(&OAuth2) -> Result<(Transport, Destination), E>,
    ) -> Result<Self, E> {
        let fixed = match auth {
            None => None,
            // In a valid configuration, the token can be sent in a header.
            Some(Auth::Bearer(token)) => config::bearer(token),
            Some(Auth::Basic { username, password }) => {
                basic(username.expose_secret(), password.expose_secret())
            }
            Some(Auth::OAuth2(settings)) => {
                let (transport, to) = connect(settings)?;
                return Ok(Self::Token(Box::new(TokenSource {
                    transport,
                    to,
                    policy: Arc::clone(policy),
                    settings: settings.clone(),
                    state: Mutex::default(),
                })));
            }
        };
        Ok(fixed.map_or(Self::None, Self::Fixed))
    }

    /// Returns the value of the header for a request.
    ///
    /// # Errors
    ///
    /// No token can be fetched.
    pub(super) async fn value(&self) -> Result<Option<HeaderValue>, NoToken> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(value) => Ok(Some(value.clone())),
            Self::Token(source) => source.token().await.map(Some),
        }
    }

    /// Forgets a token that the receiver rejected. Returns whether a new token can be fetched.
    pub(super) async fn renew(&self, rejected: Option<&HeaderValue>) -> bool {
        match (self, rejected) {
            (Self::Token(source), Some(rejected)) => {
                source.forget(rejected).await;
                true
            }
            _ => false,
        }
    }

    /// Describes the token endpoint and the proxy on the way to it, for errors.
    pub(super) fn token_host(&self) -> Option<String> {
        match self {
            Self::Token(source) => Some(source.to.to_string()),
            Self::None | Self::Fixed(_) => None,
        }
    }
}

/// Makes the header value for a user name and a password.
fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let encoded = BASE64_STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Fetches tokens with the client's credentials (RFC 6749, section 4.4).
pub(super) struct TokenSource {
    transport: Transport,
    to: Destination,
    policy: Arc<NetworkPolicy>,
    settings: OAuth2,
    /// Locked while a request fetches a token. Other attempts wait for this token.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// When and why the last request failed.
    failed: Option<(Instant, NoToken)>,
}

struct Token {
    value: HeaderValue,
    /// When to replace the token. `None` if the server gives no expiry.
    until: Option<Instant>,
}

impl TokenSource {
    async fn token(&self) -> Result<HeaderValue, NoToken> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(token) = &state.token
            && token.until.is_none_or(|until| now < until)
        {
            return Ok(token.value.clone());
        }
        // The request of another attempt failed while this attempt waited, so do not repeat it.
        if let Some((at, error)) = &state.failed
            && *at >= asked
        {
            return Err(error.clone());
        }
        match self.fetch().await {
            Ok(token) => {
                let value = token.value.clone();
                *state = State {
                    token: Some(token),
                    failed: None,
                };
                Ok(value)
            }
            Err(missing) => {
                let missing = NoToken {
                    error: format!("cannot get a token: {}", missing.error),
                    ..missing
                };
                *state = State {
                    token: None,
                    failed: Some((Instant::now(), missing.clone())),
                };
                Err(missing)
            }
        }
    }

    /// Forgets a token, unless it has been replaced already.
    async fn forget(&self, rejected: &HeaderValue) {
        let mut state = self.state.lock().await;
        if state
            .token
            .as_ref()
            .is_some_and(|token| token.value == rejected)
        {
            state.token = None;
        }
    }

    async fn fetch(&self) -> Result<Token, NoToken> {
        self.to.judge(&self.policy)?;
        let began = Instant::now();
        let authorization = self.client_authorization()?;
        let request = || self.request(&authorization);
        let response = self.transport.send(request).await;
        let mut response = response.map_err(|error| failure::describe(error, &self.to))?;
        let status = response.status();
        let mut body = BytesMut::new();
        answer::read(&mut response, &mut body).await;
        let to = &self.to;
        if !status.is_success() {
            return Err(NoToken {
                error: format!("{} ({to})", rejection(status, &body)),
                // As RFC 6749, section 5.2, requires, a server answers 400 or 401 to an unknown
                // client.
                is_refusal: matches!(status.as_u16(), 400 | 401 | 403),
            });
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| format!("the answer is not a JSON object with an access_token ({to})"))?;
        let kind = answer.token_type.unwrap_or_default();
        if !kind.is_empty() && !kind.eq_ignore_ascii_case("bearer") {
            return Err(format!("the token is not a bearer token ({to})").into());
        }
        let value = config::bearer(&SecretString::from(answer.access_token))
            .ok_or_else(|| format!("the token cannot be sent in a header ({to})"))?;
        let life = answer.expires_in.as_ref().and_then(life);
        let until =
            life.and_then(|life| began.checked_add(life.saturating_sub(MARGIN.min(life / 10))));
        Ok(Token { value, until })
    }

    /// Makes the header with the client's credentials.
    fn client_authorization(&self) -> Result<HeaderValue, String> {
        let encoded = |secret: &SecretString| -> String {
            form_urlencoded::byte_serialize(secret.expose_secret().as_bytes()).collect()
        };
        // RFC 6749, section 2.3.1, requires that both values are form-encoded first.
        let (id, secret) = (&self.settings.client_id, &self.settings.client_secret);
        let credentials = basic(&encoded(id), &encoded(secret));
        credentials.ok_or_else(|| "the client's credentials cannot be sent".to_owned())
    }

    fn request(&self, authorization: &HeaderValue) -> reqwest::Request {
        let OAuth2 {
            token_url, scope, ..
        } = &self.settings;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(scope) = scope {
            form.append_pair("scope", scope);
        }
        let mut request = reqwest::Request::new(Method::POST, token_url.clone());
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, authorization.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form_type);
        *request.body_mut() = Some(form.finish().into());
        request
    }
}

/// The answer of a token endpoint (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<Value>,
}

/// Parses the lifetime of a token, in seconds.
///
/// Some servers send a string, or a number with a fraction. A negative number is treated as 0.
/// `None` if the value is not a number.
fn life(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::String(text) => text.trim().parse().ok(),
        number => number.as_f64(),
    };
    let seconds = seconds.filter(|seconds| seconds.is_finite())?;
    let life = Duration::try_from_secs_f64(seconds.max(0.0));
    Some(life.unwrap_or(LIFE_MAX).min(LIFE_MAX))
}

/// Describes an answer without a token.
///
/// The description has the server's error code (RFC 6749, section 5.2), if there is one.
fn rejection(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Rejection {
        error: String,
    }
    let reason = status.canonical_reason().unwrap_or("unknown status");
    let code = serde_json::from_slice(body).map_or_else(
        |_| String::new(),
        |Rejection { error }| {
            let is_code = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            let code: String = error.chars().filter(is_code).take(60).collect();
            format!(": {code}")
        },
    );
    format!("the answer was {} {reason}{code}", status.as_u16())
}
