//! `systemctl reload`: succeeds when the configuration is applied, fails when it is rejected.

use crate::service::{REPOSITORY, UNIT, config, drop_in, installed};
use crate::{can_boot, root, skip};

#[test]
fn a_reload_is_done_when_it_is_applied_and_fails_when_it_is_rejected() {
    if !can_boot("a_reload_is_done_when_it_is_applied_and_fails_when_it_is_rejected") {
        return;
    }
    let container = installed(|_| {});
    let (first, second) = (container.receive(9001, ""), container.receive(9002, ""));
    container.configure(&config(9001, ""));
    container.run(&["systemctl", "start", UNIT]);
    let main = container.property(UNIT, "MainPID");
    container.import(REPOSITORY);
    container.snapshot(REPOSITORY, "s1");
    container.wait_snapshots(&first, 1);

    container.configure(&config(9002, ""));
    container.run(&["systemctl", "reload", UNIT]);
    container.snapshot(REPOSITORY, "s2");
    assert_eq!(container.wait_snapshots(&second, 1), ["s2"]);

    // Invalid: it fails, status and log have the errors, and nothing changes.
    container.configure(&config(9001, "    concurency: 8\n").replace("settle", "setle"));
    let (status, _) = container.try_run(&["systemctl", "reload", UNIT]);
    assert_ne!(status, Some(0));
    assert_eq!(container.property(UNIT, "ActiveState"), "active");
    let status = container.run(&["systemctl", "status", "--lines=30", UNIT]);
    for error in ["setle", "concurency"] {
        assert!(status.contains(error), "{status}");
    }
    container.snapshot(REPOSITORY, "s3");
    assert_eq!(container.wait_snapshots(&second, 2), ["s2", "s3"]);

    // A setting that needs a restart is refused by name.
    container.configure(&config(9002, "").replace("/lib/project-webhooks", "/lib/elsewhere"));
    let (status, _) = container.try_run(&["systemctl", "reload", UNIT]);
    assert_ne!(status, Some(0));
    let log = container.journal(UNIT);
    assert!(log.contains("state_dir"), "{log}");

    container.configure(&config(9001, ""));
    container.run(&["systemctl", "reload", UNIT]);
    container.snapshot(REPOSITORY, "s4");
    assert_eq!(container.wait_snapshots(&first, 2), ["s1", "s4"]);
    assert_eq!(container.property(UNIT, "MainPID"), main);
    assert_eq!(container.property(UNIT, "NRestarts"), "0");
}

#[test]
fn a_reload_by_signal_is_waited_for_where_systemd_can() {
    const TEST: &str = "a_reload_by_signal_is_waited_for_where_systemd_can";
    if !can_boot(TEST) {
        return;
    }
    let example = root().join("systemd/examples/notify-reload.conf");
    let example = std::fs::read_to_string(example).unwrap();
    let container = installed(|stage| drop_in(stage, "notify-reload", &example));
    let version = container.run(&["systemctl", "--version"]);
    let version: u32 = version.split(' ').nth(1).unwrap().parse().unwrap();
    if version < 253 {
        return skip(
            TEST,
            &format!("systemd {version} has no Type=notify-reload"),
        );
    }
    let (first, second) = (container.receive(9001, ""), container.receive(9002, ""));
    container.configure(&config(9001, ""));
    container.run(&["systemctl", "start", UNIT]);
    container.import(REPOSITORY);
    container.snapshot(REPOSITORY, "s1");
    container.wait_snapshots(&first, 1);
    container.configure(&config(9002, ""));
    container.run(&["systemctl", "reload", UNIT]);
    container.snapshot(REPOSITORY, "s2");
    assert_eq!(container.wait_snapshots(&second, 1), ["s2"]);
    // A rejected reload ends too, and only the log reports it.
    container.configure("nonsense");
    container.run(&["systemctl", "reload", UNIT]);
    assert!(container.journal(UNIT).contains("is rejected"));
}
