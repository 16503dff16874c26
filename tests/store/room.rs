//! Pending deliveries that are given up, and rows that go before their retention.

use std::time::Duration;

use crate::helpers::*;
use project_webhooks::config::Retention;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::store::{Collected, Selector, Store};

fn retention(pending: Option<u64>) -> Retention {
    Retention {
        delivered: Duration::from_secs(1_000_000),
        dead: Duration::from_secs(1_000_000),
        pending: pending.map(Duration::from_secs),
        max_state_size: None,
    }
}

pub fn n_in(fixture: &Fixture, webhook: &str, state: State) -> usize {
    let selector = Selector {
        webhook: Some(webhook.to_owned()),
        state: Some(state),
        ..Selector::default()
    };
    fixture
        .listings()
        .deliveries(&selector, 1_000)
        .unwrap()
        .len()
}

fn record(store: &Store, project: &str, webhooks: &[&str], seconds: i64) {
    let mut batch = one_event(project, project, webhooks);
    batch.now = at(seconds);
    for (_, due) in &mut batch.changes[0].events[0].webhooks {
        *due = at(seconds);
    }
    store.record(batch).unwrap();
}

#[test]
fn deliveries_that_are_pending_for_too_long_become_dead_and_the_next_are_due() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for (project, seconds) in [("a", 0), ("b", 0), ("c", 50)] {
        record(&store, project, &["catalog"], seconds);
    }
    let first = claims(&store, "catalog", at(0)).ready.remove(0);
    end(&store, &first, Verdict::Retry(at(10_000)));
    let mut all = Collected::default();
    loop {
        let piece = wait(store.collect(retention(Some(60)), at(61), 1)).unwrap();
        if piece.is_empty() {
            break;
        }
        for (webhook, n) in piece.expired {
            *all.expired.entry(webhook).or_default() += n;
        }
    }
    assert_eq!(all.expired, [("catalog".to_owned(), 2)].into());
    assert_eq!(n_in(&fixture, "catalog", State::Dead), 2);
    assert_eq!(n_in(&fixture, "catalog", State::Pending), 1);
    let dead = Selector {
        state: Some(State::Dead),
        ..Selector::default()
    };
    let errors: Vec<String> = fixture
        .listings()
        .deliveries(&dead, 10)
        .unwrap()
        .into_iter()
        .filter_map(|delivery| delivery.last_error)
        .collect();
    let reason = "pending for longer than retention.pending (1m)";
    assert_eq!(errors.len(), 2);
    assert!(
        errors.iter().all(|error| error.starts_with(reason)),
        "{errors:?}"
    );
    assert!(
        errors
            .iter()
            .any(|error| error.contains("; last attempt: ")),
        "{errors:?}"
    );
    // A redelivered one is pending anew.
    fixture.operations().redeliver(&dead, at(62)).unwrap();
    wait(store.collect(retention(Some(60)), at(100), 10)).unwrap();
    assert_eq!(n_in(&fixture, "catalog", State::Pending), 3);
}

#[test]
fn room_is_made_from_what_was_delivered_then_from_what_is_dead_then_from_the_largest_backlog() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for project in ["a", "b", "c", "d"] {
        record(&store, project, &["large"], 0);
    }
    record(&store, "small", &["small"], 0);
    for verdict in [Verdict::Delivered, Verdict::Dead] {
        let first = claims(&store, "large", at(0)).ready.remove(0);
        end(&store, &first, verdict);
    }
    let counts = || {
        [State::Delivered, State::Dead, State::Pending].map(|state| n_in(&fixture, "large", state))
    };
    let mut seen = vec![counts()];
    for _ in 0..100 {
        let collected = wait(store.make_room("no room", at(100), u64::MAX, 1)).unwrap();
        if seen.last() != Some(&counts()) {
            seen.push(counts());
        }
        if collected.expired.contains_key("large") {
            break;
        }
    }
    assert_eq!(seen, [[1, 1, 2], [0, 1, 2], [0, 0, 2], [0, 1, 1]]);
    assert_eq!(n_in(&fixture, "small", State::Pending), 1);
    // In the end nothing is left, and that is said.
    let is_empty = (0..100).any(|round| {
        let collected = wait(store.make_room("no room", at(200 + round), u64::MAX, 1)).unwrap();
        collected.is_empty()
    });
    assert!(is_empty);
    assert_eq!(counts(), [0, 0, 0]);
}
