//! The space of contents in the files of SQLite.

use std::fs;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::fixture::n_frames;
use crate::helpers::*;
use crate::room::n_in;
use project_webhooks::domain::delivery::State;
use project_webhooks::domain::project::ContentHash;
use project_webhooks::store::Store;

/// A dead receiver with large contents must not lose more than the space takes.
#[test]
fn no_more_is_given_up_than_the_space_that_is_needed() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for number in 0..20 {
        let noise = noise(number, 100_000);
        let hash = ContentHash::of(&noise);
        let project = format!("p{number}");
        let mut batch = one_event(&project, &project, &["down"]);
        batch.payloads = vec![(hash, noise)];
        batch.changes[0].events[0].event.payload = hash;
        store.record(batch).unwrap();
    }
    let make_room = |seconds| wait(store.make_room("no room", at(seconds), 250_000, 500)).unwrap();
    // Three take the space.
    while make_room(100).expired.is_empty() {}
    assert_eq!(n_in(&fixture, "down", State::Dead), 3);
    assert_eq!(n_in(&fixture, "down", State::Pending), 17);
    let before = wait(store.space()).unwrap().used;
    assert_eq!(make_room(101).n_deliveries, 3);
    let freed = before - wait(store.space()).unwrap().used;
    assert!((250_000..400_000).contains(&freed), "{freed}");
    assert_eq!(n_in(&fixture, "down", State::Pending), 17);
}

fn noise(seed: u8, length: usize) -> bytes::Bytes {
    let mut noise = vec![0_u8; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]).finalize_xof().fill(&mut noise);
    noise.into()
}

/// Records a payload of noise that nothing but its delivered event needs, and returns a part of it.
fn record_noise(store: &Store, length: usize) -> Vec<u8> {
    let noise = noise(0, length);
    let part = noise[length / 2..length / 2 + 64].to_vec();
    let hash = ContentHash::of(&noise);
    let mut batch = one_event("a", "one", &[]);
    batch.payloads = vec![(hash, noise)];
    batch.changes[0].events[0].event.payload = hash;
    store.record(batch).unwrap();
    part
}

#[test]
fn a_removed_payload_is_gone_from_the_files() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let part = record_noise(&store, 400_000);
    let is_stored = || {
        ["state.db", "state.db-wal"].iter().any(|name| {
            let bytes = fs::read(fixture.directory().join(name)).unwrap_or_default();
            bytes.windows(part.len()).any(|window| window == part)
        })
    };
    assert!(is_stored());
    while !wait(store.make_room("", at(100), u64::MAX, 100))
        .unwrap()
        .is_empty()
    {}
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_stored() {
        assert!(Instant::now() < deadline, "it is still stored");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn removing_a_payload_writes_each_of_its_pages_once() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record_noise(&store, 400 * 1_024);
    let log = Connection::open(fixture.directory().join("state.db")).unwrap();
    // A reader keeps the log from starting over.
    let reader = Connection::open(fixture.directory().join("state.db")).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM webhooks")
        .unwrap();
    let before = n_frames(&log);
    let collected = wait(store.make_room("", at(100), u64::MAX, 100)).unwrap();
    assert_eq!(collected.n_payloads, 1);
    let n = n_frames(&log) - before;
    // 100 pages of contents; without `secure_delete`, 9 pages in all.
    assert!((100..120).contains(&n), "{n}");
}
