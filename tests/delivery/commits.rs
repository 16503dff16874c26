//! Commits that fail.

use rusqlite::Connection;

use crate::common::{Endpoint, Home, Settings, wait_health};
use crate::{define, snapshot};

/// Makes every commit fail that inserts into this table.
fn break_commits(database: &Connection, table: &str) {
    // A broken deferred constraint fails the commit, and no statement before it.
    database
        .execute_batch(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY);
             CREATE TABLE children (parent INTEGER REFERENCES parents (id)
                 DEFERRABLE INITIALLY DEFERRED);",
        )
        .unwrap();
    let trigger = format!(
        "CREATE TRIGGER {table}_breaks AFTER INSERT ON {table}
             BEGIN INSERT INTO children VALUES (1); END"
    );
    database.execute_batch(&trigger).unwrap();
}

/// The daemon sends an event only after its commit, and retries the commit without a change in the
/// repository.
#[test]
fn an_event_whose_commit_fails_is_sent_once_it_is_committed() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    define(&home, "catalog");
    let daemon = home.start();
    let database = Connection::open(home.database()).unwrap();
    break_commits(&database, "events");
    snapshot(&home, "catalog", "one");
    daemon.wait_log("inference waits", |entry| {
        entry.message().contains("inference waits")
    });
    wait_health(&home, "/readyz", 503);
    assert_eq!(endpoint.n_all(), 0);
    database
        .execute_batch("DROP TRIGGER events_breaks")
        .unwrap();
    wait_health(&home, "/readyz", 200);
    daemon.wait_message("the store works again", 1);
    endpoint.wait_for(1);
    // The lane is free again.
    snapshot(&home, "catalog", "two");
    let all = endpoint.wait_for(2);
    let tags: Vec<_> = all.iter().map(|one| one.parameter("versionTag")).collect();
    assert_eq!(tags, [Some("one"), Some("two")]);
    assert!(all.iter().all(|one| one.attempt == Some(1)));
}
