//! States that earlier versions wrote: `states/<schema>.db`, with the listing of that version.
//!
//! Every later version has to load each of them.
//!
//! `UPDATE_STATES=1 cargo test --test survival states` writes those of the present schema anew,
//! which is right only before its release.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use project_webhooks::receiver::{Received, Reply};
use serde_json::{Value, json};

use super::common::{Endpoint, Home, Settings, Webhook, wait_until, xml};
use super::{projects, wait_status};

fn states() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/survival/states")
}

/// Three webhooks: one that takes everything, one that is down, and one that gives up.
fn settings(endpoint: &Endpoint) -> Settings {
    let url = endpoint.url();
    let webhook =
        |name: &str, schedule: &str| Webhook::new(name, &format!("{url}{name}")).schedule(schedule);
    Settings::of([
        webhook("takes", "[0s, 5s]"),
        webhook("waits", "[0s, 700h, 700h, 700h]"),
        webhook("gives-up", "[0s]"),
    ])
    // Their content ages each day. Ten years is the longest retention.
    .top("retention: { delivered: 3650d, dead: 3650d }")
}

/// The repository that all states are of.
fn repository(home: &Home) {
    projects(home, 2);
    let names = [("new\nline", "n"), ("ünï", "u")];
    for (name, id) in names {
        home.write(&format!("sales/{name}/project.xml"), &xml("N", id, ""));
    }
    // Earlier changes.
    home.write("sales/p2/project.xml", &xml("P2", "e-2", "one"));
    home.write("sales/p2/snapshots/s1.xml", &xml("P2", "e-2", "one"));
    home.write("sales/broken/project.xml", "<schema");
}

/// The listings, without the fields that depend on the time of the start.
fn listed(home: &Home) -> Value {
    let sorted = |listing: &[&str]| {
        let mut all = home.json(listing);
        let all = all.as_array_mut().unwrap();
        all.sort_by_key(|one| one["id"].to_string());
        json!(all)
    };
    json!({
        "events": sorted(&["events", "--limit", "0"]),
        "deliveries": sorted(&["deliveries", "--limit", "0"]),
    })
}

/// Writes the state of the schema that there is now.
fn write_state(directory: &Path, schema: i64) {
    let answer = |one: &Received| {
        let status = match one.target.as_str() {
            "/takes" => 204,
            "/waits" => 503,
            _ => 400,
        };
        Reply::status(StatusCode::from_u16(status).unwrap())
    };
    let endpoint = Endpoint::answering(answer);
    let home = Home::new(&settings(&endpoint));
    projects(&home, 2);
    let daemon = home.start();
    repository(&home);
    endpoint.wait_for_one("the import", |one| {
        one.event == "project-import-any" && one.parameter("projectName") == Some("P2")
    });
    home.remove_all("sales/p2");
    endpoint.wait_for_one("the delete", |one| {
        one.event == "project-delete" && one.target.ends_with("takes")
    });
    home.write("sales/p2/project.xml", &xml("P2", "e-2", "one"));
    home.write("sales/p2/snapshots/s1.xml", &xml("P2", "e-2", "one"));
    wait_until("the second snapshot", || {
        let came = endpoint.all();
        let taken = came.iter().filter(|one| one.target == "/takes");
        (taken.filter(|one| one.event == "snapshot-create").count() == 2).then_some(())
    });
    wait_status(&home, "all tried", |status| {
        let webhooks = status["webhooks"].as_array().unwrap();
        webhooks
            .iter()
            .any(|one| one["pending"] == 0 && one["name"] == "takes")
            && webhooks
                .iter()
                .any(|one| one["pending"] == 0 && one["name"] == "gives-up")
    });
    daemon.terminate();
    fs::create_dir_all(directory).unwrap();
    fs::copy(home.database(), directory.join(format!("{schema}.db"))).unwrap();
    let text = serde_json::to_string_pretty(&listed(&home)).unwrap();
    fs::write(directory.join(format!("{schema}.json")), text + "\n").unwrap();
}

/// The schema of a state that is made now.
fn schema() -> i64 {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    home.start().terminate();
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}

#[test]
fn states_of_all_schemas_load_with_all_that_is_in_them() {
    let schema = schema();
    if std::env::var_os("UPDATE_STATES").is_some() {
        write_state(&states(), schema);
    }
    for schema in 1..=schema {
        let database = states().join(format!("{schema}.db"));
        assert!(
            database.is_file(),
            "there is no state of the schema {schema}: UPDATE_STATES=1 writes one"
        );
        let text = fs::read_to_string(states().join(format!("{schema}.json"))).unwrap();
        let before: Value = serde_json::from_str(&text).unwrap();
        loads(&database, &before);
    }
}

/// A daemon that starts on this state reports nothing unchanged and lists the same entries.
///
/// It sends the pending deliveries under the recorded ids and with the recorded bytes.
fn loads(database: &Path, before: &Value) {
    let is_open = Arc::new(AtomicBool::new(false));
    let endpoint = Endpoint::answering({
        let is_open = Arc::clone(&is_open);
        move |_| {
            let status = if is_open.load(Ordering::SeqCst) {
                204
            } else {
                503
            };
            Reply::status(StatusCode::from_u16(status).unwrap())
        }
    });
    let home = Home::new(&settings(&endpoint));
    repository(&home);
    fs::create_dir(home.beside("state")).unwrap();
    fs::copy(database, home.database()).unwrap();
    let daemon = home.start();
    assert_eq!(daemon.events(), [""; 0]);
    let after = listed(&home);
    assert_eq!(after["events"], before["events"]);
    let of = |listed: &Value, state: &str| -> Vec<Value> {
        let all = listed["deliveries"].as_array().unwrap();
        all.iter()
            .filter(|one| one["state"] == state)
            .cloned()
            .collect()
    };
    for state in ["delivered", "dead"] {
        assert_eq!(of(&after, state), of(before, state), "{state}");
        assert!(!of(before, state).is_empty());
    }
    let waiting: Vec<String> = of(before, "pending")
        .iter()
        .map(|one| one["eventId"].as_str().unwrap().to_owned())
        .collect();
    assert!(!waiting.is_empty());
    is_open.store(true, Ordering::SeqCst);
    home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
    wait_status(&home, "nothing waits", |status| {
        let webhooks = status["webhooks"].as_array().unwrap();
        webhooks.iter().all(|one| one["pending"] == 0)
    });
    for id in &waiting {
        let one = endpoint.wait_for_one(id, |one| one.id == *id && one.payload.len() > 100);
        let is_of_it = one.target.ends_with("waits");
        assert!(is_of_it && !one.parameters.is_empty(), "{one:?}");
    }
    // And it goes on from there.
    home.remove_all("sales/p1");
    endpoint.wait_for_one("the delete", |one| {
        one.event == "project-delete-and-unpublish"
            && one.parameter("projectName") == Some("P1")
            && one.payload == xml("P1", "e-1", "one").as_bytes()
    });
}
