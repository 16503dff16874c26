//! Reloads of the configuration.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use project_webhooks::receiver::Reply;

use super::{DEFINITION, home, snapshot};
use crate::common::{Endpoint, Home, Run as _, Settings, Webhook, wait_until, xml};

/// An endpoint that answers only once the gate is open.
fn endpoint_with_gate() -> (Endpoint, Arc<AtomicBool>) {
    let gate = Arc::new(AtomicBool::new(false));
    let open = Arc::clone(&gate);
    let endpoint = Endpoint::answering(move |_| {
        let status = if open.load(Ordering::Acquire) {
            200
        } else {
            503
        };
        Reply::status(StatusCode::from_u16(status).unwrap())
    });
    (endpoint, gate)
}

#[test]
fn a_valid_reload_is_applied_as_a_whole() {
    let (first, second, third) = (Endpoint::new(), Endpoint::new(), Endpoint::new());
    let of = |webhooks: &[(&str, &Endpoint)]| {
        Settings::of(webhooks.iter().map(|(name, endpoint)| {
            Webhook::new(name, &endpoint.url()).events("[snapshot-create]")
        }))
    };
    let home = home(&of(&[("a", &first), ("b", &second)]));
    let daemon = home.start();
    snapshot(&home, "s1");
    first.wait_for(1);
    second.wait_for(1);

    // Remove one webhook and add another.
    home.configure(&of(&[("a", &first), ("c", &third)]));
    assert!(daemon.reload());
    snapshot(&home, "s2");
    first.wait_for(2);
    assert_eq!(third.wait_for(1)[0].parameter("versionTag"), Some("s2"));
    daemon.fence();
    assert_eq!((first.n(), second.n(), third.n()), (2, 1, 1));

    // Configured again, it gets the events from then on.
    home.configure(&of(&[("a", &first), ("b", &second), ("c", &third)]));
    assert!(daemon.reload());
    snapshot(&home, "s3");
    let tags: Vec<String> = second
        .wait_for(2)
        .iter()
        .filter_map(|one| one.parameter("versionTag").map(str::to_owned))
        .collect();
    assert_eq!(tags, ["s1", "s3"]);
}

#[test]
fn pending_deliveries_use_new_settings_and_those_of_a_removed_webhook_are_parked() {
    let (down, open) = endpoint_with_gate();
    let elsewhere = Endpoint::new();
    let slow = "[0s, 1h, 1h]";
    let quick = "[0s, 100ms, 200ms, 400ms, 1s, 2s, 5s, 5s]";
    let of = |webhooks: &[(&str, &Endpoint, &str)]| {
        Settings::of(webhooks.iter().map(|(name, endpoint, schedule)| {
            Webhook::new(name, &endpoint.url())
                .events("[snapshot-create]")
                .schedule(schedule)
        }))
    };
    let home = home(&of(&[("moved", &down, quick), ("parked", &down, quick)]));
    let daemon = home.start();
    snapshot(&home, "s1");
    // Two of each: both have failed at least once.
    wait_until("attempts of both", || {
        let failures = |name: &str| {
            daemon
                .entries()
                .iter()
                .filter(|e| e.message().starts_with("failed") && e.field("webhook") == name)
                .count()
        };
        (failures("moved") > 0 && failures("parked") > 0).then_some(())
    });
    // One has another address now; the other is removed.
    home.configure(&of(&[("moved", &elsewhere, quick)]));
    assert!(daemon.reload());
    assert_eq!(elsewhere.wait_for(1)[0].parameter("versionTag"), Some("s1"));
    open.store(true, Ordering::Release);
    snapshot(&home, "s2");
    elsewhere.wait_for(2);
    daemon.fence();
    assert_eq!(elsewhere.n(), 2);
    down.take();
    // Configured again: parked deliveries are sent, but no events from the time in between.
    home.configure(&of(&[
        ("moved", &elsewhere, quick),
        ("parked", &down, slow),
    ]));
    assert!(daemon.reload());
    let came = down.wait_for(1);
    assert_eq!(came[0].parameter("versionTag"), Some("s1"));
    daemon.fence();
    assert_eq!(down.n(), 1);
}

#[test]
fn a_configuration_that_became_a_pipe_is_rejected_without_waiting() {
    let endpoint = Endpoint::new();
    let settings = Settings::of([Webhook::new("all", &endpoint.url()).events("[snapshot-create]")]);
    let home = home(&settings);
    let daemon = home.start();
    fs::rename(home.config(), home.beside("good.yaml")).unwrap();
    let (mode, kind) = (rustix::fs::Mode::RWXU, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, home.config(), kind, mode, 0).unwrap();
    assert!(!daemon.reload());
    snapshot(&home, "s1");
    endpoint.wait_for(1);
    fs::rename(home.beside("good.yaml"), home.config()).unwrap();
    assert!(daemon.reload());
    assert!(daemon.terminate().success());
}

#[test]
fn an_invalid_reload_reports_every_error_and_changes_nothing() {
    let endpoint = Endpoint::new();
    let settings = Settings::of([Webhook::new("all", &endpoint.url()).events("[snapshot-create]")]);
    let home = home(&settings);
    let daemon = home.start();
    let good = fs::read_to_string(home.config()).unwrap();
    let bad = good
        .replace("settle: 300ms", "settle: soon")
        .replace("snapshot-create", "snapshot-creat")
        .replace("state_dir: ./state", "state_dirr: ./elsewhere");
    fs::write(home.config(), bad).unwrap();
    assert!(!daemon.reload());
    for mistake in ["settle", "snapshot-creat", "state_dirr"] {
        daemon.wait_log(mistake, |entry| {
            entry.field("level") == "ERROR" && entry.message().contains(mistake)
        });
    }
    snapshot(&home, "s1");
    endpoint.wait_for(1);
    // A setting that needs a restart is refused by name, with the whole configuration.
    let moved = good
        .replace("state_dir: ./state", "state_dir: ./elsewhere")
        .replace("snapshot-create", "project-publish");
    fs::write(home.config(), moved).unwrap();
    assert!(!daemon.reload());
    daemon.wait_log("state_dir by name", |entry| {
        entry.field("level") == "ERROR" && entry.message().contains("state_dir cannot change")
    });
    // A missing file, and one that is not YAML.
    fs::remove_file(home.config()).unwrap();
    assert!(!daemon.reload());
    fs::write(home.config(), "webhooks: [\n  \u{0}").unwrap();
    assert!(!daemon.reload());
    snapshot(&home, "s2");
    endpoint.wait_for(2);
    fs::write(home.config(), good).unwrap();
    assert!(daemon.reload());
    snapshot(&home, "s3");
    endpoint.wait_for(3);
}

/// Runs `reload`: its exit status and its output.
fn reload_command(home: &Home, state_dir: Option<&str>) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("--config").arg(home.config()).arg("reload");
    command.env_remove("STATE_DIRECTORY");
    if let Some(state_dir) = state_dir {
        command.env("STATE_DIRECTORY", home.path().join(state_dir));
    }
    let output = command.run().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn the_reload_command_waits_and_prints_the_result() {
    let (first, second) = (Endpoint::new(), Endpoint::new());
    let of = |endpoint: &Endpoint| {
        Settings::of([Webhook::new("all", &endpoint.url()).events("[snapshot-create]")])
    };
    let home = home(&of(&first));
    let (status, said) = reload_command(&home, None);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("no running daemon uses"), "{said}");

    let daemon = home.start();
    home.configure(&of(&second));
    let (status, said) = reload_command(&home, None);
    assert_eq!(status, Some(0), "{said}");
    // The daemon has applied it already, so there is no need to wait.
    assert_eq!(daemon.n_messages("the configuration is applied"), 1);
    snapshot(&home, "s1");
    second.wait_for(1);

    // An invalid one: every error, from the daemon if $STATE_DIRECTORY finds it.
    let good = fs::read_to_string(home.config()).unwrap();
    let bad = good
        .replace("settle: 300ms", "settle: soon")
        .replace("snapshot-create", "snapshot-creat");
    fs::write(home.config(), bad).unwrap();
    for state_dir in [None, Some("state")] {
        let (status, said) = reload_command(&home, state_dir);
        assert_eq!(status, Some(78), "{said}");
        for mistake in ["settle", "snapshot-creat"] {
            assert!(said.contains(mistake), "{said}");
        }
    }
    assert_eq!(daemon.n_messages("the configuration is rejected"), 1);

    // Valid for the command but not for the daemon, which does not have the variable.
    let secret = "secret: { env: A_VARIABLE_THAT_IS_NOT_SET }\n    url:";
    fs::write(home.config(), good.replace("url:", secret)).unwrap();
    let (status, said) = reload_command(&home, None);
    assert_eq!(status, Some(78), "{said}");
    assert!(said.contains("A_VARIABLE_THAT_IS_NOT_SET"), "{said}");
    snapshot(&home, "s2");
    second.wait_for(2);
    daemon.fence();
    assert_eq!((first.n(), second.n()), (0, 2));
}

#[test]
fn a_new_layout_waits_for_removals_under_the_old_one() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).settle("1s");
    let home = Home::new(&settings);
    let a = xml("Orders", "e-1", "one");
    home.write("sales/orders/project.xml", &a);
    home.write("sales/kept/project.xml", &xml("Kept", "e-2", "one"));
    home.write("sales/kept/old/v1.xml", &xml("Kept", "e-2", "one"));
    let daemon = home.start();
    home.remove_all("sales/orders");
    home.reconfigure(
        &settings
            .clone()
            .repository("layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }"),
    );
    assert!(daemon.reload());
    daemon.wait_message("existing projects are recorded without events", 1);
    // At the start, under the old layout, under the new one.
    daemon.wait_message("full scan finished", 3);
    daemon.fence();
    let came = endpoint.wait_for(1);
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!(
        (came[0].event.as_str(), &came[0].payload[..]),
        ("project-delete", a.as_bytes())
    );
    // The snapshot is known under the new layout, and a change of it is an event.
    home.write("sales/kept/old/v1.xml", &xml("Kept", "e-2", "two"));
    let came = endpoint.wait_for(2);
    assert_eq!(came[1].event, "snapshot-create");
}

#[test]
fn a_reload_that_waits_for_removals_stops_no_signal_or_command() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).settle("1h");
    let home = home(&settings);
    home.write("sales/kept/project.xml", &xml("Kept", "e-2", "one"));
    let daemon = home.start();
    fs::remove_file(home.at(DEFINITION)).unwrap();
    home.reconfigure(
        &settings
            .repository("layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }"),
    );
    assert!(daemon.reload());
    assert_eq!(daemon.n_messages("the engine has been busy"), 0);
    daemon.wait_message("takes effect once the changes", 1);
    assert!(home.command(&["accept"]).contains("No removals are held"));
    assert_eq!(daemon.n_messages("recorded without events"), 0);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(endpoint.n(), 0);
}
