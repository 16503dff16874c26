//! Files that live for 50 ms or so. Alone in its binary, so that no other test takes the processor from
//! a daemon that has 50 ms to open a file.

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
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Daemon, Endpoint, Home, Run as _, Settings, in_time, on_both_backends, sorted, wait_until, xml,
};

/// A pause inside a scenario: a writer that takes its time. Nothing is synchronised by it.
fn takes(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

on_both_backends!(
    a_snapshot_that_lives_for_50_ms_is_created_with_its_content,
    a_link_that_lives_for_50_ms_while_the_engine_is_busy_is_a_snapshot,
    a_snapshot_that_is_moved_out_of_its_project_while_the_engine_is_busy_was_one,
    a_snapshot_that_is_replaced_while_the_engine_is_busy_is_created_twice,
    a_snapshot_of_a_new_project_that_is_replaced_at_once_is_created_twice,
    a_short_lived_file_during_a_pending_replacement_comes_after_it,
    a_save_through_a_temporary_file_that_takes_long_is_no_event,
    a_snapshot_that_is_written_under_a_hidden_name_is_one_event,
);

/// Writes a snapshot for each number and removes it 50 ms later, from four writers at once.
fn write_for_50_ms(home: &Home, numbers: &BTreeSet<usize>) {
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                for number in numbers.iter().filter(|number| *number % 4 == writer) {
                    let path = short_lived_path(*number);
                    home.write(&path, &short_lived_content(*number));
                    takes(50);
                    home.remove(&path);
                }
            });
        }
    });
}

fn short_lived_path(number: usize) -> String {
    format!("sales/orders/snapshots/short-{number}.xml")
}

fn short_lived_content(number: usize) -> String {
    xml("Orders", "e-1", &format!("snapshot {number}"))
}

/// Writes a project with a snapshot. Its directory is watched when a short-lived one comes.
fn one_project(home: &Home) {
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    home.write(
        "sales/orders/snapshots/first.xml",
        &xml("Orders", "e-1", "first"),
    );
}

fn a_snapshot_that_lives_for_50_ms_is_created_with_its_content(backend: &str) {
    const N: usize = 100;
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
    one_project(&home);
    let daemon = home.start();
    let mut missing: BTreeSet<usize> = (0..N).collect();
    // On a busy machine the daemon may get the processor after 50 ms. It logs the files that it could
    // not open, and only these may be missing. They are written again, until all have come.
    wait_until("all snapshots", || {
        let before = daemon.entries().len();
        write_for_50_ms(&home, &missing);
        daemon.fence();
        let came = endpoint.wait_for(daemon.events().len());
        let snapshots: BTreeMap<&str, &[u8]> = came
            .iter()
            .map(|one| (one.parameter("versionTag").unwrap(), &one.payload[..]))
            .collect();
        assert_eq!(came.len(), snapshots.len(), "none comes twice");
        let entries = daemon.entries();
        let late: BTreeSet<&str> = entries[before..]
            .iter()
            .filter(|entry| entry.message().starts_with("cannot open a reported file"))
            .map(|entry| entry.field("path"))
            .collect();
        missing.retain(
            |number| match snapshots.get(format!("short-{number}").as_str()) {
                Some(payload) => {
                    assert_eq!(*payload, short_lived_content(*number).as_bytes());
                    false
                }
                None => {
                    let path = short_lived_path(*number);
                    assert!(late.contains(path.as_str()), "{path} is lost, and not late");
                    true
                }
            },
        );
        missing.is_empty().then_some(())
    });
}

/// Writes a snapshot that takes the engine much longer than 50 ms to read.
fn keep_the_engine_busy(home: &Home) {
    let body = "<row><cell>some text</cell></row>".repeat(40_000);
    let large = xml("Orders", "e-1", "large").replace("</schema>", &format!("{body}</schema>"));
    // It appears at once, so that only one observation reads it.
    fs::write(home.beside("large.xml"), large).unwrap();
    let path = home.at("sales/orders/snapshots/large.xml");
    fs::rename(home.beside("large.xml"), path).unwrap();
}

/// Waits until the engine reads that snapshot. So the next observation begins after all later
/// reports.
fn wait_busy(daemon: &Daemon<'_>) {
    let descriptors = format!("/proc/{}/fd", daemon.pid());
    let is_large = |descriptor: &fs::DirEntry| {
        fs::read_link(descriptor.path()).is_ok_and(|path| path.ends_with("large.xml"))
    };
    wait_until("an engine that reads", || {
        let open = fs::read_dir(&descriptors).unwrap().flatten();
        // The watch holds it open too.
        let is_reading = open.filter(is_large).count() > 1;
        (is_reading || !daemon.events().is_empty()).then_some(())
    });
}

/// Whether the daemon could not open this file in time, which it logs.
fn is_late(daemon: &Daemon<'_>, name: &str) -> bool {
    daemon.entries().iter().any(|entry| {
        entry.message().starts_with("cannot open a reported file")
            && entry.field("path").ends_with(name)
    })
}

fn a_link_that_lives_for_50_ms_while_the_engine_is_busy_is_a_snapshot(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
        one_project(&home);
        let daemon = home.start();
        keep_the_engine_busy(&home);
        let link = home.at("sales/orders/snapshots/link.xml");
        fs::hard_link(home.at("sales/orders/project.xml"), &link).unwrap();
        takes(50);
        fs::remove_file(link).unwrap();
        daemon.fence();
        if is_late(&daemon, "link.xml") {
            return false;
        }
        let tags = snapshots(&daemon, &endpoint);
        assert_eq!(tags, ["large", "link"]);
        true
    });
}

fn a_snapshot_that_is_moved_out_of_its_project_while_the_engine_is_busy_was_one(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
        one_project(&home);
        let daemon = home.start();
        keep_the_engine_busy(&home);
        let path = "sales/orders/snapshots/moved.xml";
        home.write(path, &xml("Orders", "e-1", "moved"));
        takes(50);
        fs::rename(home.at(path), home.beside("archived.xml")).unwrap();
        // Under its temporary name it was none.
        let began = Instant::now();
        home.write("sales/orders/snapshots/temporary.xml", "<schema/>");
        home.rename(
            "sales/orders/snapshots/temporary.xml",
            "sales/orders/snapshots/final.xml",
        );
        let was_quick = began.elapsed() < Duration::from_millis(20);
        daemon.fence();
        if is_late(&daemon, "moved.xml") {
            return false;
        }
        let tags = snapshots(&daemon, &endpoint);
        if !was_quick && tags.contains(&"temporary".to_owned()) {
            return false;
        }
        assert_eq!(tags, ["final", "large", "moved"]);
        true
    });
}

fn a_snapshot_that_is_replaced_while_the_engine_is_busy_is_created_twice(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
        one_project(&home);
        let daemon = home.start();
        keep_the_engine_busy(&home);
        wait_busy(&daemon);
        let path = "sales/orders/snapshots/kept.xml";
        home.write(path, &xml("Orders", "e-1", "one"));
        lives_for_50_ms(&home, "sales/orders", "e-1");
        // As editors keep the former version.
        home.rename(path, &format!("{path}.bak"));
        home.write(path, &xml("Orders", "e-1", "two"));
        daemon.fence();
        if is_late(&daemon, "50-ms.xml") {
            return false;
        }
        assert_eq!(
            snapshots(&daemon, &endpoint),
            ["50-ms", "kept", "kept", "large"]
        );
        assert_in_order(&endpoint, "kept");
        true
    });
}

fn a_snapshot_of_a_new_project_that_is_replaced_at_once_is_created_twice(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
        one_project(&home);
        fs::create_dir_all(home.at("sales/new/snapshots")).unwrap();
        let daemon = home.start();
        keep_the_engine_busy(&home);
        wait_busy(&daemon);
        home.write("sales/new/project.xml", &xml("New", "e-2", "new"));
        let path = "sales/new/snapshots/s.xml";
        home.write(path, &xml("New", "e-2", "one"));
        lives_for_50_ms(&home, "sales/new", "e-2");
        home.replace(path, &xml("New", "e-2", "two"));
        daemon.fence();
        if is_late(&daemon, "50-ms.xml") {
            return false;
        }
        assert_eq!(snapshots(&daemon, &endpoint), ["50-ms", "large", "s", "s"]);
        assert_in_order(&endpoint, "s");
        true
    });
}

/// Writes a snapshot of a project, and removes it 50 ms later.
///
/// If the daemon could open it in time, it has opened all files that were written before.
fn lives_for_50_ms(home: &Home, project: &str, engine_id: &str) {
    let path = format!("{project}/snapshots/50-ms.xml");
    home.write(&path, &xml("Short", engine_id, "short"));
    takes(50);
    home.remove(&path);
}

/// The versions `one` and `two` of a snapshot came in this order.
fn assert_in_order(endpoint: &Endpoint, tag: &str) {
    let all = endpoint.all();
    let of_tag = all
        .iter()
        .filter(|one| one.event == "snapshot-create" && one.parameter("versionTag") == Some(tag));
    let versions: Vec<bool> = of_tag
        .map(|one| String::from_utf8_lossy(&one.payload).contains("two"))
        .collect();
    assert_eq!(versions, [false, true]);
}

/// The version tags of the snapshots that were created, sorted.
fn snapshots(daemon: &Daemon<'_>, endpoint: &Endpoint) -> Vec<String> {
    let all = endpoint.wait_for(daemon.events().len());
    let created = all.iter().filter(|one| one.event == "snapshot-create");
    sorted(created.map(|one| one.parameter("versionTag").unwrap().to_owned()))
}

fn a_short_lived_file_during_a_pending_replacement_comes_after_it(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend).settle("500ms"));
        one_project(&home);
        let daemon = home.start();
        home.write("sales/orders/project.xml", &xml("Other", "e-2", "two"));
        let snapshot = xml("Other", "e-2", "short");
        takes(50);
        home.write("sales/orders/snapshots/short.xml", &snapshot);
        takes(60);
        home.remove("sales/orders/snapshots/short.xml");
        daemon.fence();
        if is_late(&daemon, "short.xml") {
            return false;
        }
        assert_eq!(
            endpoint.take_events(4),
            [
                "project-delete",
                "project-import",
                "project-import-any",
                "snapshot-create"
            ]
        );
        true
    });
}

fn a_save_through_a_temporary_file_that_takes_long_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend).settle("1500ms"));
        home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
        let daemon = home.start();
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        home.remove("sales/orders/project.xml");
        for number in 0..12 {
            home.write("sales/orders/project.xml.tmp", &format!("<schema>{number}"));
            longest = longest.max(last.elapsed());
            last = Instant::now();
            takes(250);
        }
        home.write("sales/orders/project.xml.tmp", &xml("Orders", "e-1", "two"));
        home.rename("sales/orders/project.xml.tmp", "sales/orders/project.xml");
        if longest.max(last.elapsed()) > Duration::from_secs(1) {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        true
    });
}

/// Saves snapshots by write, fsync and rename, before or after the close, with a hidden temporary name.
const SAVER: &str = "
import os, sys, tempfile
directory, content, closes_first = sys.argv[1:]
for number in range(20):
    with tempfile.NamedTemporaryFile(
        'w', prefix='.', suffix='.xml', dir=directory, delete=False
    ) as file:
        file.write(content.replace('NUMBER', str(number)))
        file.flush()
        os.fsync(file.fileno())
        if closes_first == 'yes':
            file.close()
        os.replace(file.name, os.path.join(directory, f'v{number}.xml'))
";

fn a_snapshot_that_is_written_under_a_hidden_name_is_one_event(backend: &str) {
    for closes_first in ["no", "yes"] {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
        home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
        home.write("sales/orders/snapshots/v.xml", &xml("Orders", "e-1", "one"));
        let daemon = home.start();
        let status = Command::new("python3")
            .args(["-c", SAVER])
            .arg(home.at("sales/orders/snapshots"))
            .args([&xml("Orders", "e-1", "NUMBER"), closes_first])
            .ended();
        assert!(status.unwrap().success());
        daemon.fence();
        let wanted = sorted((0..20).map(|number| format!("v{number}")));
        assert_eq!(snapshots(&daemon, &endpoint), wanted);
    }
}
