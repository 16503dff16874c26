//! A state directory that cannot be used: one clear error, and nothing is overwritten.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use super::common::{Daemon, Endpoint, Home, Run as _, Settings};
use super::{is_root, projects, skip, succeeds};

/// A state directory: what makes it from one that is in use, and words of the error.
type Case = (&'static str, fn(&Path), &'static str);

const CASES: [Case; 12] = [
    (
        "an empty file",
        |at| fs::write(at, "").unwrap(),
        "it is empty",
    ),
    (
        "a text",
        |at| fs::write(at, "hello\n").unwrap(),
        "cannot read it as a database",
    ),
    (
        "a long text",
        |at| fs::write(at, "hello\n".repeat(9_999)).unwrap(),
        "cannot read it as a database",
    ),
    (
        "a database of another program",
        |at| {
            fs::remove_file(at).unwrap();
            let foreign = rusqlite::Connection::open(at).unwrap();
            foreign.execute_batch("CREATE TABLE t (x)").unwrap();
        },
        "another program",
    ),
    (
        "a directory",
        |at| {
            fs::remove_file(at).unwrap();
            fs::create_dir(at).unwrap();
        },
        "it is a directory",
    ),
    (
        "a pipe",
        |at| {
            fs::remove_file(at).unwrap();
            assert!(succeeds("mkfifo", &[at.to_str().unwrap()]));
        },
        "it is not a file",
    ),
    (
        "a link to a disk that is not mounted",
        |at| {
            fs::remove_file(at).unwrap();
            symlink("/mnt/nowhere/state.db", at).unwrap();
        },
        "a symbolic link to a file that is missing",
    ),
    ("the first page alone", |at| truncate(at, 4096), "damaged"),
    ("half of a page", |at| truncate(at, 2048), "damaged"),
    (
        "half of it",
        |at| truncate(at, fs::metadata(at).unwrap().len() / 2),
        "damaged",
    ),
    (
        "pages of noise",
        |at| {
            let mut bytes = fs::read(at).unwrap();
            bytes[8192..].fill(0xa5);
            fs::write(at, bytes).unwrap();
        },
        "damaged",
    ),
    (
        "a lock that is a directory",
        |at| {
            let lock = at.with_file_name("lock");
            fs::remove_file(&lock).unwrap();
            fs::create_dir(lock).unwrap();
        },
        "move this directory away",
    ),
];

fn truncate(at: &Path, length: u64) {
    fs::File::options()
        .write(true)
        .open(at)
        .unwrap()
        .set_len(length)
        .unwrap();
}

/// The entries of a directory, with the content of files. The lock has the id of each process.
fn content(directory: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut entries: Vec<_> = entries
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let is_file = entry.file_type().unwrap().is_file();
            (name, is_file.then(|| fs::read(entry.path()).unwrap()))
        })
        // SQLite may make an empty log and its index, which have no content of a user.
        .filter(|(name, _)| !name.ends_with("-shm"))
        .filter(|(name, content)| {
            !(name.ends_with("-wal") && content.as_ref().is_some_and(Vec::is_empty))
        })
        .collect();
    entries.sort();
    entries
}

/// Runs a command. It must fail with one line, which is returned.
fn fails(name: &str, mut command: Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .env_remove("NOTIFY_SOCKET")
        .run()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{name}: {said}");
    assert_eq!(said.lines().count(), 1, "{name}: {said}");
    said
}

fn command(home: &Home, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("--config").arg(home.config()).args(arguments);
    command
}

#[test]
fn a_state_that_cannot_be_used_is_one_clear_error_and_is_not_overwritten() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    projects(&home, 20);
    home.start().terminate();
    let (state, kept) = (home.beside("state"), home.beside("kept"));
    fs::rename(&state, &kept).unwrap();
    for (name, make, words) in CASES {
        fs::create_dir(&state).unwrap();
        for entry in fs::read_dir(&kept).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), state.join(entry.file_name())).unwrap();
        }
        make(&home.database());
        let before = content(&state);
        let said = fails(name, command(&home, &["run"]));
        let path = state.to_str().unwrap();
        assert!(
            said.contains(path) && said.contains(words),
            "{name}: {said}"
        );
        let advice = ["Restore the state directory", "move this directory away"];
        assert!(
            advice.iter().any(|advice| said.contains(advice)),
            "{name}: {said}"
        );
        if !words.contains("this directory") {
            // Commands that only read name the same cause.
            let said = fails(name, command(&home, &["events"]));
            let is_same = said.contains(words) || said.contains("damaged");
            assert!(said.contains(path) && is_same, "{name}: {said}");
        }
        assert!(content(&state) == before, "{name}: it was changed");
        fs::remove_dir_all(&state).unwrap();
    }
    fs::rename(&kept, &state).unwrap();
    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
}

#[test]
fn an_engine_that_cannot_read_the_record_logs_the_cause() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    home.start().terminate();
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database
        .execute_batch("ALTER TABLE problems RENAME TO lost")
        .unwrap();
    drop(database);
    let mut daemon = Daemon::launch(&home, Daemon::command(&home));
    assert!(!daemon.wait_exit().success());
    let entry = daemon.wait_log("a failed start", |entry| {
        entry
            .message()
            .starts_with("cannot read the recorded state")
    });
    let error = entry.field("error");
    assert!(error.contains("no such table: problems"), "{error}");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_one_clear_error() {
    const TEST: &str = "a_state_directory_that_cannot_be_written_is_one_clear_error";
    if !is_root(TEST) {
        return;
    }
    if !succeeds("unshare", &["-m", "true"]) {
        return skip(TEST, "mount namespaces are not allowed");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let state = home.beside("state");
    fs::create_dir(&state).unwrap();
    let read_only = "mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"; exec \"$@\"";
    // A new one, and one that was in use.
    for _ in 0..2 {
        let run = Daemon::command(&home);
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-ec", read_only])
            .arg(&state)
            .arg(run.get_program())
            .args(run.get_args());
        let before = content(&state);
        let said = fails(TEST, command);
        assert!(said.contains("Read-only file system"), "{said}");
        assert!(
            said.contains("let the daemon's user write state_dir"),
            "{said}"
        );
        assert!(content(&state) == before);
        home.start().terminate();
    }
}
