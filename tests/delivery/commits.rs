use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::common::{Daemon, Endpoint, Home, Settings, wait_health, xml};
use crate::{define, snapshot};

/// Fails every commit that adds to one of these tables, at its end.
fn break_commits(database: &Connection, tables: &[&str]) {
    // A deferred constraint that is broken fails the commit, and nothing before it.
    database
        .execute_batch(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY);
             CREATE TABLE children (parent INTEGER REFERENCES parents (id)
                 DEFERRABLE INITIALLY DEFERRED);",
        )
        .unwrap();
    for table in tables {
        let trigger = format!(
            "CREATE TRIGGER {table}_breaks AFTER INSERT ON {table}
                 BEGIN INSERT INTO children VALUES (1); END"
        );
        database.execute_batch(&trigger).unwrap();
    }
}

fn settings(endpoint: &Endpoint) -> Settings {
    Settings::all_to(endpoint).top("admin: { listen: \"unix:./admin.sock\" }")
}

/// Starts the daemon, and waits for its queues too: what is handed out before they are there is not
/// sent until it is written out.
fn start(home: &Home) -> Daemon<'_> {
    let daemon = home.start();
    wait_health(home, "/readyz", 200);
    daemon
}

/// Takes a snapshot that is whole whenever it is looked at. What was seen half-written is on record as
/// incomplete, and what ends that does not go by the journal.
fn whole_snapshot(home: &Home, project: &str, tag: &str) {
    home.replace(
        &format!("sales/{project}/snapshots/{tag}.xml"),
        &xml(project, "", tag),
    );
}

/// What was recorded and sent while it could not be written out is written out later, and
/// is not sent again: not after a kill either, as far as it was answered and that is on record.
#[test]
fn what_cannot_be_written_out_is_sent_and_waits() {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    define(&home, "catalog");
    let daemon = start(&home);
    let database = Connection::open(home.database()).unwrap();
    break_commits(&database, &["events"]);
    whole_snapshot(&home, "catalog", "one");
    endpoint.wait_for(1);
    daemon.wait_log("cannot be recorded", |entry| {
        entry.message().contains("cannot be recorded")
    });
    // Nothing is inferred from a record that is not whole.
    snapshot(&home, "catalog", "two");
    daemon.wait_log("inference waits", |entry| {
        entry.message().contains("inference waits")
    });
    assert_eq!(endpoint.n_all(), 1);
    database
        .execute_batch("DROP TRIGGER events_breaks")
        .unwrap();
    let all = endpoint.wait_for(2);
    let tags: Vec<_> = all.iter().map(|one| one.parameter("versionTag")).collect();
    assert_eq!(tags, [Some("one"), Some("two")]);
    assert!(all.iter().all(|one| one.attempt == Some(1)));
}

/// Nothing has to happen in the repository for the daemon to be well again.
#[test]
fn what_can_be_written_out_again_ends_the_trouble() {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    define(&home, "catalog");
    let daemon = start(&home);
    let database = Connection::open(home.database()).unwrap();
    break_commits(&database, &["events"]);
    whole_snapshot(&home, "catalog", "one");
    endpoint.wait_for(1);
    wait_health(&home, "/readyz", 503);
    database
        .execute_batch("DROP TRIGGER events_breaks")
        .unwrap();
    wait_health(&home, "/readyz", 200);
    daemon.wait_message("the store works again", 1);
    assert_eq!(endpoint.n_all(), 1);
}

/// A command that cannot have all that is recorded in its tables says what is missing, and why.
#[test]
fn commands_say_what_they_cannot_see() {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    define(&home, "catalog");
    let daemon = start(&home);
    let database = Connection::open(home.database()).unwrap();
    break_commits(&database, &["events"]);
    whole_snapshot(&home, "catalog", "one");
    endpoint.wait_for(1);
    daemon.kill();
    let says = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
            .arg("--config")
            .arg(home.config())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (status, listed, warned) = says(&["events", "--json"]);
    assert_eq!((status, listed.trim()), (Some(0), "[]"));
    assert!(
        warned.starts_with("warning: one batch of what happened last is recorded and not listed: ")
            && warned.contains("constraint failed"),
        "{warned}"
    );
    let (status, _, refused) = says(&["deliveries", "cancel", "--webhook", "all", "--yes"]);
    assert_eq!(status, Some(1), "{refused}");
    assert!(
        refused.contains("try again when the cause is mended") && !refused.contains("damaged"),
        "{refused}"
    );
    database
        .execute_batch("DROP TRIGGER events_breaks")
        .unwrap();
    let (status, listed, warned) = says(&["events", "--json"]);
    assert_eq!((status, &warned[..]), (Some(0), ""));
    assert!(listed.contains("snapshot-create"), "{listed}");
}

/// The request is made while the commit is on its way to the disk. Where that fails, the event is
/// none yet, and nobody may hear of it.
#[test]
fn what_a_commit_that_fails_was_to_send_is_not_sent() {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    define(&home, "catalog");
    let daemon = start(&home);
    let database = Connection::open(home.database()).unwrap();
    break_commits(&database, &["journal", "events"]);
    snapshot(&home, "catalog", "one");
    daemon.wait_log("inference waits", |entry| {
        entry.message().contains("inference waits")
    });
    assert_eq!(endpoint.n_all(), 0);
    database
        .execute_batch("DROP TRIGGER events_breaks; DROP TRIGGER journal_breaks")
        .unwrap();
    endpoint.wait_for(1);
    // The lane is free again.
    snapshot(&home, "catalog", "two");
    let all = endpoint.wait_for(2);
    let tags: Vec<_> = all.iter().map(|one| one.parameter("versionTag")).collect();
    assert_eq!(tags, [Some("one"), Some("two")]);
    assert!(all.iter().all(|one| one.attempt == Some(1)));
}
