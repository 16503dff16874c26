//! Tests statements and their plans, migrations, and a full disk. `tests/store` tests the
//! contract.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use super::*;
use crate::store::batch::{Batch, MetaKey};
use crate::store::contract::{Recording, Records};

/// Without a sync, a power cut after a checkpoint could damage the database.
#[test]
fn each_connection_that_writes_syncs_fully() {
    let directory = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(directory.path()).unwrap());
    for open in [
        schema::open_and_migrate,
        schema::open_for_writing,
        schema::open_for_checkpoints,
    ] {
        let connection = open(directory.path()).unwrap();
        let synchronous: i64 = connection
            .query_row("PRAGMA synchronous", [], |row| row.get(0))
            .unwrap();
        assert_eq!(synchronous, 2, "FULL");
    }
}

/// Without the reader's thread, nothing is sent. So the supervisor must notice its end.
#[tokio::test]
async fn a_panic_on_the_readers_thread_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    assert!(store.is_running());
    let panics = |_: &Connection| -> Result<(), Fault> { panic!("a job panics") };
    let error = store.read(panics).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Closed), "{error}");
    let noticed = tokio::time::timeout(Duration::from_secs(60), async {
        while store.is_running() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    noticed.await.unwrap();
}

/// A limit computed from a wrong size would remove rows.
#[test]
fn a_file_system_without_a_size_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    assert!(schema::file_system(directory.path()).is_some());
    assert_eq!(schema::file_system(&directory.path().join("none")), None);
    // `/proc` has 0 blocks.
    assert_eq!(schema::file_system(Path::new("/proc")), None);
}

/// Frequent statements must cost no more with a million rows than with ten.
///
/// So they use an index and do not sort.
#[test]
fn frequent_statements_search_an_index_and_sort_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    let cases = [
        (queue::HEADS, "INDEX deliveries_due"),
        (lanes::OLDEST_IN_LANE, "COVERING INDEX deliveries_lane"),
        (lanes::PENDING_IN_LANE, "COVERING INDEX deliveries_lane"),
        (lanes::UNDELIVERED_OF, "INDEX deliveries_undelivered"),
        (lanes::DELETES_ELSEWHERE, "INDEX deliveries_project_id"),
        (lanes::WAITING_FOR_A_DELETE, "INDEX deliveries_project_id"),
        (webhooks::NEXT_ATTEMPT, "INDEX deliveries_due"),
        (retention::FINISHED, "COVERING INDEX deliveries_finished"),
        (recorded::WITH_IDENTITY, "COVERING INDEX files_identity"),
        (payload::REMOVE_GARBAGE, "COVERING INDEX events_payload"),
        (payload::REMOVE_GARBAGE, "INDEX files_identity"),
        (record::NEXT_NUMBERS, "SEARCH events"),
        (record::NEXT_NUMBERS, "SEARCH deliveries"),
        // Counts, on a separate connection.
        (
            webhooks::PENDING,
            "SCAN deliveries USING COVERING INDEX deliveries_lane",
        ),
        (
            webhooks::FINISHED,
            "SCAN deliveries USING COVERING INDEX deliveries_finished",
        ),
    ];
    for (sql, index) in cases {
        let plan = store
            .read_blocking(move |connection| {
                let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                // Unbound parameters are NULL. The plan does not depend on them.
                let mut rows = statement.raw_query();
                let mut plan = Vec::new();
                while let Some(row) = rows.next()? {
                    plan.push(row.get::<_, String>(3)?);
                }
                Ok(plan.join("\n"))
            })
            .unwrap();
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        let scans_rows = plan.lines().any(|line| {
            line.starts_with("SCAN")
                && line.contains(' ')
                && !line.contains("COVERING")
                && line != "SCAN CONSTANT ROW"
        });
        assert!(!scans_rows, "{sql}\n{plan}");
    }
}

/// Frequent statements need no temporary table, which would cost more than the row.
#[test]
fn frequent_writes_set_up_no_temporary_table() {
    let directory = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(directory.path()).unwrap());
    let connection = Connection::open(directory.path().join("state.db")).unwrap();
    let statements = [
        "INSERT INTO events (id, kind, organization, project, origin, occurred_ns, recorded_ms, \
         parameters, explanation, payload, first_delivery, end_delivery) \
         VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)",
        "INSERT INTO deliveries (event, webhook, organization, project, state, is_head, origin, \
         due_ms, created_ms, waiting_ms, is_delete, project_id) \
         VALUES (1, 2, 3, 4, 'pending', 1, 6, 7, 8, 9, 0, NULL)",
        "UPDATE deliveries SET state = 'dead', finished_ms = 1 WHERE id = 1",
        "INSERT INTO files (organization, project, path, role, inode, size, modified_ns, \
         changed_ns, read_ns, hash, owner, document) \
         VALUES (1, 2, 3, 'published', 5, 6, 7, 8, 9, 10, 11, 12)",
        "UPDATE files SET hash = 1, changed_ns = 2 \
         WHERE organization = 1 AND project = 2 AND path = 3",
        "INSERT INTO attempts (delivery, number, at_ms, duration_ms, answer, request_headers) \
         VALUES (1, 2, 3, 4, 5, 6)",
    ];
    for sql in statements {
        let mut statement = connection.prepare(&format!("EXPLAIN {sql}")).unwrap();
        let operations: Vec<String> = statement
            .query_map([], |row| row.get(1))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(
            !operations.iter().any(|one| one == "OpenEphemeral"),
            "{sql}\n{operations:?}"
        );
    }
}

#[test]
fn unknown_words_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(directory.path()).unwrap());
    let connection = Connection::open(directory.path().join("state.db")).unwrap();
    let statements = [
        "INSERT INTO deliveries (event, webhook, organization, project, state, is_head, origin, \
         due_ms, created_ms, waiting_ms, is_delete) \
         VALUES (1, 'w', 'o', 'p', 'lost', 0, 'live', 1, 1, 1, 0)",
        "INSERT INTO files (organization, project, path, role, inode, size, modified_ns, \
         changed_ns, read_ns, hash, owner, document) \
         VALUES ('o', 'p', 'f', 'draft', 1, 1, 1, 1, 1, x'00', 'o', '{}')",
    ];
    for sql in statements {
        let error = connection.execute(sql, []).unwrap_err().to_string();
        assert!(error.contains("CHECK constraint failed"), "{error}");
    }
}

#[test]
fn a_migration_is_applied_whole_or_not_at_all() {
    let connection = Connection::open_in_memory().unwrap();
    let version = || -> i64 {
        connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    };
    let one = "CREATE TABLE one (a); INSERT INTO one VALUES (1);";
    let two = "ALTER TABLE one ADD COLUMN b; UPDATE one SET b = a + 1;";
    let broken = "UPDATE one SET a = 9; UPDATE missing SET a = 9;";
    let three = "CREATE TABLE three AS SELECT b FROM one;";
    schema::migrate(&connection, &[one], 0).unwrap();
    assert_eq!(version(), 1);
    // The second migration is applied completely, and the third not at all.
    schema::migrate(&connection, &[one, two, broken], version()).unwrap_err();
    assert_eq!(version(), 2);
    let (a, b): (i64, i64) = connection
        .query_row("SELECT a, b FROM one", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((a, b), (1, 2));
    // Migrating continues after the second, and applies nothing twice.
    for _ in 0..2 {
        schema::migrate(&connection, &[one, two, three], version()).unwrap();
        assert_eq!(version(), 3);
    }
    let b: i64 = connection
        .query_row("SELECT b FROM three", [], |row| row.get(0))
        .unwrap();
    assert_eq!(b, 2);
}

#[test]
fn a_full_disk_changes_nothing_until_there_is_space() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    // For SQLite, this is a full disk: no more pages are allowed.
    let limit = |pages: i64| {
        store
            .write_blocking(move |connection| {
                let sql = format!("PRAGMA max_page_count = {pages}");
                Ok(connection.query_row(&sql, [], |_| Ok(()))?)
            })
            .unwrap();
    };
    limit(1);
    let mut batch = Batch::new(Timestamp::UNIX_EPOCH);
    batch.meta.push((MetaKey::Layout, "x".repeat(100_000)));
    let error = store.record(batch.clone()).unwrap_err();
    assert!(matches!(error.fault(), Fault::Full(_)), "{error}");
    assert_eq!(store.meta_of(None, MetaKey::Layout).unwrap(), None);
    limit(1 << 20);
    store.record(batch).unwrap();
    assert!(store.meta_of(None, MetaKey::Layout).unwrap().is_some());
}
