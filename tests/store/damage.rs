//! Starts on a store with another daemon, after a crash, with damage, and of another version.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;

use crate::helpers::*;
use project_webhooks::store::{Fault, Listings, OpenError, Operations, Store};

/// The files of a state directory and their bytes.
fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .filter(|(name, _)| name.starts_with("state.db"))
        .collect();
    files.sort();
    files
}

fn closed_store_with_events() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for number in 0..200 {
        let project = format!("p{number}");
        store
            .record(one_event(&project, &project, &["catalog"]))
            .unwrap();
    }
    store.close();
    directory
}

#[test]
fn a_second_daemon_is_told_who_holds_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let Err(OpenError::Held { pid, .. }) = Store::open(directory.path()) else {
        panic!("opened twice");
    };
    assert_eq!(pid, Some(std::process::id()));
    store.close();
    Store::open(directory.path()).unwrap();
}

/// A child of a process that closed a store has the lock until it executes its program.
#[test]
fn a_lock_that_ends_soon_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let held = fs::File::open(directory.path()).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| Store::open(directory.path()).is_ok());
        // The child takes its time.
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(held);
        assert!(opening.join().unwrap());
    });
}

#[test]
fn a_closed_store_leaves_nothing_beside_the_database() {
    let directory = closed_store_with_events();
    let names: Vec<_> = content(directory.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["state.db"]);
}

#[test]
fn dropping_the_last_handle_closes_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let other = store.clone();
    drop(store);
    other.record(one_event("a", "one", &["catalog"])).unwrap();
    drop(other);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(claims(&store, "catalog", at(0)).ready.len(), 1);
}

#[test]
fn a_closed_store_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let other = store.clone();
    store.close();
    store.close();
    let error = other.record(one_event("a", "one", &[])).unwrap_err();
    assert!(matches!(error.fault(), Fault::Closed), "{error}");
    let error = wait(other.claim("catalog", asking(at(0), 0))).unwrap_err();
    assert!(matches!(error.fault(), Fault::Closed), "{error}");
}

#[test]
fn what_was_answered_survives_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for number in 0..50 {
        let project = format!("p{number}");
        store
            .record(one_event(&project, "one", &["catalog"]))
            .unwrap();
        // The files as a crash would leave them now.
        if number % 10 == 0 {
            let crashed = tempfile::tempdir().unwrap();
            for (name, bytes) in content(directory.path()) {
                if !name.ends_with("-shm") {
                    fs::write(crashed.path().join(name), bytes).unwrap();
                }
            }
            let listings = Listings::open(crashed.path()).unwrap();
            let state = listings.webhook_states().unwrap().remove(0);
            assert_eq!(state.n_pending, number + 1);
            let after = Store::open(crashed.path()).unwrap();
            let n_ready = claims(&after, "catalog", at(0)).ready.len();
            assert_eq!(u64::try_from(n_ready).unwrap(), number + 1);
        }
    }
}

#[test]
fn a_torn_end_of_the_log_loses_only_what_was_not_answered() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let answered = fs::metadata(directory.path().join("state.db-wal"))
        .unwrap()
        .len();
    store.record(one_event("b", "two", &["catalog"])).unwrap();
    let crashed = tempfile::tempdir().unwrap();
    for (name, mut bytes) in content(directory.path()) {
        if name.ends_with("-wal") {
            bytes.truncate(usize::try_from(answered).unwrap() + 1000);
        }
        if !name.ends_with("-shm") {
            fs::write(crashed.path().join(name), bytes).unwrap();
        }
    }
    let after = Store::open(crashed.path()).unwrap();
    let claimed = claims(&after, "catalog", at(0)).ready;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].event.key, key("a"));
}

#[test]
fn a_crash_while_the_database_was_built_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state.db.building"), b"half").unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.keys().unwrap(), []);
    assert!(!directory.path().join("state.db.building").exists());
}

#[test]
fn damage_is_reported_and_left_as_it_is() {
    type Harm = fn(&Path);
    let cases: [(&str, Harm); 7] = [
        ("garbage", |database| {
            fs::write(database, vec![0xA5; 64 * 1024]).unwrap();
        }),
        ("a garbage page", |database| {
            let mut bytes = fs::read(database).unwrap();
            bytes[20 * 4096..21 * 4096].fill(0xA5);
            fs::write(database, bytes).unwrap();
        }),
        ("cut short", |database| {
            let bytes = fs::read(database).unwrap();
            fs::write(database, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("empty", |database| fs::write(database, b"").unwrap()),
        ("foreign", |database| {
            fs::remove_file(database).unwrap();
            let foreign = Connection::open(database).unwrap();
            foreign.execute_batch("CREATE TABLE t (x)").unwrap();
        }),
        ("of an unreleased version", |database| {
            let connection = Connection::open(database).unwrap();
            let former = 0x7077_686b;
            connection
                .pragma_update(None, "application_id", former)
                .unwrap();
        }),
        ("missing beside its log", |database| {
            fs::rename(database, database.with_extension("db-wal")).unwrap();
        }),
    ];
    for (name, harm) in cases {
        let directory = closed_store_with_events();
        harm(&directory.path().join("state.db"));
        let before = content(directory.path());
        match Store::open(directory.path()) {
            Err(error @ OpenError::Damaged { .. }) => {
                assert!(error.to_string().contains("state.db"), "{name}: {error}");
            }
            Err(error) => panic!("{name}: {error:?}"),
            Ok(_) => panic!("{name}: opened"),
        }
        let mut after = content(directory.path());
        after.retain(|(name, _)| !name.ends_with("-shm"));
        // SQLite may leave an empty log.
        after.retain(|(name, bytes)| !(name.ends_with("-wal") && bytes.is_empty()));
        assert!(after == before, "{name}: the files changed");
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let directory = closed_store_with_events();
    let connection = Connection::open(directory.path().join("state.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let errors = [
        Store::open(directory.path()).err(),
        Listings::open(directory.path()).err(),
        Operations::open(directory.path()).err(),
    ];
    for error in errors {
        let Some(OpenError::Newer { found, known, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!((found, known), (99, 1));
    }
}

#[test]
fn listings_work_beside_a_daemon_and_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let absent = Listings::open(directory.path()).err();
    assert!(
        matches!(absent, Some(OpenError::Absent { .. })),
        "{absent:?}"
    );
    let n_pending = || {
        Listings::open(directory.path())
            .unwrap()
            .webhook_states()
            .unwrap()[0]
            .n_pending
    };
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    assert_eq!(n_pending(), 1);
    store.close();
    assert_eq!(n_pending(), 1);
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("b", "one", &["catalog"])).unwrap();
    assert_eq!(n_pending(), 2);
}

#[test]
fn only_the_owner_can_read_the_state() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("new").join("state");
    let store = Store::open(&directory).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let mut n_files = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        n_files += 1;
    }
    assert!(n_files >= 3);
}

#[test]
fn an_idle_moment_moves_the_log_into_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let database = directory.path().join("state.db");
    let before = std::fs::read(&database).unwrap();
    for number in 0..24 {
        let batch = one_event(&number.to_string(), "one", &["catalog"]);
        store.record(batch).unwrap();
    }
    let is_moved = || std::fs::read(&database).unwrap() != before;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_moved() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(is_moved(), "everything is in the log still");
}
