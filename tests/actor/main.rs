//! Who did it: the real kernel's audit records, the real binary, and several users.
//!
//! Constraint: nothing is left behind. [`audit::Audit`] adds a rule and enables auditing, and undoes both
//! when it is dropped, also after a panic. The tests need root in the first namespaces and a kernel with
//! auditing; elsewhere they are skipped.
//!
//! `PROJECT_WEBHOOKS_ACTORS=1 cargo test --test actor -- --nocapture` runs the full numbers: 1,000
//! deletes and publishes, and 200 of each other kind.

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

mod audit;
mod changes;
mod hostile;
mod named;
mod setup;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Endpoint, Home, Run as _, Settings, Webhook, wait_exit};

/// The users who make changes.
const USERS: [u32; 5] = [3001, 3002, 3003, 3004, 3005];

/// The owner of all files, who changes none.
const OWNER: u32 = 4000;

/// A repository that every user may change, with the source `audit` before `owner`.
fn home(endpoint: &Endpoint) -> Home {
    let all = "[\"*\", project-save, project-move, project-unpublish, snapshot-delete]";
    let hook = Webhook::new("all", &endpoint.url()).events(all);
    let mut settings = Settings::of([hook]).repository("mass_delete_after: 0s");
    settings.username = "[audit, owner]";
    let home = Home::new(&settings);
    open(home.path());
    open(&home.at(""));
    fs::create_dir(home.beside("stage")).unwrap();
    open(&home.beside("stage"));
    home
}

/// Lets every user change a directory.
fn open(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
}

/// Gives a tree to the owner, and lets every user change it.
fn give(path: &Path) {
    chown(path, Some(OWNER), Some(OWNER)).unwrap();
    open(path);
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// Writes a file of the owner, with the directories above it.
fn put(path: &Path, content: &str) {
    common::write(path, content);
    give(path.parent().unwrap());
}

/// A shell with this script, as a user who logged in.
///
/// It goes before other tests: a process that waits for a processor in the middle of a system call has its
/// record later than the daemon waits.
fn login(user: u32, script: &str) -> Command {
    let mut command = Command::new("sh");
    let inner = format!(
        "echo {user} > /proc/self/loginuid && \
         exec nice -n -20 setpriv --reuid={user} --regid={user} --clear-groups sh -c \"$SCRIPT\""
    );
    command.args(["-c", &inner]).env("SCRIPT", script);
    command.stdin(Stdio::null());
    command
}

/// Runs a script as a user who logged in.
fn run_as(user: u32, script: &str) {
    let output = login(user, script).run().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{user}: {script}: {said}");
}

/// Waits for a process and checks that it succeeded.
fn finish(mut child: Child) {
    assert!(wait_exit(&mut child).success());
}

/// A recorded event with its user.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    event: String,
    project: String,
    username: String,
    from: String,
    actor: Option<serde_json::Value>,
}

/// All recorded events but those of fences.
fn events(home: &Home) -> Vec<Found> {
    let listed = home.json(&["events", "--limit", "0"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let listed = listed.as_array().unwrap().iter();
    listed
        .map(|event| Found {
            event: text(&event["event"]),
            project: format!(
                "{}/{}",
                text(&event["organization"]),
                text(&event["project"])
            ),
            username: text(&event["parameters"]["username"]),
            from: text(&event["usernameFrom"]),
            actor: event.get("actor").cloned(),
        })
        .filter(|found| !found.project.starts_with("fence/"))
        .collect()
}
