//! Full disk, no descriptors, changed clock, damaged state.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use project_webhooks::receiver::{Received, Reply};
use rustix::process::Signal;

use super::common::{
    Daemon, Endpoint, Home, Run as _, Settings, Webhook, get, wait_health, wait_until, xml,
};
use super::{Mount, is_root, projects, skip, succeeds, wait_status};

/// Runs the program and returns its exit status and output.
fn run(home: &Home, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
        .arg("--config")
        .arg(home.config())
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NOTIFY_SOCKET")
        .run()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

fn store_is_in_trouble(status: &serde_json::Value) -> bool {
    status["troubles"].to_string().contains("no change is lost")
}

/// Writes eight projects: too much for what the log of the database has left.
fn write_much(home: &Home) {
    let body: String = (0..400_000_u32)
        .map(|number| char::from(b'a' + (number.wrapping_mul(2_654_435_761) >> 24) as u8 % 26))
        .collect();
    for number in 0..8 {
        let text = xml("New", &format!("n-{number}"), &format!("{number}{body}"));
        home.write(&format!("sales/n{number}/project.xml"), &text);
    }
}

#[test]
fn a_full_disk_makes_inference_wait_and_loses_nothing() {
    const TEST: &str = "a full disk";
    if !is_root(TEST) {
        return;
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    projects(&home, 2);
    let state = home.beside("state");
    fs::create_dir(&state).unwrap();
    let Some(mounted) = Mount::new(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], &state) else {
        return skip(TEST, "mounting is not allowed");
    };
    let daemon = home.start();
    let filler = state.join("filler");
    // All that is left, to the last block.
    let _full = fs::write(&filler, vec![0_u8; 8 << 20]);
    write_much(&home);
    home.remove_all("sales/p1");
    daemon.wait_log("inference waits", |entry| {
        entry.message().contains("inference waits")
    });
    wait_status(&home, "the store's trouble", store_is_in_trouble);
    // Names that are not UTF-8, outside any project: no later observation finds them again.
    let unnamed: Vec<String> = (0..100)
        .map(|n| format!("{n}-{}", "x".repeat(200)))
        .collect();
    for name in &unnamed {
        let bytes = [name.as_bytes(), b"\xff"].concat();
        fs::create_dir(home.at("").join(OsStr::from_bytes(&bytes))).unwrap();
    }
    let before = endpoint.n();
    assert!(before < 18, "{before} callbacks of what was not recorded");
    fs::remove_file(&filler).unwrap();
    endpoint.wait_for(18);
    daemon.fence();
    assert_eq!(endpoint.n(), 18);
    daemon.wait_log("it works again", |entry| {
        entry.message().contains("works again")
    });
    wait_status(&home, "the names are listed", |status| {
        let listed = status["incomplete"].as_array().unwrap();
        let is_listed = |name: &String| {
            let path = format!("{name}\u{fffd}");
            listed.iter().any(|one| one["path"] == *path)
        };
        unnamed.iter().all(is_listed)
    });
    drop(daemon);
    drop(mounted);
}

/// A killed daemon starts on a full disk and delivers its pending deliveries: with the settings that
/// it had, and with others.
#[test]
fn a_start_on_a_full_disk_sends_pending_deliveries() {
    const TEST: &str = "a start on a full disk";
    if !is_root(TEST) {
        return;
    }
    for is_changed in [false, true] {
        if !starts_on_a_full_disk(is_changed) {
            return skip(TEST, "mounting is not allowed");
        }
    }
}

fn starts_on_a_full_disk(is_changed: bool) -> bool {
    let refuses = Arc::new(AtomicBool::new(true));
    let endpoint = Endpoint::answering({
        let refuses = Arc::clone(&refuses);
        move |_| {
            let refused = refuses.load(Ordering::SeqCst);
            Reply::status(StatusCode::from_u16(if refused { 500 } else { 200 }).unwrap())
        }
    });
    let webhook = Webhook::new("all", &endpoint.url());
    let changed = webhook.clone().with("timeout: 7s");
    let settings =
        |webhook| Settings::of([webhook]).top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings(webhook.clone()));
    projects(&home, 2);
    let state = home.beside("state");
    fs::create_dir(&state).unwrap();
    let Some(mounted) = Mount::new(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], &state) else {
        return false;
    };
    let daemon = home.start();
    home.write("sales/p0/snapshots/s2.xml", &xml("P0", "e-0", "waits"));
    // Its first attempt is on record when the second is made.
    endpoint.wait_for(2);
    daemon.kill();
    home.replace("sales/p1/snapshots/s2.xml", &xml("P1", "e-1", "last"));
    let is_last = |one: &Received| one.parameter("projectName") == Some("P1");
    // A reader keeps the log from starting over, where it would find room.
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database
        .execute_batch("BEGIN; SELECT count(*) FROM events")
        .unwrap();
    let filler = state.join("filler");
    let _full = fs::write(&filler, vec![0_u8; 8 << 20]);
    endpoint.take();
    refuses.store(false, Ordering::SeqCst);
    if is_changed {
        home.reconfigure(&settings(changed.clone()));
    }

    let daemon = Daemon::launch(&home, Daemon::command(&home));
    endpoint.wait_for_one("a pending delivery", |one| !is_last(one));
    daemon.wait_message("inference waits", 1);
    let later = "cannot save changed webhook settings yet";
    assert_eq!(daemon.n_messages(later), usize::from(is_changed));
    wait_health(&home, "/readyz", 503);
    wait_health(&home, "/healthz", 200);
    if !is_changed {
        assert!(daemon.reload(), "nothing is to be recorded for it");
        home.reconfigure(&settings(changed));
        assert!(!daemon.reload());
        daemon.wait_message("fix the cause and reload again: ", 1);
    }
    database.execute_batch("ROLLBACK").unwrap();
    fs::remove_file(&filler).unwrap();
    wait_health(&home, "/readyz", 200);
    endpoint.wait_for_one("the last", is_last);
    if is_changed {
        daemon.wait_message("saved the webhook settings of the running configuration", 1);
    } else {
        assert!(daemon.reload());
    }
    daemon.fence();
    drop(daemon);
    drop(database);
    drop(mounted);
    true
}

#[test]
fn a_disk_that_fails_makes_inference_wait_and_loses_nothing() {
    const TEST: &str = "a disk that fails";
    if !succeeds("prlimit", &["--version"]) {
        return skip(TEST, "needs prlimit");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    projects(&home, 2);
    // Beyond a size of file every write fails, as on a disk with an error: EFBIG is none of the
    // errors that mean a full one.
    let inner = Daemon::command(&home);
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET");
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    let pid = daemon.pid().to_string();
    let limit = |size: &str| {
        let limit = format!("--fsize={size}:");
        assert!(succeeds("prlimit", &["--pid", &pid, &limit]), "{limit}");
    };
    limit("65536");
    write_much(&home);
    home.remove_all("sales/p1");
    daemon.wait_log("inference waits", |entry| {
        entry.message().contains("inference waits")
            && entry
                .message()
                .contains("cannot read or write the database")
    });
    wait_status(&home, "the store's trouble", store_is_in_trouble);
    let before = endpoint.n();
    assert!(before < 18, "{before} callbacks of what was not recorded");
    limit("unlimited");
    endpoint.wait_for(18);
    daemon.fence();
    assert_eq!(endpoint.n(), 18);
    daemon.wait_log("it works again", |entry| {
        entry.message().contains("works again")
    });
    wait_status(&home, "no trouble", |status| !store_is_in_trouble(status));
}

#[test]
fn a_state_directory_that_is_moved_away_makes_inference_wait_until_it_is_back() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    projects(&home, 1);
    let daemon = home.start();
    let (state, away) = (home.beside("state"), home.beside("away"));
    fs::rename(&state, &away).unwrap();
    wait_health(&home, "/readyz", 503);
    wait_health(&home, "/healthz", 200);
    daemon.wait_message("was removed, moved or replaced while the daemon runs", 1);
    // Nothing is recorded where a restart would not find it.
    home.write("sales/new/project.xml", &xml("New", "e-new", ""));
    // One that is made in its place is not it.
    fs::create_dir(&state).unwrap();
    fs::copy(away.join("state.db"), state.join("state.db")).unwrap();
    wait_health(&home, "/readyz", 503);
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&away, &state).unwrap();
    wait_health(&home, "/readyz", 200);
    daemon.wait_message("the store works again", 1);
    endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(endpoint.n(), 2);
    assert_eq!(daemon.events().len(), 2);
}

#[test]
fn a_state_directory_that_is_moved_away_keeps_its_pending_deliveries() {
    const LIMIT: &str = "project_webhooks_state_limit_bytes ";
    let endpoint = Endpoint::reserved();
    let settings = Settings::of([Webhook::new("w", &endpoint.url()).schedule("[0s, 1h]")])
        .top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    let daemon = home.start();
    projects(&home, 3);
    daemon.fence();
    let pending = || {
        let listed = home.json(&["deliveries", "--state", "pending"]);
        let listed = listed.as_array().unwrap().iter();
        listed.map(|one| one["id"].to_string()).collect::<Vec<_>>()
    };
    let before = pending();
    assert!(!before.is_empty());
    let limit = || {
        let (_, metrics) = get(&home, "/metrics")?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(LIMIT));
        Some(line.map(ToOwned::to_owned))
    };
    let known = || limit()?.filter(|limit| limit != "0");
    wait_until("a measured size of the state", known);
    let (state, away) = (home.beside("state"), home.beside("away"));
    fs::rename(&state, &away).unwrap();
    let unknown = wait_until("a measurement of the moved state", || {
        limit().filter(|limit| limit.as_deref().is_none_or(|limit| limit == "0"))
    });
    fs::rename(&away, &state).unwrap();
    assert_eq!(unknown, None);
    wait_until("a measurement of the state in its place", known);
    assert_eq!(pending(), before);
    assert_eq!(daemon.n_messages("reached its limit"), 0);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_refused_at_the_start() {
    const TEST: &str = "a read-only state directory";
    if !is_root(TEST) {
        return;
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    projects(&home, 1);
    home.start().terminate();
    let state = home.beside("state");
    let Some(mounted) = Mount::new(&["--bind", state.to_str().unwrap()], &state) else {
        return skip(TEST, "mounting is not allowed");
    };
    assert!(succeeds(
        "mount",
        &["-o", "remount,ro,bind", state.to_str().unwrap()]
    ));
    let (status, said) = run(&home, &["run"]);
    assert_eq!(status, 1, "{said}");
    assert!(
        said.contains("Read-only file system") && said.contains("state"),
        "{said}"
    );
    drop(mounted);
    home.start().terminate();
}

#[test]
fn a_full_table_of_descriptors_loses_nothing() {
    const TEST: &str = "descriptors exhausted";
    if !succeeds("prlimit", &["--version"]) {
        return skip(TEST, "needs prlimit");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).repository("rescan: 1s"));
    projects(&home, 4);
    let daemon = home.start();
    let pid = daemon.pid().to_string();
    let limit = |n: u32| {
        let limit = format!("--nofile={n}:");
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .run()
            .unwrap();
        assert!(
            set.status.success(),
            "{limit}: {}",
            String::from_utf8_lossy(&set.stderr)
        );
    };
    // Every new descriptor is refused, whichever are open at this moment.
    limit(3);
    for number in 0..5 {
        let text = xml("New", &format!("n-{number}"), "");
        home.write(&format!("sales/n{number}/project.xml"), &text);
    }
    home.remove_all("sales/p1");
    // It notices, and nothing is inferred from that.
    daemon.wait_log("what cannot be read", |entry| {
        entry.message().contains("Too many open files")
    });
    assert_eq!(endpoint.n(), 0);
    // A scan that cannot begin is not forgotten.
    daemon.signal(Signal::USR1);
    daemon.wait_message("cannot watch the root yet", 1);
    limit(1_024);
    endpoint.wait_for(12);
    daemon.wait_log("the scan", |entry| {
        entry.message() == "full scan finished" && entry.field("reason") == "signal"
    });
    daemon.fence();
    assert_eq!(endpoint.n(), 12);
    wait_status(&home, "no trouble", |status| {
        status["troubles"] == serde_json::json!({})
            && status["incomplete"] == serde_json::json!([])
            && status["coverage"]["uncovered"] == 0
    });
}

/// Starts a daemon whose clock differs from that of the host by the content of the file `offset`.
///
/// Returns `None` without libfaketime.
fn start_with_clock<'a>(home: &'a Home, offset: &Path, first: &str) -> Option<Daemon<'a>> {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| fs::exists(path).unwrap_or(false))?;
    fs::write(offset, first).unwrap();
    let mut command = Daemon::command(home);
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", offset)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let daemon = Daemon::launch(home, command);
    daemon.wait_ready();
    Some(daemon)
}

/// A host without a battery for its clock may start the daemon before the clock is synchronised.
#[test]
fn a_clock_that_is_wrong_at_the_start_removes_nothing() {
    let endpoint = Endpoint::new();
    let settings = Settings::of([Webhook::new("w", &endpoint.url()).events("[project-import]")]);
    let home = Home::new(&settings.top("retention: { delivered: 14d, dead: 14d }"));
    let daemon = home.start();
    home.write("sales/a/project.xml", &xml("A", "a", ""));
    let delivered = || home.json(&["deliveries", "--state", "delivered"]);
    let before = wait_until("a delivery", || {
        Some(delivered()).filter(|list| list.as_array().unwrap().len() == 1)
    });
    daemon.terminate();
    let offset = home.beside("offset");
    let Some(daemon) = start_with_clock(&home, &offset, "+2592000") else {
        return skip("a clock that is wrong at the start", "needs libfaketime");
    };
    daemon.wait_log("the decision about the retention", |entry| {
        let message = entry.message();
        message.contains("until the clock has been steady") || message.starts_with("removed old")
    });
    assert_eq!(delivered(), before);
}

#[test]
fn a_clock_that_is_set_forward_and_back_delays_nothing() {
    const TEST: &str = "a clock that is set";
    let refuses = Arc::new(AtomicBool::new(true));
    let is_first = AtomicBool::new(true);
    let endpoint = Endpoint::answering({
        let refuses = Arc::clone(&refuses);
        move |_| {
            let refused = refuses.load(Ordering::SeqCst);
            let status = StatusCode::from_u16(if refused { 500 } else { 200 }).unwrap();
            let mut reply = Reply::status(status);
            if is_first.swap(false, Ordering::SeqCst) {
                // This attempt begins before the clock is set and ends after that.
                reply.delay = Duration::from_secs(1);
            }
            reply
        }
    });
    let schedule = format!("[0s{}]", ", 2s".repeat(30));
    let webhook = Webhook::new("all", &endpoint.url()).schedule(&schedule);
    // Shorter than the clock is fast.
    let retention = "retention: { delivered: 30m, dead: 30m, pending: 30m }";
    let home = Home::new(&Settings::of([webhook]).top(retention));
    projects(&home, 2);
    let offset = home.beside("offset");
    let Some(daemon) = start_with_clock(&home, &offset, "+0") else {
        return skip(TEST, "needs libfaketime");
    };
    let set = |to: &str| {
        let beside = home.beside("offset.new");
        fs::write(&beside, to).unwrap();
        fs::rename(beside, &offset).unwrap();
    };
    home.write("sales/a/project.xml", &xml("A", "a", ""));
    endpoint.wait_for(1);
    set("+3600");
    // A delivery recorded by the fast clock is due by that clock.
    home.write("sales/b/project.xml", &xml("B", "b", ""));
    endpoint.wait_for_one("b", |one| one.parameter("projectName") == Some("B"));
    home.remove_all("sales/p1");
    daemon.wait_log("the delete", |entry| entry.message() == "Project Delete");
    daemon.wait_log("the first failure", |entry| {
        entry.message().starts_with("failed") && entry.field("project") == "sales/a"
    });
    set("+0");
    home.write("sales/c/project.xml", &xml("C", "c", ""));
    daemon.wait_log("the import", |entry| {
        entry.message() == "Project Import" && entry.field("project") == "sales/c"
    });
    refuses.store(false, Ordering::SeqCst);
    // Two of each import, and both deletes: delivered within the patience of a test, not of a clock.
    wait_until("all delivered", || {
        let status = home.json(&["deliveries", "--state", "delivered"]);
        (status.as_array().map(Vec::len) == Some(8)).then_some(())
    });
    assert_eq!(daemon.events().len(), 8);
}

/// A way to damage a database.
type Damage = (&'static str, fn(&mut Vec<u8>));

#[test]
fn a_damaged_database_is_reported_and_left_unchanged() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    projects(&home, 20);
    home.start().terminate();
    let whole = fs::read(home.database()).unwrap();
    let damages: [Damage; 4] = [
        ("no database at all", |bytes| {
            *bytes = b"garbage".repeat(1_000)
        }),
        ("cut off", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a header of noise", |bytes| bytes[..100].fill(0xa5)),
        ("pages of noise", |bytes| {
            let from = bytes.len() / 2 / 4096 * 4096;
            bytes[from..].fill(0xa5);
        }),
    ];
    for (name, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(home.database(), &bytes).unwrap();
        let (status, said) = run(&home, &["run"]);
        assert_eq!(status, 1, "{name}: {said}");
        assert!(said.contains("state.db"), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
        assert_eq!(
            fs::read(home.database()).unwrap(),
            bytes,
            "{name}: it was changed"
        );
    }
    fs::write(home.database(), &whole).unwrap();
    let daemon = home.start();
    assert_eq!(daemon.events(), [""; 0]);
}

#[test]
fn a_newer_state_is_refused_and_left_unchanged() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    home.start().terminate();
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database.pragma_update(None, "user_version", 999).unwrap();
    drop(database);
    let before = fs::read(home.database()).unwrap();
    let (status, said) = run(&home, &["run"]);
    assert_eq!(status, 1, "{said}");
    assert!(
        said.contains("999") && said.contains("install the version that wrote it"),
        "{said}"
    );
    assert_eq!(fs::read(home.database()).unwrap(), before);
}

#[test]
fn a_state_directory_of_somebody_else_is_refused() {
    const TEST: &str = "a state directory of somebody else";
    if !is_root(TEST) {
        return;
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    home.start().terminate();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = env!("CARGO_BIN_EXE_project-webhooks");
    let config = home.config();
    let output = Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
            binary,
            "--config",
        ])
        .arg(config)
        .arg("run")
        .run()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("Permission denied") && said.contains("state"),
        "{said}"
    );
}
