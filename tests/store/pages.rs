//! The pages that a commit writes. Each costs a frame of the write-ahead log, a checksum, and a
//! part of the flush to the disk.

use rusqlite::Connection;

use crate::fixture::n_frames;
use crate::helpers::*;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::{ProjectKey, Recorded, Role};
use project_webhooks::store::{Batch, Change, Store};

fn name(number: usize) -> String {
    // Spread over the tables, as real saves are.
    format!("p{:06}", number * 7_919 % 1_000_000)
}

fn text(number: usize, version: usize) -> String {
    format!("project {number} in version {version} {}", "x".repeat(700))
}

fn record_of(number: usize, version: usize) -> Recorded {
    let path = format!("sales/{}/project.xml", name(number));
    let text = text(number, version);
    let mut definition = file(Role::Definition, &path, &text);
    definition.document.annotations = [("engineId".to_owned(), name(number))].into();
    definition.stamp.changed_ns = i64::try_from(version).unwrap();
    let copy = |role, path: &str| file(role, &format!("sales/{}/{path}", name(number)), "copy");
    Recorded::from_iter([
        definition,
        copy(Role::Published, "published/project.xml"),
        copy(Role::Snapshot, "snapshots/1.xml"),
    ])
}

/// A project that is saved.
fn save(number: usize, version: usize, webhooks: &[&str]) -> Change {
    let key = ProjectKey::new("sales", name(number));
    let text = text(number, version);
    let mut new = event(EventKind::ProjectImport, &key, &text, webhooks);
    new.stamp.changed_ns = i64::try_from(version).unwrap();
    let before = match version {
        0 => Recorded::default(),
        _ => record_of(number, version - 1),
    };
    Change {
        key,
        moved_from: None,
        before,
        after: record_of(number, version),
        events: vec![new],
    }
}

fn batch(changes: Vec<Change>, payloads: Vec<String>) -> Batch {
    Batch {
        changes,
        payloads: payloads.iter().map(|text| payload(text)).collect(),
        ..Batch::new(at(0))
    }
}

fn finish_all(store: &Store) {
    loop {
        let ready = claims(store, "catalog", at(0)).ready;
        if ready.is_empty() {
            return;
        }
        let finished: Vec<_> = ready
            .iter()
            .map(|claim| finish(claim, Verdict::Delivered))
            .collect();
        wait(store.finish(finished.into())).unwrap();
    }
}

/// The pages written by saves and by their answers, with this many recorded projects that had a
/// delivery each.
fn pages_of_saves(n_projects: usize, n_saves: usize) -> (Vec<i64>, Vec<i64>) {
    let fixture = Fixture::new();
    let store = fixture.store();
    for first in (0..n_projects).step_by(250) {
        let numbers = first..first + 250;
        let changes = numbers.clone().map(|number| save(number, 0, &["catalog"]));
        let payloads = numbers.map(|number| text(number, 0)).collect();
        store.record(batch(changes.collect(), payloads)).unwrap();
    }
    finish_all(&store);
    let open = || Connection::open(fixture.directory().join("state.db")).unwrap();
    // A reader keeps the log from starting over.
    let (reader, log) = (open(), open());
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM webhooks")
        .unwrap();
    let (mut recorded, mut answered) = (Vec::new(), Vec::new());
    for number in 0..n_saves {
        let number = number * n_projects / n_saves;
        let before = n_frames(&log);
        let change = save(number, 1, &["catalog"]);
        let committed = store.record(batch(vec![change], vec![text(number, 1)]));
        let after = n_frames(&log);
        let (_, claim) = committed.unwrap().deliveries.ready.remove(0);
        end(&store, &claim, Verdict::Delivered);
        recorded.push(after - before);
        answered.push(n_frames(&log) - after);
    }
    (recorded, answered)
}

#[test]
fn an_event_and_its_answer_write_few_pages_however_much_is_recorded() {
    for n_projects in [1_000, 4_000] {
        let (recorded, answered) = pages_of_saves(n_projects, 100);
        let usual = |mut counts: Vec<i64>| {
            let mean = counts.iter().sum::<i64>() as f64 / counts.len() as f64;
            counts.sort_unstable();
            (counts[counts.len() / 2], mean)
        };
        // Counted: 8 and 5, with the pages by which the tables grow 9.7 and 5.5 in the mean.
        let (record, mean_record) = usual(recorded);
        assert!(record <= 9 && mean_record <= 11.0, "{record} {mean_record}");
        let (answer, mean_answer) = usual(answered);
        assert!(answer <= 6 && mean_answer <= 7.0, "{answer} {mean_answer}");
    }
}
