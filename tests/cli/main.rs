//! The commands of the real program: without state, with a stopped daemon and with a running one.
//! Waits have a deadline and no fixed time.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test owns its clock and its threads, and fails by panicking"
)]

#[path = "../common/patience.rs"]
mod patience;

mod deliveries;
mod demo;
mod follow;
mod found;
mod init;
mod listen;
mod printed;
mod samples;
mod shells;
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use support::{Place, project, webhook};

#[test]
fn before_the_first_start_commands_report_that_nothing_is_recorded() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    place.write("sales/orders/project.xml", &project("Orders"));
    let status = place.run(&["status"]).succeeded();
    assert!(status.starts_with("stopped: "), "{status}");
    assert!(status.contains("no daemon has used this state"), "{status}");
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["running"], false);
    assert_eq!(status["webhooks"][0]["name"], "catalog");
    // For health checks. tests/packaging runs it with a daemon.
    let status = place.run(&["status", "--exit-code"]).failed(1);
    assert!(status.starts_with("stopped: "), "{status}");

    let scan = place.run(&["scan"]).succeeded();
    assert!(scan.contains("adopted: 1 definition"), "{scan}");
    for command in [
        &["events"][..],
        &["deliveries"],
        &["deliveries", "redeliver", "1"],
        &["webhooks", "disable", "catalog"],
    ] {
        let said = place.run(command).failed(1);
        assert!(said.contains("there is no state in"), "{said}");
    }
    let listed = place.run(&["webhooks", "--json"]).json();
    assert_eq!(listed[0]["standing"], "on");
    // The commands have created nothing.
    assert!(!place.path("state").exists());
}

#[test]
fn a_first_start_that_reports_is_scanned_as_it_would_be_reported() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let config = fs::read_to_string(place.path("config.yaml")).unwrap();
    let config = config.replace("settle: 100ms", "settle: 100ms, on_first_start: report");
    fs::write(place.path("config.yaml"), config).unwrap();
    place.write("sales/orders/project.xml", &project("Orders"));
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    place.write("sales/orders/snapshots/v2.xml", "<schema");
    let scan = place.run(&["scan", "--json"]).json();
    let events: Vec<&str> = scan["changes"][0]["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        ["project-import", "project-import-any", "snapshot-create"]
    );
    let event = &scan["changes"][0]["events"][2];
    assert_eq!(event["webhooks"][0], "catalog");
    assert_eq!(event["parameters"]["versionTag"], "v1");
    assert_eq!(
        scan["incomplete"][0]["path"],
        "sales/orders/snapshots/v2.xml"
    );
}

#[test]
fn an_operators_shell_without_the_services_credentials_can_ask() {
    let place = Place::new(
        "  - { name: a, events: \"*\", url: \"http://127.0.0.1:9/\", secret: { credential: c } }\n  \
         - { name: b, events: \"*\", url: \"https://127.0.0.1:9/\", \
         tls: { client_cert: unreadable.pem, client_key: unreadable.pem } }\n",
    );
    place.run(&["status"]).succeeded();
    place.run(&["scan"]).succeeded();
    // A command that sends needs them.
    let said = place.run(&["webhooks", "test", "a"]).failed(78);
    assert!(said.contains("CREDENTIALS_DIRECTORY"), "{said}");
    assert!(said.contains("unreadable.pem"), "{said}");
}

#[test]
fn the_exit_status_distinguishes_usage_from_configuration() {
    let place = Place::new("  - { name: a, event: nonsense, url: \"http://127.0.0.1:9/\" }\n");
    for command in ["run", "scan", "status", "events", "deliveries", "webhooks"] {
        let said = place.run(&[command]).failed(78);
        assert!(
            said.contains("config.yaml:5:23: webhooks[0].event"),
            "{said}"
        );
    }
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    for arguments in [
        &["nonsense"][..],
        &["deliveries", "redeliver"],
        &["deliveries", "purge", "--dry-run"],
        &["deliveries", "cancel", "--state", "dead"],
        &["deliveries", "list", "--state", "lost"],
        &["events", "--since", "yesterday"],
        &["events", "--event", "saved"],
    ] {
        place.run(arguments).failed(2);
    }
}

#[test]
fn a_running_daemon_is_shown_while_the_state_cannot_be_read() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let _daemon = place.daemon();
    // The same state directory, and a database that does not answer.
    let config = fs::read_to_string(place.path("config.yaml")).unwrap();
    let store = "store: { postgres: \"host=127.0.0.1 port=9 dbname=x user=x\" }\n";
    fs::write(place.path("config.yaml"), format!("{config}{store}")).unwrap();
    let status = place.run(&["status"]).succeeded();
    assert!(status.starts_with("running: process "), "{status}");
    assert!(
        status.contains("cannot read the recorded state: "),
        "{status}"
    );
    assert!(!status.contains("catalog"), "no counts: {status}");
    place.run(&["status", "--exit-code"]).failed(1);
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["running"], true);
    assert!(status["stateError"].is_string(), "{status}");
    // Without a daemon, there is nothing to show.
    fs::remove_file(place.path("state/control.sock")).unwrap();
    let said = place.run(&["status"]).failed(1);
    assert!(said.contains("cannot be used now"), "{said}");
}

#[test]
fn a_daemon_that_cannot_be_reached_is_told_from_one_that_does_not_answer() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    // As for a user who may not enter the state directory, nothing is sent.
    let socket = place.path("state/control.sock");
    fs::create_dir(place.path("state")).unwrap();
    symlink("control.sock", &socket).unwrap();
    for arguments in [&["reload"][..], &["accept", "--yes"]] {
        let said = place.run(arguments).failed(1);
        assert!(said.contains("cannot connect to the daemon"), "{said}");
        assert!(!said.contains("did not answer"), "{said}");
    }
    fs::remove_file(&socket).unwrap();
    let _silent = UnixListener::bind(&socket).unwrap();
    let status = place.run(&["status"]).succeeded();
    assert!(status.contains("no answer within 5s"), "{status}");
}
