//! Checks the token of requests, and logs browsers in.
//!
//! Constraint: no session is stored. A session is a time of expiry, authenticated with a key of this
//! process. A change of the token or a restart of the daemon ends all sessions. Comparisons take the
//! same time for every token, and one client can try only a few tokens in a minute.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use super::error::ApiError;
use super::routes::Server;
use super::{hosts, page};
use crate::config::AdminToken;
use crate::http_server::{Known, Peer};

/// The name of the cookie. Cookies of all ports of a machine share their names.
const SESSION: &str = "project-webhooks-session";

/// How long a session lasts, in seconds.
const SESSION_SECONDS: i64 = 12 * 60 * 60;

/// The number of wrong tokens that a client may send in [`WINDOW`].
const FAILURES_MAX: u32 = 10;

/// The time in which wrong tokens are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The maximum number of clients whose wrong tokens are counted.
const CLIENTS_MAX: usize = 1_000;

/// The key of the sessions of this process.
#[derive(Clone)]
pub(crate) struct SessionKey([u8; 32]);

impl SessionKey {
    /// Makes a random key. `None` if the system has no random numbers.
    pub(crate) fn random() -> Option<Self> {
        let mut key = [0; 32];
        let provider = rustls::crypto::ring::default_provider();
        provider.secure_random.fill(&mut key).ok()?;
        Some(Self(key))
    }
}

/// The access rule of the API: with the token, or over a Unix socket only.
pub(super) struct Access {
    token: Option<AdminToken>,
    /// Whether the permissions of a socket decide who connects.
    is_socket: bool,
    key: Option<SessionKey>,
    failures: Mutex<Failures>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// No token is configured.
    Closed,
    /// The request has no token, or a wrong one.
    Unauthorized,
    /// The client sent too many wrong tokens.
    Limited,
    /// A page of another site may have sent the request.
    Foreign,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Refusal::Closed => (
                StatusCode::FORBIDDEN,
                "the API needs admin.token in the configuration, or a Unix socket as admin.listen",
            ),
            Refusal::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "send admin.token as `Authorization: Bearer TOKEN`, or log in at /login",
            ),
            Refusal::Limited => (
                StatusCode::TOO_MANY_REQUESTS,
                "too many wrong tokens from this address; try again in a minute",
            ),
            Refusal::Foreign => (
                StatusCode::FORBIDDEN,
                "the request does not show that a page of this server sent it",
            ),
        };
        let mut response = ApiError::new(status, error).into_response();
        if self == Refusal::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl Access {
    pub(super) fn new(token: Option<AdminToken>, is_socket: bool, key: Option<SessionKey>) -> Self {
        Self {
            token,
            is_socket,
            key,
            failures: Mutex::default(),
        }
    }

    /// Whether a request may be answered.
    fn check(
        &self,
        method: &Method,
        headers: &HeaderMap,
        peer: Peer,
        now: Timestamp,
        moment: Duration,
    ) -> Result<(), Refusal> {
        if self.token.is_none() {
            return if self.is_socket {
                Ok(())
            } else {
                Err(Refusal::Closed)
            };
        }
        if let Some(given) = bearer(headers) {
            return self.check_token(given, peer, moment);
        }
        if !sessions(headers).any(|session| self.is_session(session, now)) {
            return Err(Refusal::Unauthorized);
        }
        // A browser sends the cookie with the requests of other sites too. So a change also needs the
        // browser's headers that name the page which sent it.
        let is_change = !matches!(*method, Method::GET | Method::HEAD);
        if is_change && !hosts::is_from_own_page(headers) {
            return Err(Refusal::Foreign);
        }
        Ok(())
    }

    /// Compares a token, unless the client sent too many wrong ones.
    fn check_token(&self, given: &[u8], peer: Peer, moment: Duration) -> Result<(), Refusal> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client(peer);
        if failures.is_limited(client, moment) {
            return Err(Refusal::Limited);
        }
        let is_right = self.token.as_ref().is_some_and(|token| {
            // Hashes have one length, so the time does not depend on that of the token.
            let expected = Sha256::digest(token.0.expose_secret().as_bytes());
            Sha256::digest(given).ct_eq(&expected).into()
        });
        if is_right {
            return Ok(());
        }
        if failures.count(client, moment) == FAILURES_MAX {
            warn!(
                client = ?client,
                "{FAILURES_MAX} wrong admin tokens from one client within a minute; refusing its tokens \
                 until that minute ends"
            );
        }
        Err(Refusal::Unauthorized)
    }

    /// Makes a session that begins now. `None` if there is no key.
    fn session(&self, now: Timestamp) -> Option<String> {
        let expiry = now.as_second().saturating_add(SESSION_SECONDS);
        let mac = self.mac(expiry)?.finalize().into_bytes();
        let digits: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{expiry}.{digits}"))
    }

    /// Whether this process made the session and it has not expired.
    fn is_session(&self, session: &str, now: Timestamp) -> bool {
        let Some((expiry, digits)) = session.split_once('.') else {
            return false;
        };
        let Ok(expiry) = expiry.parse() else {
            return false;
        };
        let (Some(mac), Some(given)) = (self.mac(expiry), from_hex(digits)) else {
            return false;
        };
        let latest = now.as_second().saturating_add(SESSION_SECONDS);
        mac.verify_slice(&given).is_ok() && (now.as_second()..=latest).contains(&expiry)
    }

    /// The authentication of a session. It depends on the token, so that a new token ends sessions.
    fn mac(&self, expiry: i64) -> Option<Hmac<Sha256>> {
        let token = self.token.as_ref()?.0.expose_secret();
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key.as_ref()?.0).ok()?;
        mac.update(format!("session {expiry} {token}").as_bytes());
        Some(mac)
    }
}

/// Reads hexadecimal digits.
fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || digits.len() != 64 {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

/// The token in the header `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// The sessions in the cookies of a request.
fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).iter();
    cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix(SESSION)?.strip_prefix('='))
}

/// The address for which wrong tokens are counted. An IPv6 network (/64) is one client.
fn client(peer: Peer) -> Option<IpAddr> {
    match peer.0? {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Some(IpAddr::V6(Ipv6Addr::from_bits(network)))
        }
        address => Some(address.to_canonical()),
    }
}

/// For each client, the time of its first wrong token, and the number of wrong tokens.
#[derive(Default)]
struct Failures(HashMap<Option<IpAddr>, (Duration, u32)>);

impl Failures {
    fn is_limited(&self, client: Option<IpAddr>, moment: Duration) -> bool {
        self.0
            .get(&client)
            .is_some_and(|(begin, n)| *n >= FAILURES_MAX && moment.saturating_sub(*begin) < WINDOW)
    }

    /// Counts a wrong token. Returns the number of the client's wrong tokens.
    fn count(&mut self, client: Option<IpAddr>, moment: Duration) -> u32 {
        if self.0.len() >= CLIENTS_MAX && !self.0.contains_key(&client) {
            let is_recent = |begin: &Duration| moment.saturating_sub(*begin) < WINDOW;
            self.0.retain(|_, (begin, _)| is_recent(begin));
            if self.0.len() >= CLIENTS_MAX {
                self.0.clear();
            }
        }
        let (begin, n) = self.0.entry(client).or_insert((moment, 0));
        if moment.saturating_sub(*begin) >= WINDOW {
            (*begin, *n) = (moment, 0);
        }
        *n = n.saturating_add(1);
        *n
    }
}

/// Answers only requests that may use the API.
pub(super) async fn require(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let clock = server.admin.sources.clock;
    let checked = server.access.check(
        request.method(),
        request.headers(),
        peer.unwrap_or_default(),
        clock.now(),
        clock.moment(),
    );
    match checked {
        Ok(()) => {
            if let Some(known) = request.extensions().get::<Known>() {
                known.set();
            }
            next.run(request).await
        }
        Err(Refusal::Unauthorized) if is_page(&request) => to("/login"),
        Err(refusal) => refusal.into_response(),
    }
}

/// Whether a browser asks for a page.
pub(super) fn is_page(request: &Request) -> bool {
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    request.method() == Method::GET
        && !request.uri().path().starts_with("/api/")
        && accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Sends a browser to another page of this server.
fn to(path: &'static str) -> Response {
    let location = HeaderValue::from_static(path);
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}

pub(super) async fn form() -> Html<String> {
    page::login(false)
}

/// Checks the token of the form, and begins a session.
pub(super) async fn login(State(server): State<Arc<Server>>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let Ok(body) = axum::body::to_bytes(request.into_body(), super::guard::BODY_MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let access = &server.access;
    if access.token.is_none() {
        return if access.is_socket {
            to("/")
        } else {
            Refusal::Closed.into_response()
        };
    }
    let token = token_of(&body);
    let clock = server.admin.sources.clock;
    let peer = peer.unwrap_or_default();
    match access.check_token(token.as_bytes(), peer, clock.moment()) {
        Ok(()) => match access.session(clock.now()) {
            Some(session) => with_cookie(&session, SESSION_SECONDS),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Err(Refusal::Unauthorized) => (StatusCode::UNAUTHORIZED, page::login(true)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn token_of(body: &Bytes) -> String {
    let mut fields = form_urlencoded::parse(body);
    let token = fields.find(|(name, _)| name == "token");
    token
        .map(|(_, token)| token.into_owned())
        .unwrap_or_default()
}

/// Removes the session from the browser.
pub(super) async fn logout() -> Response {
    with_cookie("", 0)
}

fn with_cookie(session: &str, seconds: i64) -> Response {
    let cookie =
        format!("{SESSION}={session}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    let mut response = to(if seconds > 0 { "/" } else { "/login" });
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(token: &str) -> Access {
        let token = AdminToken(token.to_owned().into());
        Access::new(Some(token), false, Some(SessionKey([7; 32])))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_session_ends_with_its_time_its_token_and_its_key() {
        let one = access("0123456789abcdef");
        let session = one.session(at(1_000)).unwrap();
        assert!(one.is_session(&session, at(1_000)));
        assert!(one.is_session(&session, at(1_000 + SESSION_SECONDS)));
        assert!(!one.is_session(&session, at(1_001 + SESSION_SECONDS)));
        assert!(!access("another-token-16").is_session(&session, at(1_000)));
        let token = one.token.clone();
        let other = Access::new(token, false, Some(SessionKey([8; 32])));
        assert!(!other.is_session(&session, at(1_000)));
        let later = session.replacen('4', "5", 1);
        for forged in [
            "",
            ".",
            "99999999999.",
            &later,
            &session[..session.len() - 1],
        ] {
            assert!(!one.is_session(forged, at(1_000)), "{forged}");
        }
    }

    #[test]
    fn wrong_tokens_are_limited_for_each_client_and_minute() {
        let access = access("0123456789abcdef");
        let peer = |last| Peer(Some(IpAddr::from([127, 0, 0, last])));
        let right = b"0123456789abcdef";
        let moment = Duration::from_secs(100);
        for _ in 0..FAILURES_MAX {
            let checked = access.check_token(b"wrong", peer(1), moment);
            assert_eq!(checked, Err(Refusal::Unauthorized));
        }
        assert_eq!(
            access.check_token(right, peer(1), moment),
            Err(Refusal::Limited)
        );
        assert_eq!(access.check_token(right, peer(2), moment), Ok(()));
        assert_eq!(access.check_token(right, peer(1), moment + WINDOW), Ok(()));
        let mut failures = Failures::default();
        for n in 0..5_000_u32 {
            failures.count(Some(IpAddr::from(n.to_be_bytes())), moment);
            assert!(failures.0.len() <= CLIENTS_MAX);
        }
    }
}
