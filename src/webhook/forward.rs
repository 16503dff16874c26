//! Passes a received request on to another URL, and passes the answer back.
//!
//! Constraint: method, headers and body are not changed, so that signatures stay valid. Only the
//! headers of the connection are removed, because each connection has its own. If the target does
//! not answer, the sender gets a status of 500 or above, so that it retries. No message shows a
//! secret part of the URL.
//!
//! A target that sends without end occupies the thread that reads the answer. So exchanges with the
//! target run on a separate thread, and the receiver still accepts and prints callbacks.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

use super::network::Destination;
use super::proxy::Proxies;
use super::transport::client_builder;
use super::trust::TrustRoots;
use super::{failure, upload};
use crate::config::{SystemEnvironment, Tls, shown_url};

/// The time limit for connecting to the target.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit for the whole exchange with the target: twice the default `timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of bytes of an answer that are passed back. The daemon keeps 16 KiB.
const ANSWER_MAX: usize = 1024 * 1024;

/// Headers that belong to one connection, or that the HTTP library sets.
const OWN_HEADERS: [HeaderName; 8] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// More headers that belong to one connection. The HTTP library has no constants for them.
const OWN_HEADER_NAMES: [&str; 4] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
];

/// Why requests cannot be passed on to this URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// The text is not the URL of a receiver. It is not shown, because it may contain a password.
    #[error("the URL to forward to cannot be used: {0}")]
    Url(&'static str),
    /// The TLS library rejects the settings.
    #[error("the TLS settings cannot be used")]
    Tls(#[from] rustls::Error),
    /// The HTTP library rejects the settings.
    #[error("the HTTP client cannot be set up")]
    Setup(#[from] reqwest::Error),
    /// The system has no more threads or file descriptors.
    #[error("the thread that passes callbacks on cannot be started")]
    Thread(#[from] io::Error),
}

/// The thread that exchanges requests with the target. Dropping this value does not wait for it.
struct ExchangeThread(Option<Runtime>);

impl ExchangeThread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("forward")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a future on the thread. Returns `None` if it panicked.
    ///
    /// Dropping the returned future cancels it at its next `await`.
    async fn run<T: Send + 'static>(
        &self,
        exchange: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let runtime = self.0.as_ref()?;
        let mut one = JoinSet::new();
        one.spawn_on(exchange, runtime.handle());
        one.join_next().await?.ok()
    }
}

impl Drop for ExchangeThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Passes requests on to a URL.
pub(crate) struct Forwarder {
    client: reqwest::Client,
    url: Url,
    to: Destination,
    thread: ExchangeThread,
}

/// The answer to pass back: from the target, or an error that makes the sender retry.
#[derive(Clone, Debug)]
pub(crate) struct Forwarded {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Why the target gave no complete answer. `None` if the answer is complete.
    pub(crate) error: Option<String>,
    pub(crate) duration: Duration,
}

impl Forwarder {
    /// Makes the client for a URL.
    ///
    /// # Errors
    ///
    /// See [`ForwardError`].
    pub(crate) fn new(url: &str, roots: &TrustRoots) -> Result<Self, ForwardError> {
        let url = Url::parse(url.trim()).map_err(|_| ForwardError::Url("it is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ForwardError::Url("it must begin with http:// or https://"));
        }
        if url.fragment().is_some() {
            return Err(ForwardError::Url(
                "it has a fragment (#…), which HTTP never sends",
            ));
        }
        let mut to = Destination::new(&url, &Proxies::of(&SystemEnvironment), CONNECT_TIMEOUT);
        to.has_settings = false;
        let tls = roots.client_config(&Tls::default())?;
        let client = client_builder(tls, &to)?.build()?;
        let thread = ExchangeThread::start()?;
        Ok(Self {
            client,
            url,
            to,
            thread,
        })
    }

    /// Returns the URL without parts that may be secrets.
    pub(crate) fn shown(&self) -> String {
        shown_url(&self.url)
    }

    /// Whether the URL leads to `address`, where the receiver itself listens.
    ///
    /// Then the receiver would get each forwarded request again.
    pub(crate) async fn leads_to(&self, address: SocketAddr) -> bool {
        if self.url.port_or_known_default() != Some(address.port()) {
            return false;
        }
        let is_same = |ip: IpAddr| {
            let ip = ip.to_canonical();
            ip == address.ip() || ip.is_unspecified() || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
        };
        match self.url.host() {
            Some(Host::Ipv4(ip)) => is_same(ip.into()),
            Some(Host::Ipv6(ip)) => is_same(ip.into()),
            Some(Host::Domain(name)) => {
                let found = tokio::net::lookup_host((name, address.port())).await;
                // If the name has no address, forwarding fails later and reports the reason.
                found.is_ok_and(|mut found| found.any(|found| is_same(found.ip())))
            }
            None => false,
        }
    }

    /// Passes a request on. Dropping the future ends the exchange with the target.
    pub(crate) async fn forward(
        &self,
        method: Method,
        query: Option<&str>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Forwarded {
        let started = Instant::now();
        let request = self
            .client
            .request(method, with_query(&self.url, query))
            .headers(end_to_end(headers))
            .body(upload::body(body.into(), Duration::ZERO));
        let exchanged = self.thread.run(exchange(request));
        let mut forwarded = match timeout_at(started + TIMEOUT, exchanged).await {
            Ok(Some(Ok(forwarded))) => forwarded,
            Ok(Some(Err(error))) => {
                failed(StatusCode::BAD_GATEWAY, failure::describe(error, &self.to))
            }
            Ok(None) => failed(
                StatusCode::BAD_GATEWAY,
                format!("the exchange with {} ended unexpectedly", self.to),
            ),
            Err(_) => failed(
                StatusCode::GATEWAY_TIMEOUT,
                format!("no answer from {} in {} s", self.to, TIMEOUT.as_secs()),
            ),
        };
        forwarded.duration = started.elapsed();
        forwarded
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Result<Forwarded, reqwest::Error> {
    let mut response = request.send().await?;
    let mut body = BytesMut::new();
    let mut error = None;
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_MAX - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() > room {
            error = Some(format!("the answer was cut after {ANSWER_MAX} bytes"));
            break;
        }
    }
    Ok(Forwarded {
        status: response.status(),
        headers: end_to_end(response.headers()),
        body: body.freeze(),
        error,
        duration: Duration::ZERO,
    })
}

/// Makes the answer to pass back if the target gave no answer.
///
/// The sender of the request keeps the answer's body, so the body has the reason.
fn failed(status: StatusCode, error: String) -> Forwarded {
    Forwarded {
        status,
        headers: HeaderMap::new(),
        body: format!("project-webhooks listen: {error}\n").into(),
        error: Some(error),
        duration: Duration::ZERO,
    }
}

/// Adds the query of a request to the URL. In the format `xml`, the query has the parameters.
fn with_query(url: &Url, query: Option<&str>) -> Url {
    let mut url = url.clone();
    if let Some(query) = query {
        let joined = match url.query() {
            Some(own) => format!("{own}&{query}"),
            None => query.to_owned(),
        };
        url.set_query(Some(&joined));
    }
    url
}

/// Returns the headers except those that belong to one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named = headers.get_all(CONNECTION).iter();
    let named = named.filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let is_own = |name: &HeaderName| {
        OWN_HEADERS.contains(name)
            || OWN_HEADER_NAMES.contains(&name.as_str())
            || named.iter().any(|named| named == name.as_str())
    };
    let kept = headers.iter().filter(|(name, _)| !is_own(name));
    let mut end_to_end = HeaderMap::new();
    for (name, value) in kept {
        end_to_end.append(name.clone(), value.clone());
    }
    end_to_end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarder(url: &str) -> Forwarder {
        Forwarder::new(url, &TrustRoots::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_url_that_leads_back_is_found() {
        let address: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        for (url, expected) in [
            ("http://127.0.0.1:9000/", true),
            ("http://user:hush@127.0.0.1:9000/other", true),
            ("http://localhost:9000/", true),
            ("http://0.0.0.0:9000/", true),
            ("http://[::ffff:127.0.0.1]:9000/", true),
            ("http://2130706433:9000/", true),
            ("http://127.0.0.1:9001/", false),
            ("http://127.0.0.1/", false),
            ("http://192.0.2.1:9000/", false),
        ] {
            assert_eq!(forwarder(url).leads_to(address).await, expected, "{url}");
        }
    }

    #[test]
    fn errors_and_listings_have_no_secret() {
        for url in [
            "hush",
            "ftp://hush@a/",
            "http://a/#hush",
            "http://hush:hush@[/",
        ] {
            let error = Forwarder::new(url, &TrustRoots::empty()).err().unwrap();
            assert!(!format!("{error:?} {error}").contains("hush"), "{error}");
        }
        let shown = forwarder("http://user:hush@a.example:80/x/hush?token=hush").shown();
        assert_eq!(shown, "http://a.example/x/…?token=…");
    }

    #[test]
    fn the_query_of_a_request_is_kept() {
        for (url, query, expected) in [
            ("http://a/x", None, "http://a/x"),
            ("http://a/x", Some("b=%26"), "http://a/x?b=%26"),
            ("http://a/x?c=1", Some("b=2"), "http://a/x?c=1&b=2"),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(with_query(&url, query).as_str(), expected);
        }
    }

    #[test]
    fn only_headers_of_the_connection_are_left_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("authorization", "Bearer t"),
            ("webhook-signature", "v1,a"),
            ("x-two", "1"),
            ("x-two", "2"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let kept = end_to_end(&headers);
        let kept: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            kept,
            ["authorization", "webhook-signature", "x-two", "x-two"]
        );
    }
}
