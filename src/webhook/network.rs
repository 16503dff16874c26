//! Resolves names and applies the network policy to the addresses that are connected to.
//!
//! Constraint: the policy checks exactly the addresses that are connected to. A name is resolved
//! once for each connection, and denied addresses are removed from the result. So a name that
//! resolves to another address a moment later gains nothing. An address in the URL is never
//! resolved; it is checked before anything is sent.
//!
//! Through a proxy, the policy checks the proxy's address. The proxy resolves the target's name,
//! so that its own rules apply. With `socks5://` and `socks4://`, the name is resolved and checked
//! here. An address in the URL is always checked.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::config::{Denied, NetworkPolicy};

/// Why a name has no address to connect to.
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
        /// The reason for the first address.
        source: Denied,
    },
}

impl ResolveError {
    /// The name that was looked up.
    pub(super) fn name(&self) -> &str {
        match self {
            ResolveError::Lookup { name, .. }
            | ResolveError::Nothing { name }
            | ResolveError::Denied { name, .. } => name,
        }
    }
}

/// Looks names up as the system does.
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

/// Looks names up and removes denied addresses.
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

/// The target of callbacks and the proxy on the way, for the policy and for messages.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// Host and port.
    pub(super) host: String,
    /// The address in the URL, if it has one in place of a name.
    address: Option<IpAddr>,
    proxy: Option<Proxy>,
    /// The longest that connecting may take.
    pub(super) connect_timeout: Duration,
}

/// A proxy, without its user name and password.
#[derive(Clone, Debug)]
struct Proxy {
    /// Scheme, host and port.
    shown: String,
    host: String,
}

/// Prints host and port, and the proxy if there is one.
impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.host)?;
        match &self.proxy {
            Some(proxy) => write!(formatter, " through the proxy {}", proxy.shown),
            None => Ok(()),
        }
    }
}

impl Destination {
    /// Finds the destination of a URL.
    ///
    /// `proxies` are those of the environment, as the HTTP client reads them; `None` for none.
    pub(super) fn new(url: &Url, proxies: Option<&Matcher>, connect_timeout: Duration) -> Self {
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
        }
    }

    /// Checks the addresses that are known without a lookup; the error is for a person.
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

    /// Describes the host of this name: the proxy or the target.
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

/// Returns host and port of a URL.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether the URL's host is localhost or a loopback address.
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
