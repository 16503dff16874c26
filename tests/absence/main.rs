//! Missing files and projects, with the real binary: when a removal counts, and when it is held.

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

// How holds end: over a restart, by projects that come back, and by new settings.
mod ends;

// Projects that are out of sight: locked, not mounted, or without their source.
mod hidden;

// Held removals: how they begin, how they end, and what reports them.
mod holds;

// Held removals and another layout.
mod layouts;

// Encrypted directories without their key.
mod locked;

// Missing files of one project.
mod single;

// Projects that vanish together.
mod waves;

use std::process::{Command, Output, Stdio};

use common::{Daemon, Endpoint, Home, Settings, fetch, finish, wait_until, xml};
use rustix::process::Signal;

/// The events that an endpoint received, in order.
fn events(endpoint: &Endpoint) -> Vec<String> {
    endpoint.all().into_iter().map(|one| one.event).collect()
}

/// A project that was published, and the directory of its organization.
fn project(home: &Home, name: &str) {
    let content = |body: &str| xml(name, &format!("e-{name}"), body);
    let at = format!("sales/{name}");
    home.write(&format!("{at}/project.xml"), &content("one"));
    home.write(&format!("{at}/published/v1/project.xml"), &content("v1"));
    home.write(&format!("{at}/snapshots/s1.xml"), &content("s1"));
}

fn projects(home: &Home, names: impl IntoIterator<Item = String>) {
    for name in names {
        project(home, &name);
    }
}

/// Removes projects while the daemon is stopped. So for it they vanish together, on a busy machine too.
fn vanish(home: &Home, daemon: &Daemon<'_>, names: impl Iterator<Item = String>) {
    daemon.signal(Signal::STOP);
    for name in names {
        home.remove_all(&format!("sales/{name}"));
    }
    daemon.signal(Signal::CONT);
}

fn names(n: usize) -> impl Iterator<Item = String> + Clone {
    (0..n).map(|n| format!("p{n:03}"))
}

fn settings(endpoint: &Endpoint, backend: &str) -> Settings {
    Settings::all_to(endpoint)
        .watch(backend)
        .top("admin: { listen: \"unix:./admin.sock\" }")
}

/// Waits until so many removals are held for this cause. Returns the status.
fn wait_held(home: &Home, count: usize, cause: &str) -> serde_json::Value {
    wait_until(&format!("{count} held removals: {cause}"), || {
        let status = home.json(&["status"]);
        let held = &status["heldRemovals"];
        (held["count"] == count && held["cause"] == cause).then_some(status)
    })
}

fn wait_not_held(home: &Home) {
    wait_until("no held removals", || {
        home.json(&["status"])["heldRemovals"]
            .is_null()
            .then_some(())
    });
}

/// Runs a command that may fail.
fn run(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    run_with(home, arguments, Stdio::null())
}

/// Runs a command that may fail with this standard input.
fn run_with(home: &Home, arguments: &[&str], input: Stdio) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
        .arg("--config")
        .arg(home.config())
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(finish)
        .unwrap();
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8(said).unwrap())
}
