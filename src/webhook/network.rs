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
mod tests {
    use super::*;

    /// Finds these addresses for every name.
    struct Fixed(Vec<IpAddr>);

    impl Resolve for Fixed {
        fn resolve(&self, _name: Name) -> Resolving {
            let found: Vec<SocketAddr> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
        }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn denying(texts: &[&str]) -> Arc<NetworkPolicy> {
        Arc::new(NetworkPolicy {
            allow: Vec::new(),
            deny: texts.iter().map(|text| text.parse().unwrap()).collect(),
        })
    }

    #[tokio::test]
    async fn what_is_denied_of_a_name_is_left_out() {
        let policy = denying(&["10.0.0.0/8"]);
        for (name, found, expected) in [
            (
                "a.example",
                &["192.0.2.1", "::1"][..],
                &["192.0.2.1", "::1"][..],
            ),
            (
                "a.example",
                &["169.254.169.254", "192.0.2.1", "10.0.0.1"],
                &["192.0.2.1"],
            ),
            ("192.0.2.7", &[], &["192.0.2.7"]),
            ("[2001:db8::1]", &[], &["2001:db8::1"]),
        ] {
            let lookup = GuardedLookup::new(policy.clone(), Arc::new(Fixed(addresses(found))));
            let kept = lookup.resolve(name.parse().unwrap()).await.ok().unwrap();
            let kept: Vec<IpAddr> = kept.map(|address| address.ip()).collect();
            assert_eq!(kept, addresses(expected), "{name}");
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_that_is_allowed_is_an_error() {
        let policy = denying(&["10.0.0.0/8"]);
        for (name, found, expected) in [
            (
                "a.example",
                &["10.0.0.1", "169.254.169.254"][..],
                "10.0.0.1 is denied by 10.0.0.0/8 in network.deny",
            ),
            ("a.example", &["fe80::1"], "fe80::/10 is link-local"),
            ("169.254.169.254", &[], "169.254.0.0/16 is link-local"),
            ("[fe80::1]", &[], "fe80::/10 is link-local"),
            ("a.example", &[], "has no address"),
        ] {
            let lookup = GuardedLookup::new(policy.clone(), Arc::new(Fixed(addresses(found))));
            let error = lookup.resolve(name.parse().unwrap()).await.err().unwrap();
            let error = error.downcast_ref::<ResolveError>().unwrap();
            assert_eq!(error.name(), name);
            let said = match error.source() {
                Some(source) => source.to_string(),
                None => error.to_string(),
            };
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn addresses_in_urls_of_targets_and_proxies_are_judged_in_every_notation() {
        let policy = NetworkPolicy::default();
        for (url, proxy, expected) in [
            ("http://192.0.2.1/", "", None),
            ("http://a.example/", "", None),
            ("http://a.example/", "http://p.example:3128", None),
            ("http://169.254.169.254/x", "", Some("169.254.169.254:80: ")),
            ("http://2852039166/", "", Some("169.254.169.254:80: ")),
            ("http://0xa9.0xfe.0251.254/", "", Some("169.254.169.254:80")),
            (
                "https://[::ffff:a9fe:a9fe]/",
                "",
                Some("[::ffff:a9fe:a9fe]:443"),
            ),
            ("http://[fe80::1]:81/", "", Some("[fe80::1]:81: ")),
            (
                "http://169.254.1.1/",
                "socks5h://p.example",
                Some("169.254.1.1:80: "),
            ),
            (
                "https://a.example/",
                "http://user:hush@169.254.1.1:3128",
                Some("the proxy http://169.254.1.1:3128: the address 169.254.1.1 is denied"),
            ),
            (
                "https://a.example/",
                "socks5://[fe80::1]:1080",
                Some("the proxy socks5://[fe80::1]:1080: "),
            ),
        ] {
            let proxies = Matcher::builder().all(proxy).build();
            let second = Duration::from_secs(1);
            let destination =
                Destination::new(&url.parse().unwrap(), Some(&proxies), second, second);
            let verdict = destination.judge(&policy);
            match expected {
                None => assert_eq!(verdict, Ok(()), "{url}"),
                Some(expected) => {
                    let said = verdict.unwrap_err();
                    assert!(said.contains(expected), "{url}: {said}");
                    assert!(said.contains("network.allow"), "{said}");
                    assert!(!said.contains("hush"), "{said}");
                }
            }
        }
    }

    #[test]
    fn a_proxy_is_named_where_it_is_used() {
        let proxies = Matcher::builder()
            .https("http://p.example:3128")
            .no("near.example")
            .build();
        let shown = |url: &str, proxies| {
            let second = Duration::from_secs(1);
            Destination::new(&url.parse().unwrap(), proxies, second, second).to_string()
        };
        assert_eq!(
            shown("https://a.example/?x=hush", Some(&proxies)),
            "a.example:443 by way of the proxy http://p.example:3128"
        );
        for (url, host) in [
            ("http://a.example/", "a.example:80"),
            ("https://b.near.example/", "b.near.example:443"),
        ] {
            assert_eq!(shown(url, Some(&proxies)), host);
        }
        assert_eq!(shown("https://a.example/", None), "a.example:443");
    }

    #[test]
    fn loopback_is_recognised() {
        for (url, expected) in [
            ("http://localhost:1/", true),
            ("http://127.1.2.3/", true),
            ("http://[::1]/", true),
            ("http://a.localhost/", true),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
