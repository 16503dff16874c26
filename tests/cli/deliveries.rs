//! Events and deliveries are shown and changed, with a running daemon and without one.

use std::fs;
use std::io::{Read as _, Write as _};

use rustix::process::Signal;
use serde_json::Value;

use super::patience::{terminal, wait_exit, wait_until as wait_for};
use super::support::{Endpoint, Place, Running, project, webhook};

#[test]
fn events_and_deliveries_are_shown_beside_a_running_daemon_and_after_it() {
    let endpoint = Endpoint::start(500);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    place.write("sales/orders/project.xml", &project("Orders"));
    let daemon = place.daemon();
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    let failed = place.deliveries("an attempt", |d| d["attempts"] == 1);
    assert_eq!(failed[0]["state"], "pending");
    assert_eq!(failed[0]["lastStatus"], 500);
    let id = failed[0]["id"].to_string();

    for running in [true, false] {
        let status = place.run(&["status", "--json"]).json();
        assert_eq!(status["running"], running);
        assert_eq!(status["projects"], 1);
        let webhook = &status["webhooks"][0];
        assert_eq!(webhook["pending"], 1);
        assert!(
            webhook["lastError"]["error"]
                .as_str()
                .unwrap()
                .contains("500")
        );
        let text = place.run(&["status"]).succeeded();
        assert!(
            text.starts_with(if running { "running: " } else { "stopped: " }),
            "{text}"
        );
        assert!(text.contains("catalog  on     1 "), "{text}");

        let events = place
            .run(&["events", "list", "--json", "--since", "1h"])
            .json();
        assert_eq!(events.as_array().unwrap().len(), 1);
        let event_id = events[0]["id"].as_str().unwrap();
        let text = place.run(&["events"]).succeeded();
        assert!(
            text.contains("Snapshot Create  sales/orders  live"),
            "{text}"
        );
        for none in [["--event", "Project Publish"], ["--project", "sales/other"]] {
            assert_eq!(
                place.run(&["events", none[0], none[1], "--json"]).json(),
                Value::Array(vec![])
            );
        }
        let shown = place
            .run(&["events", "show", &event_id[..10], "--json"])
            .json();
        assert_eq!(shown["id"], event_id);
        assert_eq!(shown["after"]["path"], "sales/orders/snapshots/v1.xml");
        assert_eq!(shown["because"], "a snapshot appeared");
        assert_eq!(shown["log"][0]["log"][0]["status"], 500);
        let text = place.run(&["events", "show", &event_id[4..12]]).succeeded();
        for expected in ["because", "versionTag        v1", "to catalog: pending"] {
            assert!(text.contains(expected), "{expected} not in:\n{text}");
        }
        assert!(
            place
                .run(&["events", "show", "evt_"])
                .failed(1)
                .contains("hexadecimal")
        );

        let text = place.run(&["deliveries", "show", &id]).succeeded();
        assert!(text.contains("< answered \\u{1b}[2J"), "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        place.run(&["deliveries", "show", "99"]).failed(1);
        if running {
            let said = place.run(&["scan"]).succeeded();
            assert!(said.contains("1 project compared: 0 changes"), "{said}");
            daemon.signal(Signal::TERM);
            wait_for("the end of the daemon", || {
                let status = place.run(&["status", "--json"]).json();
                (status["running"] == false).then_some(())
            });
        }
    }
    fs::remove_dir_all(place.path("repository/sales/orders")).unwrap();
    let said = place.run(&["scan"]).succeeded();
    assert!(said.contains("Project Delete -> catalog"), "{said}");
}

#[test]
fn a_running_daemon_follows_operator_commands_at_once() {
    let endpoint = Endpoint::start(500);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    place.write("sales/orders/project.xml", &project("Orders"));
    let daemon = place.daemon();
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    place.deliveries("an attempt", |d| d["attempts"] == 1);
    endpoint.set(204);

    // Its schedule would send it in an hour.
    let dry = place.run(&["deliveries", "redeliver", "--state", "pending", "--dry-run"]);
    assert!(dry.succeeded().contains("1 delivery would be redelivered"));
    let changed = place
        .run(&["deliveries", "redeliver", "--state", "pending", "--json"])
        .json();
    assert_eq!(
        (&changed["changed"], &changed["daemonTold"]),
        (&1.into(), &true.into())
    );
    let delivered = place.deliveries("the redelivery", |d| d["state"] == "delivered");
    assert_eq!(delivered[0]["origin"], "redelivery");

    let said = place.run(&[
        "webhooks",
        "disable",
        "catalog",
        "--reason",
        "down for a while",
    ]);
    assert!(said.succeeded().contains("catalog is off"));
    place.write("sales/orders/snapshots/v2.xml", &project("Orders"));
    place.deliveries("a delivery that waits", |d| {
        d["state"] == "pending" && d["attempts"] == 0
    });
    let text = place.run(&["webhooks"]).succeeded();
    assert!(text.contains("down for a while"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
    assert!(
        place
            .run(&["webhooks", "enable", "catalg"])
            .failed(1)
            .contains("did you mean catalog?")
    );
    assert!(
        place
            .run(&["webhooks", "enable", "catalog"])
            .succeeded()
            .contains("catalog is on")
    );
    wait_for("what had waited", || {
        let listed = place.run(&["deliveries", "--json"]).json();
        let all = listed.as_array()?.iter().all(|d| d["state"] == "delivered");
        all.then_some(())
    });

    let said = place
        .run(&["deliveries", "purge", "--webhook", "catalog", "--yes"])
        .succeeded();
    assert!(said.contains("2 deliveries purged"), "{said}");
    assert_eq!(
        place.run(&["deliveries", "--json"]).json(),
        Value::Array(vec![])
    );
    assert_eq!(daemon.end(Signal::TERM), Some(0));
}

#[test]
fn an_unknown_webhook_is_an_error_and_two_webhooks_share_the_ids_of_events() {
    let endpoint = Endpoint::start(204);
    let [catalog, archive] = ["catalog", "archive"].map(|name| webhook(name, &endpoint.url));
    let place = Place::new(&format!("{catalog}{archive}"));
    let daemon = place.daemon();
    place.write("sales/orders/project.xml", &project("Orders"));
    let both = wait_for("both deliveries", || {
        let listed = place.deliveries("a delivery", |d| d["state"] == "delivered");
        (listed.len() == 2).then_some(listed)
    });
    // The id is that of the event, whichever webhook gets it.
    assert_eq!(both[0]["eventId"], both[1]["eventId"]);
    assert_ne!(both[0]["webhook"], both[1]["webhook"]);

    daemon.end(Signal::TERM);
    // A webhook that is no longer configured is known while it has deliveries.
    let config = fs::read_to_string(place.path("config.yaml")).unwrap();
    fs::write(place.path("config.yaml"), config.replace(&archive, "")).unwrap();
    let listed = place.run(&["deliveries", "--webhook", "archive", "--json"]);
    assert_eq!(listed.json().as_array().unwrap().len(), 1);
    for command in [
        &["deliveries"][..],
        &["deliveries", "redeliver"],
        &["deliveries", "cancel"],
        &["deliveries", "purge"],
    ] {
        let arguments = [command, &["--webhook", "catalgo"]].concat();
        let said = place.run(&arguments).failed(1);
        let expected = "there is no webhook catalgo; did you mean catalog? known: catalog, archive";
        assert!(said.contains(expected), "{said}");
    }
    let said = place.run(&["webhooks", "test", "nothing"]).failed(1);
    assert!(said.contains("there is no webhook nothing; known: catalog"));
}

#[test]
fn pending_deliveries_are_cancelled_without_a_daemon() {
    let endpoint = Endpoint::start(500);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    place.write("sales/orders/project.xml", &project("Orders"));
    let daemon = place.daemon();
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    let failed = place.deliveries("an attempt", |d| d["attempts"] == 1);
    assert_eq!(daemon.end(Signal::TERM), Some(0));

    // A webhook that is no longer configured.
    let config = fs::read_to_string(place.path("config.yaml")).unwrap();
    fs::write(
        place.path("config.yaml"),
        config.replace("catalog", "other"),
    )
    .unwrap();
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["webhooks"][1]["name"], "catalog");
    assert_eq!(status["webhooks"][1]["standing"], "parked");

    let id = failed[0]["id"].to_string();
    let said = place.run(&["deliveries", "cancel", &id]).succeeded();
    assert!(
        said.contains("1 delivery cancelled; no daemon is running"),
        "{said}"
    );
    assert_eq!(
        place.run(&["deliveries", "--json"]).json()[0]["state"],
        "cancelled"
    );
    let said = place.run(&["deliveries", "cancel", &id]).failed(1);
    assert!(said.contains("No matching deliveries"), "{said}");
    // Only a listing that leaves something out says so.
    let n = place.run(&["deliveries", "--json"]).json();
    let n = n.as_array().unwrap().len().to_string();
    let listed = place.run(&["deliveries", "--limit", &n]).succeeded();
    assert!(!listed.contains("These are the last"), "{listed}");
    place
        .run(&["deliveries", "cancel", "--webhook", "catalog"])
        .succeeded();
}

#[test]
fn an_operator_changes_only_as_many_deliveries_as_agreed() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let _daemon = place.daemon();
    let write = |name: &str| {
        let path = format!("sales/{name}/project.xml");
        place.write(&path, &project(name));
        let is_there = |one: &Value| one["project"] == name && one["event"] == "project-import-any";
        place.deliveries(name, is_there);
    };
    write("first");
    // Agrees to the plan of a command, but something happens before.
    let agree = |arguments: &[&str], meanwhile: &dyn Fn()| {
        let (mut terminal, side) = terminal();
        let mut command = place.command(arguments);
        let (input, errors) = (side.try_clone().unwrap(), side.try_clone().unwrap());
        let child = command.stdin(input).stdout(side).stderr(errors).spawn();
        let mut running = Running(child.unwrap());
        drop(command);
        let mut printed = String::new();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = terminal.read(&mut buffer) {
            let was_asked = printed.contains("[y/N]");
            printed.push_str(&String::from_utf8_lossy(&buffer[..n]));
            if printed.contains("[y/N]") && !was_asked {
                meanwhile();
                terminal.write_all(b"y\n").unwrap();
            }
        }
        (wait_exit(&mut running.0).code(), printed)
    };
    let replay = ["events", "replay", "--to", "catalog", "--since", "1h"];
    let cancel = ["deliveries", "cancel", "--webhook", "catalog"];
    for (arguments, name) in [(&replay[..], "second"), (&cancel[..], "third")] {
        let (status, printed) = agree(arguments, &|| write(name));
        assert!(printed.contains("so nothing was changed"), "{printed}");
        assert_eq!(status, Some(1));
    }
    let all = place.deliveries("the deliveries", |_| true);
    let states: Vec<&Value> = all.iter().map(|one| &one["state"]).collect();
    assert_eq!(states, vec!["pending"; 3]);
    let (status, printed) = agree(&cancel, &|| {});
    assert!(printed.contains("3 deliveries cancelled"), "{printed}");
    assert_eq!(status, Some(0));
}
