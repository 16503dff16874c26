//! Refuses requests that a web page in somebody's browser makes.
//!
//! Constraint: a page of an attacker may give its own name the address 127.0.0.1, and then read the
//! answers (DNS rebinding). Such a request has the attacker's name in `Host`. So only IP addresses and
//! names of this machine are accepted. Pages of other origins send `Origin`, which nothing else does.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

/// Why a request is refused.
const REFUSED: &str = "the request names another host, or comes from a web page. Use an IP address, \
                       localhost or the name of this machine, or add the name to admin.hosts\n";

/// Lets only requests for this machine or for these hosts reach the router.
pub(super) fn refuse_foreign(router: Router, hosts: Vec<String>) -> Router {
    let machine = rustix::system::uname();
    let mut names = hosts;
    names.push("localhost".to_owned());
    names.push(machine.nodename().to_string_lossy().into_owned());
    let names: Arc<[String]> = names.into();
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let names = Arc::clone(&names);
        async move { check(&names, request, next).await }
    }))
}

async fn check(names: &[String], request: Request, next: Next) -> Response {
    if is_own(names, request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, REFUSED).into_response()
    }
}

/// Whether a request is for one of these names or an IP address, and from no web page.
fn is_own(names: &[String], headers: &HeaderMap) -> bool {
    if headers.contains_key(ORIGIN) {
        return false;
    }
    // Browsers always send it. Some simple health checks do not.
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = name_of(host);
    name.parse::<IpAddr>().is_ok() || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// The name or address in a `Host` header, without its port, brackets and final dot.
fn name_of(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

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
        ] {
            let headers: HeaderMap = [(HOST, HeaderValue::from_static(host))]
                .into_iter()
                .collect();
            assert_eq!(is_own(&names, &headers), expected, "{host}");
        }
        assert!(is_own(&names, &HeaderMap::new()));
        let page = [(ORIGIN, HeaderValue::from_static("http://localhost"))];
        assert!(!is_own(&names, &page.into_iter().collect()));
    }
}
