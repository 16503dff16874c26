//! Namespaces of a test's own, for mounts and for networks that a test cuts.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::common::{Patient, RUN_MAX, skip, succeeds, wait_exit};

/// Set in the run within the namespaces.
const INSIDE: &str = "PROJECT_WEBHOOKS_INSIDE";

/// Runs a test again in namespaces of its own for mounts and networks. Returns whether this is that run.
///
/// The name has the test's module. Everything that the test mounts and configures ends with that run.
pub fn is_isolated(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        assert!(succeeds("ip", &["link", "set", "lo", "up"]));
        return true;
    }
    if !succeeds("unshare", &["-mn", "true"]) || !succeeds("ip", &["-V"]) {
        skip(test, "needs root, unshare and ip (iproute2)");
        return false;
    }
    let mut run = Command::new("unshare")
        .arg("-mn")
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(Patient::within(RUN_MAX, run.stdout.take().unwrap())).lines() {
        println!("{}", line.unwrap());
    }
    assert!(wait_exit(&mut run).success(), "{test} failed");
    false
}
