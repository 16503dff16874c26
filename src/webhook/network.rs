//! What is connected to: the addresses of a name, and the proxy in between.
//!
//! Constraint: the network policy is asked about the very addresses that are connected to. A name
//! is resolved once for each connection, and what the policy denies of the result is never handed
//! on, so that a name that means something else a moment later gains nothing by it. An address
//! that stands in the URL itself is never resolved, and is judged before anything is sent.
//!
//! Through a proxy it is the proxy that is connected to, so the policy is asked about the proxy's
//! address. The target's name is then resolved by the proxy, out of reach of any policy here, and
//! the proxy's own rules have to hold; with `socks5://` and `socks4://` it is resolved and judged
//! here. An address in the URL is judged in any case.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::config::{Denied, NetworkPolicy};

/// Why a name yields no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// It cannot be looked up.
    #[error("the host name {name} cannot be resolved")]
    Lookup {
        /// The name.
        name: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It has no address.
    #[error("the host name {name} has no address")]
    Nothing {
        /// The name.
        name: String,
    },
    /// All of its addresses are denied.
    #[error("no address of the host name {name} may be connected to")]
    Denied {
        /// The name.
        name: String,
        /// Why its first address is denied.
        source: Denied,
    },
}

impl ResolveError {
    /// The name.
    pub(super) fn name(&self) -> &str {
        match self {
            ResolveError::Lookup { name, .. }
            | ResolveError::Nothing { name }
            | ResolveError::Denied { name, .. } => name,
        }
    }
}

/// The system's way to look names up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SystemLookup;

impl Resolve for SystemLookup {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // Port 0 stands for the one in the URL.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Looks names up and leaves out what the policy denies.
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
        // A SOCKS proxy's target may come as an address, with brackets if it has colons.
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
                // An empty result would have a SOCKS proxy resolve the name instead.
                None => Err(ResolveError::Nothing { name: shown }.into()),
            }
        })
    }
}

/// Where callbacks go, and which way; for the policy and for messages.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// Host and port.
    pub(super) host: String,
    /// The address that stands in the URL in place of a name.
    address: Option<IpAddr>,
    proxy: Option<Proxy>,
    /// The bound of connecting.
    pub(super) connect_timeout: Duration,
    /// Whether that is shorter than the bound of all.
    pub(super) has_own_connect_timeout: bool,
}

/// A proxy, without its user name and password.
#[derive(Clone, Debug)]
struct Proxy {
    /// Scheme, host and port.
    shown: String,
    host: String,
}

/// The host and port, with the proxy if there is one.
impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.host)?;
        match &self.proxy {
            Some(proxy) => write!(formatter, " by way of the proxy {}", proxy.shown),
            None => Ok(()),
        }
    }
}

impl Destination {
    /// The destination of a URL. `proxies` are those of the environment, as the HTTP client reads
    /// them; none where no proxy is to be used.
    pub(super) fn new(
        url: &Url,
        proxies: Option<&Matcher>,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Self {
        let proxy = proxies
            .zip(url.as_str().parse::<http::Uri>().ok())
            .and_then(|(proxies, url)| proxies.intercept(&url))
            .map(|intercept| {
                let uri = intercept.uri();
                let authority = uri.authority().map_or("", |authority| authority.as_str());
                Proxy {
                    shown: format!("{}://{authority}", uri.scheme_str().unwrap_or("http")),
                    host: uri.host().unwrap_or_default().to_owned(),
                }
            });
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        Self {
            host: host(url),
            address,
            proxy,
            connect_timeout,
            has_own_connect_timeout: connect_timeout < timeout,
        }
    }

    /// Whether the addresses that are known without looking a name up may be connected to; if
    /// not, why, for a person.
    pub(super) fn judge(&self, policy: &NetworkPolicy) -> Result<(), String> {
        let proxy = self.proxy.as_ref().and_then(|proxy| {
            let literal = proxy.host.trim_start_matches('[').trim_end_matches(']');
            Some((literal.parse().ok()?, proxy.described()))
        });
        let own = self.address.map(|address| (address, self.host.clone()));
        own.into_iter().chain(proxy).try_for_each(|(address, who)| {
            policy
                .judge(address)
                .map_err(|denied| format!("cannot connect to {who}: {denied}"))
        })
    }

    /// Whose name this is: the proxy's or the target's.
    pub(super) fn named(&self, name: &str) -> String {
        match &self.proxy {
            Some(proxy) if proxy.host == name => proxy.described(),
            _ => self.host.clone(),
        }
    }
}

impl Proxy {
    fn described(&self) -> String {
        format!("the proxy {}", self.shown)
    }
}

/// Host and port of a URL.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether a URL names this machine.
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
