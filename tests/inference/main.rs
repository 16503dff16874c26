//! Tests each row of the inference table with the real binary: exactly the expected callbacks, with
//! their parameters in order and their payload byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod callbacks;
#[path = "../common/mod.rs"]
mod common;
mod copies;
mod identities;

use common::{Daemon, Endpoint, Home, Settings};
use project_webhooks::receiver::Received;

/// A test's daemon with its repository and its endpoint.
struct Watched<'a> {
    home: &'a Home,
    daemon: Daemon<'a>,
    endpoint: &'a Endpoint,
}

/// An expected callback: the event, the tag if it has one, the payload.
type Expected<'a> = (&'a str, Option<&'a str>, &'a str);

impl Watched<'_> {
    /// Asserts that exactly these callbacks about this project came since the last call, in order.
    fn expect(&self, organization: &str, name: &str, id: &str, expected: &[Expected<'_>]) {
        if !expected.is_empty() {
            self.endpoint.wait_for(expected.len());
        }
        self.daemon.fence();
        let came = self.endpoint.take();
        let summary: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
        let events: Vec<&str> = expected.iter().map(|(event, ..)| *event).collect();
        assert_eq!(summary, events);
        for (one, (event, tag, payload)) in came.iter().zip(expected) {
            let mut parameters = vec![
                ("username", "tester"),
                ("projectName", name),
                ("organizationName", organization),
                ("organizationId", organization),
            ];
            parameters.extend(tag.map(|tag| ("versionTag", tag)));
            if !event.starts_with("snapshot") {
                parameters.push(("projectId", id));
            }
            assert_eq!(pairs(one), parameters, "{event}");
            assert_eq!(one.payload, payload.as_bytes(), "{event}");
            assert_eq!((one.origin.as_str(), one.attempt), ("live", Some(1)));
        }
    }

    /// Asserts that no callback came since the last call.
    fn expect_nothing(&self) {
        self.expect("", "", "", &[]);
    }
}

fn pairs(one: &Received) -> Vec<(&str, &str)> {
    one.parameters
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// Runs a test with a home that holds these files before the daemon starts.
fn watched(backend: &str, before: &[(&str, &str)], test: impl FnOnce(&Watched<'_>)) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
    for (path, content) in before {
        home.write(path, content);
    }
    let daemon = home.start();
    test(&Watched {
        home: &home,
        daemon,
        endpoint: &endpoint,
    });
}

fn import(payload: &str) -> [Expected<'_>; 2] {
    [
        ("project-import", None, payload),
        ("project-import-any", None, payload),
    ]
}
