use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use crate::helpers::*;
use project_webhooks::config::Retention;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::domain::event::EventId;
use project_webhooks::store::{Collected, EventFilter, Selector, Store};

const DAY: i64 = 24 * 60 * 60;

fn days(n: i64) -> Duration {
    Duration::from_secs((n * DAY).unsigned_abs())
}

fn collect_all(store: &Store, retention: Retention, now: Timestamp) -> Collected {
    let mut all = Collected::default();
    loop {
        let piece = wait(store.collect(retention, now, 1)).unwrap();
        if piece.is_empty() {
            return all;
        }
        all.n_deliveries += piece.n_deliveries;
        all.n_events += piece.n_events;
        all.n_payloads += piece.n_payloads;
    }
}

pub fn collect(store: &Store, seconds: i64) -> Collected {
    let retention = Retention {
        delivered: days(7),
        dead: days(30),
        pending: None,
        max_state_size: None,
    };
    collect_all(store, retention, at(seconds))
}

/// Records an event of this project at this time. Returns its id and its sequence.
fn record(store: &Store, project: &str, webhooks: &[&str], now: Timestamp) -> (EventId, i64) {
    let mut batch = one_event(project, "one", webhooks);
    batch.now = now;
    let mut committed = store.record(batch).unwrap();
    let event = committed.events.remove(0);
    (event.id, event.sequence)
}

fn n_events(fixture: &Fixture) -> usize {
    let listed = fixture.listings().events(&EventFilter::default(), 100);
    listed.unwrap().len()
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
    assert!(collect(&store, 7 * DAY).is_empty());
    let after_a_week = collect(&store, 8 * DAY);
    assert_eq!(
        (
            after_a_week.n_deliveries,
            after_a_week.n_events,
            after_a_week.n_payloads
        ),
        // The third shares its payload with the fourth, which is pending.
        (2, 2, 1)
    );
    let after_a_month = collect(&store, 31 * DAY);
    assert_eq!(
        (
            after_a_month.n_deliveries,
            after_a_month.n_events,
            after_a_month.n_payloads
        ),
        (1, 1, 1)
    );
    assert!(collect(&store, 10_000 * DAY).is_empty());
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
    let collected = collect(&store, 8 * DAY);
    assert_eq!((collected.n_events, collected.n_payloads), (1, 1));
    assert_eq!(n_events(&fixture), 0);
}

/// A project that is moved out of the repository and back is the same file in every respect.
#[test]
fn an_id_is_not_used_again_after_its_event_was_removed() {
    let fixture = Fixture::new();
    let mut store = fixture.store();
    let mut ids = BTreeSet::new();
    for week in 0..5 {
        for _ in 0..3 {
            let (id, _) = record(&store, "a", &[], at(8 * week * DAY));
            assert!(ids.insert(id.clone()), "{id} twice");
        }
        collect(&store, 8 * (week + 1) * DAY);
        assert_eq!(n_events(&fixture), 0);
        if week % 2 == 0 {
            store.close();
            store = fixture.store();
        }
    }
}

/// Collection must not change the id of an event whose commit was lost.
#[test]
fn an_event_that_is_inferred_again_has_its_id() {
    let id = |has_collected: bool| {
        let fixture = Fixture::new();
        let store = fixture.store();
        record(&store, "other", &[], at(0));
        collect(&store, if has_collected { 8 } else { 1 } * DAY);
        record(&store, "a", &[], at(8 * DAY)).0
    };
    assert_eq!(id(false), id(false));
    assert_eq!(id(true), id(true));
}

#[test]
fn the_place_of_a_removed_event_is_not_used_again() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, "a", &["catalog"], at(0));
    end(&store, &claim(&store, "catalog", at(0)), Verdict::Delivered);
    let (_, last) = record(&store, "b", &[], at(0));
    // The first event is kept by its delivery, which an operator removes.
    let retention = Retention {
        delivered: days(7),
        dead: days(30),
        pending: None,
        max_state_size: None,
    };
    wait(store.collect(retention, at(7 * DAY + 5), 10)).unwrap();
    assert_eq!(n_events(&fixture), 1);
    let delivered = Selector {
        state: Some(State::Delivered),
        ..Selector::default()
    };
    assert_eq!(fixture.operations().purge(&delivered).unwrap(), 1);
    collect(&store, 8 * DAY);
    assert_eq!(n_events(&fixture), 0);
    let (_, next) = record(&store, "c", &[], at(8 * DAY));
    assert!(next > last, "{next} after {last}");
}

#[test]
fn a_delivery_that_expires_twice_has_one_reason_and_its_last_error() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, "a", &["catalog"], at(0));
    end(
        &store,
        &claim(&store, "catalog", at(0)),
        Verdict::Retry(at(60)),
    );
    let retention = Retention {
        delivered: days(30),
        dead: days(30),
        pending: Some(days(1)),
        max_state_size: None,
    };
    for day in [2, 4] {
        collect_all(&store, retention, at(day * DAY));
        let dead = Selector {
            state: Some(State::Dead),
            ..Selector::default()
        };
        let listed = fixture.listings().deliveries(&dead, 9).unwrap();
        let error = listed[0].last_error.clone().unwrap();
        assert!(
            error.starts_with("pending for longer than retention.pending"),
            "{error}"
        );
        assert_eq!(error.matches("; last attempt: ").count(), 1, "{error}");
        assert!(error.ends_with("; last attempt: no luck"), "{error}");
        fixture
            .operations()
            .redeliver(&dead, at(day * DAY))
            .unwrap();
    }
}

#[test]
fn a_retention_that_became_longer_and_ends_is_kept() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, "a", &["catalog"], at(0));
    let retention = |delivered, dead| Retention {
        delivered: days(delivered),
        dead: days(dead),
        pending: None,
        max_state_size: None,
    };
    // The event is old, and its delivery is pending.
    collect_all(&store, retention(1, 1), at(2 * DAY));
    end(&store, &claim(&store, "catalog", at(0)), Verdict::Dead);
    // Its delivery goes while the event has to stay.
    collect_all(&store, retention(30, 1), at(4 * DAY));
    assert_eq!(n_events(&fixture), 1);
    collect_all(&store, retention(30, 1), at(31 * DAY));
    assert_eq!(n_events(&fixture), 0);
}

#[test]
fn an_event_from_a_clock_that_was_ahead_goes_with_those_after_it() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, "a", &[], at(0));
    record(&store, "ahead", &[], at(4_000 * DAY));
    record(&store, "b", &[], at(DAY));
    record(&store, "young", &[], at(9 * DAY));
    record(&store, "ahead again", &[], at(4_000 * DAY));
    assert_eq!(collect(&store, 7 * DAY + 5).n_events, 1);
    assert_eq!(collect(&store, 10 * DAY).n_events, 2);
    assert_eq!(n_events(&fixture), 2);
    record(&store, "c", &[], at(11 * DAY));
    assert_eq!(collect(&store, 19 * DAY).n_events, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: n_cases(24), ..ProptestConfig::default() })]

    /// Whatever is delivered, collected, purged and recorded again, no two events share an id or a
    /// place.
    #[test]
    fn no_two_events_have_an_id_or_a_place_in_common(
        steps in prop::collection::vec((0..6_u8, 0..3_u8), 1..60)
    ) {
        let fixture = Fixture::new();
        let store = fixture.store();
        let (mut now, mut ids, mut last) = (0, BTreeSet::new(), 0);
        for (step, which) in steps {
            let project = ["a", "b", "c"][usize::from(which)];
            match step {
                0..3 => {
                    let webhooks: &[&str] = if step == 0 { &[] } else { &["catalog"] };
                    let (id, sequence) = record(&store, project, webhooks, at(now));
                    prop_assert!(ids.insert(id));
                    prop_assert!(sequence > last);
                    last = sequence;
                }
                3 => {
                    for claim in claims(&store, "catalog", at(now)).ready {
                        let mut done = finish(&claim, Verdict::Delivered);
                        done.attempt.at = at(now);
                        wait(store.finish([done].into())).unwrap();
                    }
                }
                4 => {
                    now += 3 * DAY;
                    collect(&store, now);
                }
                _ => {
                    let delivered = Selector {
                        state: Some(State::Delivered),
                        ..Selector::default()
                    };
                    fixture.operations().purge(&delivered).unwrap();
                }
            }
        }
    }
}
