//! Sending: requests and their bodies, the client against good and hostile receivers, and with the
//! real binary TLS, proxies and the network policy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod answers;
mod authorities;
mod authorization;
mod bodies;
mod certificates;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod harness;
mod hidden;
mod hostile;
mod hostile_http_2;
mod proxy;
mod receiver;
mod requests;
mod signatures;
mod tls;

use std::collections::BTreeMap;
use std::process::Command;

use common::{Daemon, Endpoint, Home, Run as _, Settings, Webhook, wait_until, xml};
use proxy::Proxy;
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use serde_json::Value;
use tls::Authority;

/// A webhook of one event, with one attempt.
fn webhook(name: &str, url: &str) -> Webhook {
    Webhook::new(name, url)
        .events("[project-import-any]")
        .schedule("[0s]")
}

/// Removes the proxies of this machine from the environment of a command.
fn without_proxies(mut command: Command) -> Command {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

/// Starts the daemon with these environment variables and without any other proxy.
fn start<'a>(home: &'a Home, variables: &[(&str, &str)]) -> Daemon<'a> {
    let mut command = without_proxies(Daemon::command(home));
    command.envs(variables.iter().copied());
    let daemon = Daemon::launch(home, command);
    daemon.wait_ready();
    daemon
}

/// Runs a command and returns its output.
fn printed(home: &Home, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
        .arg("--config")
        .arg(home.config())
        .args(arguments)
        .env("NO_COLOR", "1")
        .run()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Imports a project and waits until every delivery is done.
///
/// Returns the state of each, and the output of `deliveries show`.
fn import(home: &Home, n_webhooks: usize) -> BTreeMap<String, (String, String)> {
    home.write("sales/orders/project.xml", &xml("Orders", "", "one"));
    let done = wait_until("every delivery to be done", || {
        let listed = printed(home, &["deliveries", "list", "--json"]);
        let listed: Vec<Value> = serde_json::from_str(&listed).ok()?;
        let is_done = |one: &Value| one["state"] == "delivered" || one["state"] == "dead";
        (listed.len() == n_webhooks && listed.iter().all(is_done)).then_some(listed)
    });
    done.into_iter()
        .map(|one| {
            let id = one["id"].to_string();
            let shown = printed(home, &["deliveries", "show", &id]);
            let text = |key: &str| one[key].as_str().unwrap().to_owned();
            (text("webhook"), (text("state"), shown))
        })
        .collect()
}

#[test]
fn tls_errors_are_shown_with_the_delivery() {
    let authority = Authority::new("one");
    let stranger = Authority::new("two");
    let good = tls::Server::start(&authority.issue("localhost", 2100, ServerAuth), None);
    let expired = tls::Server::start(&authority.issue("localhost", 2020, ServerAuth), None);
    let other = tls::Server::start(&authority.issue("other.example", 2100, ServerAuth), None);
    let unknown = tls::Server::start(&stranger.issue("localhost", 2100, ServerAuth), None);
    let guarded = tls::Server::start(
        &authority.issue("localhost", 2100, ServerAuth),
        Some(&authority),
    );
    let to = |name: &str, server: &tls::Server| {
        webhook(name, &server.url("localhost")).with("tls: { ca: ca.pem }")
    };
    let home = Home::new(&Settings::of([
        to("good", &good),
        webhook("without-ca", &good.url("localhost")),
        to("expired", &expired),
        to("wrong-host", &other),
        to("unknown-issuer", &unknown),
        to("guarded", &guarded),
    ]));
    std::fs::write(home.beside("ca.pem"), authority.pem()).unwrap();
    let _daemon = start(&home, &[]);
    let shown = import(&home, 6);
    for (name, server, expected) in [
        ("good", &good, ""),
        (
            "without-ca",
            &good,
            "is from an unknown issuer; to trust it, add the issuer's certificate to \
             tls.ca",
        ),
        ("expired", &expired, "expired on 2020-01-01T00:00:00Z"),
        (
            "wrong-host",
            &other,
            "is not valid for this host name, only for other.example",
        ),
        ("unknown-issuer", &unknown, "is from an unknown issuer"),
        (
            "guarded",
            &guarded,
            "requires a client certificate; set tls.client_cert and tls.client_key",
        ),
    ] {
        let (state, text) = &shown[name];
        let is_good = expected.is_empty();
        assert_eq!(state, if is_good { "delivered" } else { "dead" }, "{text}");
        if !is_good {
            let host = format!("localhost:{} {expected}", server.port());
            assert!(text.contains(&host), "{name}: {text}");
        }
    }
}

#[test]
fn an_http_proxy_of_the_environment_is_used() {
    let endpoint = Endpoint::new();
    let authority = Authority::new("one");
    let server = tls::Server::start(&authority.issue("catalog.example", 2100, ServerAuth), None);
    let proxy = Proxy::http(endpoint.port(), server.port());
    let home = Home::new(&Settings::of([
        webhook("plain", "http://catalog.example/hook?x=1"),
        webhook("tunnel", "https://catalog.example/hook").with("tls: { ca: ca.pem }"),
        webhook("loopback", &endpoint.url()),
        webhook("near", "http://receiver.near.invalid/"),
    ]));
    std::fs::write(home.beside("ca.pem"), authority.pem()).unwrap();
    let url = proxy.url("http", "us%40er:hush@");
    let _daemon = start(
        &home,
        &[
            ("HTTP_PROXY", &url),
            ("https_proxy", &url),
            ("NO_PROXY", "10.0.0.0/8, .near.invalid"),
        ],
    );
    let shown = import(&home, 4);
    for name in ["plain", "tunnel", "loopback"] {
        assert_eq!(shown[name].0, "delivered", "{}", shown[name].1);
    }
    let (_, near) = &shown["near"];
    let expected = "cannot resolve the host name of receiver.near.invalid:80: ";
    assert!(near.contains(expected), "{near}");
    let mut heads = proxy.heads();
    heads.sort();
    let [tunnel, plain] = heads.as_slice() else {
        panic!("{heads:?}")
    };
    assert!(tunnel.starts_with("CONNECT catalog.example:443 HTTP/1.1\r\n"));
    assert!(plain.starts_with("POST http://catalog.example/hook?x=1 HTTP/1.1\r\n"));
    for head in heads {
        let head = head.to_lowercase();
        assert!(head.contains("proxy-authorization: basic dxnazxi6ahvzaa=="));
    }
    assert!(!printed(&home, &["deliveries", "list", "--json"]).contains("hush"));
}

#[test]
fn no_proxy_is_read_with_wildcards_ports_and_blanks() {
    let endpoint = Endpoint::new();
    let proxy = Proxy::http(endpoint.port(), 0);
    let direct = [
        ("wildcard", "http://receiver.wild.invalid/"),
        ("port", "http://port.invalid:8080/"),
        ("blank", "http://blank.invalid/"),
        ("tab", "http://sub.tab.invalid/"),
    ];
    let proxied = [
        ("other-port", "http://port.invalid:8081/"),
        ("other", "http://notblank.invalid/"),
    ];
    let home = Home::new(&Settings::of(
        direct
            .iter()
            .chain(&proxied)
            .map(|(name, url)| webhook(name, url)),
    ));
    let variables = [
        ("HTTP_PROXY", proxy.url("http", "user:hush@")),
        (
            "NO_PROXY",
            "*.wild.invalid,port.invalid:8080 blank.invalid\ttab.invalid,10.*".to_owned(),
        ),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let daemon = start(&home, &variables);
    let shown = import(&home, direct.len() + proxied.len());
    for (name, url) in direct {
        let host = url.split('/').nth(2).unwrap();
        let expected = format!("cannot resolve the host name of {host}");
        let (_, text) = &shown[name];
        assert!(text.contains(&expected), "{name}: {text}");
    }
    for (name, _) in proxied {
        assert_eq!(shown[name].0, "delivered", "{}", shown[name].1);
    }
    let warning = "NO_PROXY: \"10.*\" matches no host";
    assert_eq!(daemon.n_messages(warning), 1);

    // `check` shows the way of each webhook, without the password of the proxy.
    let mut command = without_proxies(Command::new(env!("CARGO_BIN_EXE_project-webhooks")));
    command.arg("--config").arg(home.config()).arg("check");
    let output = command.envs(variables).run().unwrap();
    let checked = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "  via       directly: NO_PROXY has *.wild.invalid\n".to_owned(),
        format!(
            "  via       the proxy http://127.0.0.1:{}, by HTTP_PROXY\n",
            proxy.port()
        ),
        warning.to_owned(),
    ] {
        assert!(checked.contains(&expected), "{expected} not in {checked}");
    }
    assert!(!checked.contains("hush"), "{checked}");
}

#[test]
fn a_proxy_that_cannot_be_used_is_reported() {
    let home = Home::new(&Settings::of([webhook("plain", "http://catalog.example/")]));
    for (url, expected) in [
        (
            "ftp://user:hush@p.example",
            "HTTP_PROXY is not the URL of a proxy",
        ),
        ("http://user:hush@", "HTTP_PROXY is not the URL of a proxy"),
    ] {
        let mut command = without_proxies(Command::new(env!("CARGO_BIN_EXE_project-webhooks")));
        command.arg("--config").arg(home.config()).arg("check");
        let output = command.env("HTTP_PROXY", url).run().unwrap();
        let checked = String::from_utf8(output.stdout).unwrap();
        assert!(checked.contains(expected), "{url}: {checked}");
        assert!(!checked.contains("hush"), "{checked}");
    }
}

#[test]
fn a_socks_proxy_of_the_environment_is_used() {
    let endpoint = Endpoint::new();
    let authority = Authority::new("one");
    let server = tls::Server::start(&authority.issue("catalog.example", 2100, ServerAuth), None);
    let proxy = Proxy::socks5(endpoint.port(), server.port());
    let home = Home::new(&Settings::of([
        webhook("plain", "http://catalog.example/hook"),
        webhook("tunnel", "https://catalog.example/hook").with("tls: { ca: ca.pem }"),
        webhook("address", "http://192.0.2.1:81/"),
        webhook("metadata", "http://169.254.169.254/"),
        webhook("loopback", &endpoint.url()),
    ]));
    std::fs::write(home.beside("ca.pem"), authority.pem()).unwrap();
    let _daemon = start(&home, &[("ALL_PROXY", &proxy.url("socks5h", ""))]);
    let shown = import(&home, 5);
    for name in ["plain", "tunnel", "loopback", "address"] {
        assert_eq!(shown[name].0, "delivered", "{}", shown[name].1);
    }
    let (_, metadata) = &shown["metadata"];
    assert!(
        metadata.contains("169.254.0.0/16: link-local"),
        "{metadata}"
    );
    let mut heads = proxy.heads();
    heads.sort();
    assert_eq!(
        heads,
        ["192.0.2.1:81", "catalog.example:443", "catalog.example:80"]
    );
}

#[test]
fn an_unreachable_proxy_is_in_the_error() {
    let reserved = Endpoint::reserved();
    let closed = reserved.address();
    let home = Home::new(&Settings::of([
        webhook("plain", "http://catalog.example/"),
        webhook("tunnel", "https://catalog.example/"),
    ]));
    let url = format!("http://user:hush@{closed}");
    let _daemon = start(&home, &[("all_proxy", &url)]);
    let shown = import(&home, 2);
    for (name, port) in [("plain", 80), ("tunnel", 443)] {
        let expected = format!(
            "connection refused (catalog.example:{port} through the proxy http://{closed})"
        );
        let (_, text) = &shown[name];
        assert!(text.contains(&expected), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }
}

#[test]
fn a_denied_address_is_reported_and_a_reload_allows_it() {
    let endpoint = Endpoint::new();
    let proxy = Proxy::http(endpoint.port(), 0);
    let settings = |network: &str| {
        let hearing = |name, url: &str| Webhook::new(name, url).events("[project-import-any]");
        Settings::of([
            hearing("direct", &endpoint.url()),
            hearing("proxied", "http://catalog.example/"),
        ])
        .top(&format!("network: {network}"))
    };
    let home = Home::new(&settings("{ deny: [127.0.0.0/8] }"));
    let daemon = start(&home, &[("HTTP_PROXY", &proxy.url("http", ""))]);
    let checked = printed(&home, &["check"]);
    assert!(checked.contains("  deny      127.0.0.0/8\n"), "{checked}");

    home.write("sales/orders/project.xml", &xml("Orders", "", "one"));
    let denied = "the address 127.0.0.1 is denied by 127.0.0.0/8 in network.deny";
    for who in [
        format!("127.0.0.1:{}", endpoint.port()),
        format!("the proxy http://127.0.0.1:{}", proxy.port()),
    ] {
        let expected = format!("cannot connect to {who}: {denied}");
        daemon.wait_log(&expected, |entry| entry.message().contains(&expected));
    }
    assert_eq!((endpoint.n(), proxy.heads().len()), (0, 0));

    home.configure(&settings("{ deny: [127.0.0.0/8], allow: [127.0.0.1] }"));
    assert!(daemon.reload());
    endpoint.wait_for(2);
    assert_eq!(proxy.heads().len(), 1);
}

#[test]
fn json_has_the_text_that_the_parameters_were_read_from() {
    let endpoint = Endpoint::new();
    let json = webhook("json", &endpoint.url()).with("format: json");
    let home = Home::new(&Settings::of([json]));
    let _daemon = start(&home, &[]);
    let document = |encoding: &str, name: &str| {
        format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>\n<schema name=\"{name}\"/>\n")
    };
    // U+0085 to U+009F exist in Latin-1 only, the euro sign in windows-1252 only.
    let latin = document("ISO-8859-1", "gr\u{fc}\u{80}\u{9f}");
    let windows = document("windows-1252", "gr\u{fc}\u{20ac}");
    let utf16 = document("UTF-16", "gr\u{fc}\u{20ac}\u{1f600}");
    let units = || utf16.encode_utf16();
    let windows_bytes = windows.chars().map(|c| match c {
        '\u{20ac}' => 0x80,
        c => u8::try_from(c).unwrap(),
    });
    for (project, bytes, text) in [
        ("latin", latin.chars().map(|c| c as u8).collect(), &latin),
        ("windows", windows_bytes.collect::<Vec<u8>>(), &windows),
        ("big", units().flat_map(u16::to_be_bytes).collect(), &utf16),
        (
            "little",
            units().flat_map(u16::to_le_bytes).collect(),
            &utf16,
        ),
    ] {
        std::fs::create_dir_all(home.at(&format!("sales/{project}"))).unwrap();
        std::fs::write(home.at(&format!("sales/{project}/project.xml")), bytes).unwrap();
        let name = text.split('"').nth(5).unwrap();
        let received = endpoint.wait_for_one(project, |one| {
            let body: Value = serde_json::from_slice(&one.body).unwrap();
            body["payload"] == **text
        });
        assert_eq!(received.parameter("projectName"), Some(name), "{project}");
        endpoint.take();
    }
}
