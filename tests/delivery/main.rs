//! Delivery by the real binary: order, isolation, crashes, reloads, commands.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

// Several endpoints, each with another fault.
mod isolation;

// Receivers that never stop answering.
mod floods;

// Receivers that flood by the means of TLS and HTTP/2.
mod floods_tls;

// Certificates for them.
#[allow(
    dead_code,
    reason = "shared with the tests of requests, which use more of it"
)]
#[path = "../sending/tls.rs"]
mod tls;

// An endpoint that is down during a burst.
mod down;

// Projects that always fail.
mod poison;

// Receivers that ask for time.
mod rests;

// `listen` between the daemon and a receiver.
mod forwards;

// Traces for a collector.
mod traces;

// Filters by parameters.
mod filters;

// Names that are too long for a header or a URL.
mod lengths;

// Kills at any time, and between an answer and its record.
mod kills;

// Bodies by templates of the user.
mod templates;

// Failing commits.
mod commits;

// SIGHUP with a full queue.
mod reloads;

// An operator's commands while the daemon runs.
mod operator;

// Projects that are renamed.
mod renames;

// A project that goes and returns.
mod returns;

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use common::{Home, xml};
use project_webhooks::receiver::{Received, Reply};

/// A reply of this status.
fn reply(status: u16) -> Reply {
    Reply::status(StatusCode::from_u16(status).expect("a status"))
}

/// Writes the definition of a project.
fn define(home: &Home, project: &str) {
    home.write(
        &format!("sales/{project}/project.xml"),
        &xml(project, "", "one"),
    );
}

/// Takes a snapshot of a project. The tests take tags in sorted order.
fn snapshot(home: &Home, project: &str, tag: &str) {
    home.write(
        &format!("sales/{project}/snapshots/{tag}.xml"),
        &xml(project, "", tag),
    );
}

/// Returns the project of a snapshot, by its name, which is its directory's.
fn project(one: &Received) -> String {
    one.parameter("projectName").unwrap_or_default().to_owned()
}

/// Returns the tag of a snapshot.
fn tag(one: &Received) -> String {
    one.parameter("versionTag").unwrap_or_default().to_owned()
}

/// Returns the tags of each project in the order of arrival, without retries.
fn order(came: &[Received]) -> BTreeMap<String, Vec<String>> {
    let mut order: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in came {
        let tags = order.entry(project(one)).or_default();
        if tags.last() != Some(&tag(one)) {
            tags.push(tag(one));
        }
    }
    order
}

/// Asserts that the tags of each project came in order, none again after a later one.
fn assert_in_order(came: &[Received]) {
    for (project, tags) in order(came) {
        assert!(tags.is_sorted(), "{project}: {tags:?}");
        let distinct: BTreeSet<&String> = tags.iter().collect();
        assert_eq!(distinct.len(), tags.len(), "{project}: {tags:?}");
    }
}

/// Groups requests by event, in order.
fn by_id(came: &[Received]) -> BTreeMap<&str, Vec<&Received>> {
    let mut by_id: BTreeMap<&str, Vec<&Received>> = BTreeMap::new();
    for one in came {
        by_id.entry(&one.id).or_default().push(one);
    }
    by_id
}

/// Asserts that all attempts of an event carried the same bytes.
fn assert_same_bytes(came: &[Received]) {
    for (id, attempts) in by_id(came) {
        for attempt in &attempts {
            assert_eq!(attempt.body, attempts[0].body, "{id}");
            assert_eq!(attempt.event, attempts[0].event, "{id}");
            assert_eq!(
                attempt.header("content-type"),
                attempts[0].header("content-type"),
                "{id}"
            );
        }
    }
}

/// Returns a webhook's part of `status`.
fn standing(home: &Home, webhook: &str) -> serde_json::Value {
    let status = home.json(&["status"]);
    let webhooks = status["webhooks"].as_array().expect("a list");
    webhooks
        .iter()
        .find(|one| one["name"] == webhook)
        .expect("the webhook")
        .clone()
}
