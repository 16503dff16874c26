//! Watches: moved, removed and new directories, names that are not text, limits.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

// Directories that no watch can be set on, and those that it can be set on later.
mod gaps;

// Directories that exchange their names in one step.
mod exchanges;

// Mounts that come and go by themselves.
mod automounts;

// Mounts in a namespace of the test.
mod mounts;

// Random trees and operations: the kernel's watches are those of the layout.
mod properties;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    Daemon, Endpoint, Home, Run as _, Settings, on_both_backends, skip, succeeds, wait_until, xml,
};
use rustix::process::{Pid, Signal, kill_process};

fn home_with_projects(settings: &Settings, count: usize) -> Home {
    let home = Home::new(settings);
    for number in 0..count {
        add_project(&home, &format!("sales/p{number}"), number);
    }
    home
}

fn add_project(home: &Home, path: &str, number: usize) {
    let content = xml("p", &format!("e{number}"), "one");
    home.write(&format!("{path}/project.xml"), &content);
    home.write(&format!("{path}/published/project.xml"), &content);
    home.write(&format!("{path}/snapshots/v1.xml"), &content);
}

/// The command that runs the daemon without root's permissions; none if not possible.
fn unprivileged(home: &Home, test: &str) -> Option<Command> {
    let command = Daemon::command(home);
    if !rustix::process::geteuid().is_root() {
        return Some(command);
    }
    fs::File::create(home.beside("daemon.log")).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = home.path().to_str().unwrap();
    if !succeeds("setpriv", &["--version"]) || !succeeds("chown", &["-R", "65534:65534", path]) {
        skip(test, "needs setpriv");
        return None;
    }
    let mut unprivileged = Command::new("setpriv");
    unprivileged
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET");
    Some(unprivileged)
}

/// Sets the limit of open files of a daemon.
fn limit_descriptors(daemon: &Daemon<'_>, limit: usize) {
    let pid = daemon.pid().to_string();
    let limit = format!("--nofile={limit}:");
    let arguments = ["prlimit", "--pid", &pid, &limit];
    // Root may lack the permission, which the daemon's own user has.
    let as_user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    assert!(
        succeeds(arguments[0], &arguments[1..])
            || succeeds("setpriv", &[&as_user[..], &arguments].concat())
    );
}

fn coverage(home: &Home) -> serde_json::Value {
    home.json(&["status"])["coverage"].clone()
}

fn wait_for_watches(home: &Home, count: u64) {
    wait_until("the number of watches", || {
        (coverage(home)["watches"] == count).then_some(())
    });
}

on_both_backends!(
    the_number_of_watches_follows_renames_and_removals,
    names_that_are_not_text_are_listed_while_they_are_there,
    a_queue_that_overflows_loses_no_change_and_no_watch,
    at_the_limit_of_watches_changes_are_found_and_the_limit_is_named,
);

fn the_number_of_watches_follows_renames_and_removals(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 4);
    let daemon = home.start();
    // The root, the organization, and three for each project.
    wait_for_watches(&home, 2 + 4 * 3);
    home.rename("sales/p0", "sales/q0");
    home.rename("sales", "finance");
    home.write("finance/q0/snapshots/v2.xml", &xml("p", "e0", "two"));
    wait_until("the snapshot", || {
        let events = daemon.events();
        events
            .contains(&"Snapshot Create finance/q0".to_owned())
            .then_some(())
    });
    wait_for_watches(&home, 2 + 4 * 3);
    fs::rename(home.at("finance/p1"), home.beside("away")).unwrap();
    home.remove_all("finance/p2");
    wait_for_watches(&home, 2 + 2 * 3);
    // A directory moved out of the repository loses its watches; one moved back gets them.
    fs::rename(home.beside("away"), home.at("finance/p9")).unwrap();
    wait_for_watches(&home, 2 + 3 * 3);
    home.remove_all("finance");
    wait_for_watches(&home, 1);
}

fn names_that_are_not_text_are_listed_while_they_are_there(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 1);
    let _daemon = home.start();
    let wrong = OsStr::from_bytes(b"wrong-\xff");
    let directories = ["", "sales", "sales/p0/snapshots"];
    for directory in directories {
        fs::create_dir(home.at(directory).join(wrong)).unwrap();
    }
    let listed = |count: usize| {
        wait_until("the list of ignored files", || {
            let status = home.command(&["status"]);
            (status.matches("not UTF-8").count() == count).then_some(())
        });
    };
    listed(directories.len());
    for directory in directories {
        fs::remove_dir(home.at(directory).join(wrong)).unwrap();
    }
    listed(0);
}

fn a_queue_that_overflows_loses_no_change_and_no_watch(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 3);
    let daemon = home.start();
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    home.write("sales/p0/snapshots/v2.xml", &xml("p", "e0", "two"));
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    home.write("sales/x", "x");
    // Each renaming is two reports; so many that no reading before the stop matters.
    for _ in 0..=queue / 2 {
        home.rename("sales/x", "sales/y");
        home.rename("sales/y", "sales/x");
    }
    // None of this is reported.
    home.rename("sales/p1", "sales/q1");
    add_project(&home, "sales/p7", 7);
    kill_process(pid, Signal::CONT).unwrap();
    daemon.wait_message("file events were lost", 1);
    wait_until("the changes made while the daemon was stopped", || {
        let events = daemon.events();
        let has = |event: &str| events.iter().any(|found| found == event);
        (has("Snapshot Create sales/p0") && has("Project Import sales/p7")).then_some(())
    });
    wait_for_watches(&home, 2 + 4 * 3);
    // They are watched at their present paths.
    for project in ["q1", "p7"] {
        home.write(
            &format!("sales/{project}/snapshots/live.xml"),
            &xml("p", "e", project),
        );
    }
    wait_until("the live snapshots", || {
        let events = daemon.events();
        let count = |event: &str| events.iter().filter(|found| *found == event).count();
        let is_seen = count("Snapshot Create sales/q1") == 1;
        (is_seen && count("Snapshot Create sales/p7") == 2).then_some(())
    });
}

fn at_the_limit_of_watches_changes_are_found_and_the_limit_is_named(backend: &str) {
    let test = "at_the_limit_of_watches_changes_are_found_and_the_limit_is_named";
    let limit_to = |limit: u32| format!("echo {limit} > /proc/sys/user/max_inotify_watches");
    // A user namespace has a limit of its own.
    let may = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", &limit_to(20)])
        .stderr(Stdio::null())
        .ended();
    if !may.is_ok_and(|status| status.success()) {
        skip(test, "no user namespace can be made here");
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .watch(backend)
        .repository("poll_interval: 200ms");
    let home = home_with_projects(&settings, 10);
    let daemon = Daemon::command(&home);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg(format!("{} && exec \"$0\" \"$@\"", limit_to(20)))
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET");
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    let found = coverage(&home);
    assert_eq!(found["watches"], 20, "{found}");
    assert_eq!(found["uncovered"], 12, "{found}");
    let note = found["note"].as_str().unwrap();
    assert!(
        note.contains("user.max_inotify_watches = 20; 20 of 32 directories are watched"),
        "{note}"
    );
    for number in 0..10 {
        home.write(
            &format!("sales/p{number}/snapshots/v2.xml"),
            &xml("p", &format!("e{number}"), "two"),
        );
    }
    endpoint.wait_for(10);
    let raised = Command::new("nsenter")
        .args(["--user", "--preserve-credentials", "--target"])
        .arg(daemon.pid().to_string())
        .args(["sh", "-c", &limit_to(1000)])
        .ended()
        .unwrap();
    assert!(raised.success());
    wait_for_watches(&home, 32);
    let found = coverage(&home);
    assert_eq!(found["uncovered"], 0, "{found}");
    assert_eq!(found["polls"], false, "{found}");
}

/// The pauses between the end of a full scan and the begin of the next one, by the log.
fn pauses(daemon: &Daemon<'_>) -> Vec<Duration> {
    let entries = daemon.entries();
    let at = |text: &'static str| {
        let found = entries
            .iter()
            .filter(move |entry| entry.message().starts_with(text));
        found.map(|entry| entry.field("timestamp").parse::<jiff::Timestamp>().unwrap())
    };
    let ends = at("full scan finished");
    ends.zip(at("full scan started").skip(1))
        .map(|(end, begin)| begin.duration_since(end).unsigned_abs())
        .collect()
}

#[test]
fn scans_come_as_often_as_the_poll_interval_says() {
    // A busy machine does fewer scans, but some of them come in time. There was a fixed pause of 0.2 s.
    for (interval, longest) in [("10ms", 100), ("100ms", 180)] {
        let endpoint = Endpoint::new();
        let settings = Settings::all_to(&endpoint)
            .watch("poll")
            .repository(&format!("poll_interval: {interval}"));
        let home = home_with_projects(&settings, 1);
        let daemon = home.start();
        wait_until(&format!("20 scans, every {interval}"), || {
            // Reading the log more often would take the time of the scans.
            std::thread::sleep(Duration::from_millis(200));
            let pauses = pauses(&daemon).into_iter();
            let n_short = pauses.filter(|pause| *pause <= Duration::from_millis(longest));
            (n_short.count() >= 20).then_some(())
        });
    }
}
