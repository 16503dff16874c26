//! Tests of names, addresses in URLs, and proxies.

use std::collections::BTreeMap;

use super::*;

fn proxies(variables: &[(&str, &str)]) -> Proxies {
    let variables = variables.iter();
    let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Proxies::of(&variables.collect::<BTreeMap<_, _>>())
}

/// Resolves every name to these addresses.
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
async fn denied_addresses_of_a_name_are_removed() {
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
async fn a_name_without_an_allowed_address_is_an_error() {
    let policy = denying(&["10.0.0.0/8"]);
    for (name, found, expected) in [
        (
            "a.example",
            &["10.0.0.1", "169.254.169.254"][..],
            "10.0.0.1 is denied by 10.0.0.0/8 in network.deny",
        ),
        ("a.example", &["fe80::1"], "fe80::/10: link-local"),
        ("169.254.169.254", &[], "169.254.0.0/16: link-local"),
        ("[fe80::1]", &[], "fe80::/10: link-local"),
        ("a.example", &[], "has no address"),
    ] {
        let lookup = GuardedLookup::new(policy.clone(), Arc::new(Fixed(addresses(found))));
        let error = lookup.resolve(name.parse().unwrap()).await.err().unwrap();
        let error = error.downcast_ref::<ResolveError>().unwrap();
        assert_eq!(error.name(), name);
        let error = match error.source() {
            Some(source) => source.to_string(),
            None => error.to_string(),
        };
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn addresses_in_urls_are_checked_in_every_notation() {
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
        let proxies = proxies(&[("ALL_PROXY", proxy)]);
        let second = Duration::from_secs(1);
        let destination = Destination::new(&url.parse().unwrap(), &proxies, second);
        let verdict = destination.judge(&policy);
        match expected {
            None => assert_eq!(verdict, Ok(()), "{url}"),
            Some(expected) => {
                let error = verdict.unwrap_err();
                assert!(error.contains(expected), "{url}: {error}");
                assert!(error.contains("network.allow"), "{error}");
                assert!(!error.contains("hush"), "{error}");
            }
        }
    }
}

#[test]
fn a_used_proxy_is_in_the_description() {
    let proxies = proxies(&[
        ("HTTPS_PROXY", "http://p.example:3128"),
        ("NO_PROXY", "near.example"),
    ]);
    let shown = |url: &str, proxies: &Proxies| {
        let second = Duration::from_secs(1);
        Destination::new(&url.parse().unwrap(), proxies, second).to_string()
    };
    assert_eq!(
        shown("https://a.example/?x=hush", &proxies),
        "a.example:443 through the proxy http://p.example:3128"
    );
    for (url, host) in [
        ("http://a.example/", "a.example:80"),
        ("https://b.near.example/", "b.near.example:443"),
    ] {
        assert_eq!(shown(url, &proxies), host);
    }
    assert_eq!(
        shown("https://a.example/", &Proxies::default()),
        "a.example:443"
    );
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

#[test]
fn a_token_without_a_name_is_hidden() {
    for query in ["Hush12", "a=1&Hush12", "a=1&Hush12==", "a=Hush12=="] {
        let url = Url::parse(&format!("https://a.example/x?{query}")).unwrap();
        assert!(parts(&url).iter().any(|part| part == "Hush12"), "{query}");
    }
}
