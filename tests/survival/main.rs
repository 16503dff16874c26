//! Hostile files and names, a root that goes away, limits of the kernel, and resources that run
//! out must neither end the daemon nor cause false events. The real binary, real files.
//!
//! A test that lacks root or a tool prints `skipped:`, which `.ci/run` counts.

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

// Files that are no project.xml, whatever their names say.
mod files;

// Hostile names and parameters.
mod names;

// A root that is removed, returns, or is replaced.
mod roots;

// State directories that the daemon cannot use.
mod starts;

// Listed problems follow the disk.
mod listed;

// The kernel's limits: queue, watches, instances.
mod limits;

// Projects larger than the memory.
mod memory;

// States of earlier versions.
mod states;

// A long reader, a backlog that fills the disk.
mod disk_space;

// No directory for temporary files.
mod read_only;

// Full disk, no descriptors, changed clock, damaged state.
mod resources;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Daemon, Home, skip, succeeds, wait_until, xml};

/// Whether the test runs as root. If not, reports that it is skipped.
fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(test, "needs root");
    }
    is_root
}

/// The command that runs the daemon as a user without root's permissions; none if not possible.
///
/// Root reads everything, so root gives the files to another user.
fn unprivileged(home: &Home, test: &str) -> Option<Command> {
    let command = Daemon::command(home);
    if !rustix::process::geteuid().is_root() {
        return Some(command);
    }
    let user = "65534";
    fs::File::create(home.beside("daemon.log")).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let owner = format!("{user}:{user}");
    let home_path = home.path().to_str().unwrap();
    let has_tools =
        succeeds("setpriv", &["--version"]) && succeeds("chown", &["-R", &owner, home_path]);
    if !has_tools {
        skip(test, "needs setpriv");
        return None;
    }
    let mut unprivileged = Command::new("setpriv");
    unprivileged
        .args(["--reuid", user, "--regid", user, "--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET");
    Some(unprivileged)
}

/// A mount, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// Mounts with these arguments of mount(8) at an existing directory; none if not allowed.
    fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        let mut all = arguments.to_vec();
        let target = at.to_str().unwrap();
        all.push(target);
        succeeds("mount", &all).then(|| Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        succeeds("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// Projects with a definition, a published copy and a snapshot each, of one organization.
fn projects(home: &Home, n: usize) {
    for number in 0..n {
        let id = format!("e-{number}");
        let name = format!("P{number}");
        let at = format!("sales/p{number}");
        home.write(&format!("{at}/project.xml"), &xml(&name, &id, "one"));
        home.write(
            &format!("{at}/published/v1/project.xml"),
            &xml(&name, &id, "published"),
        );
        home.write(
            &format!("{at}/snapshots/s1.xml"),
            &xml(&name, &id, "snapshot"),
        );
    }
}

/// A field of the daemon's status in /proc, in KiB.
fn memory_kib(daemon: &Daemon<'_>, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// Waits until the output of `status` contains a text, and returns the output.
fn wait_status(
    home: &Home,
    what: &str,
    wanted: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    wait_until(&format!("a status: {what}"), || {
        let status = home.json(&["status"]);
        wanted(&status).then_some(status)
    })
}
