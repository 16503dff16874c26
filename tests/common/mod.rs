//! Fixtures of the end-to-end tests: the real binary on real files, and a listening endpoint.
//!
//! Constraint: nothing here waits for time to pass. [`Daemon::fence`] proves that all earlier changes
//! are judged: it creates and removes a project of its own, and earlier changes are judged earlier.
//! Each test has its own directory and ports, so that tests run in parallel.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    reason = "each test binary uses a part of it, and no crate uses it from outside"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod daemon;
mod disk;
mod endpoint;
mod home;
mod patience;
mod postgres;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

pub use daemon::Daemon;
pub use disk::Disk;
pub use endpoint::{Endpoint, Reserved};
pub use home::{Home, Settings, Webhook, fetch, get, get_with, wait_health, xml};
pub use patience::{
    PATIENCE, Patient, RUN_MAX, Run, Stop, accept, finish, kill, terminal, wait_exit, wait_until,
    wait_within,
};
pub use postgres::{Postgres, Relay};

/// Reports that a test cannot run on this machine; .ci/run counts these lines.
///
/// The test harness does not capture the output.
pub fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

/// Runs a command to its end. Returns whether it succeeded.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    // Nobody reads what a server in the background prints.
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .ended()
        .is_ok_and(|status| status.success())
}

/// Gives this thread, and the processes it starts, mounts of their own. They end with it.
pub fn own_mounts(test: &str) -> bool {
    #[allow(
        deprecated,
        reason = "the safe variant; no table of descriptors is unshared"
    )]
    let is_apart = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).is_ok()
        && succeeds("mount", &["--make-rprivate", "/"]);
    if !is_apart {
        skip(test, "needs root and mount namespaces");
    }
    is_apart
}

/// Makes two tests of each function: it takes the value of `repository.watch`.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod native {
            $(#[test] fn $test() { super::$test("native"); })+
        }
        mod notify {
            $(#[test] fn $test() { super::$test("notify"); })+
        }
    };
}
pub(crate) use on_both_backends;

/// Returns the items in order.
pub fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

/// Writes a file and the directories above it.
pub fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, content).expect("a file");
}

/// Runs a scenario until its steps came in time, such as within the settle time.
///
/// It returns whether they did. If this machine was too busy, the outcome says nothing.
pub fn in_time(mut scenario: impl FnMut() -> bool) {
    const TRIES: usize = 10;
    let was_in_time = (0..TRIES).any(|_| scenario());
    assert!(was_in_time, "this machine was too busy {TRIES} times");
}
