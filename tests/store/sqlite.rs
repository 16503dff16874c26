//! Guarantees of the SQLite implementation beyond the contract.

use std::time::Duration;

use project_webhooks::config::Retention;
use project_webhooks::store::{Fault, OpenError, Store};
use rusqlite::Connection;

use crate::helpers::*;

/// Another connection to the store's database.
fn database(fixture: &Fixture) -> Connection {
    Connection::open(fixture.directory().join("state.db")).unwrap()
}

#[test]
fn one_unreadable_delivery_does_not_hold_up_the_others() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    store.record(one_event("b", "two", &["catalog"])).unwrap();
    let broken = hash("one");
    database(&fixture)
        .execute(
            "UPDATE payloads SET compressed = x'00' WHERE hash = ?1",
            [&broken.0[..]],
        )
        .unwrap();
    let claims = claims(&store, "catalog", at(0));
    assert_eq!(claims.ready.len(), 1);
    assert_eq!(claims.ready[0].event.key, key("b"));
    assert_eq!(claims.unreadable.len(), 1);
    let unreadable = &claims.unreadable[0];
    assert_eq!(unreadable.key, key("a"));
    assert!(matches!(unreadable.fault, Fault::Coding { .. }));
}

#[test]
fn a_recorded_configuration_needs_no_write() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let fingerprints = || vec![("catalog".to_owned(), [1; 32])];
    wait(store.set_fingerprints(fingerprints(), at(0))).unwrap();
    // Blocks all other writers.
    let other = database(&fixture);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    wait(store.set_fingerprints(fingerprints(), at(0))).unwrap();
}

#[test]
fn one_failure_in_a_group_leaves_the_others_alone() {
    let fixture = Fixture::new();
    let store = fixture.store();
    // Holds the writer while the batches come, so that they are one group.
    let holder = database(&fixture);
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writers: Vec<_> = (0..20)
        .map(|number| {
            let store = store.clone();
            std::thread::spawn(move || {
                let mut batch = one_event(&format!("p{number}"), "one", &["catalog"]);
                if number % 5 == 0 {
                    // No store has it: the batch fails.
                    batch.changes[0].events[0].event.payload = hash("unknown");
                }
                store.record(batch).is_ok()
            })
        })
        .collect();
    holder.execute_batch("COMMIT").unwrap();
    let n_recorded = writers
        .into_iter()
        .filter_map(|writer| writer.join().ok())
        .filter(|recorded| *recorded)
        .count();
    assert_eq!(n_recorded, 16);
    assert_eq!(claims(&store, "catalog", at(0)).ready.len(), 16);
}

#[test]
fn the_file_shrinks() {
    let fixture = Fixture::new();
    let store = fixture.store();
    // Compression must not make it small.
    let mut state = blake3::Hasher::new().finalize_xof();
    let mut noise = vec![0_u8; 8 << 20];
    state.fill(&mut noise);
    let noise = bytes::Bytes::from(noise);
    let hash = project_webhooks::domain::project::ContentHash::of(&noise);
    let mut batch = one_event("a", "one", &[]);
    batch.payloads = vec![(hash, noise)];
    batch.changes[0].events[0].event.payload = hash;
    store.record(batch).unwrap();
    let pages = || -> i64 {
        database(&fixture)
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .unwrap()
    };
    let before = pages();
    let retention = Retention {
        delivered: Duration::ZERO,
        dead: Duration::ZERO,
        pending: None,
        max_state_size: None,
    };
    let mut n_pages = 0;
    loop {
        let piece = wait(store.collect(retention, at(1), 100)).unwrap();
        if piece.is_empty() {
            break;
        }
        n_pages += piece.n_pages;
    }
    assert!(n_pages > 0);
    assert!(pages() < before);
}

#[test]
fn a_removed_lock_file_lets_no_second_daemon_in() {
    let fixture = Fixture::new();
    let store = fixture.store();
    std::fs::remove_file(fixture.directory().join("lock")).unwrap();
    let refused = Store::open(fixture.directory()).err();
    assert!(
        matches!(refused, Some(OpenError::Held { .. })),
        "{refused:?}"
    );
    drop(store);
    Store::open(fixture.directory()).unwrap();
}

#[test]
fn a_stored_fingerprint_is_keyed_by_another_file() {
    let fixture = Fixture::new();
    let stored = || -> Vec<u8> {
        database(&fixture)
            .query_row("SELECT fingerprint FROM webhooks", [], |row| row.get(0))
            .unwrap()
    };
    let save = |byte: u8| {
        let fingerprints = vec![("catalog".to_owned(), [byte; 32])];
        let store = fixture.store();
        wait(store.set_fingerprints(fingerprints, at(0))).unwrap();
        stored()
    };
    let first = save(7);
    assert_ne!(first, [7; 32]);
    assert_eq!(save(7), first, "the key is kept");
    assert_ne!(save(8), first);
    let key = fixture.directory().join("key");
    let mode = std::fs::metadata(&key).unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    std::fs::remove_file(key).unwrap();
    assert_ne!(save(7), first, "another key");
}
