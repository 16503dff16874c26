//! `demo`, as the real program.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::patience::wait_exit;
use crate::support::{Printed, Running, program, run};

const LABELS: [&str; 7] = [
    "Project Delete",
    "Project Delete and Unpublish",
    "Project Import",
    "Project Import - Any",
    "Project Publish",
    "Snapshot Create",
    "Snapshot Restore",
];

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn the_demo_shows_all_seven_events_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = program();
    command.arg("demo").env("TMPDIR", temporary.path());
    let printed = run(command).succeeded();
    for label in LABELS {
        let row = printed
            .lines()
            .rev()
            .find(|line| line.starts_with(&format!("{label}  ")))
            .unwrap_or_else(|| panic!("no {label} in:\n{printed}"));
        assert!(row.ends_with("verified"), "{row}");
        assert!(printed.contains(&format!("  {label}, after ")), "{printed}");
    }
    for command in ["$ mv ", "$ mkdir -p ", "$ cp ", "$ rm -r "] {
        assert!(printed.contains(command), "{command} not in:\n{printed}");
    }
    assert!(printed.contains("All callbacks arrived: 9"), "{printed}");
    assert!(!printed.contains('\u{1b}'), "{printed:?}");
    assert!(is_empty(temporary.path()));
}

#[test]
fn the_demo_shows_the_four_events_that_have_to_be_named() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = program();
    command
        .args(["demo", "--all"])
        .env("TMPDIR", temporary.path());
    let printed = run(command).succeeded();
    for label in [
        "Project Save",
        "Project Unpublish",
        "Snapshot Delete",
        "Project Move",
    ] {
        let row = printed
            .lines()
            .rev()
            .find(|line| line.starts_with(&format!("{label}  ")));
        assert!(
            row.is_some_and(|row| row.ends_with("verified")),
            "{printed}"
        );
    }
    assert!(printed.contains("previousProject"), "{printed}");
    assert!(printed.contains("All callbacks arrived: 15"), "{printed}");
}

/// Starts `demo` and reads its lines until one begins so.
fn start_demo(arguments: &[&str], temporary: &Path, until: &str) -> (Running, Printed) {
    let mut command = program();
    command.arg("demo").args(arguments).env("TMPDIR", temporary);
    let (demo, mut lines) = Running::printing(command);
    while !lines.next().unwrap().unwrap().starts_with(until) {}
    (demo, lines)
}

#[test]
fn a_kept_demo_goes_on_until_it_is_interrupted() {
    let temporary = tempfile::tempdir().unwrap();
    let (demo, _lines) = start_demo(&["--keep"], temporary.path(), "All callbacks arrived: 9");
    let directory = fs::read_dir(temporary.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let config = directory.join("config.yaml");
    let status = || {
        let mut command = program();
        command
            .arg("--config")
            .arg(&config)
            .args(["status", "--json"]);
        run(command).json()
    };
    assert_eq!(status()["pid"], demo.0.id());
    assert_eq!(demo.end(Signal::INT), Some(0));
    assert_eq!(status()["running"], false);
    assert!(directory.exists());
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let temporary = tempfile::tempdir().unwrap();
        let (demo, _lines) = start_demo(&[], temporary.path(), "1. ");
        assert_eq!(demo.end(signal), Some(1));
        assert!(is_empty(temporary.path()), "{signal:?}");
    }
}

#[test]
fn a_demo_that_nobody_reads_tidies_up_too() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut demo, lines) = start_demo(&[], temporary.path(), "1. ");
    drop(lines);
    assert_eq!(wait_exit(&mut demo.0).code(), Some(0));
    assert!(is_empty(temporary.path()));
}
