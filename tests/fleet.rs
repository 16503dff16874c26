//! The daemon with its state in PostgreSQL: outages of the database, and a second process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

#[path = "fleet/chaos.rs"]
mod chaos;
#[path = "fleet/isolated.rs"]
mod isolated;
#[path = "fleet/load.rs"]
mod load;
#[path = "fleet/power.rs"]
mod power;

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use axum::http::StatusCode;
use common::{
    Daemon, Endpoint, Home, Postgres, Run as _, Settings, Webhook, skip, wait_until, xml,
};
use project_webhooks::receiver::Reply;
use rustix::process::Signal;

/// Starts a server, or says that the test is skipped.
fn server(test: &str) -> Option<Postgres> {
    let server = Postgres::start();
    if server.is_none() {
        skip(test, "needs Debian's package postgresql");
    }
    server
}

fn settings(endpoint: &Endpoint, connection: &str, lease: &str) -> Settings {
    Settings::all_to(endpoint)
        .repository("name: models")
        .top(&format!(
            "store: {{ postgres: \"{connection}\", lease: {lease} }}"
        ))
}

#[test]
fn everything_works_with_postgresql_and_an_outage_loses_nothing() {
    let Some(server) = server("everything_works_with_postgresql_and_an_outage_loses_nothing")
    else {
        return;
    };
    let connection = server.connection(&server.database());
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, &connection, "10s"));
    let checked = home.command(&["check"]);
    assert!(
        checked.contains("store       PostgreSQL without TLS, host=127.0.0.1"),
        "{checked}"
    );
    assert!(checked.contains(" as the repository models"), "{checked}");
    for n in 0..20 {
        fs::create_dir(home.at(&format!("empty-{n}"))).unwrap();
    }
    let daemon = home.start();
    let one = xml("Orders", "id-1", "one");
    home.write("sales/orders/project.xml", &one);
    assert_eq!(
        endpoint.take_events(2),
        ["project-import", "project-import-any"]
    );
    home.write("sales/orders/published/v1/project.xml", &one);
    assert_eq!(endpoint.take_events(1), ["project-publish"]);
    home.write("sales/orders/snapshots/s1.xml", &one);
    assert_eq!(endpoint.take_events(1), ["snapshot-create"]);
    home.replace("sales/orders/project.xml", &xml("Orders", "id-1", "two"));
    daemon.fence();
    home.replace("sales/orders/project.xml", &one);
    endpoint.wait_for_one("the restore", |came| came.event == "snapshot-restore");
    endpoint.take();
    home.remove_all("sales/orders");
    let mut events = endpoint.take_events(2);
    events.sort();
    assert_eq!(events, ["project-delete", "project-delete-and-unpublish"]);
    // The listings read the database, and an operator's command reaches the daemon.
    let listed = home.json(&["deliveries", "list", "--state", "delivered", "--limit", "1"]);
    let id = listed[0]["id"].as_i64().unwrap().to_string();
    home.command(&["deliveries", "redeliver", &id]);
    endpoint.wait_for(1);
    endpoint.take();
    // A callback whose answer is not recorded yet would be sent again.
    wait_until("the recorded answer", || {
        let pending = home.json(&["deliveries", "list", "--state", "pending"]);
        pending.as_array().unwrap().is_empty().then_some(())
    });

    server.crash();
    home.write("sales/late/project.xml", &xml("Late", "id-2", "one"));
    daemon.wait_log("the trouble", |entry| {
        entry
            .message()
            .contains("inference waits until the store works again")
    });
    for n in 0..20 {
        fs::remove_dir(home.at(&format!("empty-{n}"))).unwrap();
    }
    server.start_again();
    assert_eq!(
        endpoint.take_events(2),
        ["project-import", "project-import-any"]
    );
    daemon.wait_message("the store works again", 1);
    let entries = daemon.entries();
    let warnings = entries
        .iter()
        .filter(|entry| entry.field("level") == "WARN");
    let warnings: Vec<&str> = warnings.map(|entry| entry.message()).collect();
    assert!(warnings.len() < 10, "{warnings:#?}");
    assert!(daemon.terminate().success());
    // Nothing is inferred twice.
    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), Vec::<String>::new());
    assert_eq!(endpoint.n(), 0);
}

#[test]
fn wrong_settings_of_the_database_end_the_start_with_a_clear_error() {
    let test = "wrong_settings_of_the_database_end_the_start_with_a_clear_error";
    let Some(server) = server(test) else { return };
    server.sql("postgres", "CREATE ROLE locked LOGIN PASSWORD 'right'");
    let endpoint = Endpoint::new();
    let absent = server.connection("absent");
    let locked = server
        .connection("postgres")
        .replace("user=postgres", "user=locked");
    let password = "password: { env: PW }";
    for (connection, more, password, error) in [
        (
            absent,
            password,
            "right",
            "database \"absent\" does not exist",
        ),
        (
            locked.clone(),
            password,
            "wrong",
            "password authentication failed for user \"locked\"",
        ),
        (locked.clone(), "tls: off", "", "password missing"),
        (
            locked,
            "tls: require, password: { env: PW }",
            "right",
            "server does not support TLS",
        ),
    ] {
        let home = Home::new(
            &Settings::all_to(&endpoint)
                .top(&format!("store: {{ postgres: \"{connection}\", {more} }}")),
        );
        let mut run = Daemon::command(&home);
        let ended = run.env("PW", password).stdin(Stdio::null()).run().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(error), "{said}");
        assert!(
            said.contains("cannot use the PostgreSQL database"),
            "{said}"
        );
    }
}

#[test]
fn a_second_process_takes_over_and_gives_back() {
    let Some(server) = server("a_second_process_takes_over_and_gives_back") else {
        return;
    };
    let connection = server.connection(&server.database());
    let endpoint = Endpoint::new();
    let settings = settings(&endpoint, &connection, "2s");
    let (home, other) = (Home::new(&settings), Home::new(&settings));
    let config = fs::read_to_string(other.config()).unwrap();
    let root = home.at("").display().to_string();
    fs::write(other.config(), config.replace("./repository", &root)).unwrap();
    let import = |project: &str| {
        home.write(
            &format!("sales/{project}/project.xml"),
            &xml(project, &format!("id-{project}"), "one"),
        );
        // A delivery whose result was not recorded before a process was stopped arrives twice.
        wait_until("both events", || {
            let all = endpoint.all();
            let ours = all
                .iter()
                .filter(|one| one.parameter("projectName") == Some(project));
            (ours.map(|one| &one.id).collect::<BTreeSet<_>>().len() == 2).then_some(())
        });
    };
    let first = home.start();
    let second = Daemon::launch(&other, Daemon::command(&other));
    let waits = "watches the repository models";
    second.wait_message(waits, 1);
    import("one");
    // Stopped for longer than its lease.
    first.signal(Signal::STOP);
    second.wait_ready();
    import("two");
    first.signal(Signal::CONT);
    first.wait_message(waits, 1);
    import("three");
    // Given back at once; the standby goes on where the other one ended.
    assert!(second.terminate().success());
    first.wait_message("ready", 2);
    import("four");
    // Killed: the next one waits for the end of the lease.
    first.kill();
    let third = other.start();
    import("five");
    assert!(third.terminate().success());
    let events = home.json(&["events", "list", "--limit", "100"]);
    assert_eq!(events.as_array().unwrap().len(), 10);
    let ids: BTreeSet<String> = endpoint.all().into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), 10);
}

#[test]
fn a_signal_during_the_end_of_a_lost_lease_ends_the_process() {
    let test = "a_signal_during_the_end_of_a_lost_lease_ends_the_process";
    let Some(server) = server(test) else {
        return;
    };
    let connection = server.connection(&server.database());
    let endpoint = Endpoint::answering(|_| Reply {
        delay: Duration::from_secs(3_600),
        ..Reply::status(StatusCode::OK)
    });
    let mut settings = settings(&endpoint, &connection, "2s");
    // The request is under way for as long as the test takes.
    let webhook = Webhook::new("all", &endpoint.url()).with("timeout: 1h");
    settings.webhooks = vec![webhook];
    let (home, other) = (Home::new(&settings), Home::new(&settings));
    let config = fs::read_to_string(other.config()).unwrap();
    let root = home.at("").display().to_string();
    fs::write(other.config(), config.replace("./repository", &root)).unwrap();
    let mut first = home.start();
    let second = Daemon::launch(&other, Daemon::command(&other));
    second.wait_message("watches the repository models", 1);
    home.write("sales/one/project.xml", &xml("one", "id-one", "one"));
    endpoint.wait_for(1);
    first.signal(Signal::STOP);
    second.wait_ready();
    first.signal(Signal::CONT);
    // Its request has no answer yet.
    first.wait_message("another process took over: waiting for requests", 1);
    first.signal(Signal::TERM);
    assert_eq!(first.wait_exit().code(), Some(0));
    assert_eq!(first.n_messages("stopping immediately after a signal"), 1);
}
