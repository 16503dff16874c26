//! Tests the four events that a webhook has to name, with the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use common::{Daemon, Endpoint, Home, Settings, Webhook, xml};
use project_webhooks::domain::event::EventKind;
use project_webhooks::receiver::Received;

const NAMED: &str = "[project-save, project-move, project-unpublish, snapshot-delete]";

/// Writes a project with a published version and a snapshot.
fn write_project(home: &Home, first: &str) {
    home.write("sales/orders/project.xml", first);
    home.write("sales/orders/published/v1/project.xml", first);
    home.write("sales/orders/snapshots/s1.xml", first);
}

/// The callbacks since the last call: event, version tag, former directory, and payload.
fn came(
    daemon: &Daemon<'_>,
    endpoint: &Endpoint,
    n: usize,
) -> Vec<(String, String, String, String)> {
    endpoint.wait_for(n);
    daemon.fence();
    let of = |one: &Received| {
        let parameter = |name| one.parameter(name).unwrap_or_default().to_owned();
        let payload = String::from_utf8_lossy(&one.payload).into_owned();
        (
            one.event.clone(),
            parameter("versionTag"),
            parameter("previousProject"),
            payload,
        )
    };
    let came = endpoint.take();
    came.iter()
        .filter(|one| one.parameter("organizationName") == Some("sales"))
        .map(of)
        .collect()
}

#[test]
fn a_webhook_that_names_them_receives_them() {
    let endpoint = Endpoint::new();
    let hook = Webhook::new("named", &endpoint.url()).events(NAMED);
    let home = Home::new(&Settings::of([hook]));
    let (first, second) = (xml("Orders", "e-1", "one"), xml("Orders", "e-1", "two"));
    let (first, second) = (first.as_str(), second.as_str());
    write_project(&home, first);
    let daemon = home.start();
    let event = |event: &str, tag: &str, previous: &str, payload: &str| {
        let texts = [event, tag, previous, payload].map(str::to_owned);
        let [event, tag, previous, payload] = texts;
        (event, tag, previous, payload)
    };

    home.replace("sales/orders/project.xml", second);
    let saved = event("project-save", "", "", second);
    assert_eq!(came(&daemon, &endpoint, 1), [saved]);

    home.rename("sales/orders", "sales/renamed");
    let moved = event("project-move", "", "orders", second);
    assert_eq!(came(&daemon, &endpoint, 1), [moved]);

    home.remove_all("sales/renamed/published");
    let unpublished = event("project-unpublish", "v1", "", second);
    assert_eq!(came(&daemon, &endpoint, 1), [unpublished]);

    // A restore by moving the snapshot is a restore, which this webhook does not name.
    home.rename(
        "sales/renamed/snapshots/s1.xml",
        "sales/renamed/project.xml",
    );
    let removed = event("snapshot-delete", "s1", "", first);
    assert_eq!(came(&daemon, &endpoint, 1), [removed]);

    // Changes made while nobody watches: the move comes before the save.
    assert!(daemon.terminate().success());
    home.rename("sales/renamed", "sales/again");
    home.replace("sales/again/project.xml", second);
    let daemon = home.start();
    let moved = event("project-move", "", "renamed", first);
    let saved = event("project-save", "", "", second);
    assert_eq!(came(&daemon, &endpoint, 2), [moved, saved]);

    home.remove_all("sales/again");
    assert_eq!(came(&daemon, &endpoint, 0), []);
}

#[test]
fn the_schema_of_callbacks_accepts_those_of_every_event() {
    let endpoint = Endpoint::new();
    let hook = Webhook::new("all", &endpoint.url())
        .events(&format!("[\"*\", {}", NAMED.trim_start_matches('[')))
        .with("format: json");
    let home = Home::new(&Settings::of([hook]));
    let (first, second) = (xml("Orders", "e-1", "one"), xml("Orders", "e-1", "two"));
    let daemon = home.start();
    let schema = serde_json::from_str(&home.command(&["schema", "callback"])).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut check = |n: usize| {
        for callback in endpoint.wait_for(n) {
            let body = serde_json::from_slice(&callback.body).unwrap();
            let faults: Vec<String> = schema
                .iter_errors(&body)
                .map(|one| one.to_string())
                .collect();
            assert!(faults.is_empty(), "{faults:?} {body:#}");
            seen.insert(callback.event);
        }
        daemon.fence();
        endpoint.take();
    };
    // Import, Import - Any, two snapshots, Publish.
    write_project(&home, &first);
    check(4);
    home.replace("sales/orders/project.xml", &second);
    check(1);
    home.replace("sales/orders/project.xml", &first);
    check(1);
    home.remove("sales/orders/snapshots/s1.xml");
    check(1);
    home.rename("sales/orders", "sales/renamed");
    check(1);
    home.remove_all("sales/renamed/published");
    check(1);
    home.write("sales/renamed/published/v2/project.xml", &first);
    check(1);
    home.remove_all("sales/renamed");
    check(2);
    home.command(&["webhooks", "test", "all"]);
    check(1);
    let mut all: Vec<&str> = EventKind::ALL.map(EventKind::as_str).to_vec();
    all.push("test");
    let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(seen, common::sorted(all));
}

#[test]
fn without_such_a_webhook_they_are_not_recorded() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let (first, second) = (xml("Orders", "e-1", "one"), xml("Orders", "e-1", "two"));
    write_project(&home, &first);
    let daemon = home.start();
    home.replace("sales/orders/project.xml", &second);
    home.rename("sales/orders", "sales/renamed");
    home.remove_all("sales/renamed/published");
    home.remove_all("sales/renamed/snapshots");
    assert_eq!(came(&daemon, &endpoint, 0), []);
    assert_eq!(daemon.events(), [] as [&str; 0]);
}

#[test]
fn a_webhook_that_heard_of_a_project_hears_that_it_moved_away() {
    let endpoint = Endpoint::new();
    let events = "[project-import, project-move]";
    let hook = Webhook::new("exact", &endpoint.url())
        .events(events)
        .projects("[\"sales/orders\"]");
    let other = Endpoint::new();
    let home = Home::new(&Settings::of([hook, Webhook::new("all", &other.url())]));
    let daemon = home.start();
    let content = xml("Orders", "e-1", "one");
    home.write("sales/orders/project.xml", &content);
    home.write("sales/other/project.xml", &xml("Other", "e-2", "two"));
    assert_eq!(came(&daemon, &endpoint, 1).len(), 1);
    home.rename("sales/other", "sales/another");
    home.rename("sales/orders", "sales/returns");
    let moved = came(&daemon, &endpoint, 1);
    let moved: Vec<_> = moved.iter().map(|one| (&*one.0, &*one.2)).collect();
    assert_eq!(moved, [("project-move", "orders")]);
}
