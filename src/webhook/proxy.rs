//! Chooses the proxy of a webhook from the environment variables.
//!
//! Constraint: `check` and the log show the proxy that the HTTP client uses. So only this module
//! chooses a proxy, and the HTTP client reads no variable itself. A user name or password in a
//! variable is never printed.
//!
//! The variables have the names that curl uses, in upper or lower case. `NO_PROXY` also allows the
//! forms of Go, Python and Node.js: entries are separated by commas or blanks, may begin with `*.`,
//! and may end with a port.

use std::fmt;
use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;
use ipnet::IpNet;
use url::{Host, Url};

use super::network::is_loopback;
use crate::config::Environment;

/// The variables that name proxies, each with the URL schemes that it applies to.
///
/// If several variables apply to a URL, the first one is used.
const VARIABLES: [(&str, &[&str]); 3] = [
    ("HTTP_PROXY", &["http"]),
    ("HTTPS_PROXY", &["https"]),
    ("ALL_PROXY", &["http", "https"]),
];

const NO_PROXY: &str = "NO_PROXY";

/// The proxies and exceptions in the environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    proxies: Vec<(&'static [&'static str], Proxy)>,
    exceptions: Vec<Exception>,
    warnings: Vec<String>,
}

/// A proxy. Its text and its `Debug` output do not contain the user name and password.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// The value of the variable, with user name and password.
    url: String,
    /// The scheme, host and port.
    shown: String,
    /// The host. An IPv6 address has brackets.
    pub(super) host: String,
    variable: &'static str,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

/// Formats the scheme, host and port of the proxy.
impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the proxy {}", self.shown)
    }
}

/// How requests reach a receiver: directly or through a proxy.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// Without a proxy, because no variable names a proxy for this URL.
    Direct,
    /// Without a proxy, because the host is this machine. A proxy would connect to itself.
    Loopback,
    /// Without a proxy, because of this entry of `NO_PROXY`.
    Excepted(String),
    /// Through a proxy.
    Proxied(Proxy),
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Direct => formatter.write_str("directly"),
            Way::Loopback => formatter.write_str("directly: loopback"),
            Way::Excepted(entry) => write!(formatter, "directly: {NO_PROXY} has {entry}"),
            Way::Proxied(proxy) => write!(formatter, "{proxy}, by {}", proxy.variable),
        }
    }
}

impl Way {
    /// Returns the proxy, if there is one.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        match self {
            Way::Proxied(proxy) => Some(proxy),
            Way::Direct | Way::Loopback | Way::Excepted(_) => None,
        }
    }
}

impl Proxies {
    /// Reads the variables. A name in upper case takes precedence over the same name in lower case.
    pub(crate) fn of(environment: &dyn Environment) -> Self {
        let variable = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()];
            let values = names.iter().filter_map(|name| environment.variable(name));
            let mut texts = values.filter_map(|value| value.into_string().ok());
            texts.find(|text| !text.trim().is_empty())
        };
        let mut found = Self::default();
        // In a CGI program, `HTTP_PROXY` is the header `Proxy` of the request. So use no proxy.
        if environment.variable("REQUEST_METHOD").is_some() {
            return found;
        }
        for (name, schemes) in VARIABLES {
            let Some(url) = variable(name) else { continue };
            match Proxy::parse(url.trim(), name) {
                Some(proxy) => found.proxies.push((schemes, proxy)),
                None => found.warnings.push(format!(
                    "{name} is not the URL of a proxy and is ignored; allowed: http, https, \
                     socks5, socks5h, socks4 and socks4a, such as http://proxy.example.com:3128"
                )),
            }
        }
        let list = variable(NO_PROXY).unwrap_or_default();
        for entry in list.split(|c: char| c == ',' || c.is_whitespace()) {
            match Exception::parse(entry) {
                _ if entry.is_empty() => {}
                Some(exception) => found.exceptions.push(exception),
                None => found.warnings.push(format!(
                    "{NO_PROXY}: {entry:?} matches no host; allowed: *, a domain, an address or a \
                     range such as 10.0.0.0/8, separated by commas"
                )),
            }
        }
        found
    }

    /// Returns warnings about ignored settings, for the log and for `check`.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Chooses the way to a receiver.
    pub(crate) fn way(&self, url: &Url) -> Way {
        if is_loopback(url) {
            return Way::Loopback;
        }
        let serves = |schemes: &[&str]| schemes.contains(&url.scheme());
        let Some((_, proxy)) = self.proxies.iter().find(|(schemes, _)| serves(schemes)) else {
            return Way::Direct;
        };
        let mut exceptions = self.exceptions.iter();
        match exceptions.find(|exception| exception.matches(url)) {
            Some(exception) => Way::Excepted(exception.written.clone()),
            None => Way::Proxied(proxy.clone()),
        }
    }
}

impl Proxy {
    fn parse(url: &str, variable: &'static str) -> Option<Self> {
        let any = http::Uri::from_static("http://receiver.invalid/");
        let intercept = Matcher::builder().all(url).build().intercept(&any)?;
        let uri = intercept.uri();
        let host = uri.host().filter(|host| !host.is_empty())?;
        let scheme = uri.scheme_str().unwrap_or("http");
        Some(Self {
            url: url.to_owned(),
            shown: format!("{scheme}://{}", uri.authority()?),
            host: host.to_owned(),
            variable,
        })
    }

    /// Makes the proxy for the HTTP client.
    ///
    /// # Errors
    ///
    /// The HTTP client rejects the URL.
    pub(super) fn for_client(&self) -> Result<reqwest::Proxy, reqwest::Error> {
        reqwest::Proxy::all(&self.url)
    }
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug)]
struct Exception {
    written: String,
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    All,
    Addresses(IpNet),
    /// This domain and all domains below it.
    Domain(String),
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let of = |hosts, port| Self {
            written: entry.to_owned(),
            hosts,
            port,
        };
        if let Some(hosts) = Hosts::parse(entry) {
            return Some(of(hosts, None));
        }
        let (host, port) = entry.rsplit_once(':')?;
        Some(of(Hosts::parse(host)?, Some(port.parse().ok()?)))
    }

    fn matches(&self, url: &Url) -> bool {
        let is_port = self
            .port
            .is_none_or(|port| url.port_or_known_default() == Some(port));
        is_port
            && match (&self.hosts, url.host()) {
                (Hosts::All, _) => true,
                (Hosts::Addresses(range), Some(Host::Ipv4(address))) => {
                    range.contains(&IpAddr::V4(address))
                }
                (Hosts::Addresses(range), Some(Host::Ipv6(address))) => {
                    range.contains(&IpAddr::V6(address))
                }
                (Hosts::Domain(domain), Some(Host::Domain(name))) => {
                    let name = name.strip_suffix('.').unwrap_or(name);
                    let parent = name.strip_suffix(domain.as_str());
                    parent.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                }
                _ => false,
            }
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let literal = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let literal = literal.unwrap_or(text);
        if let Ok(range) = literal.parse::<IpNet>() {
            return Some(Self::Addresses(range));
        }
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Some(Self::Addresses(address.into()));
        }
        let domain = text.strip_prefix('*').unwrap_or(text);
        let domain = domain.strip_prefix('.').unwrap_or(domain);
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let is_pattern = domain.contains(['*', '?', ':', '/'])
            || text.starts_with("*") && !text.starts_with("*.");
        match Host::parse(domain) {
            Ok(Host::Domain(name)) if !is_pattern => Some(Self::Domain(name)),
            // A partial address, such as `10.1`, matches nothing.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Proxies::of(&variables.collect::<BTreeMap<_, _>>())
    }

    fn way(proxies: &Proxies, url: &str) -> String {
        proxies.way(&url.parse().unwrap()).to_string()
    }

    #[test]
    fn the_scheme_chooses_the_variable() {
        let all = proxies(&[
            ("http_proxy", "user:hush@p.example:1"),
            ("HTTPS_PROXY", "https://q.example:2/"),
            ("ALL_PROXY", "socks5h://r.example:3"),
        ]);
        for (url, expected) in [
            (
                "http://a.example/",
                "the proxy http://p.example:1, by HTTP_PROXY",
            ),
            (
                "https://a.example/",
                "the proxy https://q.example:2, by HTTPS_PROXY",
            ),
            ("https://127.1.2.3/", "directly: loopback"),
            ("https://a.localhost/", "directly: loopback"),
        ] {
            assert_eq!(way(&all, url), expected, "{url}");
        }
        let one = proxies(&[("HTTP_PROXY", ""), ("all_proxy", "socks5h://r.example:3")]);
        let expected = "the proxy socks5h://r.example:3, by ALL_PROXY";
        assert_eq!(way(&one, "http://a.example/"), expected);
        assert_eq!(way(&proxies(&[]), "http://a.example/"), "directly");
        let cgi = proxies(&[("HTTP_PROXY", "p.example:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(way(&cgi, "http://a.example/"), "directly");
    }

    #[test]
    fn exceptions_are_domains_addresses_ranges_and_ports() {
        let list = "plain.example, .dot.example\t*.wild.example Upper.Example. port.example:8443,\
                    10.0.0.0/8 192.0.2.7,[2001:db8::1]:81 2001:db8:1::/48,,\n b\u{fc}cher.example";
        let all = proxies(&[("ALL_PROXY", "http://p.example"), ("NO_PROXY", list)]);
        assert_eq!(all.warnings(), [] as [String; 0]);
        for (url, entry) in [
            ("https://plain.example/", "plain.example"),
            ("https://sub.plain.example/", "plain.example"),
            ("https://plain.example./", "plain.example"),
            ("https://notplain.example/", ""),
            ("https://dot.example/", ".dot.example"),
            ("https://a.dot.example/", ".dot.example"),
            ("https://a.b.wild.example/", "*.wild.example"),
            ("https://upper.example/", "Upper.Example."),
            ("https://port.example:8443/", "port.example:8443"),
            ("https://port.example/", ""),
            ("https://10.1.2.3/", "10.0.0.0/8"),
            ("https://11.1.2.3/", ""),
            ("https://192.0.2.7:99/", "192.0.2.7"),
            ("http://[2001:db8::1]:81/", "[2001:db8::1]:81"),
            ("http://[2001:db8::1]/", ""),
            ("http://[2001:db8:1::5]/", "2001:db8:1::/48"),
            ("http://xn--bcher-kva.example/", "b\u{fc}cher.example"),
        ] {
            let expected = match entry {
                "" => "the proxy http://p.example, by ALL_PROXY".to_owned(),
                entry => format!("directly: NO_PROXY has {entry}"),
            };
            assert_eq!(way(&all, url), expected, "{url}");
        }
        let none = proxies(&[("ALL_PROXY", "http://p.example"), ("no_proxy", "*")]);
        for url in ["https://a.example/", "https://192.0.2.1/"] {
            assert_eq!(way(&none, url), "directly: NO_PROXY has *");
        }
    }

    #[test]
    fn what_is_ignored_has_a_warning() {
        for entry in [
            "10.*",
            "10.1",
            "a*.example",
            "*example",
            "a.example:x",
            "https://a.example/",
        ] {
            let found = proxies(&[("NO_PROXY", entry)]);
            let expected = format!("NO_PROXY: {entry:?} matches no host");
            let [warning] = found.warnings() else {
                panic!("{entry}: {found:?}")
            };
            assert!(warning.starts_with(&expected), "{warning}");
        }
        for url in [
            "ftp://user:hush@p.example",
            "http://user:hush@",
            "http://",
            ":3128",
        ] {
            let found = proxies(&[("HTTPS_PROXY", url)]);
            let [warning] = found.warnings() else {
                panic!("{url}: {found:?}")
            };
            assert!(
                warning.starts_with("HTTPS_PROXY is not the URL of a proxy"),
                "{warning}"
            );
            assert!(!format!("{found:?}").contains("hush"));
        }
    }
}
