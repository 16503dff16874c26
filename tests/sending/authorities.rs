//! Certificate authorities with the real binary: bundles, `tls.ca_only`, and a machine without any.

use std::fmt::Write as _;
use std::process::Command;

use rcgen::ExtendedKeyUsagePurpose::ServerAuth;

use crate::common::{Endpoint, Home, Run as _, Settings, Webhook};
use crate::tls::{Authority, Server};
use crate::{start, webhook};

/// Runs a command with these environment variables. Returns its output and whether it succeeded.
fn run(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
        .arg("--config")
        .arg(home.config())
        .args(arguments)
        .envs(variables.iter().copied())
        .run()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text, output.status.success())
}

fn settings(server: &Server, tls: &str) -> Settings {
    let url = server.url("localhost");
    Settings::of([Webhook::new("a", &url).with(&format!("tls: {{ {tls} }}"))])
}

#[test]
fn a_whole_bundle_is_read_without_its_damaged_certificates() {
    let authority = Authority::new("wanted");
    let server = Server::start(&authority.issue("localhost", 2100, ServerAuth), None);
    // As large as the bundle of certifi, with a comment in Latin-1 and damaged sections.
    let mut bundle = b"# Autorit\xe9s\n".to_vec();
    let mut text = String::new();
    for number in 0..600 {
        let _ = writeln!(text, "# {number}\n{}", Authority::new("other").pem());
    }
    text.push_str("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    text.push_str("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    // The end of this section is missing.
    text.push_str("-----BEGIN CERTIFICATE-----\nMIIB\n");
    text.push_str(&authority.pem());
    bundle.extend_from_slice(text.as_bytes());
    assert!(bundle.len() > 290_000, "{}", bundle.len());

    let home = Home::new(&settings(&server, "ca: ca.pem"));
    std::fs::write(home.beside("ca.pem"), &bundle).unwrap();
    let (checked, is_valid) = run(&home, &["check"], &[]);
    assert!(is_valid, "{checked}");
    let expected = "webhooks[0].tls.ca: 3 certificates are ignored: certificate 601 on line ";
    assert!(checked.contains(expected), "{checked}");
    let (sent, is_delivered) = run(&home, &["webhooks", "test", "a"], &[]);
    assert!(is_delivered, "{sent}");
}

#[test]
fn a_webhook_trusts_only_its_own_authorities_if_asked_to() {
    let (own, system) = (Authority::new("own"), Authority::new("system"));
    let server = Server::start(&system.issue("localhost", 2100, ServerAuth), None);
    let home = Home::new(&settings(&server, "ca: ca.pem"));
    std::fs::write(home.beside("ca.pem"), own.pem()).unwrap();
    std::fs::write(home.beside("system.pem"), system.pem()).unwrap();
    let path = home.beside("system.pem");
    let none = tempfile::tempdir().unwrap();
    let variables = [
        ("SSL_CERT_FILE", path.to_str().unwrap()),
        ("SSL_CERT_DIR", none.path().to_str().unwrap()),
    ];
    let (sent, is_delivered) = run(&home, &["webhooks", "test", "a"], &variables);
    assert!(is_delivered, "{sent}");

    home.configure(&settings(&server, "ca: ca.pem, ca_only: true"));
    let (sent, is_delivered) = run(&home, &["webhooks", "test", "a"], &variables);
    assert!(!is_delivered, "{sent}");
    assert!(sent.contains("is from an unknown issuer"), "{sent}");
    let (checked, _) = run(&home, &["check"], &variables);
    assert!(
        checked.contains("  auth      tls ca, ca_only\n"),
        "{checked}"
    );
}

#[test]
fn a_machine_without_ca_certificates_is_reported() {
    let endpoint = Endpoint::new();
    let authority = Authority::new("one");
    let server = Server::start(&authority.issue("localhost", 2100, ServerAuth), None);
    let empty = tempfile::tempdir().unwrap();
    let none = empty.path().to_str().unwrap();
    let no_roots = [("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", none)];
    let warning = "this machine has no CA certificates";
    let plain = webhook("plain", &endpoint.url());
    let own = webhook("own", &server.url("localhost")).with("tls: { ca: ca.pem }");
    let needy = webhook("needy", &server.url("localhost"));
    let home = Home::new(&Settings::of([plain, own]));
    std::fs::write(home.beside("ca.pem"), authority.pem()).unwrap();
    let check = || {
        let (checked, is_valid) = run(&home, &["check"], &no_roots);
        assert!(is_valid, "{checked}");
        checked
    };
    // No webhook needs the machine's certificates: one is plain, the other has its own authority.
    assert!(!check().contains(warning));
    let daemon = start(&home, &no_roots);
    assert_eq!(daemon.n_messages(warning), 0);
    // A reload to one that does warns, and names it.
    home.configure(&Settings::of([needy]));
    assert!(check().contains(warning));
    assert!(daemon.reload());
    let wait = |daemon: &crate::common::Daemon<'_>| {
        daemon.wait_log(warning, |entry| {
            entry.message().contains(warning) && entry.message().contains("needy")
        });
    };
    wait(&daemon);
    daemon.terminate();
    // So does a start.
    wait(&start(&home, &no_roots));
}
