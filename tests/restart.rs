//! Starts, stops and kills: changes in between are inferred once, no event is lost, and each keeps
//! its id.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Daemon, Endpoint, Home, Settings, Stop, Webhook, sorted, xml};
use project_webhooks::receiver::{Received, Reply};
use rusqlite::Connection;

/// A project with a snapshot and a published copy.
fn project(home: &Home, key: &str) {
    let content = |body: &str| xml(key, &format!("id-{key}"), body);
    home.write(&format!("{key}/project.xml"), &content("one"));
    home.write(&format!("{key}/snapshots/s1.xml"), &content("s1"));
    home.write(&format!("{key}/published/v1/project.xml"), &content("v1"));
}

fn count(came: &[Received]) -> BTreeMap<&str, usize> {
    came.iter().fold(BTreeMap::new(), |mut counts, one| {
        *counts.entry(one.event.as_str()).or_default() += 1;
        counts
    })
}

#[test]
fn changes_made_while_stopped_arrive_once_and_a_second_start_is_silent() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    for number in 0..60 {
        project(&home, &format!("sales/p{number}"));
    }
    let daemon = home.start();
    assert!(daemon.terminate().success());
    assert_eq!(endpoint.n(), 0);

    // 65 changes: 20 snapshots, 15 publishes, 10 imports, 10 deletes, 5 restores, 5 saves.
    for number in 0..20 {
        home.write(
            &format!("sales/p{number}/snapshots/s2.xml"),
            &xml("P", "", &format!("s2 of {number}")),
        );
    }
    for number in 10..25 {
        home.replace(
            &format!("sales/p{number}/published/v1/project.xml"),
            &xml("P", "", &format!("v2 of {number}")),
        );
    }
    for number in 0..10 {
        home.write(
            &format!("hr/n{number}/project.xml"),
            &xml("N", "", &format!("{number}")),
        );
    }
    for number in 30..40 {
        home.remove_all(&format!("sales/p{number}"));
    }
    for number in 40..45 {
        let snapshot = home.at(&format!("sales/p{number}/snapshots/s1.xml"));
        fs::copy(snapshot, home.at(&format!("sales/p{number}/project.xml"))).unwrap();
    }
    for number in 45..50 {
        let path = format!("sales/p{number}/project.xml");
        let key = format!("sales/p{number}");
        home.write(&path, &xml(&key, &format!("id-{key}"), "saved"));
    }
    // A move, which is no event.
    home.rename("sales/p50", "sales/moved");

    let daemon = home.start();
    // When it is ready, all events are recorded except removals, which wait for the settle time.
    let mut recorded = daemon.events();
    recorded.retain(|event| !event.starts_with("Project Delete"));
    assert_eq!(recorded.len(), 20 + 15 + 2 * 10 + 5);
    daemon.fence();
    let came = endpoint.wait_for(80);
    assert_eq!(daemon.events().len(), 80);
    assert!(came.iter().all(|one| one.origin == "catch-up"));
    assert_eq!(
        count(&came),
        BTreeMap::from([
            ("snapshot-create", 20),
            ("project-publish", 15),
            ("project-import", 10),
            ("project-import-any", 10),
            ("project-delete", 10),
            ("project-delete-and-unpublish", 10),
            ("snapshot-restore", 5),
        ])
    );
    let ids: BTreeSet<&str> = came.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids.len(), came.len());
    endpoint.take();
    assert!(daemon.terminate().success());

    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
}

#[test]
fn the_first_start_adopts_existing_files_and_the_next_is_silent() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    project(&home, "sales/orders");
    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    // An adopted project is recorded: its delete is sent with the adopted content.
    home.remove_all("sales/orders");
    let came = endpoint.wait_for(2);
    assert_eq!(
        count(&came),
        BTreeMap::from([("project-delete", 1), ("project-delete-and-unpublish", 1)])
    );
    assert_eq!(
        came[0].payload,
        xml("sales/orders", "id-sales/orders", "one").as_bytes()
    );
    assert_eq!(came[0].origin, "live");
    // A later start is no first one.
    let began = first_start(&home);
    assert!(daemon.terminate().success());
    home.write("sales/late/project.xml", &xml("Late", "id-late", "one"));
    let daemon = home.start();
    assert_eq!(endpoint.wait_for(4)[2].origin, "catch-up");
    assert!(daemon.terminate().success());
    assert_eq!(first_start(&home), began);
}

/// The recorded time of the first start.
fn first_start(home: &Home) -> String {
    let sql = "SELECT value FROM meta WHERE key = 'first-start'";
    let database = Connection::open(home.database()).unwrap();
    database.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn the_first_start_reports_existing_files_on_request() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).repository("on_first_start: report"));
    project(&home, "sales/orders");
    project(&home, "hr/leads");
    let daemon = home.start();
    let came = endpoint.wait_for(8);
    daemon.fence();
    assert_eq!(endpoint.take().len(), 8);
    assert!(came.iter().all(|one| one.origin == "catch-up"));
    let of = |organization: &str| -> Vec<&str> {
        came.iter()
            .filter(|one| one.parameter("organizationName") == Some(organization))
            .map(|one| one.event.as_str())
            .collect()
    };
    let expected = [
        "project-import",
        "project-import-any",
        "snapshot-create",
        "project-publish",
    ];
    assert_eq!(of("sales"), expected);
    assert_eq!(of("hr"), expected);
    assert!(daemon.terminate().success());
    let daemon = home.start();
    daemon.fence();
    assert_eq!(endpoint.n(), 0);
}

#[test]
fn a_project_that_was_removed_while_stopped_is_deleted_with_its_last_content() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    project(&home, "sales/orders");
    project(&home, "sales/kept");
    let daemon = home.start();
    let last = xml("sales/orders", "id-sales/orders", "saved last");
    home.replace("sales/orders/project.xml", &last);
    daemon.fence();
    assert!(daemon.terminate().success());
    home.remove_all("sales/orders");
    let daemon = home.start();
    let came = endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(endpoint.n(), 2);
    for (one, event) in came
        .iter()
        .zip(["project-delete", "project-delete-and-unpublish"])
    {
        assert_eq!(
            (one.event.as_str(), one.origin.as_str(), &one.payload[..]),
            (event, "catch-up", last.as_bytes())
        );
        assert_eq!(one.parameter("projectId"), Some("id-sales/orders"));
    }
}

#[test]
fn large_projects_that_moved_while_stopped_are_moves() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    // Three of them are more than a step keeps in memory. A move is one only if the step observes
    // both of its directories.
    let filler = "large ".repeat(1_500_000);
    for number in 0..4 {
        let content = xml("P", &format!("id-{number}"), &format!("{number} {filler}"));
        home.write(&format!("sales/old{number}/project.xml"), &content);
    }
    let daemon = home.start();
    assert!(daemon.terminate().success());
    for number in 0..4 {
        home.rename(&format!("sales/old{number}"), &format!("sales/new{number}"));
    }
    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
}

#[test]
fn pending_deliveries_are_sent_unchanged_after_a_restart() {
    // The endpoint accepts nothing until the restart.
    let accepts = std::sync::Arc::new(AtomicBool::new(false));
    let accepting = std::sync::Arc::clone(&accepts);
    let endpoint = Endpoint::answering(move |_| {
        let status = if accepting.load(Ordering::Acquire) {
            200
        } else {
            503
        };
        Reply::status(axum::http::StatusCode::from_u16(status).unwrap())
    });
    let home = Home::new(&Settings::of([Webhook::new("all", &endpoint.url())
        .events("[project-publish]")
        // Long enough for the kill to come before the second attempt.
        .schedule("[0s, 5s, 5s, 5s]")]));
    project(&home, "sales/orders");
    let daemon = home.start();
    let published = "sales/orders/published/v1/project.xml";
    let frozen = xml("sales/orders", "id", "frozen");
    home.replace(published, &frozen);
    let first = endpoint.wait_for(1).remove(0);
    daemon.kill();
    // The event's file changes before the restart.
    home.replace(published, &xml("sales/orders", "id", "later"));
    accepts.store(true, Ordering::Release);
    endpoint.take();
    let daemon = home.start();
    let came = endpoint.wait_for(2);
    daemon.fence();
    let came_again: Vec<&Received> = came.iter().filter(|one| one.id == first.id).collect();
    assert_eq!(came_again.len(), 1);
    assert_eq!(came_again[0].body, first.body);
    assert_eq!(came_again[0].payload, frozen.as_bytes());
    assert_eq!(came_again[0].origin, "live");
    let later = came.last().unwrap();
    assert_eq!(later.origin, "catch-up");
    assert_ne!(later.id, first.id);
    assert_eq!(endpoint.n(), 2);
}

#[test]
fn twenty_kills_under_a_stream_of_changes_lose_nothing_and_change_no_id() {
    const SEED: u64 = 20_260_214;
    const KILLS: usize = 20;
    const DELETED: usize = 30;
    let endpoint = Endpoint::new();
    let webhook = Webhook::new("all", &endpoint.url()).events(
        "[project-import-any, snapshot-create, project-publish, project-delete, \
         project-delete-and-unpublish, snapshot-restore]",
    );
    // A start that takes long finds most of the old projects gone at once. They are not held.
    let settings = Settings::of([webhook]).repository("mass_delete_after: 0s");
    let home = Home::new(&settings);
    for number in 0..DELETED {
        project(&home, &format!("old/d{number}"));
    }
    home.start().terminate();

    let is_over = AtomicBool::new(false);
    let mut random = fastrand::Rng::with_seed(SEED);
    let n_projects = std::thread::scope(|scope| {
        let (home, is_over) = (&home, &is_over);
        let stream = scope.spawn(move || {
            let mut random = fastrand::Rng::with_seed(SEED + 1);
            let mut number = 0;
            // The events of these steps do not depend on the time of observation.
            while !is_over.load(Ordering::Acquire) || number < DELETED {
                let key = format!("new/p{number}");
                let steps = [
                    "project.xml",
                    "snapshots/s1.xml",
                    "snapshots/s2.xml",
                    "published/v1/project.xml",
                ];
                for step in steps {
                    home.replace(
                        &format!("{key}/{step}"),
                        &xml(&key, &format!("id-{key}"), step),
                    );
                    std::thread::sleep(Duration::from_millis(random.u64(0..40)));
                }
                if number < DELETED {
                    fs::rename(
                        home.at(&format!("old/d{number}")),
                        home.beside(&format!("away-{number}")),
                    )
                    .unwrap();
                }
                number += 1;
            }
            number
        });
        let end = Stop(is_over);
        for _ in 0..KILLS {
            let daemon = home.start();
            // The time of the kill is the scenario.
            std::thread::sleep(Duration::from_millis(random.u64(0..150)));
            daemon.kill();
        }
        drop(end);
        stream.join().unwrap()
    });
    let daemon = home.start();
    let expected: BTreeSet<(String, String, String)> = (0..n_projects)
        .flat_map(|number| {
            [
                ("project-import-any", ""),
                ("snapshot-create", "s1"),
                ("snapshot-create", "s2"),
                ("project-publish", "v1"),
            ]
            .map(|(event, tag)| (event.to_owned(), format!("new/p{number}"), tag.to_owned()))
        })
        .chain((0..DELETED).flat_map(|number| {
            ["project-delete", "project-delete-and-unpublish"]
                .map(|event| (event.to_owned(), format!("old/d{number}"), String::new()))
        }))
        .collect();
    let happening = |one: &Received| {
        (
            one.event.clone(),
            one.parameter("projectName").unwrap_or_default().to_owned(),
            one.parameter("versionTag").unwrap_or_default().to_owned(),
        )
    };
    daemon.fence();
    let found = common::wait_until("every happening", || {
        let found: BTreeSet<_> = endpoint.all().iter().map(happening).collect();
        (found.len() >= expected.len()).then_some(found)
    });
    assert_eq!(found, expected, "seed {SEED}");

    // A callback that was sent twice, because the kill came before its answer was recorded, was
    // the same.
    let mut ids: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    let mut bodies: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut order: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in endpoint.all() {
        let what = happening(&one);
        let first = ids.entry(what.clone()).or_default();
        if first.is_empty() && what.1.starts_with("new/") {
            let told = order.entry(what.1.clone()).or_default();
            told.push(format!("{}{}", one.event, what.2));
        }
        first.insert(one.id.clone());
        bodies
            .entry(one.id.clone())
            .or_default()
            .insert(one.body.to_vec());
        let step = match (one.event.as_str(), what.2.as_str()) {
            ("snapshot-create", tag) => format!("snapshots/{tag}.xml"),
            ("project-publish", _) => "published/v1/project.xml".to_owned(),
            ("project-import-any", _) => "project.xml".to_owned(),
            _ => "one".to_owned(),
        };
        assert_eq!(
            one.payload,
            xml(&what.1, &format!("id-{}", what.1), &step).as_bytes()
        );
    }
    assert!(
        ids.values().all(|ids| ids.len() == 1),
        "seed {SEED}: {ids:?}"
    );
    assert!(
        bodies.values().all(|bodies| bodies.len() == 1),
        "seed {SEED}"
    );
    for (key, told) in order {
        assert_eq!(
            told,
            [
                "project-import-any",
                "snapshot-creates1",
                "snapshot-creates2",
                "project-publishv1"
            ],
            "seed {SEED}: {key}"
        );
    }
    // No further callback comes: the record equals the disk.
    assert!(daemon.terminate().success());
    let before = endpoint.n();
    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(sorted([endpoint.n(), before]), [before, before]);
}

#[test]
fn another_directory_at_the_roots_path_infers_nothing() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    for number in 0..3 {
        let content = xml(&format!("P{number}"), &format!("e-{number}"), "one");
        home.write(&format!("sales/p{number}/project.xml"), &content);
    }
    let daemon = home.start();
    daemon.fence();
    assert!(daemon.terminate().success());
    fs::rename(home.at(""), home.beside("away")).unwrap();
    home.write("other/zz/project.xml", &xml("Z", "e-z", "one"));
    let daemon = Daemon::launch(&home, Daemon::command(&home));
    daemon.wait_message("is not the directory that was watched before", 1);
    fs::remove_dir_all(home.at("")).unwrap();
    fs::rename(home.beside("away"), home.at("")).unwrap();
    daemon.wait_ready();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
}
