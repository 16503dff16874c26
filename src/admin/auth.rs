//! Checks the token of requests, and logs browsers in.
//!
//! Constraint: the right token always works, even after many wrong tokens. So each given token is
//! compared, in constant time. If a client sends too many wrong tokens within a minute, the next
//! ones get 429 until the minute ends, and one line is logged. This limit does not prevent
//! guessing. The minimum length of a token, 16 characters, prevents it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tracing::warn;

use super::error::{ApiError, refuse};
use super::routes::Server;
use super::sessions::{self, Hash, SessionId, Sessions};
use super::{hosts, page};
use crate::config::AdminToken;
use crate::http_server::{Known, Peer};

/// The name of the session cookie.
///
/// Browsers share cookies between all ports of a machine, so the name includes the program's name.
const SESSION: &str = "project-webhooks-session";

/// The number of wrong tokens that a client may send in [`WINDOW`].
///
/// A client is a network, see [`Peer::network`]. All clients of a Unix socket count as one.
const FAILURES_MAX: u32 = 10;

/// How long the wrong tokens of a client are counted together, from the first one.
const WINDOW: Duration = Duration::from_secs(60);

/// The maximum number of clients whose wrong tokens are counted.
const CLIENTS_MAX: usize = 1_000;

/// The rule for access to the API and the page.
///
/// With a configured token, a request needs the token or a session. Without a configured token,
/// only requests over a Unix socket have access.
pub(super) struct Access {
    /// The hash of the token. `None` if no token is configured.
    token: Option<Hash>,
    /// Whether requests come over a Unix socket.
    ///
    /// The permissions of the socket decide who may connect.
    is_socket: bool,
    sessions: Arc<Sessions>,
    failures: Mutex<Failures>,
}

/// Why a client may use the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// The request has the token, or came over a Unix socket that needs no token.
    Request,
    /// The request has a session, which may end later.
    Session(SessionId),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// No token is configured, and the request came over TCP.
    Closed,
    /// The request has a wrong token, or neither a token nor a valid session.
    Unauthorized,
    /// The token is wrong, and the client sent too many wrong ones before.
    ///
    /// For this time, each wrong token of the client gets this refusal.
    Limited(Duration),
    /// The request makes a change with a session, but may come from another site.
    Foreign,
}

impl Refusal {
    fn error(self) -> ApiError {
        let (status, error) = match self {
            Refusal::Closed => (
                StatusCode::FORBIDDEN,
                "the API needs admin.token in the configuration, or a Unix socket as admin.listen",
            ),
            Refusal::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "the token is missing or wrong: send admin.token as `Authorization: Bearer TOKEN`, or log in at \
                 /login",
            ),
            Refusal::Limited(wait) => {
                let seconds = seconds_up(wait);
                let error =
                    format!("too many wrong tokens from this address; try again in {seconds} s");
                let limited = ApiError::new(StatusCode::TOO_MANY_REQUESTS, error);
                return limited.retry_after(seconds);
            }
            Refusal::Foreign => (
                StatusCode::FORBIDDEN,
                "the request may come from another site, because it has no header Origin; send admin.token \
                 instead of the session cookie",
            ),
        };
        ApiError::new(status, error)
    }

    /// Returns the answer: JSON, or a page or a redirect to the login for a browser.
    fn answer(self, is_page: bool) -> Response {
        if is_page && self == Refusal::Unauthorized {
            return to("/login");
        }
        let mut response = refuse(is_page, self.error());
        if self == Refusal::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// Returns the whole seconds of a duration, rounded up.
fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl Access {
    pub(super) fn new(
        token: Option<&AdminToken>,
        is_socket: bool,
        sessions: Arc<Sessions>,
    ) -> Self {
        let token = token.map(|token| sessions::hash(token.0.expose_secret().as_bytes()));
        sessions.end_others(token);
        Self {
            token,
            is_socket,
            sessions,
            failures: Mutex::default(),
        }
    }

    /// Returns why a request has access, or why it is refused.
    fn check(
        &self,
        method: &Method,
        headers: &HeaderMap,
        peer: Peer,
        moment: Duration,
    ) -> Result<Permit, Refusal> {
        let Some(token) = self.token else {
            return if self.is_socket {
                Ok(Permit::Request)
            } else {
                Err(Refusal::Closed)
            };
        };
        if let Some(given) = bearer(headers) {
            self.check_token(given, peer, moment)?;
            return Ok(Permit::Request);
        }
        let mut sessions = sessions(headers);
        let session = sessions.find_map(|digits| self.sessions.find(digits, token, moment));
        let session = session.ok_or(Refusal::Unauthorized)?;
        // A browser may also send the cookie with requests from other sites. So a change also needs
        // headers that show that a page of this server sent the request.
        let is_change = !matches!(*method, Method::GET | Method::HEAD);
        if is_change && !hosts::is_from_own_page(headers) {
            return Err(Refusal::Foreign);
        }
        Ok(Permit::Session(session))
    }

    /// Whether a request may see names of hosts, databases and processes.
    pub(super) fn shows_names(&self, request: &Parts, moment: Duration) -> bool {
        let peer = request.extensions.get::<Peer>().copied();
        let peer = peer.unwrap_or_default();
        self.check(&request.method, &request.headers, peer, moment)
            .is_ok()
    }

    /// Whether a client with this permit may still use the API.
    pub(super) fn allows(&self, permit: Permit, moment: Duration) -> bool {
        match (permit, self.token) {
            (Permit::Request, _) => true,
            (Permit::Session(id), Some(token)) => self.sessions.is_valid(id, token, moment),
            (Permit::Session(_), None) => false,
        }
    }

    /// Compares a token with the configured one.
    ///
    /// Returns [`Refusal::Limited`] for a wrong token after too many wrong ones.
    fn check_token(&self, given: &[u8], peer: Peer, moment: Duration) -> Result<(), Refusal> {
        let is_right = self
            .token
            .is_some_and(|token| sessions::hash(given).ct_eq(&token).into());
        if is_right {
            return Ok(());
        }
        let client = peer.network();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = failures.wait(client, moment) {
            return Err(Refusal::Limited(wait));
        }
        if failures.count(client, moment) == FAILURES_MAX {
            warn!(
                client = network_text(client),
                "{FAILURES_MAX} wrong admin tokens from one client within a minute; more wrong tokens \
                 of this client get 429 until the minute ends"
            );
        }
        Err(Refusal::Unauthorized)
    }
}

/// Returns the token in the header `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Returns the values of the session cookies of a request.
fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).iter();
    cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix(SESSION)?.strip_prefix('='))
}

/// The start of each client's last [`WINDOW`], and its number of wrong tokens.
#[derive(Default)]
struct Failures(HashMap<Option<IpAddr>, (Duration, u32)>);

impl Failures {
    /// Returns the rest of the client's window if it sent too many wrong tokens in it.
    fn wait(&self, client: Option<IpAddr>, moment: Duration) -> Option<Duration> {
        let (begin, n) = self.0.get(&client)?;
        let wait = WINDOW.saturating_sub(moment.saturating_sub(*begin));
        (*n >= FAILURES_MAX && !wait.is_zero()).then_some(wait)
    }

    /// Counts a wrong token. Returns the number in the client's window.
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

/// Refuses requests without access to the API and the page.
pub(super) async fn require(
    State(server): State<Arc<Server>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let checked = server.access.check(
        request.method(),
        request.headers(),
        peer.unwrap_or_default(),
        server.admin.sources.clock.moment(),
    );
    match checked {
        Ok(permit) => {
            if let Some(known) = request.extensions().get::<Known>() {
                known.set();
            }
            request.extensions_mut().insert(permit);
            next.run(request).await
        }
        Err(refusal) => {
            let (parts, _) = request.into_parts();
            refusal.answer(is_page(&parts))
        }
    }
}

/// Whether a browser will show the answer as a page.
pub(super) fn is_page(request: &Parts) -> bool {
    let accept = request.headers.get(ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    !request.uri.path().starts_with("/api/")
        && accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Redirects a browser to another page of this server.
fn to(path: &'static str) -> Response {
    let location = HeaderValue::from_static(path);
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}

/// Returns the login form.
///
/// Over TCP without a configured token, refuses the request.
pub(super) async fn form(State(server): State<Arc<Server>>, request: Request) -> Response {
    let access = &server.access;
    if access.token.is_none() && !access.is_socket {
        let (parts, _) = request.into_parts();
        return Refusal::Closed.answer(is_page(&parts));
    }
    page::login(None).into_response()
}

/// Checks the token in the login form. Begins a session if it is right.
pub(super) async fn login(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, super::guard::BODY_MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let access = &server.access;
    let Some(token) = access.token else {
        return if access.is_socket {
            to("/")
        } else {
            Refusal::Closed.answer(is_page(&parts))
        };
    };
    let peer = parts.extensions.get::<Peer>().copied().unwrap_or_default();
    let moment = server.admin.sources.clock.moment();
    match access.check_token(token_of(&body).as_bytes(), peer, moment) {
        Ok(()) => match access.sessions.begin(token, moment) {
            Some(session) => with_cookie(&session, sessions::LENGTH.as_secs()),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Err(Refusal::Limited(wait)) => {
            let error = Refusal::Limited(wait).error();
            let seconds = seconds_up(wait);
            let alert = format!("Too many wrong tokens. Try again in {seconds} s.");
            error.with_headers((error.status, page::login(Some(&alert))).into_response())
        }
        Err(refusal) => {
            let alert = Some("The token is wrong.");
            (refusal.error().status, page::login(alert)).into_response()
        }
    }
}

fn token_of(body: &Bytes) -> String {
    let mut fields = form_urlencoded::parse(body);
    let token = fields.find(|(name, _)| name == "token");
    token
        .map(|(_, token)| token.into_owned())
        .unwrap_or_default()
}

/// Ends the session, and removes its cookie from the browser.
pub(super) async fn logout(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    for session in sessions(&headers) {
        server.access.sessions.end(session);
    }
    with_cookie("", 0)
}

fn with_cookie(session: &str, seconds: u64) -> Response {
    let cookie =
        format!("{SESSION}={session}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    let mut response = to(if seconds > 0 { "/" } else { "/login" });
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Returns the client of the log line: an IPv4 address, an IPv6 network, or the Unix socket.
fn network_text(client: Option<IpAddr>) -> String {
    match client {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(network)) => format!("{network}/64"),
        None => "the Unix socket".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tokens_are_limited_for_each_client_and_minute() {
        let token = AdminToken("0123456789abcdef".to_owned().into());
        let access = Access::new(Some(&token), false, Arc::default());
        let peer = |last| Peer(Some(IpAddr::from([127, 0, 0, last])));
        let right = b"0123456789abcdef";
        let moment = Duration::from_secs(100);
        let wrong = |client, moment| access.check_token(b"wrong", peer(client), moment);
        for _ in 0..FAILURES_MAX {
            assert_eq!(wrong(1, moment), Err(Refusal::Unauthorized));
        }
        assert_eq!(wrong(1, moment), Err(Refusal::Limited(WINDOW)));
        let later = Duration::from_millis(41_500);
        let wait = Duration::from_millis(18_500);
        assert_eq!(wrong(1, moment + later), Err(Refusal::Limited(wait)));
        assert_eq!(seconds_up(wait), 19);
        assert_eq!(access.check_token(right, peer(1), moment), Ok(()));
        assert_eq!(wrong(2, moment), Err(Refusal::Unauthorized));
        assert_eq!(wrong(1, moment + WINDOW), Err(Refusal::Unauthorized));
        let mut failures = Failures::default();
        for n in 0..5_000_u32 {
            failures.count(Some(IpAddr::from(n.to_be_bytes())), moment);
            assert!(failures.0.len() <= CLIENTS_MAX);
        }
    }
}
