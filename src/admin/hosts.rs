//! Refuses requests that a web page of another site sends from a user's browser.
//!
//! Constraint: an attacker may point the host name of a page at 127.0.0.1, so that the page can
//! read answers of this server (DNS rebinding). Such a request has the attacker's name in `Host`.
//! So `Host` must be an IP address, a name of this machine or one of `admin.hosts`. If a foreign
//! page makes a change, or could read the answer, its request has the header `Origin` or
//! `Sec-Fetch-Site`. A page cannot remove these headers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{HOST, HeaderName, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

/// The answer to a request with one of the headers [`ONCE`] twice.
const TWICE: &str = "the header Host, Origin, Sec-Fetch-Site or Sec-Fetch-Mode is there twice\n";

/// The answer to a request for another host.
const OTHER_HOST: &str = "the header Host does not name this server. Use an IP address, localhost or \
                          the name of this machine, or add the name to admin.hosts\n";

/// The answer to a request of another site.
const FOREIGN: &str = "the request comes from a page of another site, or a proxy changed the header \
                       Host: Origin must have the same host and port\n";

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Headers that must not occur twice.
///
/// A proxy and this server might use different values.
const ONCE: [HeaderName; 4] = [HOST, ORIGIN, FETCH_SITE, FETCH_MODE];

/// Refuses requests that a page of another site sends.
///
/// Links from another site to a page of this server still work. With `hosts`, a header `Host` must
/// also name this machine, an IP address or one of `hosts`.
pub(super) fn refuse_foreign(router: Router, hosts: Option<Vec<String>>) -> Router {
    let names = hosts.map(|mut names| {
        let machine = rustix::system::uname();
        names.push("localhost".to_owned());
        names.push(machine.nodename().to_string_lossy().into_owned());
        names
    });
    let names: Option<Arc<[String]>> = names.map(Into::into);
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let names = names.clone();
        async move { check(names.as_deref(), request, next).await }
    }))
}

async fn check(names: Option<&[String]>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_clear = ONCE
        .iter()
        .all(|name| headers.get_all(name).iter().count() <= 1);
    let is_for_us = names.is_none_or(|names| is_own_host(names, headers));
    let is_allowed = !is_foreign(headers) || is_visit(&request);
    let reason = match (is_clear, is_for_us, is_allowed) {
        (true, true, true) => return next.run(request).await,
        (false, _, _) => TWICE,
        (true, false, _) => OTHER_HOST,
        (true, true, false) => FOREIGN,
    };
    (StatusCode::FORBIDDEN, reason).into_response()
}

/// Whether a request is addressed to one of these names or to an IP address.
fn is_own_host(names: &[String], headers: &HeaderMap) -> bool {
    // Browsers always send `Host`. Some simple health checks do not.
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    match host.to_str().ok().and_then(Name::read) {
        Some(Name::Address) => true,
        Some(Name::Text(name)) => names.iter().any(|own| own.eq_ignore_ascii_case(name)),
        None => false,
    }
}

/// Whether the headers show that a page of another site may have sent the request.
fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get(FETCH_SITE);
    let is_other_site = site.is_some_and(|site| site != "same-origin" && site != "none");
    is_other_site || is_of_own_origin(headers) == Some(false)
}

/// Whether the headers prove that a page of this server sent the request.
pub(super) fn is_from_own_page(headers: &HeaderMap) -> bool {
    let site = headers.get(FETCH_SITE);
    let is_same_site = site.is_some_and(|site| site == "same-origin");
    !is_foreign(headers) && (is_same_site || is_of_own_origin(headers) == Some(true))
}

/// Whether the host and port in `Origin` are those in `Host`.
///
/// `None` without `Origin`.
fn is_of_own_origin(headers: &HeaderMap) -> Option<bool> {
    let origin = headers.get(ORIGIN)?.to_str().ok();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.and_then(|origin| origin.split_once("://"));
    Some(match (origin, host) {
        (Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
        _ => false,
    })
}

/// Whether a user follows a link from another site to a page of this server.
///
/// Following a link is safe, because the other site cannot read the page.
fn is_visit(request: &Request) -> bool {
    let headers = request.headers();
    let mode = headers.get(FETCH_MODE);
    request.method() == Method::GET
        && !request.uri().path().starts_with("/api/")
        && mode.is_some_and(|mode| mode == "navigate")
        && !headers.contains_key(ORIGIN)
}

/// The host in a `Host` header, without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name<'a> {
    /// An IP address.
    Address,
    /// A host name without its final dot.
    Text(&'a str),
}

impl<'a> Name<'a> {
    /// Parses a `Host` header. `None` unless it is a host, or a host and a port.
    fn read(header: &'a str) -> Option<Self> {
        let authority: Authority = header.parse().ok()?;
        let (host, rest) = header.split_at_checked(authority.host().len())?;
        let is_port = |port: &str| {
            port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse::<u16>().is_ok()
        };
        if host != authority.host()
            || !(rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
        {
            return None;
        }
        if let Some(address) = host.strip_prefix('[') {
            let address: Result<Ipv6Addr, _> = address.strip_suffix(']')?.parse();
            return address.is_ok().then_some(Name::Address);
        }
        if host.parse::<Ipv4Addr>().is_ok() {
            return Some(Name::Address);
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        (!name.is_empty() && name.bytes().all(is_name)).then_some(Name::Text(name))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn only_addresses_and_own_names_are_accepted() {
        let names = ["localhost".to_owned(), "db1".to_owned()];
        for (host, expected) in [
            ("127.0.0.1:9417", true),
            ("[::1]:9417", true),
            ("192.0.2.7", true),
            ("localhost:9417", true),
            ("LOCALHOST", true),
            ("db1.", true),
            ("db1:9417", true),
            ("db1.attacker.example:9417", false),
            ("attacker.example", false),
            ("127.0.0.1.attacker.example", false),
            ("", false),
            ("[::1]evil", false),
            ("[::1]:1evil", false),
            ("[localhost]", false),
            ("::1", false),
            ("user@localhost", false),
            ("localhost:", false),
            ("localhost:+1", false),
            ("localhost:1:2", false),
            ("localhost..", false),
        ] {
            let headers: HeaderMap = [(HOST, HeaderValue::from_static(host))]
                .into_iter()
                .collect();
            assert_eq!(is_own_host(&names, &headers), expected, "{host}");
        }
        assert!(is_own_host(&names, &HeaderMap::new()));
    }

    #[test]
    fn pages_of_other_sites_are_foreign() {
        const SITE: &str = "sec-fetch-site";
        // The headers, whether they are foreign, and whether they are from a page of this server.
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(Headers, bool, bool); 8] = [
            (&[("host", "localhost:1")], false, false),
            (
                &[("host", "localhost:1"), ("origin", "http://localhost:1")],
                false,
                true,
            ),
            (
                &[("host", "localhost:1"), ("origin", "http://localhost:2")],
                true,
                false,
            ),
            (&[("host", "localhost:1"), ("origin", "null")], true, false),
            (&[("origin", "http://localhost")], true, false),
            (&[(SITE, "same-origin")], false, true),
            (&[(SITE, "cross-site")], true, false),
            (
                &[(SITE, "same-site"), ("host", "a"), ("origin", "http://a")],
                true,
                false,
            ),
        ];
        for (headers, foreign, own) in cases {
            let pairs = headers.iter();
            let headers: HeaderMap = pairs
                .map(|(name, value)| {
                    (
                        HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                })
                .collect();
            assert_eq!(is_foreign(&headers), foreign, "{headers:?}");
            assert_eq!(is_from_own_page(&headers), own, "{headers:?}");
        }
    }
}
