//! Batches that are durable before they are in their tables, and those that are not.

use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::helpers::*;
use crate::domain::delivery::Verdict;
use crate::domain::event::EventKind;
use crate::domain::project::{Recorded, Role};
use crate::store::{
    Batch, Change, Commit, Committed, EventFilter, Handed, Listings, Operations, Selector, Store,
    StoreError,
};

/// Records a batch, and returns what was handed out before that was durable, each time.
fn handed_by(
    store: &Store,
    batch: Batch,
) -> (Result<Committed, StoreError>, Vec<(Handed, Commit)>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let result = store.record_handing(batch, {
        let all = Arc::clone(&all);
        move |handed, commit| {
            assert!(!commit.is_durable());
            all.lock().unwrap().push((handed, commit.clone()));
        }
    });
    let all = std::mem::take(&mut *all.lock().unwrap());
    (result, all)
}

/// What a crash would leave now.
fn crashed(directory: &Path) -> tempfile::TempDir {
    let left = tempfile::tempdir().unwrap();
    for name in ["state.db-wal", "state.db"] {
        if directory.join(name).exists() {
            std::fs::copy(directory.join(name), left.path().join(name)).unwrap();
        }
    }
    left
}

fn n_in_journal(directory: &Path) -> i64 {
    let database = Connection::open(directory.join("state.db")).unwrap();
    let count = database.query_row("SELECT count(*) FROM journal", [], |row| row.get(0));
    count.unwrap()
}

/// Journals one event, and returns what a crash leaves before it is written out.
fn crash_with_a_journal(directory: &Path) -> tempfile::TempDir {
    let store = Store::open(directory).unwrap();
    handed_by(&store, one_event("a", "one", &["catalog"]))
        .0
        .unwrap();
    let left = crashed(directory);
    assert_eq!(n_in_journal(left.path()), 1);
    left
}

#[test]
fn what_a_commit_hands_out_is_what_a_claim_finds_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for project in ["a", "b"] {
        let batch = one_event(project, "one", &["catalog", "audit"]);
        let (recorded, handed) = handed_by(&store, batch);
        let recorded = recorded.unwrap();
        let [(claims, commit)] = &handed[..] else {
            panic!("handed out {} times", handed.len());
        };
        assert!(commit.is_durable() && wait(commit.clone().ended()));
        assert_eq!(claims.len(), 2);
        store.write_out().unwrap();
        for (webhook, handed) in claims {
            assert_eq!(claim(&store, webhook, at(0)), *handed);
            end(&store, handed, Verdict::Delivered);
        }
        let listings = Listings::open(directory.path()).unwrap();
        let id = &recorded.events[0].id;
        let (event, _) = listings.event(id).unwrap().unwrap();
        assert_eq!(event.sequence, recorded.events[0].sequence);
    }
}

#[test]
fn a_commit_hands_out_nothing_that_is_not_due() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    // Behind another delivery of its lane.
    let (_, behind) = handed_by(&store, one_event("a", "two", &["catalog"]));
    assert!(behind.is_empty());
    // Of a webhook that is off.
    let first = claim(&store, "catalog", at(0));
    end(&store, &first, Verdict::SwitchOff);
    let (_, off) = handed_by(&store, one_event("b", "one", &["catalog"]));
    assert!(off.is_empty());
    // Later.
    let mut later = one_event("c", "one", &["audit"]);
    later.changes[0].events[0].webhooks[0].1 = at(1);
    assert!(handed_by(&store, later).1.is_empty());
    // And behind one that is in the journal.
    handed_by(&store, one_event("d", "one", &["audit"]))
        .0
        .unwrap();
    let (_, behind) = handed_by(&store, one_event("d", "two", &["audit"]));
    assert!(behind.is_empty());
}

/// Breaks every commit that adds to one of these tables, at its end.
fn break_commits(store: &Store, tables: &'static [&str]) {
    store
        .write_blocking(move |connection| {
            // A deferred constraint that is broken fails the commit, and nothing before it.
            connection.execute_batch(
                "CREATE TABLE parents (id INTEGER PRIMARY KEY); \
                 CREATE TABLE children (parent INTEGER REFERENCES parents (id) \
                 DEFERRABLE INITIALLY DEFERRED);",
            )?;
            for table in tables {
                connection.execute_batch(&format!(
                    "CREATE TRIGGER {table}_breaks AFTER INSERT ON {table} \
                     BEGIN INSERT INTO children VALUES (1); END;"
                ))?;
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_a_failed_commit_handed_out_is_never_durable() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    break_commits(&store, &["journal", "events"]);
    let (failed, handed) = handed_by(&store, one_event("a", "one", &["catalog"]));
    assert!(failed.is_err());
    // By way of the journal, and without.
    assert_eq!(handed.len(), 2);
    for (_, commit) in handed {
        assert!(!wait(commit.ended()));
    }
    assert_eq!(claims(&store, "catalog", at(0)).ready, []);
}

#[test]
fn what_cannot_be_journaled_is_recorded_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    break_commits(&store, &["journal"]);
    let (recorded, handed) = handed_by(&store, one_event("a", "one", &["catalog"]));
    recorded.unwrap();
    let durable: Vec<bool> = handed
        .into_iter()
        .map(|(_, commit)| wait(commit.ended()))
        .collect();
    assert_eq!(durable, [false, true]);
    claim(&store, "catalog", at(0));
}

#[test]
fn nobody_reads_past_what_cannot_be_written_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    break_commits(&store, &["events"]);
    let one = definition("one");
    let mut batch = change("a", &Recorded::default(), &one);
    batch.payloads.push(payload("one"));
    let told = event(EventKind::ProjectImport, &key("a"), "one", &["catalog"]);
    batch.changes[0].events.push(told);
    let (recorded, handed) = handed_by(&store, batch);
    let id = recorded.unwrap().events[0].id.clone();
    assert!(handed[0].1.is_durable());
    // What was recorded is there for nobody or for all.
    store.recorded(&key("a")).unwrap_err();
    store.keys().unwrap_err();
    store
        .with_identities(&[("sales", &one.definition.as_ref().unwrap().identity())])
        .unwrap_err();
    let sent = &handed[0].0[0].1;
    wait(store.finish(vec![finish(sent, Verdict::Delivered)])).unwrap_err();
    // What is of other projects can be read.
    assert!(store.recorded(&key("b")).unwrap().is_empty());

    let database = Connection::open(directory.path().join("state.db")).unwrap();
    database
        .execute_batch("DROP TRIGGER events_breaks")
        .unwrap();
    assert_eq!(store.recorded(&key("a")).unwrap(), one);
    end(&store, sent, Verdict::Delivered);
    let listings = Listings::open(directory.path()).unwrap();
    let (_, deliveries) = listings.event(&id).unwrap().unwrap();
    assert_eq!(deliveries[0].n_attempts, 1);
}

#[test]
fn whoever_writes_next_writes_out_and_it_is_said_for_whom() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    store.on_written_out({
        let told = Arc::clone(&told);
        move |webhook| told.lock().unwrap().push(webhook.to_owned())
    });
    handed_by(&store, one_event("a", "one", &["catalog"]))
        .0
        .unwrap();
    assert!(!store.is_written_out() && told.lock().unwrap().is_empty());
    // Not for reading what it does not change.
    assert!(store.recorded(&key("b")).unwrap().is_empty());
    assert!(!store.is_written_out());
    wait(store.switch_on("audit")).unwrap();
    assert!(store.is_written_out());
    assert_eq!(told.lock().unwrap()[..], ["catalog"]);
    assert_eq!(n_in_journal(directory.path()), 0);
    claim(&store, "catalog", at(0));
}

#[test]
fn what_a_crash_left_in_the_journal_is_there_after_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let left = crash_with_a_journal(directory.path());
    let store = Store::open(left.path()).unwrap();
    assert_eq!(n_in_journal(left.path()), 0);
    store.close();
    let listings = |directory: &Path| {
        let listings = Listings::open(directory).unwrap();
        let events = listings.events(&EventFilter::default(), 1000).unwrap();
        let deliveries = listings.deliveries(&Selector::default(), 1000).unwrap();
        (events, deliveries)
    };
    assert_eq!(listings(left.path()), listings(directory.path()));
}

#[test]
fn the_command_line_sees_what_a_crash_left_in_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let left = crash_with_a_journal(directory.path());
    let n_events = |directory: &Path| {
        let listings = Listings::open(directory).unwrap();
        let events = listings.events(&EventFilter::default(), 1000).unwrap();
        events.len()
    };
    assert_eq!(n_events(left.path()), n_events(directory.path()));

    let again = tempfile::tempdir().unwrap();
    let left = crash_with_a_journal(again.path());
    let mut operations = Operations::open(left.path()).unwrap();
    let selector = Selector {
        since: Some(at(0)),
        ..Selector::default()
    };
    let n_cancelled = operations.cancel(&selector, at(1)).unwrap();
    assert_eq!(usize::try_from(n_cancelled).unwrap(), n_events(left.path()));
}

#[test]
fn an_entry_that_the_command_line_wrote_out_is_not_written_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for number in 0..20 {
        let batch = one_event("a", &number.to_string(), &[&format!("hook-{number}")]);
        handed_by(&store, batch).0.unwrap();
        drop(Operations::open(directory.path()).unwrap());
    }
    store.write_out().unwrap();
    let listings = Listings::open(directory.path()).unwrap();
    let events = listings.events(&EventFilter::default(), 1000).unwrap();
    assert_eq!(events.len(), 20);
}

#[test]
fn a_journal_that_makes_no_sense_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let left = crash_with_a_journal(directory.path());
    for spoil in [
        "UPDATE journal SET body = '{}'",
        "UPDATE journal SET contents = x'00'",
        "UPDATE journal SET contents = x''",
    ] {
        let copy = crashed(left.path());
        let database = Connection::open(copy.path().join("state.db")).unwrap();
        database.execute_batch(spoil).unwrap();
        drop(database);
        let error = Store::open(copy.path()).err().unwrap().to_string();
        assert!(error.contains("journal"), "{spoil}: {error}");
    }
}

/// Everything in the database but what is counted or kept by the way that was taken.
fn dump(directory: &Path) -> Vec<(String, Vec<Vec<Value>>)> {
    let database = Connection::open(directory.join("state.db")).unwrap();
    let mut tables = database
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .unwrap();
    let tables: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    let rows = |table: &str| {
        let mut statement = database
            .prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2"))
            .unwrap();
        let n_columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..n_columns).map(|at| row.get(at)).collect());
        rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
    };
    tables
        .into_iter()
        .map(|table| (rows(&table), table))
        .map(|(rows, table)| (table, rows))
        .collect()
}

/// What a project's files become: of each its content, or nothing.
fn recorded(contents: [Option<u8>; 3]) -> Recorded {
    let places = [
        (Role::Definition, "sales/a/project.xml"),
        (Role::Published, "sales/a/published.xml"),
        (Role::Snapshot, "sales/a/snapshots/v1.xml"),
    ];
    let files = places.iter().zip(contents);
    files
        .filter_map(|((role, path), content)| Some(file(*role, path, &text_of(content?))))
        .collect()
}

fn text_of(content: u8) -> String {
    // Their times differ as the lengths of their texts do.
    "x".repeat(usize::from(content) + 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// By way of the journal or without, the tables have the same in the end.
    #[test]
    fn the_journal_changes_nothing_but_the_order(
        steps in prop::collection::vec((any::<[Option<u8>; 3]>(), 0..3_usize, any::<bool>()), 1..12),
    ) {
        let (direct, journaled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directly = Store::open(direct.path()).unwrap();
        let mut by_journal = Store::open(journaled.path()).unwrap();
        let mut before = Recorded::default();
        for (number, (contents, n_events, is_restarted)) in steps.into_iter().enumerate() {
            let after = recorded(contents.map(|content| content.map(|content| content % 4)));
            let mut batch = change("a", &before, &after);
            for event_number in 0..n_events {
                let text = text_of(event_number.try_into().unwrap());
                // A webhook of its own, so that its lane is free.
                let webhook = format!("hook-{number}-{event_number}");
                let event = event(EventKind::SnapshotCreate, &key("a"), &text, &[&webhook]);
                batch.changes[0].events.push(event);
            }
            batch.payloads = (0..4).map(|content| payload(&text_of(content))).collect();
            let changes_anything = before != after || n_events > 0;
            before = after;
            if !changes_anything {
                continue;
            }
            let one = directly.record(batch.clone()).unwrap();
            let (other, _) = handed_by(&by_journal, batch);
            let other = other.unwrap();
            prop_assert_eq!(&one.events, &other.events);
            prop_assert_eq!(by_journal.recorded(&key("a")).unwrap(), before.clone());
            if is_restarted {
                by_journal.close();
                by_journal = Store::open(journaled.path()).unwrap();
            }
        }
        by_journal.write_out().unwrap();
        prop_assert_eq!(dump(direct.path()), dump(journaled.path()));
    }
}

#[test]
fn a_batch_of_two_projects_goes_by_the_journal_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut batch = Batch::new(at(0));
    for project in ["a", "b"] {
        batch.payloads.push(payload(project));
        batch.changes.push(Change {
            key: key(project),
            before: Recorded::default(),
            after: Recorded::default(),
            events: vec![event(
                EventKind::SnapshotCreate,
                &key(project),
                project,
                &["catalog", "audit"],
            )],
        });
    }
    let (recorded, handed) = handed_by(&store, batch);
    let recorded = recorded.unwrap();
    // Those that wait for nobody to ask are woken later.
    assert!(recorded.woken.is_empty(), "by the journal");
    store.write_out().unwrap();
    let mut found: Vec<_> = ["catalog", "audit"]
        .iter()
        .flat_map(|webhook| claims(&store, webhook, at(0)).ready)
        .collect();
    found.sort_by_key(|claim| claim.delivery);
    let handed: Vec<_> = handed[0].0.iter().map(|(_, claim)| claim.clone()).collect();
    assert_eq!(found, handed);
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut all = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        all = format!("{all}: {error}");
        cause = error.source();
    }
    all
}

/// Breaks writing to a table for rows of which this holds.
fn refuse(database: &Connection, table: &str, when: &str) {
    let trigger = format!(
        "CREATE TRIGGER {table}_refuses BEFORE INSERT ON {table} WHEN {when} \
         BEGIN SELECT RAISE(ABORT, 'refused'); END"
    );
    database.execute_batch(&trigger).unwrap();
}

fn listed_projects(directory: &Path) -> Vec<String> {
    let database = Connection::open(directory.join("state.db")).unwrap();
    let mut statement = database
        .prepare("SELECT project FROM events ORDER BY sequence")
        .unwrap();
    let projects = statement.query_map([], |row| row.get(0)).unwrap();
    projects.collect::<rusqlite::Result<_>>().unwrap()
}

#[test]
fn what_can_be_written_out_is_and_the_rest_keeps_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for project in ["a", "b", "c"] {
        let batch = one_event(project, "one", &["catalog"]);
        handed_by(&store, batch).0.unwrap();
    }
    let database = Connection::open(directory.path().join("state.db")).unwrap();
    refuse(&database, "events", "NEW.project = 'b'");
    store.write_out().unwrap_err();
    assert_eq!(listed_projects(directory.path()), ["a"]);
    assert_eq!(n_in_journal(directory.path()), 2);
    // Nothing else is recorded before them.
    store.record(one_event("d", "one", &["audit"])).unwrap_err();
    database
        .execute_batch("DROP TRIGGER events_refuses")
        .unwrap();
    store.record(one_event("d", "one", &["audit"])).unwrap();
    assert_eq!(listed_projects(directory.path()), ["a", "b", "c", "d"]);
}

#[test]
fn an_answer_to_what_is_in_its_tables_does_not_wait_for_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let before = claim(&store, "catalog", at(0));
    let (_, handed) = handed_by(&store, one_event("b", "one", &["catalog"]));
    let journaled = &handed[0].0[0].1;
    let database = Connection::open(directory.path().join("state.db")).unwrap();
    refuse(&database, "events", "NEW.project = 'b'");
    end(&store, &before, Verdict::Delivered);
    let finished = vec![finish(journaled, Verdict::Delivered)];
    wait(store.finish(finished.clone())).unwrap_err();
    // Not together with one that has to wait either.
    let both = vec![
        finish(&before, Verdict::Delivered),
        finish(journaled, Verdict::Delivered),
    ];
    wait(store.finish(both)).unwrap_err();
    assert_eq!(n_in_journal(directory.path()), 1);
    database
        .execute_batch("DROP TRIGGER events_refuses")
        .unwrap();
    wait(store.finish(finished)).unwrap();
    let listings = Listings::open(directory.path()).unwrap();
    let deliveries = listings.deliveries(&Selector::default(), 10).unwrap();
    let attempts: Vec<u32> = deliveries.iter().map(|one| one.n_attempts).collect();
    assert_eq!(attempts, [1, 1]);
}

#[test]
fn what_could_not_be_written_out_is_not_journaled() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    // An event that nobody hears of, and whose payload nobody has.
    let mut batch = one_event("a", "one", &["catalog"]);
    let unheard = event(EventKind::ProjectPublish, &key("a"), "nobody has this", &[]);
    batch.changes[0].events.push(unheard);
    let (recorded, _) = handed_by(&store, batch.clone());
    recorded.unwrap_err();
    assert!(store.is_written_out());
    batch.payloads.push(payload("nobody has this"));
    handed_by(&store, batch).0.unwrap();
    assert!(!store.is_written_out());
    store.write_out().unwrap();
    // The same twice.
    let mut batch = one_event("b", "one", &["catalog"]);
    let again = event(EventKind::SnapshotCreate, &key("b"), "one", &["audit"]);
    batch.changes[0].events.push(again);
    let recorded = handed_by(&store, batch).0.unwrap();
    assert!(store.is_written_out());
    assert_ne!(recorded.events[0].id, recorded.events[1].id);
}

#[test]
fn what_no_webhook_takes_at_its_door_is_not_journaled() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for (n_bytes, is_journaled) in [(1 << 20, false), (1 << 19, true)] {
        let text = "x".repeat(n_bytes);
        let batch = one_event(&format!("p{n_bytes}"), &text, &["catalog"]);
        handed_by(&store, batch).0.unwrap();
        assert_eq!(!store.is_written_out(), is_journaled, "{n_bytes}");
    }
}

#[test]
fn the_log_is_emptied_however_it_was_filled() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let database = directory.path().join("state.db");
    let before = std::fs::read(&database).unwrap();
    for number in 0..12 {
        // Two commits each.
        let batch = one_event(&number.to_string(), "one", &["catalog"]);
        handed_by(&store, batch).0.unwrap();
        store.write_out().unwrap();
    }
    let is_emptied = || std::fs::read(&database).unwrap() != before;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is_emptied() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(is_emptied(), "everything is in the log still");
}

#[test]
fn a_batch_of_a_later_version_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let left = crash_with_a_journal(directory.path());
    let database = Connection::open(left.path().join("state.db")).unwrap();
    database
        .execute_batch("UPDATE journal SET body = json_set(body, '$.version', 999)")
        .unwrap();
    drop(database);
    let error = Store::open(left.path()).err().unwrap();
    let error = chain(&error);
    assert!(
        error.contains("999") && error.contains("a later version"),
        "{error}"
    );
    assert_eq!(n_in_journal(left.path()), 1);
}

#[test]
fn the_command_line_says_why_the_journal_is_not_written_out() {
    let directory = tempfile::tempdir().unwrap();
    let left = crash_with_a_journal(directory.path());
    let database = Connection::open(left.path().join("state.db")).unwrap();
    refuse(&database, "events", "1");
    let error = Operations::open(left.path()).err().unwrap();
    let error = chain(&error);
    assert!(
        error.contains("refused") && !error.contains("damaged") && !error.contains("copy"),
        "{error}"
    );
    // A listing does without, and says so.
    let listings = Listings::open(left.path()).unwrap();
    let missing = listings.missing().unwrap();
    assert_eq!(missing.n_batches, 1);
    let why = chain(&missing.why);
    assert!(why.contains("refused"), "{why}");
    assert_eq!(n_in_journal(left.path()), 1);
    database
        .execute_batch("DROP TRIGGER events_refuses; UPDATE journal SET body = '{}'")
        .unwrap();
    let error = Operations::open(left.path()).err().unwrap().to_string();
    assert!(error.contains("cannot be read"), "{error}");
    database.execute_batch("DELETE FROM journal").unwrap();
    let listings = Listings::open(left.path()).unwrap();
    assert!(listings.missing().is_none());
}

#[test]
fn a_configuration_that_is_on_record_needs_no_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let fingerprints = |number| vec![("catalog".to_owned(), [number; 32])];
    wait(store.set_fingerprints(fingerprints(1), at(0))).unwrap();
    break_commits(&store, &["events"]);
    handed_by(&store, one_event("a", "one", &["catalog"]))
        .0
        .unwrap();
    wait(store.set_fingerprints(fingerprints(1), at(0))).unwrap();
    wait(store.set_fingerprints(fingerprints(2), at(0))).unwrap_err();
}
