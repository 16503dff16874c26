//! Tests the identity of projects with the real binary: one engineId in several directories, and ids
//! that a project keeps.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use common::{Daemon, Endpoint, Home, Settings, xml};
use project_webhooks::receiver::Received;

/// A test's daemon with its repository and its endpoint.
struct Watched<'a> {
    home: &'a Home,
    daemon: Daemon<'a>,
    endpoint: &'a Endpoint,
}

impl Watched<'_> {
    /// Asserts that exactly these callbacks came since the last call, in this order. Each is the
    /// event, the organization and the project id.
    fn expect(&self, expected: &[(&str, &str, &str)]) {
        if !expected.is_empty() {
            self.endpoint.wait_for(expected.len());
        }
        self.daemon.fence();
        let came = self.endpoint.take();
        let came: Vec<_> = came.iter().map(summary).collect();
        assert_eq!(came, expected);
    }
}

fn summary(one: &Received) -> (&str, &str, &str) {
    (
        one.event.as_str(),
        one.parameter("organizationName").unwrap_or_default(),
        one.parameter("projectId").unwrap_or_default(),
    )
}

/// Runs a test with a home that holds these files before the daemon starts.
fn watched(before: &[(&str, &str)], test: impl FnOnce(&Watched<'_>)) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
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

fn import<'a>(organization: &'a str, id: &'a str) -> [(&'static str, &'a str, &'a str); 2] {
    [
        ("project-import", organization, id),
        ("project-import-any", organization, id),
    ]
}

#[test]
fn engine_ids_that_differ_in_case_are_one() {
    let definition = "sales/orders/project.xml";
    let (lower, upper) = (xml("Orders", "a-1", "one"), xml("Orders", "A-1", "two"));
    watched(&[(definition, &lower)], |w| {
        w.home.replace(definition, &upper);
        w.expect(&[]);
        // Renamed and saved in another case.
        w.home.rename("sales/orders", "sales/renamed");
        w.home.replace("sales/renamed/project.xml", &lower);
        w.expect(&[]);
        w.home.remove_all("sales/renamed");
        w.expect(&[("project-delete", "sales", "a-1")]);
    });
}

#[test]
fn a_definition_without_its_engine_id_keeps_it() {
    let definition = "sales/orders/project.xml";
    let (first, bare) = (xml("Orders", "e-1", "one"), xml("Orders", "", "two"));
    let second = xml("Orders", "e-2", "three");
    watched(&[(definition, &first)], |w| {
        w.home.replace(definition, &bare);
        w.expect(&[]);
        w.home.write("sales/orders/published/v1/project.xml", &bare);
        w.expect(&[("project-publish", "sales", "e-1")]);
        w.home.remove_all("sales/orders/published");
        w.expect(&[]);
        // Known again after a rename, with its content only.
        w.home.rename("sales/orders", "sales/renamed");
        w.expect(&[]);
        w.home.rename("sales/renamed", "sales/orders");
        w.expect(&[]);
        w.home.replace(definition, &second);
        let [import, any] = import("sales", "e-2");
        w.expect(&[("project-delete", "sales", "e-1"), import, any]);
        w.home.replace(definition, &bare);
        w.expect(&[]);
        w.home.remove_all("sales/orders");
        w.expect(&[("project-delete", "sales", "e-2")]);
    });
}

#[test]
fn a_made_up_project_id_stays_when_the_project_is_renamed() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let bare = xml("Orders", "", "one");
    let daemon = home.start();
    home.write("sales/orders/project.xml", &bare);
    endpoint.wait_for(2);
    let imported = endpoint.take();
    let id = imported[0].parameter("projectId").unwrap().to_owned();
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    home.replace("sales/renamed/project.xml", &xml("Orders", "", "two"));
    daemon.fence();
    home.write("sales/renamed/published/v1/project.xml", &bare);
    let came = endpoint.wait_for(1);
    assert_eq!(summary(&came[0]), ("project-publish", "sales", id.as_str()));
    endpoint.take();
    // Over a restart, and a second rename while nobody watches.
    assert!(daemon.terminate().success());
    home.rename("sales/renamed", "sales/again");
    let daemon = home.start();
    home.remove_all("sales/again");
    daemon.fence();
    let came = endpoint.wait_for(2);
    let expected = ["project-delete", "project-delete-and-unpublish"];
    assert_eq!(
        came.iter().map(summary).collect::<Vec<_>>(),
        expected.map(|event| (event, "sales", id.as_str()))
    );
}
