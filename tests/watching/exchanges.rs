//! Directories that exchange their names in one step (renameat2 with RENAME_EXCHANGE).

use std::fs;

use super::common::{Daemon, Endpoint, Home, Settings, on_both_backends, sorted, wait_until, xml};
use super::{coverage, home_with_projects};

on_both_backends!(
    projects_that_are_exchanged_stay_watched,
    organizations_that_are_exchanged_stay_watched,
    published_copies_that_are_exchanged_stay_watched,
    a_project_that_is_exchanged_with_a_hidden_directory_stays_watched,
    directories_that_are_exchanged_again_and_again_stay_watched,
);

fn exchange(home: &Home, one: &str, other: &str) {
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        home.at(one),
        rustix::fs::CWD,
        home.at(other),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
}

/// Writes a snapshot into each of these projects. Only a watch reports them.
fn expect_reports(home: &Home, daemon: &Daemon<'_>, projects: &[&str]) {
    // No observation of the exchange may find the changes below. A project that moved to another
    // organization is imported after its delete is judged, so one fence is not enough.
    daemon.fence();
    daemon.fence();
    let before = daemon.events().len();
    for project in projects {
        let content = xml("p", "e", &format!("{project} {before}"));
        home.write(&format!("{project}/snapshots/live-{before}.xml"), &content);
    }
    let expected = projects.iter().map(|p| format!("Snapshot Create {p}"));
    let expected = sorted(expected);
    wait_until("the live snapshots", || {
        (daemon.events().len() >= before + expected.len()).then_some(())
    });
    assert_eq!(sorted(daemon.events().split_off(before)), expected);
    assert_eq!(coverage(home)["uncovered"], 0);
}

fn watched(backend: &str, test: impl FnOnce(&Home, &Daemon<'_>)) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 2);
    for number in 2..4 {
        super::add_project(&home, &format!("hr/p{number}"), number);
    }
    let daemon = home.start();
    test(&home, &daemon);
}

fn projects_that_are_exchanged_stay_watched(backend: &str) {
    watched(backend, |home, daemon| {
        for (one, other) in [
            ("sales/p0", "sales/p1"),
            ("sales/p1", "sales/p0"),
            ("sales/p0", "hr/p2"),
            ("hr/p2", "sales/p0"),
        ] {
            exchange(home, one, other);
            expect_reports(home, daemon, &[one, other]);
        }
    });
}

fn organizations_that_are_exchanged_stay_watched(backend: &str) {
    watched(backend, |home, daemon| {
        exchange(home, "sales", "hr");
        expect_reports(home, daemon, &["hr/p0", "hr/p1", "sales/p2", "sales/p3"]);
        exchange(home, "hr", "sales");
        expect_reports(home, daemon, &["sales/p0", "sales/p1", "hr/p2", "hr/p3"]);
    });
}

fn published_copies_that_are_exchanged_stay_watched(backend: &str) {
    watched(backend, |home, daemon| {
        for (number, one, other) in [
            (1, "published.new", "published"),
            (2, "published", "published.new"),
        ] {
            let project = "sales/p0";
            let content = |text: &str| xml("p", "e0", &format!("{text} {number}"));
            home.write(
                &format!("{project}/published.new/project.xml"),
                &content("exchanged"),
            );
            daemon.fence();
            let before = daemon.events().len();
            exchange(
                home,
                &format!("{project}/{one}"),
                &format!("{project}/{other}"),
            );
            daemon.fence();
            home.replace(
                &format!("{project}/published/project.xml"),
                &content("live"),
            );
            daemon.fence();
            let events = daemon.events().split_off(before);
            assert_eq!(events, ["Project Publish sales/p0"; 2]);
            expect_reports(home, daemon, &[project]);
        }
    });
}

fn a_project_that_is_exchanged_with_a_hidden_directory_stays_watched(backend: &str) {
    watched(backend, |home, daemon| {
        super::add_project(home, "sales/.staging", 0);
        for (one, other) in [
            ("sales/.staging", "sales/p0"),
            ("sales/p0", "sales/.staging"),
        ] {
            exchange(home, one, other);
            expect_reports(home, daemon, &["sales/p0"]);
        }
    });
}

fn directories_that_are_exchanged_again_and_again_stay_watched(backend: &str) {
    watched(backend, |home, daemon| {
        fs::create_dir(home.at("sales/p0/other")).unwrap();
        for round in 0..50 {
            let (one, other) = match round % 4 {
                0 => ("sales/p0", "sales/p1"),
                1 => ("sales", "hr"),
                2 => ("hr/p0", "sales/p2"),
                _ => ("sales/p0/snapshots", "hr/p1/snapshots"),
            };
            // Some of these names are another directory's by now, or no directory's.
            let _ = rustix::fs::renameat_with(
                rustix::fs::CWD,
                home.at(one),
                rustix::fs::CWD,
                home.at(other),
                rustix::fs::RenameFlags::EXCHANGE,
            );
        }
        let mut projects = Vec::new();
        for organization in ["sales", "hr"] {
            for entry in fs::read_dir(home.at(organization)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                projects.push(format!("{organization}/{name}"));
            }
        }
        let projects: Vec<&str> = projects.iter().map(String::as_str).collect();
        assert_eq!(projects.len(), 4);
        expect_reports(home, daemon, &projects);
    });
}
