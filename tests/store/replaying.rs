//! Replays: recorded events are queued for a webhook again, or for the first time.

use std::collections::BTreeSet;
use std::time::Duration;

use globset::{Glob, GlobSet};

use crate::helpers::*;
use crate::retaining::collect;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::domain::event::{EventKind, Origin, Parameter};
use project_webhooks::domain::project::{ProjectKey, Recorded};
use project_webhooks::domain::route::{Subscription, ValueFilter};
use project_webhooks::store::{Batch, Change, EventFilter, Fault, Replay, Selector, Store};

const DAY: i64 = 24 * 60 * 60;

fn all_events() -> BTreeSet<EventKind> {
    EventKind::ALL.into()
}

/// Selects all events for a webhook without a filter.
fn to(webhook: &str) -> Replay {
    Replay {
        subscription: Subscription {
            repositories: None,
            webhook: webhook.to_owned(),
            events: all_events(),
            projects: None,
            when: Vec::new(),
        },
        organization: None,
        project: None,
        since: None,
        until: None,
        expected: None,
    }
}

/// Records events of projects for these webhooks, a second apart.
fn record(store: &Store, events: &[(&str, &str)], webhooks: &[&str]) {
    for (seconds, (project, text)) in (0..).zip(events) {
        let mut batch = one_event(project, text, webhooks);
        batch.now = at(seconds);
        store.record(batch).unwrap();
    }
}

/// Delivers all due deliveries lane by lane. Returns the lane, the text and the origin of each.
fn deliver(store: &Store, webhook: &str, seconds: i64) -> Vec<(String, String, Origin)> {
    let mut delivered = Vec::new();
    while let Some(claim) = claims(store, webhook, at(seconds)).ready.first() {
        let text = String::from_utf8(claim.payload.to_vec()).unwrap();
        let text = text.split('"').nth(1).unwrap().to_owned();
        delivered.push((claim.key.project.clone(), text, claim.origin));
        end(store, claim, Verdict::Delivered);
    }
    delivered
}

fn texts(delivered: &[(String, String, Origin)]) -> Vec<&str> {
    delivered.iter().map(|(_, text, _)| text.as_str()).collect()
}

#[test]
fn a_new_webhook_gets_the_selected_events_in_order_with_their_ids() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let events = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")];
    record(&store, &events, &["catalog"]);
    let listings = fixture.listings();
    let recorded = listings.events(&EventFilter::default(), 10).unwrap();
    let mut operations = fixture.operations();
    let replay = Replay {
        organization: Some("sales".to_owned()),
        project: Some("a".to_owned()),
        since: Some(at(0)),
        until: Some(at(3)),
        ..to("late")
    };
    assert_eq!(operations.count_replay(&replay).unwrap(), 2);
    assert!(claims(&store, "late", at(5)).ready.is_empty());
    assert_eq!(operations.replay(&replay, at(5)).unwrap(), 2);
    let first = claim(&store, "late", at(5));
    assert_eq!(first.event, recorded[3].event);
    assert_eq!((first.attempt, first.origin), (1, Origin::Redelivery));
    assert_eq!(texts(&deliver(&store, "late", 5)), ["1", "3"]);
    // Again: the same deliveries.
    assert_eq!(operations.replay(&to("late"), at(6)).unwrap(), 4);
    let sent = deliver(&store, "late", 6);
    assert_eq!(sent.len(), 4);
    assert!(
        sent.iter()
            .all(|(_, _, origin)| *origin == Origin::Redelivery)
    );
    let of_late = Selector {
        webhook: Some("late".to_owned()),
        ..Selector::default()
    };
    assert_eq!(operations.count(&of_late).unwrap(), 4);
    let (listed, deliveries) = listings.event(&recorded[3].event.id).unwrap().unwrap();
    assert_eq!(listed.n_deliveries, 2);
    let webhooks: Vec<_> = deliveries.iter().map(|one| &one.webhook[..]).collect();
    assert_eq!(webhooks, ["catalog", "late"]);
}

#[test]
fn what_a_webhook_does_not_subscribe_to_is_not_replayed() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, &[("a", "1")], &["catalog"]);
    let mut nothing = to("late");
    nothing.subscription.events = [EventKind::ProjectPublish].into();
    let mut operations = fixture.operations();
    assert_eq!(operations.count_replay(&nothing).unwrap(), 0);
    assert_eq!(operations.replay(&nothing, at(5)).unwrap(), 0);
    // Events that it got before are replayed.
    nothing.subscription.webhook = "catalog".to_owned();
    assert_eq!(operations.count_replay(&nothing).unwrap(), 1);
}

#[test]
fn a_replay_that_has_an_import_has_the_delete_too() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let renamed = |from: &str, to: &str| Change {
        key: key(to),
        moved_from: Some(key(from)),
        before: Recorded::default(),
        after: Recorded::default(),
        events: Vec::new(),
    };
    let mut seconds = 0;
    let mut happens = |kind, project: &str, text: &str, user: &str| {
        let mut new = event(kind, &key(project), text, &[]);
        new.event.parameters = vec![(Parameter::Username, user.to_owned())];
        let mut batch = of_event(new, text);
        seconds += 1;
        batch.now = at(seconds);
        store.record(batch).unwrap();
    };
    use EventKind::{ProjectDelete, ProjectDeleteAndUnpublish, ProjectImportAny};
    // Known to the webhook, renamed to a name that it does not select, and deleted by a service.
    happens(ProjectImportAny, "a", "1", "ann");
    store
        .record(Batch {
            changes: vec![renamed("a", "z")],
            ..Batch::new(at(1))
        })
        .unwrap();
    happens(ProjectDelete, "z", "2", "svc");
    happens(ProjectDeleteAndUnpublish, "z", "3", "svc");
    // Unknown to it, at the same place.
    happens(ProjectImportAny, "z", "4", "svc");
    happens(ProjectDelete, "z", "5", "svc");
    // Known, and deleted by a service.
    happens(ProjectImportAny, "b", "6", "ann");
    happens(ProjectDelete, "b", "7", "svc");
    let globs = |glob: &str| {
        let mut set = GlobSet::builder();
        set.add(Glob::new(glob).unwrap());
        set.build().unwrap()
    };
    let mut filtered = to("late");
    filtered.subscription.projects = Some(globs("sales/[ab]"));
    let filter = ValueFilter {
        included: None,
        excluded: globs("svc"),
    };
    filtered.subscription.when = vec![(Parameter::Username, filter)];
    let mut operations = fixture.operations();
    assert_eq!(operations.count_replay(&filtered).unwrap(), 5);
    assert_eq!(operations.replay(&filtered, at(9)).unwrap(), 5);
    let mut sent = deliver(&store, "late", 9);
    sent.sort_by(|one, other| one.1.cmp(&other.1));
    assert_eq!(texts(&sent), ["1", "2", "3", "6", "7"]);
    // The import is not replayed again, but the webhook got it.
    filtered.since = Some(at(2));
    assert_eq!(operations.count_replay(&filtered).unwrap(), 4);
}

#[test]
fn replayed_events_go_before_later_ones_that_are_pending() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, &[("a", "1"), ("a", "2")], &["catalog"]);
    record(&store, &[("a", "3"), ("a", "4")], &["catalog", "late"]);
    let waiting = claim(&store, "late", at(0));
    end(&store, &waiting, Verdict::Retry(at(9000)));
    let mut operations = fixture.operations();
    assert_eq!(operations.replay(&to("late"), at(5)).unwrap(), 4);
    assert_eq!(texts(&deliver(&store, "late", 5)), ["1", "2", "3", "4"]);
    // An attempt that was in flight meanwhile changes nothing.
    record(&store, &[("b", "5")], &["catalog"]);
    record(&store, &[("b", "6")], &["late"]);
    let in_flight = claim(&store, "late", at(6));
    operations.replay(&to("late"), at(6)).unwrap();
    end(&store, &in_flight, Verdict::Retry(at(9000)));
    let sent = deliver(&store, "late", 6);
    let of_b: Vec<_> = sent.iter().filter(|one| one.0 == "b").collect();
    assert_eq!(
        of_b.iter().map(|one| &one.1[..]).collect::<Vec<_>>(),
        ["5", "6"]
    );
}

/// Projects may exchange their names, and a new project may use a former name.
#[test]
fn replayed_events_go_to_the_present_lane_of_their_project() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let moves = |pairs: &[(&str, &str)]| {
        let change = |(from, to): &(&str, &str)| Change {
            key: key(to),
            moved_from: Some(key(from)),
            before: Recorded::default(),
            after: Recorded::default(),
            events: Vec::new(),
        };
        store
            .record(Batch {
                changes: pairs.iter().map(change).collect(),
                ..Batch::new(at(0))
            })
            .unwrap();
    };
    record(&store, &[("a", "a1"), ("b", "b1")], &["catalog"]);
    deliver(&store, "catalog", 0);
    moves(&[("a", "b"), ("b", "a")]);
    moves(&[("b", "c")]);
    record(
        &store,
        &[("c", "a2"), ("a", "b2"), ("b", "n1")],
        &["catalog"],
    );
    let expected = [
        ("c", "a1"),
        ("c", "a2"),
        ("a", "b1"),
        ("a", "b2"),
        ("b", "n1"),
    ];
    for webhook in ["catalog", "late"] {
        fixture.operations().replay(&to(webhook), at(5)).unwrap();
        let sent = deliver(&store, webhook, 5);
        let lane = |name: &str| -> Vec<(String, String)> {
            let of_lane = sent.iter().filter(|(lane, _, _)| lane == name);
            of_lane
                .map(|(lane, text, _)| (lane.clone(), text.clone()))
                .collect()
        };
        let lanes: Vec<_> = ["c", "a", "b"].iter().flat_map(|name| lane(name)).collect();
        let lanes: Vec<_> = lanes
            .iter()
            .map(|(lane, text)| (&lane[..], &text[..]))
            .collect();
        assert_eq!(lanes, expected, "{webhook}");
    }
}

#[test]
fn a_replayed_import_waits_for_the_replayed_delete_in_another_organization() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let there = ProjectKey::new("there", "a");
    for (kind, key) in [
        (EventKind::ProjectDelete, key("a")),
        (EventKind::ProjectImportAny, there),
    ] {
        let mut new = event(kind, &key, "one", &["catalog"]);
        new.project_id = "e-1".to_owned();
        let id = (Parameter::ProjectId, "E-1".to_owned());
        new.event.parameters.push(id);
        store.record(of_event(new, "one")).unwrap();
        deliver(&store, "catalog", 0);
    }
    for webhook in ["catalog", "late"] {
        fixture.operations().replay(&to(webhook), at(5)).unwrap();
        let delete = claim(&store, webhook, at(5));
        assert_eq!(delete.event.kind, EventKind::ProjectDelete);
        end(&store, &delete, Verdict::Delivered);
        let import = claim(&store, webhook, at(5));
        assert_eq!(import.event.kind, EventKind::ProjectImportAny);
        end(&store, &import, Verdict::Delivered);
    }
}

#[test]
fn a_replayed_import_does_not_wait_for_the_replayed_delete_in_another_repository() {
    let fixture = Fixture::new();
    let store = fixture.store();
    for (kind, repository) in [
        (EventKind::ProjectDelete, "staging"),
        (EventKind::ProjectImportAny, "production"),
    ] {
        let key = ProjectKey::new(format!("{repository}//sales"), "a");
        let mut new = event(kind, &key, "one", &["catalog"]);
        new.project_id = "e-1".to_owned();
        let id = (Parameter::ProjectId, "E-1".to_owned());
        new.event.parameters.push(id);
        store.record(of_event(new, "one")).unwrap();
        deliver(&store, "catalog", 0);
    }
    for webhook in ["catalog", "late"] {
        fixture.operations().replay(&to(webhook), at(5)).unwrap();
        assert_eq!(claims(&store, webhook, at(5)).ready.len(), 2, "{webhook}");
    }
}

#[test]
fn an_event_is_kept_until_its_replayed_deliveries_are_removed() {
    let fixture = Fixture::new();
    let store = fixture.store();
    record(&store, &[("a", "1")], &["catalog"]);
    deliver(&store, "catalog", 0);
    let mut operations = fixture.operations();
    operations.replay(&to("late"), at(6 * DAY)).unwrap();
    // The first delivery goes, and the pending one stays whatever its age.
    let collected = collect(&store, 60 * DAY);
    assert_eq!((collected.n_deliveries, collected.n_events), (1, 0));
    let mut claimed = claim(&store, "late", at(60 * DAY));
    assert_eq!(claimed.payload, bytes("1"));
    let mut finished = finish(&claimed, Verdict::Delivered);
    finished.attempt.at = at(60 * DAY);
    wait(store.finish([finished].into())).unwrap();
    assert_eq!(operations.replay(&to("late"), at(61 * DAY)).unwrap(), 1);
    claimed = claim(&store, "late", at(61 * DAY));
    let mut finished = finish(&claimed, Verdict::Delivered);
    finished.attempt.at = at(61 * DAY) + Duration::from_secs(1);
    wait(store.finish([finished].into())).unwrap();
    assert!(collect(&store, 67 * DAY).is_empty());
    let collected = collect(&store, 70 * DAY);
    assert_eq!((collected.n_deliveries, collected.n_events), (1, 1));
    assert_eq!(collected.n_payloads, 1);
    assert_eq!(operations.count_replay(&to("late")).unwrap(), 0);
}

#[test]
fn many_are_replayed_in_pieces() {
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
    assert_eq!(operations.count_replay(&to("late")).unwrap(), 2_101);
    let counted = |expected| Replay {
        expected: Some(expected),
        ..to("late")
    };
    let error = operations.replay(&counted(2_100), at(0)).unwrap_err();
    let other = Fault::OtherNumber {
        expected: 2_100,
        selected: 2_101,
    };
    assert_eq!(error.fault().to_string(), other.to_string());
    assert_eq!(operations.replay(&counted(2_101), at(0)).unwrap(), 2_101);
    let pending = Selector {
        webhook: Some("late".to_owned()),
        state: Some(State::Pending),
        ..Selector::default()
    };
    assert_eq!(operations.count(&pending).unwrap(), 2_101);
    assert_eq!(claims(&store, "late", at(0)).ready.len(), 1);
}
