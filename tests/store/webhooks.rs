//! The state of webhooks: off, resting, configured anew.

use crate::helpers::*;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::store::{AttemptLog, Claim, Finish, OffCause, Store, WebhookState};

/// Saves a configuration at time 1. Returns whether that switched the webhook on.
fn configure(store: &Store, fingerprint: u8) -> bool {
    let fingerprints = vec![("catalog".to_owned(), [fingerprint; 32])];
    let switched_on = wait(store.set_fingerprints(fingerprints, at(1))).unwrap();
    !switched_on.is_empty()
}

#[test]
fn a_gone_receiver_switches_the_webhook_off() {
    let fixture = Fixture::new();
    let store = fixture.store();
    assert!(!configure(&store, 1));
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    end(&store, &claim(&store, "catalog", at(0)), Verdict::SwitchOff);
    let off = states(&store)["catalog"].off.clone().unwrap();
    assert_eq!(
        (off.cause, off.reason.as_str()),
        (OffCause::Gone, "no luck")
    );
    assert!(claims(&store, "catalog", at(900)).ready.is_empty());
    assert_eq!(next_due(&store, "catalog"), None);

    assert!(!configure(&store, 1));
    assert!(configure(&store, 2));
    let again = claim(&store, "catalog", at(900));
    assert_eq!(again.attempt, 2);

    end(&store, &again, Verdict::SwitchOff);
    assert!(fixture.operations().switch_on("catalog").unwrap());
    assert!(!fixture.operations().switch_on("catalog").unwrap());
    assert_eq!(claim(&store, "catalog", at(900)).attempt, 3);
}

#[test]
fn a_changed_configuration_is_tried_at_once() {
    for verdict in [Verdict::Retry(at(60)), Verdict::RetryAsAsked(at(60))] {
        let fixture = Fixture::new();
        let store = fixture.store();
        configure(&store, 1);
        store.record(one_event("a", "one", &["catalog"])).unwrap();
        store.record(one_event("a", "two", &["catalog"])).unwrap();
        let head = claim(&store, "catalog", at(0));
        end(&store, &head, verdict);
        let next_due = || next_due(&store, "catalog");
        configure(&store, 1);
        assert_eq!(next_due(), Some(at(60)), "{verdict:?}");
        configure(&store, 2);
        assert_eq!(next_due(), Some(at(1)), "{verdict:?}");
        let again = claim(&store, "catalog", at(1));
        assert_eq!((again.delivery, again.attempt), (head.delivery, 2));
    }
    // A delivery without an attempt keeps the time of its first one.
    let fixture = Fixture::new();
    let store = fixture.store();
    configure(&store, 1);
    let mut batch = one_event("a", "one", &[]);
    batch.changes[0].events[0].webhooks = vec![("catalog".to_owned(), at(30))];
    store.record(batch).unwrap();
    configure(&store, 2);
    assert_eq!(next_due(&store, "catalog"), Some(at(30)));
}

#[test]
fn an_unchanged_configuration_writes_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let listings = fixture.listings();
    configure(&store, 1);
    let before = listings.version().unwrap();
    configure(&store, 1);
    assert_eq!(listings.version().unwrap(), before);
    configure(&store, 2);
    assert_ne!(listings.version().unwrap(), before);
}

/// A result that is recorded after a reload may be the answer to a request with the old settings.
#[test]
fn an_answer_to_old_settings_switches_nothing_off() {
    for (verdict, rests_until) in [
        (Verdict::SwitchOff, None),
        (Verdict::Retry(at(3_600)), None),
        (Verdict::RetryAsAsked(at(3_600)), Some(at(3_600))),
    ] {
        let fixture = Fixture::new();
        let store = fixture.store();
        configure(&store, 1);
        store.record(one_event("a", "one", &["catalog"])).unwrap();
        let old = Finish {
            fingerprint: Some([1; 32]),
            rests_until,
            ..finish(&claim(&store, "catalog", at(0)), verdict)
        };
        configure(&store, 2);
        wait(store.finish([old].into())).unwrap();
        assert_eq!(states(&store)["catalog"].off, None, "{verdict:?}");
        // It is due at once, with the new settings.
        let again = claim(&store, "catalog", at(12));
        assert_eq!(again.attempt, 2);
        let new = Finish {
            fingerprint: Some([2; 32]),
            ..finish(&again, Verdict::SwitchOff)
        };
        wait(store.finish([new].into())).unwrap();
        assert!(states(&store)["catalog"].off.is_some());
    }
}

#[test]
fn a_webhook_rests_as_its_receiver_asked() {
    let fixture = Fixture::new();
    let store = fixture.store();
    configure(&store, 1);
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    store.record(one_event("b", "one", &["catalog"])).unwrap();
    let ready = claims(&store, "catalog", at(0)).ready;
    let answer = |claim: &Claim, seconds| Finish {
        rests_until: Some(at(seconds)),
        ..finish(claim, Verdict::RetryAsAsked(at(seconds)))
    };
    // Two answers that came in another order than they were recorded.
    wait(store.finish([answer(&ready[0], 60), answer(&ready[1], 40)].into())).unwrap();
    let committed = store.record(one_event("c", "one", &["catalog"])).unwrap();
    assert_eq!(committed.deliveries.ready, []);
    store.close();
    let store = fixture.store();
    configure(&store, 1);
    let resting = claims(&store, "catalog", at(59));
    assert_eq!((resting.ready, resting.next_due), (vec![], Some(at(60))));
    let next_due = next_due(&store, "catalog");
    assert_eq!(next_due, Some(at(60)));
    assert_eq!(states(&store)["catalog"].next_attempt, Some(at(60)));
    // Another webhook does not rest.
    store.record(one_event("a", "two", &["audit"])).unwrap();
    claim(&store, "audit", at(0));
    assert_eq!(claims(&store, "catalog", at(60)).ready.len(), 3);
    // An operator ends the rest, and so do other settings: the receiver may be another one.
    let rest = || {
        let ready = claims(&store, "catalog", at(60)).ready;
        wait(store.finish([answer(&ready[0], 900)].into())).unwrap();
        assert_eq!(claims(&store, "catalog", at(899)).ready, []);
    };
    rest();
    assert!(!fixture.operations().switch_on("catalog").unwrap());
    assert_eq!(claims(&store, "catalog", at(60)).ready.len(), 3);
    rest();
    configure(&store, 2);
    assert_eq!(claims(&store, "catalog", at(60)).ready.len(), 3);
}

#[test]
fn a_rest_by_a_clock_that_was_set_back_ends() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let ahead = Finish {
        rests_until: Some(at(3_660)),
        ..finish(
            &claim(&store, "catalog", at(0)),
            Verdict::RetryAsAsked(at(3_660)),
        )
    };
    let ahead = Finish {
        attempt: AttemptLog {
            at: at(3_600),
            ..ahead.attempt.clone()
        },
        ..ahead
    };
    wait(store.finish([ahead].into())).unwrap();
    assert_eq!(claims(&store, "catalog", at(20)).ready, []);
    wait(store.correct_times("catalog", at(20))).unwrap();
    assert_eq!(claims(&store, "catalog", at(20)).ready.len(), 1);
}

#[test]
fn what_an_operator_switched_off_no_configuration_switches_on() {
    let fixture = Fixture::new();
    let store = fixture.store();
    configure(&store, 1);
    let mut operations = fixture.operations();
    assert!(
        operations
            .switch_off("catalog", "maintenance", at(0))
            .unwrap()
    );
    assert!(!configure(&store, 2));
    assert!(states(&store)["catalog"].off.is_some());
    assert!(operations.switch_on("catalog").unwrap());
    assert!(states(&store)["catalog"].off.is_none());
}

#[test]
fn states_count_deliveries_and_know_the_last_error() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for project in ["a", "b", "c"] {
        store
            .record(one_event(project, "one", &["catalog"]))
            .unwrap();
    }
    let claimed = claims(&store, "catalog", at(0)).ready;
    end(&store, &claimed[0], Verdict::Delivered);
    end(&store, &claimed[1], Verdict::Dead);
    let state = &states(&store)["catalog"];
    assert_eq!(
        (
            state.n_pending,
            state.n_delivered,
            state.n_dead,
            state.n_cancelled
        ),
        (1, 1, 1, 0)
    );
    assert_eq!(state.oldest_pending, Some(at(0)));
    assert_eq!(state.next_attempt, Some(at(0)));
    let ended = at(10) + std::time::Duration::from_millis(1500);
    assert_eq!(state.last_error, Some((ended, "no luck".to_owned())));
    assert_eq!(state.last_delivered, Some(ended));
}

#[test]
fn the_oldest_and_the_newest_pending_delivery_are_known() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for (project, seconds) in [("a", 60), ("b", 7_200), ("c", 600)] {
        let mut batch = one_event(project, "one", &["catalog"]);
        batch.now = at(seconds);
        store.record(batch).unwrap();
    }
    let state = &states(&store)["catalog"];
    assert_eq!(state.oldest_pending, Some(at(60)));
    assert_eq!(state.newest_pending, Some(at(7_200)));
}

#[test]
fn the_last_error_of_a_group_is_the_latest_one_in_any_order() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for project in ["a", "b"] {
        store
            .record(one_event(project, "one", &["catalog"]))
            .unwrap();
    }
    let failed = |claim: &Claim, seconds, error: &str| {
        let mut failed = finish(claim, Verdict::Retry(at(600)));
        failed.attempt.at = at(seconds);
        failed.attempt.error = Some(error.to_owned());
        failed
    };
    let ready = claims(&store, "catalog", at(0)).ready;
    let late = failed(&ready[0], 30, "late");
    let early = failed(&ready[1], 20, "early");
    wait(store.finish([late, early].into())).unwrap();
    let (_, error) = states(&store)["catalog"].last_error.clone().unwrap();
    assert_eq!(error, "late");
}

#[test]
fn counts_end_at_a_limit() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for number in 0..6 {
        let batch = one_event(&format!("p{number}"), "one", &["catalog"]);
        store.record(batch).unwrap();
    }
    let claimed = claims(&store, "catalog", at(0)).ready;
    end(&store, &claimed[0], Verdict::Delivered);
    end(&store, &claimed[1], Verdict::Delivered);
    let listings = fixture.listings();
    let of = |most| listings.webhook_states_up_to(most).unwrap().remove(0);
    let counts = |state: &WebhookState| (state.n_pending, state.n_delivered, state.n_dead);
    let all = of(4);
    assert_eq!(counts(&all), (4, 2, 0));
    assert_eq!(all, states(&store)["catalog"]);
    // One more than the limit means that there are more. Then the oldest is not known.
    let some = of(1);
    assert_eq!(counts(&some), (2, 2, 0));
    assert_eq!(some.oldest_pending, None);
    assert_eq!(some.last_delivered, all.last_delivered);
    assert_eq!(some.next_attempt, all.next_attempt);
}
