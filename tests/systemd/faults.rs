//! What systemd has to mend: a process that is killed, and one that hangs.

use crate::can_boot;
use crate::common::wait_until;
use crate::service::{REPOSITORY, UNIT, config, drop_in, installed};

#[test]
fn after_a_kill_it_is_started_again_and_nothing_is_lost() {
    if !can_boot("after_a_kill_it_is_started_again_and_nothing_is_lost") {
        return;
    }
    let container = installed(|stage| {
        drop_in(stage, "quick", "[Service]\nRestartSec=2s\n");
    });
    // Nobody listens yet: what is recorded waits.
    container.configure(&config(9000, ""));
    container.run(&["systemctl", "start", UNIT]);
    container.import(REPOSITORY);
    container.snapshot(REPOSITORY, "before");
    wait_until("it is recorded", || {
        let events = container.run(&["project-webhooks", "events"]);
        events.contains("Snapshot Create").then_some(())
    });
    container.run(&[
        "systemctl",
        "kill",
        "--kill-whom=main",
        "--signal=KILL",
        UNIT,
    ]);
    wait_until("it is down", || {
        (container.property(UNIT, "ActiveState") == "activating").then_some(())
    });
    container.snapshot(REPOSITORY, "meanwhile");
    let receiver = container.receive(9000, "");
    container.wait_property(UNIT, "NRestarts", "1");
    container.wait_property(UNIT, "ActiveState", "active");
    container.snapshot(REPOSITORY, "after");
    let mut tags = container.wait_snapshots(&receiver, 3);
    tags.sort();
    assert_eq!(tags, ["after", "before", "meanwhile"]);
}

#[test]
fn a_hang_ends_in_a_restart_by_the_watchdog() {
    if !can_boot("a_hang_ends_in_a_restart_by_the_watchdog") {
        return;
    }
    let container = installed(|stage| {
        drop_in(
            stage,
            "quick",
            "[Service]\nWatchdogSec=3s\nRestartSec=100ms\n",
        );
    });
    container.configure(&config(9000, ""));
    let receiver = container.receive(9000, "");
    container.run(&["systemctl", "start", UNIT]);
    container.import(REPOSITORY);
    container.run(&[
        "systemctl",
        "kill",
        "--kill-whom=main",
        "--signal=STOP",
        UNIT,
    ]);
    container.wait_property(UNIT, "NRestarts", "1");
    container.wait_property(UNIT, "ActiveState", "active");
    let log = container.journal(UNIT);
    assert!(log.contains("Watchdog timeout"), "{log}");
    container.snapshot(REPOSITORY, "after");
    container.wait_snapshots(&receiver, 1);
}
