use rusqlite::Connection;

use crate::common::{Endpoint, Home, Settings};
use crate::{define, snapshot};

/// The request is made while the commit is on its way to the disk. Where that fails, the event is
/// none yet, and nobody may hear of it.
#[test]
fn what_a_commit_that_fails_was_to_send_is_not_sent() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    define(&home, "catalog");
    let daemon = home.start();
    let database = Connection::open(home.database()).unwrap();
    // A deferred constraint that is broken fails the commit, and nothing before it.
    database
        .execute_batch(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY);
             CREATE TABLE children (parent INTEGER REFERENCES parents (id)
                 DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER breaks AFTER INSERT ON events
                 BEGIN INSERT INTO children VALUES (1); END;",
        )
        .unwrap();
    snapshot(&home, "catalog", "one");
    daemon.wait_log("inference waits", |entry| {
        entry.message().contains("inference waits")
    });
    assert_eq!(endpoint.n_all(), 0);
    database.execute_batch("DROP TRIGGER breaks").unwrap();
    endpoint.wait_for(1);
    // The lane is free again.
    snapshot(&home, "catalog", "two");
    let all = endpoint.wait_for(2);
    let tags: Vec<_> = all.iter().map(|one| one.parameter("versionTag")).collect();
    assert_eq!(tags, [Some("one"), Some("two")]);
    assert!(all.iter().all(|one| one.attempt == Some(1)));
}
