//! Projects that move: their pending deliveries and their listeners.

use crate::helpers::*;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::Recorded;
use project_webhooks::store::{Batch, Change, Selector, Store};

/// A change without a record, of a project that moved here if it has a former name.
fn change(project: &str, former: Option<&str>) -> Change {
    Change {
        key: key(project),
        moved_from: former.map(key),
        before: Recorded::default(),
        after: Recorded::default(),
        events: Vec::new(),
    }
}

fn moves(pairs: &[(&str, &str)]) -> Batch {
    Batch {
        changes: pairs
            .iter()
            .map(|(from, to)| change(to, Some(from)))
            .collect(),
        ..Batch::new(at(0))
    }
}

/// Records events of projects for the webhook, each with its text.
fn record(store: &Store, events: &[(&str, &str)]) {
    for (project, text) in events {
        let batch = one_event(project, text, &["catalog"]);
        store.record(batch).unwrap();
    }
}

/// Delivers all due deliveries lane by lane. Returns the present name and the text of each.
fn deliver(store: &Store, seconds: i64) -> Vec<(String, String)> {
    let mut delivered = Vec::new();
    loop {
        let ready = claims(store, "catalog", at(seconds)).ready;
        let Some(claim) = ready.first() else {
            return delivered;
        };
        let text = String::from_utf8(claim.payload.to_vec()).unwrap();
        let text = text.split('"').nth(1).unwrap().to_owned();
        delivered.push((claim.key.project.clone(), text));
        end(store, claim, Verdict::Delivered);
    }
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(one, other): &(&str, &str)| ((*one).to_owned(), (*other).to_owned());
    expected.iter().map(owned).collect()
}

#[test]
fn pending_deliveries_move_with_their_project() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, &[("a", "1"), ("a", "2")]);
    let first = claim(&store, "catalog", at(0));
    end(&store, &first, Verdict::Retry(at(60)));
    store.record(moves(&[("a", "b")])).unwrap();
    let committed = store.record(one_event("b", "3", &["catalog"])).unwrap();
    assert_eq!(committed.deliveries.ready, []);
    // A new project in the old place does not wait.
    record(&store, &[("a", "new")]);
    assert_eq!(deliver(&store, 59), pairs(&[("a", "new")]));
    let again = claim(&store, "catalog", at(60));
    assert_eq!((again.delivery, again.attempt), (first.delivery, 2));
    // Its event is that of its recording.
    assert_eq!((&again.event, again.key.clone()), (&first.event, key("b")));
    assert_eq!(
        deliver(&store, 60),
        pairs(&[("b", "1"), ("b", "2"), ("b", "3")])
    );
}

#[test]
fn moved_deliveries_keep_the_order_of_recording_in_their_new_lane() {
    let fixture = Fixture::new();
    let store = fixture.store();
    // The former project at the new place has deliveries too, and is deleted by the move.
    record(&store, &[("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")]);
    store.record(moves(&[("a", "b")])).unwrap();
    record(&store, &[("b", "5")]);
    let expected = ["1", "2", "3", "4", "5"].map(|text| ("b", text));
    assert_eq!(deliver(&store, 0), pairs(&expected));
}

#[test]
fn an_exchange_and_a_chain_of_moves_mix_no_lanes() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, &[("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")]);
    store.record(moves(&[("a", "b"), ("b", "a")])).unwrap();
    let ready = claims(&store, "catalog", at(0)).ready;
    assert_eq!(ready.len(), 2);
    assert_eq!(
        deliver(&store, 0),
        pairs(&[("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")])
    );
    record(&store, &[("a", "5"), ("b", "6"), ("a", "7"), ("b", "8")]);
    store.record(moves(&[("b", "c"), ("a", "b")])).unwrap();
    assert_eq!(
        deliver(&store, 0),
        pairs(&[("b", "5"), ("c", "6"), ("b", "7"), ("c", "8")])
    );
}

#[test]
fn a_redelivered_delivery_goes_before_later_ones_of_its_renamed_project() {
    for finished in [State::Dead, State::Cancelled, State::Delivered] {
        let fixture = Fixture::new();
        let store = fixture.store();
        record(&store, &[("a", "1"), ("b", "2")]);
        let selector = |state| Selector {
            state: Some(state),
            ..Selector::default()
        };
        let mut operations = fixture.operations();
        let verdict = match finished {
            State::Dead => Verdict::Dead,
            _ => Verdict::Delivered,
        };
        if finished == State::Cancelled {
            operations.cancel(&selector(State::Pending), at(0)).unwrap();
        }
        for claim in &claims(&store, "catalog", at(0)).ready {
            end(&store, claim, verdict);
        }
        // The projects exchange their names, and one goes on.
        store.record(moves(&[("a", "b"), ("b", "a")])).unwrap();
        store.record(moves(&[("b", "c")])).unwrap();
        record(&store, &[("c", "3"), ("a", "4"), ("b", "new")]);
        assert_eq!(operations.redeliver(&selector(finished), at(0)).unwrap(), 2);
        assert_eq!(claims(&store, "catalog", at(0)).ready.len(), 3);
        let mut delivered = deliver(&store, 0);
        delivered.sort_by(|one, other| one.0.cmp(&other.0));
        // In each lane the order of the texts is that of the recording.
        assert_eq!(
            delivered,
            pairs(&[("a", "2"), ("a", "4"), ("b", "new"), ("c", "1"), ("c", "3")]),
            "{finished:?}"
        );
    }
}

/// A delete of a project, for the webhook if it received an earlier event.
fn delete(project: &str, former: Option<&str>, text: &str) -> Batch {
    let mut new = event(EventKind::ProjectDelete, &key(project), text, &[]);
    new.if_heard = vec![("catalog".to_owned(), at(0))];
    let mut change = change(project, former);
    change.events = vec![new];
    Batch {
        changes: vec![change],
        payloads: vec![payload(text)],
        ..Batch::new(at(0))
    }
}

#[test]
fn a_webhook_that_received_an_event_receives_the_delete_under_any_name() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, &[("a", "1")]);
    store.record(moves(&[("a", "b")])).unwrap();
    store.record(moves(&[("b", "c")])).unwrap();
    // Another project, which it never received anything of, comes and goes in the first place.
    store.record(one_event("a", "2", &["audit"])).unwrap();
    store.record(delete("a", None, "3")).unwrap();
    store.record(delete("c", None, "4")).unwrap();
    assert_eq!(deliver(&store, 0), pairs(&[("c", "1"), ("c", "4")]));
    // Once deleted, it is forgotten.
    store.record(delete("c", None, "5")).unwrap();
    assert_eq!(deliver(&store, 0), []);
}

#[test]
fn listeners_follow_their_own_project() {
    let fixture = Fixture::new();
    let store = fixture.store();
    // It heard of the first project alone. The second is moved over it, and deleted later.
    record(&store, &[("a", "1")]);
    store.record(one_event("b", "2", &["audit"])).unwrap();
    store.record(delete("a", Some("b"), "3")).unwrap();
    assert_eq!(deliver(&store, 0), pairs(&[("a", "1"), ("a", "3")]));
    store.record(delete("a", None, "4")).unwrap();
    assert_eq!(deliver(&store, 0), []);
    // And the other way round.
    record(&store, &[("c", "5")]);
    store.record(one_event("d", "6", &["audit"])).unwrap();
    store.record(delete("d", Some("c"), "7")).unwrap();
    assert_eq!(deliver(&store, 0), pairs(&[("d", "5")]));
    store.record(delete("d", None, "8")).unwrap();
    assert_eq!(deliver(&store, 0), pairs(&[("d", "8")]));
    // An exchange.
    record(&store, &[("e", "9")]);
    store.record(one_event("f", "10", &["audit"])).unwrap();
    store.record(moves(&[("e", "f"), ("f", "e")])).unwrap();
    store.record(delete("e", None, "11")).unwrap();
    store.record(delete("f", None, "12")).unwrap();
    assert_eq!(deliver(&store, 0), pairs(&[("f", "9"), ("f", "12")]));
}
