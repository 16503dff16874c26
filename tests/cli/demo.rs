//! `demo`, as the real program.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::Value;

use crate::support::{Running, program, run};

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
        assert!(
            printed.contains(&format!("-> {label}, after ")),
            "{printed}"
        );
    }
    for command in ["$ mv ", "$ mkdir -p ", "$ cp ", "$ rm -r "] {
        assert!(printed.contains(command), "{command} not in:\n{printed}");
    }
    assert!(printed.contains("All callbacks came: 9"), "{printed}");
    assert!(!printed.contains('\u{1b}'), "{printed:?}");
    assert!(is_empty(temporary.path()));
}

/// What a demo prints, line by line.
type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

/// Starts `demo` and reads its lines up to one of this type. The rest can be read by somebody who
/// keeps the lines.
fn start_demo(arguments: &[&str], temporary: &Path, until: &str) -> (Running, Vec<Value>, Lines) {
    let mut command = program();
    command
        .args(["demo", "--json"])
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let demo = Running(child);
    let mut seen = Vec::new();
    loop {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let is_last = line["type"] == until;
        seen.push(line);
        if is_last {
            return (demo, seen, lines);
        }
    }
}

fn is_gone(pid: &Value) -> bool {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    test_kill_process(Pid::from_raw(pid).unwrap()).is_err()
}

#[test]
fn a_demo_that_is_kept_goes_on_until_it_is_interrupted() {
    let temporary = tempfile::tempdir().unwrap();
    let (demo, lines, _more) = start_demo(&["--keep"], temporary.path(), "result");
    let result = lines.last().unwrap();
    assert_eq!(result["complete"], true, "{result}");
    assert_eq!(result["events"].as_array().unwrap().len(), 7);
    let start = &lines[0];
    let config = start["config"].as_str().unwrap().to_owned();
    let status = || {
        let mut command = program();
        command.args(["--config", &config, "status", "--json"]);
        run(command).json()
    };
    assert_eq!(status()["pid"], start["daemon"]);
    assert_eq!(demo.end(Signal::INT), Some(0));
    assert!(is_gone(&start["daemon"]));
    assert_eq!(status()["running"], false);
    assert!(Path::new(start["directory"].as_str().unwrap()).exists());
}

#[test]
fn an_interrupted_demo_ends_its_daemon_and_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let temporary = tempfile::tempdir().unwrap();
        let (demo, lines, _more) = start_demo(&[], temporary.path(), "start");
        assert_eq!(demo.end(signal), Some(1));
        assert!(is_gone(&lines[0]["daemon"]), "{signal:?}");
        assert!(is_empty(temporary.path()), "{signal:?}");
    }
}

#[test]
fn a_demo_that_nobody_reads_tidies_up_too() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut demo, lines, more) = start_demo(&[], temporary.path(), "start");
    drop(more);
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
    assert!(is_gone(&lines[0]["daemon"]));
    assert!(is_empty(temporary.path()));
}
