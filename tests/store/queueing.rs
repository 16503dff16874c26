//! The queue: lanes, due deliveries, claims and their ends.

use bytes::Bytes;

use crate::helpers::*;
use project_webhooks::domain::delivery::ANSWER_MAX;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::domain::event::{EventId, EventKind, Parameter};
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::store::{
    ATTEMPTS_MAX, Asking, Batch, Finish, READY_BYTES, READY_MAX, Selector, Store,
};

fn due_ids(store: &Store, seconds: i64) -> Vec<EventId> {
    claims(store, "catalog", at(seconds))
        .ready
        .into_iter()
        .map(|claim| claim.event.id)
        .collect()
}

#[test]
fn a_lane_goes_strictly_in_order() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let first = store.record(one_event("a", "one", &["catalog"])).unwrap();
    let second = store.record(one_event("a", "two", &["catalog"])).unwrap();
    let other = store.record(one_event("b", "one", &["catalog"])).unwrap();
    assert!(first.deliveries.webhooks.contains("catalog"));
    assert!(second.deliveries.webhooks.is_empty());
    let id = |committed: &project_webhooks::store::Committed| committed.events[0].id.clone();
    assert_eq!(due_ids(&store, 0), [id(&first), id(&other)]);

    let claimed = claims(&store, "catalog", at(0)).ready;
    end(&store, &claimed[0], Verdict::Retry(at(60)));
    // The second one of the project waits for the first.
    assert_eq!(due_ids(&store, 59), [id(&other)]);
    assert_eq!(claims(&store, "catalog", at(59)).next_due, Some(at(60)));
    // Longest due first.
    assert_eq!(due_ids(&store, 60), [id(&other), id(&first)]);
    let again = claims(&store, "catalog", at(60)).ready.remove(1);
    assert_eq!((again.attempt, again.scheduled_attempt), (2, 2));
    end(&store, &again, Verdict::Dead);
    assert_eq!(due_ids(&store, 60), [id(&second), id(&other)]);
    let next = claims(&store, "catalog", at(60)).ready.remove(0);
    assert_eq!(next.attempt, 1);
    end(&store, &next, Verdict::Delivered);
    assert_eq!(due_ids(&store, 60), [id(&other)]);
}

/// An event of a project with the id `e-1`, for the webhook `catalog`.
fn of_e1(kind: EventKind, project: &str, text: &str) -> Batch {
    let mut new = event(kind, &key(project), text, &["catalog"]);
    new.project_id = "e-1".to_owned();
    let parameter = (Parameter::ProjectId, new.project_id.clone());
    new.event.parameters.push(parameter);
    of_event(new, text)
}

#[test]
fn a_delete_goes_before_later_events_of_its_project_id_in_another_lane() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let record = |batch| store.record(batch).unwrap().events[0].id.clone();
    // Two directories had it, and it appears in a third one.
    let delete = record(of_e1(EventKind::ProjectDelete, "old", "one"));
    let older = record(of_e1(EventKind::ProjectDelete, "older", "two"));
    let committed = store
        .record(of_e1(EventKind::ProjectImport, "new", "three"))
        .unwrap();
    assert!(committed.deliveries.ready.is_empty(), "{committed:?}");
    let import = committed.events[0].id.clone();
    let publish = record(of_e1(EventKind::ProjectPublish, "new", "four"));
    let other = record(one_event("other", "five", &["catalog"]));
    assert_eq!(due_ids(&store, 0), [delete, older, other.clone()]);

    let claimed = claims(&store, "catalog", at(0)).ready;
    end(&store, &claimed[0], Verdict::Dead);
    end(&store, &claimed[1], Verdict::Retry(at(60)));
    assert_eq!(due_ids(&store, 59).len(), 1, "one delete is left");
    let again = claims(&store, "catalog", at(60)).ready.remove(1);
    end(&store, &again, Verdict::Delivered);
    assert_eq!(due_ids(&store, 60), [import, other.clone()]);
    let first = claims(&store, "catalog", at(60)).ready.remove(0);
    end(&store, &first, Verdict::Delivered);
    assert_eq!(due_ids(&store, 60), [publish, other]);
}

#[test]
fn a_redelivered_delete_goes_before_the_import_of_its_project_id_in_another_lane() {
    /// How the deliveries ended before the redelivery.
    #[derive(Clone, Copy, Debug)]
    enum Before {
        /// Both are redelivered.
        BothDelivered,
        /// Only the delete is redelivered. The import waits for its next attempt.
        DeleteDead,
        DeleteCancelled,
    }
    for before in [
        Before::BothDelivered,
        Before::DeleteDead,
        Before::DeleteCancelled,
    ] {
        let fixture = Fixture::new();
        let store = fixture.store();
        let record = |batch| store.record(batch).unwrap().events[0].id.clone();
        let delete = record(of_e1(EventKind::ProjectDelete, "old", "one"));
        let state = match before {
            Before::BothDelivered => State::Delivered,
            Before::DeleteDead => State::Dead,
            Before::DeleteCancelled => State::Cancelled,
        };
        let selector = |state| Selector {
            state: Some(state),
            ..Selector::default()
        };
        let finish_delete = || match before {
            Before::BothDelivered => {
                end(&store, &claim(&store, "catalog", at(0)), Verdict::Delivered);
            }
            Before::DeleteDead => end(&store, &claim(&store, "catalog", at(0)), Verdict::Dead),
            Before::DeleteCancelled => {
                let pending = selector(State::Pending);
                let oldest = fixture.listings().deliveries(&pending, 9).unwrap();
                let oldest = Selector {
                    ids: vec![oldest.last().unwrap().id],
                    ..Selector::default()
                };
                assert_eq!(fixture.operations().cancel(&oldest, at(0)).unwrap(), 1);
            }
        };
        if matches!(before, Before::BothDelivered) {
            finish_delete();
        }
        let import = record(of_e1(EventKind::ProjectImport, "new", "two"));
        if matches!(before, Before::BothDelivered) {
            end(&store, &claim(&store, "catalog", at(0)), Verdict::Delivered);
        } else {
            finish_delete();
            let refused = claim(&store, "catalog", at(0));
            end(&store, &refused, Verdict::Retry(at(60)));
        }
        fixture
            .operations()
            .redeliver(&selector(state), at(0))
            .unwrap();
        assert_eq!(due_ids(&store, 60), [delete], "{before:?}");
        end(
            &store,
            &claim(&store, "catalog", at(60)),
            Verdict::Delivered,
        );
        assert_eq!(due_ids(&store, 60), [import], "{before:?}");
    }
}

#[test]
fn copies_of_a_deleted_project_do_not_wait_for_its_delete() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store
        .record(of_e1(EventKind::ProjectDelete, "old", "one"))
        .unwrap();
    let refused = claim(&store, "catalog", at(0));
    end(&store, &refused, Verdict::Retry(at(60)));
    for (kind, project, text) in [
        (EventKind::ProjectPublish, "copy", "two"),
        (EventKind::SnapshotCreate, "other copy", "three"),
    ] {
        let committed = store.record(of_e1(kind, project, text)).unwrap();
        assert_eq!(committed.deliveries.webhooks.len(), 1, "{project}");
    }
    assert_eq!(due_ids(&store, 59).len(), 2);
}

/// Each repository has its own order, although copies of it have the same project ids.
#[test]
fn a_delete_in_one_repository_holds_back_no_arrival_in_another() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let in_repository = |name: &str, kind, project: &str, text: &str| {
        let key = ProjectKey::new(format!("{name}//sales"), project);
        let mut new = event(kind, &key, text, &["catalog"]);
        new.project_id = "e-1".to_owned();
        let committed = store.record(of_event(new, text)).unwrap();
        committed.events[0].id.clone()
    };
    let delete = in_repository("staging", EventKind::ProjectDelete, "a", "one");
    let elsewhere = in_repository("production", EventKind::ProjectImport, "a", "two");
    let moved = in_repository("staging", EventKind::ProjectImport, "b", "three");
    assert_eq!(due_ids(&store, 0), [delete, elsewhere.clone()]);
    let first = claims(&store, "catalog", at(0)).ready.remove(0);
    end(&store, &first, Verdict::Delivered);
    assert_eq!(due_ids(&store, 0), [elsewhere, moved]);
}

#[test]
fn every_event_of_an_arrival_waits_for_the_delete_of_its_project_id() {
    // This webhook does not receive imports.
    let fixture = Fixture::new();
    let store = fixture.store();
    let record = |batch| store.record(batch).unwrap().events[0].id.clone();
    let delete = record(of_e1(EventKind::ProjectDelete, "old", "one"));
    let mut arrived = of_e1(EventKind::ProjectPublish, "new", "two");
    arrived.changes[0].events[0].is_arrival = true;
    let arrived = record(arrived);
    let later = record(of_e1(EventKind::ProjectPublish, "new", "three"));
    for expected in [delete, arrived, later] {
        assert_eq!(due_ids(&store, 0), [expected]);
        end(&store, &claim(&store, "catalog", at(0)), Verdict::Delivered);
    }
}

#[test]
fn cancelling_a_delete_or_a_delivery_that_waits_for_it_leaves_no_lane_behind() {
    for cancelled in ["old", "new"] {
        let fixture = Fixture::new();
        let store = fixture.store();
        let batches = [
            of_e1(EventKind::ProjectDelete, "old", "one"),
            of_e1(EventKind::ProjectImport, "new", "two"),
            of_e1(EventKind::ProjectPublish, "new", "three"),
        ];
        let ids = batches.map(|batch| store.record(batch).unwrap().events[0].id.clone());
        let [delete, import, publish] = ids;
        let all = fixture
            .listings()
            .deliveries(&Selector::default(), 9)
            .unwrap();
        let first = all.iter().rev().find(|one| one.key == key(cancelled));
        let selector = Selector {
            ids: vec![first.unwrap().id],
            ..Selector::default()
        };
        fixture.operations().cancel(&selector, at(0)).unwrap();
        if cancelled == "old" {
            assert_eq!(due_ids(&store, 0), [import]);
        } else {
            assert_eq!(due_ids(&store, 0), [delete, publish]);
        }
    }
}

#[test]
fn lanes_in_flight_and_the_limit_are_respected() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for project in ["a", "b", "c", "d"] {
        store
            .record(one_event(project, "one", &["catalog"]))
            .unwrap();
    }
    let excluding = |excluding, limit| {
        let asking = Asking {
            excluding,
            ..asking(at(0), limit)
        };
        wait(store.claim("catalog", asking)).unwrap()
    };
    let claims = excluding([key("a")].into(), 2);
    let projects: Vec<_> = claims
        .ready
        .iter()
        .map(|claim| claim.event.key.clone())
        .collect();
    assert_eq!(projects, [key("b"), key("c")]);
    assert_eq!(claims.next_due, Some(at(0)));
    let all = [key("a"), key("b"), key("c"), key("d")];
    assert_eq!(excluding(all.into(), 0).next_due, None);
    assert_eq!(next_due(&store, "catalog"), Some(at(0)));
    assert_eq!(next_due(&store, "other"), None);
}

#[test]
fn nothing_is_claimed_before_it_is_due() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let due = at(5) + std::time::Duration::from_nanos(1);
    end(
        &store,
        &claim(&store, "catalog", at(0)),
        Verdict::Retry(due),
    );
    assert!(due_ids(&store, 5).is_empty());
    let next = claims(&store, "catalog", at(5)).next_due.unwrap();
    assert!(next >= due);
    assert_eq!(claims(&store, "catalog", next).ready.len(), 1);
}

#[test]
fn finishing_twice_is_finishing_once() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let first = claim(&store, "catalog", at(0));
    end(&store, &first, Verdict::Retry(at(60)));
    end(&store, &first, Verdict::Delivered);
    assert_eq!(claim(&store, "catalog", at(60)).attempt, 2);
    // One that was removed is ignored.
    let mut gone = finish(&first, Verdict::Delivered);
    gone.delivery = 999;
    wait(store.finish([gone].into())).unwrap();
}

#[test]
fn the_newest_attempts_are_listed() {
    let fixture = Fixture::new();
    let store = fixture.store();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    let id = claim(&store, "catalog", at(0)).delivery;
    let n_attempts = ATTEMPTS_MAX + 3;
    // The endpoint is down, so no attempt of the schedule is used up.
    for n in 0..i64::try_from(n_attempts).unwrap() {
        let again = Verdict::Repeat(at(n + 1));
        end(&store, &claim(&store, "catalog", at(n)), again);
    }
    let (delivery, _, attempts) = fixture.listings().delivery(id).unwrap().unwrap();
    let numbers: Vec<usize> = attempts.iter().map(|one| one.number as usize).collect();
    assert_eq!(delivery.n_attempts as usize, n_attempts);
    assert_eq!(numbers, (4..=n_attempts).collect::<Vec<_>>());
}

#[test]
fn the_log_of_attempts_is_kept_and_answers_are_cut() {
    let page: Vec<u8> = (0..=ANSWER_MAX).map(|n| (n % 251) as u8).collect();
    for (verdict, state, kept) in [
        (Verdict::Dead, State::Dead, ANSWER_MAX),
        (Verdict::Delivered, State::Delivered, 1_024),
    ] {
        let fixture = Fixture::new();
        let store = fixture.store();
        store.record(one_event("a", "one", &["catalog"])).unwrap();
        let claimed = claim(&store, "catalog", at(0));
        let mut log = attempt(1, verdict);
        log.answer = Bytes::from(page.clone());
        let finish = Finish {
            delivery: claimed.delivery,
            attempt: log.clone(),
            ..finish(&claimed, verdict)
        };
        wait(store.finish([finish].into())).unwrap();
        let listings = fixture.listings();
        let (delivery, event, attempts) = listings.delivery(claimed.delivery).unwrap().unwrap();
        assert_eq!(delivery.state, state);
        assert_eq!(event, claimed.event);
        log.answer.truncate(kept);
        assert_eq!(attempts, [log]);
        assert_eq!(listings.delivery(999).unwrap(), None);
    }
}

#[test]
fn a_cancelled_delivery_that_arrived_all_the_same_is_delivered() {
    for (verdict, state) in [
        (Verdict::Delivered, State::Delivered),
        (Verdict::Retry(at(60)), State::Cancelled),
        (Verdict::Dead, State::Cancelled),
    ] {
        let fixture = Fixture::new();
        let store = fixture.store();
        store.record(one_event("a", "one", &["catalog"])).unwrap();
        let claimed = claim(&store, "catalog", at(0));
        let selector = Selector {
            ids: vec![claimed.delivery],
            ..Selector::default()
        };
        let mut operations = fixture.operations();
        assert_eq!(operations.cancel(&selector, at(1)).unwrap(), 1);
        end(&store, &claimed, verdict);
        let listings = fixture.listings();
        let listed = listings.deliveries(&selector, 1).unwrap().remove(0);
        assert_eq!(listed.state, state);
        assert_eq!(listed.n_attempts, 1);
        assert!(claims(&store, "catalog", at(900)).ready.is_empty());
    }
}

#[test]
fn what_waits_by_a_clock_that_was_set_back_is_due() {
    let fixture = Fixture::new();
    let store = fixture.store();
    // Recorded, and failed, at a time that is ahead by an hour.
    let mut ahead = one_event("a", "one", &["catalog"]);
    ahead.now = at(3600);
    ahead.changes[0].events[0].webhooks[0].1 = at(3600);
    store.record(ahead).unwrap();
    store.record(one_event("b", "one", &["catalog"])).unwrap();
    let mut failed = finish(&claim(&store, "catalog", at(0)), Verdict::Retry(at(3605)));
    failed.attempt.at = at(3600);
    wait(store.finish([failed].into())).unwrap();
    // A delivery that failed by the correct clock keeps its time.
    store.record(one_event("c", "one", &["catalog"])).unwrap();
    end(
        &store,
        &claim(&store, "catalog", at(0)),
        Verdict::Retry(at(300)),
    );
    assert_eq!(claims(&store, "catalog", at(10)).ready, []);
    assert_eq!(wait(store.correct_times("catalog", at(10))).unwrap(), 2);
    let due = claims(&store, "catalog", at(10));
    let projects: Vec<&str> = due
        .ready
        .iter()
        .map(|claim| claim.event.key.project.as_str())
        .collect();
    assert_eq!(sorted(projects), ["a", "b"]);
    assert_eq!(due.next_due, Some(at(300)));
}

fn sorted(mut items: Vec<&str>) -> Vec<&str> {
    items.sort_unstable();
    items
}

/// Claims are held in memory, and a project.xml may be as large as the configuration allows.
#[test]
fn large_payloads_are_claimed_some_at_a_time() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for project in ["a", "b", "c", "d"] {
        let text = project.repeat(700 * 1024);
        store
            .record(one_event(project, &text, &["catalog"]))
            .unwrap();
    }
    let found = claims(&store, "catalog", at(5));
    assert_eq!(found.ready.len(), 2);
    // There is more, and it is due.
    assert_eq!(found.next_due, Some(at(0)));
}

/// Whether the store is shared. Then a commit returns no deliveries.
fn returns_none(store: &Store) -> bool {
    if store.is_shared() {
        let committed = store.record(one_event("a", "one", &["catalog"])).unwrap();
        assert_eq!(committed.deliveries.ready, []);
        assert_eq!(committed.deliveries.webhooks.len(), 1);
    }
    store.is_shared()
}

#[test]
fn a_commit_returns_what_a_claim_finds_after_it() {
    let fixture = Fixture::new();
    let store = fixture.store();
    if returns_none(&store) {
        return;
    }
    for project in ["a", "b"] {
        let committed = store.record(one_event(project, "one", &["catalog", "audit"]));
        let ready = committed.unwrap().deliveries.ready;
        assert_eq!(ready.len(), 2);
        for (webhook, ready) in &ready {
            assert_eq!(claim(&store, webhook, at(0)), *ready);
            end(&store, ready, Verdict::Delivered);
        }
    }
}

#[test]
fn a_commit_returns_no_delivery_that_is_not_due() {
    let fixture = Fixture::new();
    let store = fixture.store();
    if returns_none(&store) {
        return;
    }
    let ready = |batch| store.record(batch).unwrap().deliveries.ready;
    let first = ready(one_event("a", "one", &["catalog"])).remove(0).1;
    assert_eq!(claim(&store, "catalog", at(0)), first);
    // Behind another delivery of its lane.
    assert_eq!(ready(one_event("a", "two", &["catalog"])), []);
    // Of a webhook that is off.
    end(&store, &first, Verdict::SwitchOff);
    assert_eq!(ready(one_event("b", "one", &["catalog"])), []);
    // Later.
    let mut later = one_event("c", "one", &["audit"]);
    later.changes[0].events[0].webhooks[0].1 = at(1);
    assert_eq!(ready(later), []);
}

#[test]
fn a_commit_returns_a_bounded_number_of_deliveries() {
    let fixture = Fixture::new();
    let store = fixture.store();
    if returns_none(&store) {
        return;
    }
    let burst = |n: usize, text: &str| {
        let mut batch = Batch::new(at(0));
        for number in 0..n {
            let one = one_event(&format!("{n} {number}"), text, &["catalog"]);
            batch.changes.extend(one.changes);
            batch.payloads = one.payloads;
        }
        store.record(batch).unwrap().deliveries
    };
    assert_eq!(burst(READY_MAX, "small").ready.len(), READY_MAX);
    assert_eq!(burst(READY_MAX + 1, "small").ready.len(), READY_MAX);
    let large = "x".repeat(READY_BYTES * 2 / 5);
    assert_eq!(burst(3, &large).ready.len(), 2);
    let larger = "x".repeat(READY_BYTES);
    let deliveries = burst(1, &larger);
    assert_eq!(deliveries.ready, []);
    assert_eq!(deliveries.webhooks.len(), 1);
}
