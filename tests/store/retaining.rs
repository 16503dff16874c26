use std::time::Duration;

use crate::helpers::*;
use project_webhooks::config::Retention;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::store::{Collected, EventFilter, Selector, Store};

const DAY: u64 = 24 * 60 * 60;

pub fn collect(store: &Store, seconds: i64) -> Collected {
    let retention = Retention {
        delivered: Duration::from_secs(7 * DAY),
        dead: Duration::from_secs(30 * DAY),
    };
    let mut all = Collected::default();
    loop {
        let piece = wait(store.collect(retention, at(seconds), 1)).unwrap();
        if piece.is_empty() {
            return all;
        }
        all.n_deliveries += piece.n_deliveries;
        all.n_events += piece.n_events;
        all.n_payloads += piece.n_payloads;
    }
}

#[test]
fn each_state_has_its_age_and_what_waits_stays() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for (project, text) in [("a", "one"), ("b", "two"), ("c", "three"), ("d", "three")] {
        store
            .record(one_event(project, text, &["catalog"]))
            .unwrap();
    }
    let claimed = claims(&store, "catalog", at(0)).ready;
    end(&store, &claimed[0], Verdict::Delivered);
    end(&store, &claimed[1], Verdict::Dead);
    end(&store, &claimed[2], Verdict::Delivered);
    let day = i64::try_from(DAY).unwrap();
    assert!(collect(&store, 7 * day).is_empty());
    let after_a_week = collect(&store, 8 * day);
    assert_eq!(
        (
            after_a_week.n_deliveries,
            after_a_week.n_events,
            after_a_week.n_payloads
        ),
        // The third shares its payload with the fourth, which is pending.
        (2, 2, 1)
    );
    let after_a_month = collect(&store, 31 * day);
    assert_eq!(
        (
            after_a_month.n_deliveries,
            after_a_month.n_events,
            after_a_month.n_payloads
        ),
        (1, 1, 1)
    );
    assert!(collect(&store, 10_000 * day).is_empty());
    let listings = fixture.listings();
    let left = listings.deliveries(&Selector::default(), 10).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].state, State::Pending);
    assert_eq!(claim(&store, "catalog", at(0)).payload, bytes("three"));
}

#[test]
fn events_that_nobody_hears_of_go_too() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &[])).unwrap();
    let day = i64::try_from(DAY).unwrap();
    let collected = collect(&store, 8 * day);
    assert_eq!((collected.n_events, collected.n_payloads), (1, 1));
    let listings = fixture.listings();
    assert!(
        listings
            .events(&EventFilter::default(), 10)
            .unwrap()
            .is_empty()
    );
}
