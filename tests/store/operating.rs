use crate::helpers::states;
use crate::helpers::*;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::domain::event::{EventKind, Origin};
use project_webhooks::store::{Asking, EventFilter, Fault, Selector, Store};

fn in_state(state: State) -> Selector {
    Selector {
        state: Some(state),
        ..Selector::default()
    }
}

#[test]
fn a_redelivery_starts_the_schedule_over_and_counts_on() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    store.record(one_event("a", "two", &["catalog"])).unwrap();
    end(
        &store,
        &claim(&store, "catalog", at(0)),
        Verdict::Retry(at(1)),
    );
    end(&store, &claim(&store, "catalog", at(1)), Verdict::Dead);
    let mut operations = fixture.operations();
    assert_eq!(operations.count(&in_state(State::Dead)).unwrap(), 1);
    assert_eq!(
        operations
            .redeliver(&in_state(State::Dead), at(100))
            .unwrap(),
        1
    );
    assert_eq!(states(&store)["catalog"].n_dead, 0);
    // In its old order: before the later one of the same project.
    let claimed = claim(&store, "catalog", at(100));
    assert_eq!(claimed.payload, bytes("one"));
    assert_eq!(claimed.origin, Origin::Redelivery);
    assert_eq!((claimed.attempt, claimed.scheduled_attempt), (3, 1));
    end(&store, &claimed, Verdict::Delivered);
    let next = claim(&store, "catalog", at(100));
    assert_eq!(
        (next.payload.clone(), next.origin),
        (bytes("two"), Origin::Live)
    );
    let listings = fixture.listings();
    let (_, _, attempts) = listings.delivery(claimed.delivery).unwrap().unwrap();
    let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn a_pending_delivery_is_tried_now() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    end(
        &store,
        &claim(&store, "catalog", at(0)),
        Verdict::Retry(at(9000)),
    );
    let mut operations = fixture.operations();
    operations
        .redeliver(&in_state(State::Pending), at(5))
        .unwrap();
    let claimed = claim(&store, "catalog", at(5));
    assert_eq!((claimed.attempt, claimed.scheduled_attempt), (2, 1));
}

#[test]
fn cancelling_frees_the_lane_and_purging_spares_what_waits() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    store.record(one_event("a", "two", &["catalog"])).unwrap();
    let first = claim(&store, "catalog", at(0));
    let only = Selector {
        ids: vec![first.delivery],
        ..Selector::default()
    };
    let of_webhook = Selector {
        webhook: Some("catalog".to_owned()),
        ..Selector::default()
    };
    let mut operations = fixture.operations();
    assert_eq!(operations.cancel(&only, at(0)).unwrap(), 1);
    assert_eq!(operations.cancel(&only, at(0)).unwrap(), 0);
    // The claimer sends it no longer.
    let ended = Asking {
        keeping: Some([].into()),
        ..asking(at(0), 100)
    };
    let next = wait(store.claim("catalog", ended)).unwrap().ready;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].payload, bytes("two"));
    assert_eq!(operations.purge(&of_webhook).unwrap(), 1);
    let state = states(&store).remove("catalog").unwrap();
    assert_eq!((state.n_pending, state.n_cancelled), (1, 0));
    assert_eq!(operations.count(&of_webhook).unwrap(), 1);
}

#[test]
fn an_empty_selector_changes_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let mut operations = fixture.operations();
    let error = operations.cancel(&Selector::default(), at(0)).unwrap_err();
    assert!(matches!(error.fault(), Fault::EmptySelector), "{error}");
    assert_eq!(claims(&store, "catalog", at(0)).ready.len(), 1);
}

#[test]
fn many_are_changed_in_pieces() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut batch = one_event("a", "one", &["catalog"]);
    let template = batch.changes[0].clone();
    for number in 0..2_100 {
        let mut change = template.clone();
        change.events[0].event.id.0 = format!("evt_{number}");
        batch.changes.push(change);
    }
    store.record(batch).unwrap();
    let mut operations = fixture.operations();
    let n = operations.cancel(&in_state(State::Pending), at(0)).unwrap();
    assert_eq!(n, 2_101);
    assert!(claims(&store, "catalog", at(0)).ready.is_empty());
    let n = operations
        .redeliver(&in_state(State::Cancelled), at(0))
        .unwrap();
    assert_eq!(n, 2_101);
    assert_eq!(states(&store)["catalog"].n_pending, 2_101);
}

#[test]
fn the_version_of_a_listing_changes_with_every_commit() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let listings = fixture.listings();
    let mut last = listings.version().unwrap();
    let mut changed = || {
        // Reading is no change.
        listings.deliveries(&Selector::default(), 10).unwrap();
        let version = listings.version().unwrap();
        std::mem::replace(&mut last, version) != version
    };
    assert!(!changed());
    store.record(one_event("b", "two", &[])).unwrap();
    assert!(changed());
    assert!(!changed());
    end(
        &store,
        &claim(&store, "catalog", at(0)),
        Verdict::Retry(at(9000)),
    );
    assert!(changed());
    let mut operations = fixture.operations();
    operations.cancel(&in_state(State::Pending), at(5)).unwrap();
    assert!(changed());
    assert!(!changed());
}

#[test]
fn listings_filter_and_show_the_newest_first() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for (seconds, project, webhooks) in [
        (1, "a", &["catalog", "audit"][..]),
        (2, "b", &["catalog"]),
        (3, "c", &[]),
    ] {
        let mut batch = one_event(project, "one", webhooks);
        batch.now = at(seconds);
        store.record(batch).unwrap();
    }
    let listings = fixture.listings();
    let projects = |filter: EventFilter, limit| -> Vec<String> {
        listings
            .events(&filter, limit)
            .unwrap()
            .into_iter()
            .map(|listed| listed.event.key.project)
            .collect()
    };
    let all = EventFilter::default();
    assert_eq!(projects(all.clone(), 10), ["c", "b", "a"]);
    assert_eq!(projects(all.clone(), 1), ["c"]);
    let since = Some(at(2));
    assert_eq!(
        projects(
            EventFilter {
                since,
                ..all.clone()
            },
            10
        ),
        ["c", "b"]
    );
    let project = Some("b".to_owned());
    assert_eq!(
        projects(
            EventFilter {
                project,
                ..all.clone()
            },
            10
        ),
        ["b"]
    );
    let kind = Some(EventKind::ProjectDelete);
    assert!(
        projects(
            EventFilter {
                kind,
                ..all.clone()
            },
            10
        )
        .is_empty()
    );
    let organization = Some("other".to_owned());
    assert!(
        projects(
            EventFilter {
                organization,
                ..all.clone()
            },
            10
        )
        .is_empty()
    );

    let first = listings.events(&all, 10).unwrap().remove(2);
    assert_eq!((first.n_deliveries, first.recorded_at), (2, at(1)));
    let (event, deliveries) = listings.event(&first.event.id).unwrap().unwrap();
    assert_eq!(event, first);
    let webhooks: Vec<_> = deliveries
        .iter()
        .map(|listed| listed.webhook.as_str())
        .collect();
    assert_eq!(webhooks, ["catalog", "audit"]);
    let selector = Selector {
        webhook: Some("catalog".to_owned()),
        state: Some(State::Pending),
        since: Some(at(2)),
        ..Selector::default()
    };
    let listed = listings.deliveries(&selector, 10).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, key("b"));
    assert_eq!(
        listings.deliveries(&Selector::default(), 2).unwrap().len(),
        2
    );
}

/// A redelivered older delivery is before one that has failed and waits.
#[test]
fn new_settings_retry_a_failed_delivery_behind_a_redelivered_one() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let configure = |fingerprint: u8, seconds: i64| {
        let fingerprints = vec![("catalog".to_owned(), [fingerprint; 32])];
        wait(store.set_fingerprints(fingerprints, at(seconds))).unwrap();
    };
    configure(1, 0);
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    store.record(one_event("a", "two", &["catalog"])).unwrap();
    end(&store, &claim(&store, "catalog", at(0)), Verdict::Dead);
    end(
        &store,
        &claim(&store, "catalog", at(0)),
        Verdict::Retry(at(9000)),
    );
    let mut operations = fixture.operations();
    operations.redeliver(&in_state(State::Dead), at(5)).unwrap();
    configure(2, 6);
    let first = claim(&store, "catalog", at(6));
    assert_eq!(first.payload, bytes("one"));
    end(&store, &first, Verdict::Delivered);
    assert_eq!(claim(&store, "catalog", at(6)).payload, bytes("two"));
}

/// Records this many events of one project, each with a delivery.
fn record_many(store: &Store, n: usize) {
    let mut batch = one_event("a", "one", &["catalog"]);
    let template = batch.changes[0].clone();
    for number in 1..n {
        let mut change = template.clone();
        change.events[0].event.id.0 = format!("evt_{number}");
        batch.changes.push(change);
    }
    store.record(batch).unwrap();
}

#[test]
fn another_number_than_expected_changes_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record_many(&store, 3);
    let mut operations = fixture.operations();
    let pending = |expected| Selector {
        expected: Some(expected),
        ..in_state(State::Pending)
    };
    assert!(
        Selector {
            expected: Some(1),
            ..Selector::default()
        }
        .is_empty()
    );
    for expected in [0, 2, 4] {
        let error = operations.cancel(&pending(expected), at(1)).unwrap_err();
        let is_other = matches!(
            error.fault(),
            Fault::OtherNumber { selected: 3, expected: e } if *e == expected
        );
        assert!(is_other, "{error}");
        assert_eq!(states(&store)["catalog"].n_pending, 3);
    }
    assert_eq!(operations.cancel(&pending(3), at(1)).unwrap(), 3);
    assert_eq!(operations.cancel(&pending(0), at(1)).unwrap(), 0);
    // A purge selects none of those that are pending.
    store.record(one_event("b", "two", &["catalog"])).unwrap();
    let purged = Selector {
        webhook: Some("catalog".to_owned()),
        not_pending: true,
        expected: Some(3),
        ..Selector::default()
    };
    assert_eq!(operations.count(&purged).unwrap(), 3);
    assert_eq!(operations.purge(&purged).unwrap(), 3);
    assert_eq!(states(&store)["catalog"].n_pending, 1);
}

#[test]
fn a_change_is_of_the_deliveries_that_were_counted() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record_many(&store, 1_100);
    let mut operations = fixture.operations();
    // Another one is recorded between the first transaction and the second.
    let (recording, mut is_recorded) = (store.clone(), false);
    operations.on_progress(Box::new(move |_| {
        if !std::mem::replace(&mut is_recorded, true) {
            recording
                .record(one_event("b", "two", &["catalog"]))
                .unwrap();
        }
    }));
    let pending = Selector {
        expected: Some(1_100),
        ..in_state(State::Pending)
    };
    assert_eq!(operations.cancel(&pending, at(1)).unwrap(), 1_100);
    assert_eq!(states(&store)["catalog"].n_pending, 1);
    assert_eq!(claim(&store, "catalog", at(1)).payload, bytes("two"));
}
