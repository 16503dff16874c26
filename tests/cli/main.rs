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

mod demo;
mod follow;
mod found;
mod init;
mod listen;
mod shells;
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use project_webhooks::config::settings::SETTINGS;
use project_webhooks::domain::event::EventKind;
use rustix::process::Signal;
use serde_json::Value;

use patience::{terminal, wait_exit, wait_until as wait_for};
use support::{Endpoint, Place, Ran, Running, SECRET, program, project, run, webhook};

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
fn a_test_event_needs_no_daemon_and_its_exchange_is_printed() {
    let endpoint = Endpoint::start(204);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    let text = place.run(&["webhooks", "test", "catalog"]).succeeded();
    for expected in [
        "> webhook-event: test",
        "> webhook-signature: v1,",
        "< 204",
        "delivered after",
    ] {
        assert!(text.contains(expected), "{expected} not in:\n{text}");
    }
    assert!(!text.contains("hidden") && !text.contains(SECRET), "{text}");
    endpoint.set(503);
    let exchange: Value = serde_json::from_str(
        &place
            .run(&["webhooks", "test", "catalog", "--json"])
            .failed(1),
    )
    .unwrap();
    assert_eq!(exchange["status"], 503);
    assert_eq!(exchange["delivered"], false);
    assert!(!place.path("state").exists());
}

#[test]
fn a_sample_of_each_event_has_its_parameters_and_the_origin_test() {
    let endpoint = Endpoint::start(204);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    for kind in EventKind::ALL {
        let sent = place.run(&[
            "webhooks",
            "test",
            "catalog",
            "--event",
            kind.label(),
            "--json",
        ]);
        let exchange = sent.json();
        let headers = exchange["requestHeaders"].as_array().unwrap();
        let has = |name: &str, value: &str| headers.contains(&serde_json::json!([name, value]));
        assert!(has("webhook-event", kind.as_str()), "{exchange}");
        assert!(has("webhook-origin", "test"), "{exchange}");
        assert_eq!(exchange["delivered"], true, "{exchange}");
    }
    let said = place
        .run(&["webhooks", "test", "catalog", "--event", "save"])
        .failed(2);
    assert!(said.contains("did you mean project-save?"), "{said}");
}

#[test]
fn a_test_says_what_the_daemon_would_not_send() {
    let endpoint = Endpoint::start(204);
    let webhooks = format!(
        "  - {{ name: some, event: Project Publish, url: \"{0}\" }}\n  \
         - {{ name: none, events: \"*\", url: \"{0}\", enabled: false }}\n",
        endpoint.url
    );
    let place = Place::new(&webhooks);
    let test = |name: &str, event: &[&str]| {
        let arguments = [&["webhooks", "test", name], event].concat();
        place.run(&arguments).succeeded()
    };
    let said = test("some", &["--event", "project-publish"]);
    assert!(!said.contains("note:"), "{said}");
    let said = test("some", &["--event", "project-import"]);
    let expected =
        "note: some does not subscribe to Project Import, so it gets only samples of this event";
    assert!(said.contains(expected), "{said}");
    let said = test("none", &["--event", "project-publish"]);
    let expected = "note: none has enabled: false, so it gets only tests";
    assert!(said.contains(expected), "{said}");
    assert!(test("some", &[]).contains("--event EVENT"));
}

#[test]
fn names_on_disk_are_escaped_on_the_terminal() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    place.write("sales/orders/project.xml", &project("Orders"));
    place.write("sales/orders/snapshots/\u{1b}[2J\u{9b}\n.xml", "<schema");
    let daemon = place.daemon();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["scan"],
        &["scan", "--json"],
    ] {
        let printed = place.run(arguments).succeeded();
        assert!(printed.contains("[2J"), "{printed:?}");
        let is_safe = |c: char| c == '\n' || !c.is_control();
        assert!(printed.chars().all(is_safe), "{printed:?}");
    }
    drop(daemon);
}

#[test]
fn paths_of_the_configuration_are_escaped_on_the_terminal() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let hostile = place.path("\u{1b}[2J\u{9b}");
    fs::create_dir_all(hostile.join("repository")).unwrap();
    let config = hostile.join("config.yaml");
    let valid = fs::read_to_string(place.path("config.yaml")).unwrap();
    let invalid = format!("{valid}unknown: 1\n");
    for (text, arguments) in [
        (&valid, &["check"][..]),
        (&valid, &["check", "--json"]),
        (&valid, &["accept"]),
        (&valid, &["reload"]),
        (&invalid, &["check"]),
        (&invalid, &["check", "--json"]),
        (&invalid, &["status"]),
        (&invalid, &["run"]),
    ] {
        fs::write(&config, text).unwrap();
        let mut command = program();
        command.arg("--config").arg(&config).args(arguments);
        let Ran { out, err, .. } = run(command);
        let printed = out + &err;
        assert!(printed.contains("[2J"), "{arguments:?}: {printed:?}");
        let is_safe = |c: char| c == '\n' || !c.is_control();
        assert!(printed.chars().all(is_safe), "{arguments:?}: {printed:?}");
    }
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
fn packagers_get_completions_and_a_manual_page_without_a_configuration() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let mut command = program();
        command.args(["completions", shell]);
        assert!(run(command).succeeded().contains("redeliver"), "{shell}");
    }
    let mut command = program();
    command.arg("man");
    let page = run(command).succeeded();
    assert!(
        page.contains(".TH project\\-webhooks 1 "),
        "{}",
        &page[..200]
    );
}

#[test]
fn the_manual_page_of_the_configuration_has_every_setting() {
    let mut command = program();
    command.args(["man", "5"]);
    let page = run(command).succeeded();
    for setting in SETTINGS {
        let key = setting.key.replace('-', "\\-");
        let title = format!(".TP\n\\fB{key}\\fR\n");
        assert_eq!(page.matches(&title).count(), 1, "{key}\n{page}");
    }
    assert!(!page.contains('`'), "{page}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let mut command = program();
    command.arg("man");
    let (mut man, lines) = Running::printing(command);
    drop(lines);
    assert_eq!(wait_exit(&mut man.0).code(), Some(0));
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
