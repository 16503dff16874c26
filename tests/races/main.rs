//! Writers, editors and tools that work while the daemon observes.
//!
//! No event is partial, missing, doubled or invented.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod checkouts;
#[path = "../common/mod.rs"]
mod common;
mod renames;
mod swaps;
mod unreadable;
mod writers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Home, Run as _, Settings, xml};

/// A pause inside a scenario: a writer that takes its time. Nothing is synchronised by it.
fn takes(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Runs a command in a directory, which has to succeed.
fn run(directory: &Path, command: &str) {
    let output = Command::new("sh")
        .args(["-ec", command])
        .current_dir(directory)
        .run()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A home whose projects `sales/p0` and so on exist, each with a snapshot and a published copy.
fn home_with_projects(settings: &Settings, n: usize) -> Home {
    let home = Home::new(settings);
    for number in 0..n {
        let content = |body: &str| xml(&format!("P{number}"), &format!("e-{number}"), body);
        home.write(&format!("sales/p{number}/project.xml"), &content("one"));
        home.write(&format!("sales/p{number}/snapshots/s1.xml"), &content("s1"));
        home.write(
            &format!("sales/p{number}/published/v1/project.xml"),
            &content("v1"),
        );
    }
    home
}
