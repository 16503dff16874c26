//! The kernel's limits: queue, watches, instances.
//!
//! Each test sets them in a user namespace of its own, which affects nothing else.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::common::{Daemon, Endpoint, Home, Settings, xml};
use super::{projects, skip, succeeds, wait_status};

const WATCHES: &str = "/proc/sys/user/max_inotify_watches";
const INSTANCES: &str = "/proc/sys/user/max_inotify_instances";

/// Whether a test can make a user namespace with its own limits here.
fn has_namespaces(test: &str) -> bool {
    let script = format!("echo 100 > {WATCHES} && echo 100 > {INSTANCES}");
    let can =
        succeeds("unshare", &["-Ur", "sh", "-c", &script]) && succeeds("nsenter", &["--version"]);
    if !can {
        skip(test, "needs user namespaces, unshare and nsenter");
    }
    can
}

/// The command that runs the daemon with a limit.
fn limited(home: &Home, limit: &str, value: u32) -> Command {
    let inner = Daemon::command(home);
    let script = format!("echo {value} > {limit} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["-Ur", "sh", "-c", &script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET");
    command
}

/// Sets a limit in the daemon's namespace.
fn raise(daemon: &Daemon<'_>, limit: &str, value: u32) {
    let pid = daemon.pid().to_string();
    let script = format!("echo {value} > {limit}");
    assert!(succeeds(
        "nsenter",
        &[
            "-t",
            &pid,
            "-U",
            "--preserve-credentials",
            "sh",
            "-c",
            &script
        ]
    ));
}

fn polls(status: &serde_json::Value) -> bool {
    status["coverage"]["polls"] == true
}

fn note(status: &serde_json::Value) -> &str {
    status["coverage"]["note"].as_str().unwrap_or_default()
}

#[test]
fn a_queue_that_overflows_while_the_process_is_stopped_loses_nothing() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    projects(&home, 4);
    let daemon = home.start();
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    daemon.signal(Signal::STOP);
    // The kernel merges a report with an equal one before it, so two kinds alternate.
    let noise = home.at("sales/p0/noise");
    let other = home.at("sales/p0/other");
    for number in 0..2 * queue {
        fs::write(if number % 2 == 0 { &noise } else { &other }, "x").unwrap();
    }
    home.write("sales/new/project.xml", &xml("New", "e-new", ""));
    home.replace(
        "sales/p1/published/v1/project.xml",
        &xml("P1", "e-1", "published again"),
    );
    home.write("sales/p2/snapshots/s2.xml", &xml("P2", "e-2", "another"));
    home.remove_all("sales/p3");
    daemon.signal(Signal::CONT);
    daemon.wait_log("an overflow", |entry| {
        entry.message().contains("rescanning everything")
    });
    let mut came = endpoint.take_events(6);
    daemon.fence();
    came.sort();
    assert_eq!(
        came,
        [
            "project-delete",
            "project-delete-and-unpublish",
            "project-import",
            "project-import-any",
            "project-publish",
            "snapshot-create",
        ]
    );
    assert_eq!(endpoint.n(), 0);
    // Later projects are noticed as before.
    home.write("sales/later/project.xml", &xml("Later", "e-later", ""));
    endpoint.wait_for(2);
}

#[test]
fn too_few_watches_are_replaced_by_scans_until_there_are_enough() {
    if !has_namespaces("too few watches") {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .repository("poll_interval: 300ms")
        .repository("rescan: 2s");
    let home = Home::new(&settings);
    projects(&home, 6);
    // Enough for the root and a few more; then some more, and one directory too many.
    let daemon = Daemon::launch(&home, limited(&home, WATCHES, 5));
    daemon.wait_ready();
    let status = wait_status(&home, "too few watches", polls);
    assert!(
        note(&status).contains("sysctl user.max_inotify_watches="),
        "{}",
        note(&status)
    );
    assert!(status["coverage"]["uncovered"].as_u64().unwrap() > 0);
    daemon.wait_log("what to do", |entry| {
        entry.message().contains("sysctl user.max_inotify_watches=")
    });
    home.write("sales/p5/snapshots/s2.xml", &xml("P5", "e-5", "another"));
    home.write("sales/new/project.xml", &xml("New", "e-new", ""));
    home.remove_all("sales/p4");
    let mut came = endpoint.take_events(5);
    came.sort();
    assert_eq!(
        came,
        [
            "project-delete",
            "project-delete-and-unpublish",
            "project-import",
            "project-import-any",
            "snapshot-create",
        ]
    );
    raise(&daemon, WATCHES, 100_000);
    wait_status(&home, "enough watches", |status| {
        !polls(status) && status["coverage"]["uncovered"] == 0
    });
    home.write("sales/p5/snapshots/s3.xml", &xml("P5", "e-5", "a third"));
    assert_eq!(endpoint.take_events(1), ["snapshot-create"]);
    daemon.fence();
    assert_eq!(endpoint.n(), 0);
}

#[test]
fn watches_that_become_free_are_set_by_the_next_full_scan() {
    if !has_namespaces("watches that become free") {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .repository("poll_interval: 300ms")
        .repository("rescan: 1s");
    let home = Home::new(&settings);
    projects(&home, 6);
    // The root, the organization, and four for each project.
    let daemon = Daemon::launch(&home, limited(&home, WATCHES, 20));
    daemon.wait_ready();
    let status = wait_status(&home, "too few watches", polls);
    assert_eq!(status["coverage"]["watches"], 20, "{status}");
    assert_eq!(status["coverage"]["uncovered"], 6, "{status}");
    // The limit stays as it is.
    home.remove_all("sales/p0");
    home.remove_all("sales/p1");
    wait_status(&home, "enough watches", |status| {
        !polls(status) && status["coverage"]["watches"] == 18
    });
    endpoint.wait_for(4);
    for number in 2..6 {
        let text = xml("P", &format!("e-{number}"), "live");
        home.write(&format!("sales/p{number}/snapshots/live.xml"), &text);
    }
    endpoint.wait_for(8);
    daemon.fence();
    assert_eq!(endpoint.n(), 8);
}

#[test]
fn directories_that_are_removed_at_the_limit_no_longer_count() {
    if !has_namespaces("directories that are removed at the limit") {
        return;
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).repository("poll_interval: 300ms"));
    projects(&home, 6);
    // The root, the organization, and four for each project.
    let daemon = Daemon::launch(&home, limited(&home, WATCHES, 20));
    daemon.wait_ready();
    let wait_uncovered = |count: usize| {
        wait_status(&home, &format!("{count} uncovered directories"), |status| {
            status["coverage"]["uncovered"] == count
        })
    };
    wait_uncovered(6);
    let away = home.beside("away");
    fs::create_dir_all(away.join("snapshots")).unwrap();
    // No walk of the whole tree counts again meanwhile.
    for _ in 0..3 {
        fs::rename(&away, home.at("sales/new")).unwrap();
        let status = wait_uncovered(8);
        assert!(
            note(&status).contains("20 of 28 directories"),
            "{}",
            note(&status)
        );
        fs::rename(home.at("sales/new"), &away).unwrap();
        let status = wait_uncovered(6);
        let listed = status["coverage"]["directories"].to_string();
        assert!(!listed.contains("sales/new"), "{listed}");
    }
}

#[test]
fn watches_that_run_out_later_are_replaced_by_scans() {
    if !has_namespaces("watches that run out later") {
        return;
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).repository("poll_interval: 300ms"));
    projects(&home, 2);
    let daemon = Daemon::launch(&home, limited(&home, WATCHES, 12));
    daemon.wait_ready();
    assert!(!polls(&home.json(&["status"])));
    for number in 0..8 {
        let at = format!("hr/q{number}");
        let id = format!("q-{number}");
        home.write(&format!("{at}/project.xml"), &xml("Q", &id, ""));
    }
    endpoint.wait_for(16);
    wait_status(&home, "too few watches", polls);
    endpoint.take();
    for number in 0..8 {
        let text = xml("Q", &format!("q-{number}"), "snapshot");
        home.write(&format!("hr/q{number}/snapshots/s1.xml"), &text);
    }
    endpoint.wait_for(8);
    assert_eq!(endpoint.n(), 8);
}

#[test]
fn without_an_instance_scans_find_every_change() {
    if !has_namespaces("no inotify instance") {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .repository("poll_interval: 300ms")
        .repository("rescan: 2s");
    let home = Home::new(&settings);
    projects(&home, 2);
    let daemon = Daemon::launch(&home, limited(&home, INSTANCES, 0));
    daemon.wait_ready();
    let status = wait_status(&home, "no instance", polls);
    assert!(
        note(&status).contains("sysctl user.max_inotify_instances=1024"),
        "{}",
        note(&status)
    );
    home.write("sales/new/project.xml", &xml("New", "e-new", ""));
    home.remove_all("sales/p1");
    endpoint.wait_for(4);
    raise(&daemon, INSTANCES, 100);
    wait_status(&home, "an instance", |status| !polls(status));
    daemon.fence();
    assert_eq!(endpoint.n(), 4);
}

#[test]
fn an_instance_that_is_gone_at_a_reload_is_replaced_by_scans() {
    if !has_namespaces("no inotify instance later") {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = |watch: &str| {
        Settings::all_to(&endpoint)
            .repository("poll_interval: 300ms")
            .repository(&format!("watch: {watch}"))
    };
    let home = Home::new(&settings("native"));
    projects(&home, 2);
    let daemon = Daemon::launch(&home, limited(&home, INSTANCES, 1));
    daemon.wait_ready();
    assert!(!polls(&home.json(&["status"])));
    // It releases its instance, and another program takes the last one.
    home.reconfigure(&settings("poll"));
    assert!(daemon.reload());
    wait_status(&home, "comparison alone", polls);
    raise(&daemon, INSTANCES, 0);
    home.reconfigure(&settings("native"));
    assert!(daemon.reload());
    wait_status(&home, "no instance", |status| {
        note(status).contains("sysctl user.max_inotify_instances=")
    });
    daemon.wait_log("what to do", |entry| {
        entry
            .message()
            .contains("sysctl user.max_inotify_instances=")
    });
    home.write("sales/new/project.xml", &xml("New", "e-new", ""));
    home.remove_all("sales/p1");
    endpoint.wait_for(4);
    raise(&daemon, INSTANCES, 100);
    wait_status(&home, "an instance", |status| !polls(status));
    daemon.fence();
    assert_eq!(endpoint.n(), 4);
}
