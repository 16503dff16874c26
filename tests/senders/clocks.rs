//! The clock of the database decides, whatever the clocks of the hosts say.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderValue, StatusCode};
use project_webhooks::receiver::Reply;

use super::common::{Daemon, Endpoint, Home, skip, wait_within, xml};
use super::fleet::{Fleet, PATIENCE, launch};

/// The path of a file with the offset of a process's clock, and the command with that clock.
fn with_clock(home: &Home, offset: &str) -> Option<(Command, PathBuf)> {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| std::fs::exists(path).unwrap_or(false))?;
    let path = home.beside("offset");
    std::fs::write(&path, offset).unwrap();
    let mut command = Daemon::command(home);
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &path)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    Some((command, path))
}

/// Asks for a wait of this many seconds, and accepts the next request.
fn asking_for_a_wait(seconds: &'static str) -> Endpoint {
    let is_first = AtomicBool::new(true);
    Endpoint::answering(move |_| {
        if !is_first.swap(false, Ordering::SeqCst) {
            return Reply::status(StatusCode::NO_CONTENT);
        }
        let mut reply = Reply::status(StatusCode::SERVICE_UNAVAILABLE);
        let wait = HeaderValue::from_static(seconds);
        reply.headers.insert("retry-after", wait);
        reply
    })
}

#[test]
fn a_clock_that_is_set_back_on_one_host_ends_no_wait() {
    const TEST: &str = "a_clock_that_is_set_back_on_one_host_ends_no_wait";
    let Some(fleet) = Fleet::new(TEST) else {
        return;
    };
    let endpoint = asking_for_a_wait("3600");
    let homes = ["right", "wrong"].map(|name| fleet.home(&endpoint, name, "[deliver]", &[]));
    let Some((command, offset)) = with_clock(&homes[1], "+0") else {
        return skip(TEST, "needs libfaketime");
    };
    let right = launch(&homes[0]);
    right.wait_message("sending callbacks", 1);
    let wrong = Daemon::launch(&homes[1], command);
    wrong.wait_message("sending callbacks", 1);
    fleet.record(0..1, 1);
    endpoint.wait_for(1);
    fleet.wait_renewals(2, 1);
    let beside = homes[1].beside("offset.new");
    std::fs::write(&beside, "-7200").unwrap();
    std::fs::rename(beside, offset).unwrap();
    // Both look for due deliveries every second.
    fleet.wait_renewals(2, 2);
    assert_eq!(endpoint.n_all(), 1);
    assert!(right.terminate().success());
    assert!(wrong.terminate().success());
}

#[test]
fn a_clock_that_is_ahead_on_one_host_changes_no_wait() {
    const TEST: &str = "a_clock_that_is_ahead_on_one_host_changes_no_wait";
    for (seconds, is_first_wrong) in [("3600", false), ("5", true)] {
        let Some(fleet) = Fleet::new(TEST) else {
            return;
        };
        let endpoint = asking_for_a_wait(seconds);
        let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &[]));
        let mut commands = homes.each_ref().map(Daemon::command);
        let wrong = usize::from(!is_first_wrong);
        let Some((command, _)) = with_clock(&homes[wrong], "+7200") else {
            return skip(TEST, "needs libfaketime");
        };
        commands[wrong] = command;
        let [first, second] = commands;
        fleet.record(0..1, 1);
        let first = Daemon::launch(&homes[0], first);
        endpoint.wait_for(1);
        assert!(first.terminate().success());
        let second = Daemon::launch(&homes[1], second);
        second.wait_message("sending callbacks", 1);
        if is_first_wrong {
            endpoint.wait_for(2);
        } else {
            fleet.wait_renewals(1, 2);
            assert_eq!(endpoint.n_all(), 1);
        }
        assert!(second.terminate().success());
    }
}

#[test]
fn a_clock_that_is_ahead_on_one_host_removes_no_delivery() {
    const TEST: &str = "a_clock_that_is_ahead_on_one_host_removes_no_delivery";
    let Some(fleet) = Fleet::new(TEST) else {
        return;
    };
    let endpoint = Endpoint::new();
    // Only a process that watches removes deliveries.
    let homes = [("right", "[deliver]"), ("wrong", "[watch, deliver]")]
        .map(|(name, roles)| fleet.home(&endpoint, name, roles, &[]));
    // Longer than the test takes, and shorter than the clock is ahead.
    let mut config = std::fs::read_to_string(homes[1].config()).unwrap();
    config.push_str("\nretention: { delivered: 10m, dead: 10m }\n");
    std::fs::write(homes[1].config(), config).unwrap();
    let Some((command, _)) = with_clock(&homes[1], "+1800") else {
        return skip(TEST, "needs libfaketime");
    };
    fleet.record(0..1, 1);
    let right = launch(&homes[0]);
    wait_within(PATIENCE, "the delivery", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(right.terminate().success());
    let wrong = Daemon::launch(&homes[1], command);
    wrong.wait_ready();
    fleet.wait_renewals(1, 2);
    assert_eq!(fleet.sql("SELECT count(*) FROM deliveries"), "1");
    assert!(wrong.terminate().success());
}

#[test]
fn an_event_of_a_host_whose_clock_is_ahead_is_due_at_once() {
    const TEST: &str = "an_event_of_a_host_whose_clock_is_ahead_is_due_at_once";
    let Some(fleet) = Fleet::new(TEST) else {
        return;
    };
    let endpoint = Endpoint::new();
    let watching = fleet.home(&endpoint, "watching", "[watch]", &[]);
    let Some((command, _)) = with_clock(&watching, "+7200") else {
        return skip(TEST, "needs libfaketime");
    };
    let watch = Daemon::launch(&watching, command);
    watch.wait_ready();
    watching.write("sales/a/project.xml", &xml("A", "id-a", "one"));
    let sending = fleet.home(&endpoint, "sending", "[deliver]", &[]);
    let sending = launch(&sending);
    endpoint.wait_for(2);
    assert!(watch.terminate().success());
    assert!(sending.terminate().success());
}
