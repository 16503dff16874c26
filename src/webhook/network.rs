//! Resolves host names and applies the network policy to the result.
//!
//! Constraint: the policy checks exactly the addresses that the client connects to. For each
//! connection, the host name is resolved once, and denied addresses are removed from the result. So
//! a later change of the DNS answer has no effect. An address in the URL is checked before anything
//! is sent.
//!
//! With a proxy, the policy checks the address of the proxy. An HTTP proxy resolves the receiver's
//! name itself, so the proxy's own rules apply. With `socks5://` and `socks4://`, this module
//! resolves and checks the receiver's name. An address in the URL is checked even with a proxy.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Position, Url};

use super::blocking::BlockingThreads;
use super::proxy::{Proxies, Proxy};
use crate::config::{Denied, NetworkPolicy};

/// Why a host name has no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("the host name {name} cannot be resolved")]
    Lookup {
        name: String,
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("the host name {name} has no address")]
    Nothing { name: String },
    #[error("every address of the host name {name} is denied")]
    Denied {
        name: String,
        /// The reason why the first address is denied.
        source: Denied,
    },
}

impl ResolveError {
    /// Returns the host name that was looked up.
    pub(super) fn name(&self) -> &str {
        match self {
            ResolveError::Lookup { name, .. }
            | ResolveError::Nothing { name }
            | ResolveError::Denied { name, .. } => name,
        }
    }
}

/// Looks up host names with the operating system's resolver, on these threads.
#[derive(Clone, Debug)]
pub(super) struct SystemLookup(pub(super) BlockingThreads);

impl Resolve for SystemLookup {
    fn resolve(&self, name: Name) -> Resolving {
        let threads = self.0.clone();
        Box::pin(async move {
            // The HTTP client replaces port 0 with the port of the URL.
            let found = threads.run(move || (name.as_str(), 0).to_socket_addrs());
            let ended = || io::Error::other("the program ends");
            let found = found.await.ok_or_else(ended)??;
            Ok(Box::new(found) as Addrs)
        })
    }
}

/// Looks up host names and removes denied addresses.
pub(super) struct GuardedLookup {
    policy: Arc<NetworkPolicy>,
    lookup: Arc<dyn Resolve>,
}

impl GuardedLookup {
    pub(super) fn new(policy: Arc<NetworkPolicy>, lookup: Arc<dyn Resolve>) -> Self {
        Self { policy, lookup }
    }
}

impl Resolve for GuardedLookup {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.policy);
        let shown = name.as_str().to_owned();
        // With a SOCKS proxy, the "name" may be an address. IPv6 addresses have brackets.
        let literal = shown.trim_start_matches('[').trim_end_matches(']');
        let found: Resolving = match literal.parse::<IpAddr>() {
            Ok(address) => {
                let address = SocketAddr::new(address, 0);
                Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
            }
            Err(_) => self.lookup.resolve(name),
        };
        Box::pin(async move {
            let found = match found.await {
                Ok(found) => found,
                Err(source) => {
                    return Err(ResolveError::Lookup {
                        name: shown,
                        source,
                    }
                    .into());
                }
            };
            let mut denied = None;
            let mut allowed = Vec::new();
            for address in found {
                match policy.judge(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(reason) => denied = denied.or(Some(reason)),
                }
            }
            match denied {
                _ if !allowed.is_empty() => Ok(Box::new(allowed.into_iter()) as Addrs),
                Some(source) => Err(ResolveError::Denied {
                    name: shown,
                    source,
                }
                .into()),
                // If the result were empty, a SOCKS proxy would resolve the name instead.
                None => Err(ResolveError::Nothing { name: shown }.into()),
            }
        })
    }
}

/// A receiver or a token endpoint, and the proxy on the way to it.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// The host and the port of the receiver, as messages show them.
    pub(super) host: String,
    /// The IP address in the URL. `None` if the URL has a host name.
    address: Option<IpAddr>,
    /// The proxy on the way to the receiver. `None` without a proxy.
    pub(super) proxy: Option<Proxy>,
    /// The time limit for connecting.
    pub(super) connect_timeout: Duration,
    /// Whether the settings `tls` and `connect_timeout` of a webhook apply. Messages name them.
    pub(super) has_settings: bool,
    /// The parts of the URL that no message and no kept answer may show. `None` if the URL is no
    /// secret.
    secrets: Option<Vec<String>>,
}

/// Formats the host and port, and the proxy if there is one.
impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.host)?;
        match &self.proxy {
            Some(proxy) => write!(formatter, " through {proxy}"),
            None => Ok(()),
        }
    }
}

impl Destination {
    /// Makes the destination of a URL, with the proxy on the way to it.
    pub(super) fn new(url: &Url, proxies: &Proxies, connect_timeout: Duration) -> Self {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        Self {
            host: host(url),
            address,
            proxy: proxies.way(url).proxy().cloned(),
            connect_timeout,
            has_settings: true,
            secrets: None,
        }
    }

    /// Hides the receiver in messages, because its URL is a secret.
    pub(super) fn hide(&mut self, url: &Url) {
        "the receiver".clone_into(&mut self.host);
        self.secrets = Some(parts(url));
    }

    /// Whether the URL is a secret.
    pub(super) fn is_hidden(&self) -> bool {
        self.secrets.is_some()
    }

    /// Returns the parts of the URL that no text may show, the longest first.
    pub(super) fn secrets(&self) -> &[String] {
        self.secrets.as_deref().unwrap_or_default()
    }

    /// Checks the addresses in the URLs of the receiver and the proxy.
    ///
    /// # Errors
    ///
    /// The policy denies an address.
    pub(super) fn judge(&self, policy: &NetworkPolicy) -> Result<(), String> {
        let proxy = self.proxy.as_ref().and_then(|proxy| {
            let literal = proxy.host.trim_start_matches('[').trim_end_matches(']');
            Some((literal.parse().ok()?, proxy.to_string()))
        });
        if let Some(address) = self.address {
            policy
                .judge(address)
                .map_err(|denied| self.denied(None, &denied))?;
        }
        proxy.map_or(Ok(()), |(address, proxy)| {
            policy
                .judge(address)
                .map_err(|denied| self.denied(Some(&proxy), &denied))
        })
    }

    /// Formats the error for a denied address of the receiver, or of `proxy` if given.
    pub(super) fn denied(&self, proxy: Option<&str>, denied: &Denied) -> String {
        match proxy {
            Some(proxy) => format!("cannot connect to {proxy}: {denied}"),
            None if self.is_hidden() => {
                let reason = denied.without_address();
                format!("cannot connect to {}: {reason}", self.host)
            }
            None => format!("cannot connect to {}: {denied}", self.host),
        }
    }

    /// Describes the proxy, if `name` is its host name.
    pub(super) fn proxy_named(&self, name: &str) -> Option<String> {
        let proxy = self.proxy.as_ref().filter(|proxy| proxy.host == name)?;
        Some(proxy.to_string())
    }
}

/// The minimum length, in bytes, of a part of a secret URL that is hidden.
const PART_MIN: usize = 6;

/// From this length on, in bytes, a part of only lower-case letters is hidden.
///
/// A shorter path segment or query value of lower-case letters may be an ordinary word.
const WORD_MAX: usize = 16;

/// Returns the parts of a secret URL to hide in texts, the longest first.
fn parts(url: &Url) -> Vec<String> {
    let path = url.path();
    let query = url.query().unwrap_or_default();
    let values = query.split('&').map(|pair| match pair.split_once('=') {
        Some((_, value)) if !value.trim_matches('=').is_empty() => value,
        // A name without a value may be a token.
        _ => pair,
    });
    let pieces = path.split('/').chain(values);
    let is_word = |part: &str| {
        part.len() < WORD_MAX && part.chars().all(|letter| letter.is_ascii_lowercase())
    };
    let whole = [
        url.as_str(),
        url.host_str().unwrap_or_default(),
        &url[Position::BeforePath..],
        path,
        query,
    ];
    let written: Vec<&str> = whole
        .into_iter()
        .chain(pieces.filter(|part| !is_word(part)))
        // A receiver may repeat a token without its padding.
        .flat_map(|part| [part, part.trim_end_matches('=')])
        .collect();
    let decoded = written
        .iter()
        .map(|part| percent_decode_str(part).decode_utf8_lossy());
    let all = decoded.map(|part| part.into_owned());
    let mut parts: Vec<String> = all.chain(written.iter().map(|&part| part.into())).collect();
    parts.retain(|part| part.len() >= PART_MIN);
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts.dedup();
    parts
}

/// Returns the host and the port of a URL.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether the host of the URL is `localhost`, a name below it, or a loopback address.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests;
