use crate::helpers::*;
use crate::retaining::collect;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::domain::event::{EventId, EventKind};
use project_webhooks::domain::project::Identity;
use project_webhooks::domain::project::{Problem, ProjectKey, Recorded, Role};
use project_webhooks::store::{Batch, Fault, MetaKey};

#[test]
fn what_is_recorded_is_read_back_as_it_was() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let after = Recorded::from_iter([
        file(Role::Definition, "sales/a/project.xml", "one"),
        file(Role::Published, "sales/a/published/project.xml", "two"),
        file(Role::Snapshot, "sales/a/snapshots/v1.xml", "three"),
    ]);
    let mut batch = change("a", &Recorded::default(), &after);
    batch.payloads.push(payload("one"));
    store.record(batch).unwrap();
    assert_eq!(store.recorded(&key("a")).unwrap(), after);
    assert_eq!(
        store.recorded_many(&[key("b"), key("a")]).unwrap(),
        [Recorded::default(), after.clone()]
    );
    assert_eq!(store.keys().unwrap(), [key("a")]);
    assert_eq!(store.keys_in("sales").unwrap(), [key("a")]);
    assert!(store.keys_in("other").unwrap().is_empty());
    // The helper's documents have an engineId, which goes before the content.
    let identity = Identity::Id("é".to_owned());
    let content = Identity::Content(hash("one"));
    assert_eq!(
        store.with_identities(&[identity, content]).unwrap(),
        [vec![key("a")], vec![]]
    );

    let mut less = after.clone();
    less.published.clear();
    store.record(change("a", &after, &less)).unwrap();
    assert_eq!(store.recorded(&key("a")).unwrap(), less);
    store
        .record(change("a", &less, &Recorded::default()))
        .unwrap();
    assert!(store.recorded(&key("a")).unwrap().is_empty());
    assert!(store.keys().unwrap().is_empty());
}

#[test]
fn an_event_keeps_every_part() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let batch = one_event("a", "one", &["catalog", "audit"]);
    let event = batch.changes[0].events[0].event.clone();
    let committed = store.record(batch).unwrap();
    assert_eq!(committed.events[0].id, event.id);
    assert_eq!(
        committed
            .deliveries
            .webhooks
            .into_iter()
            .collect::<Vec<_>>(),
        ["audit", "catalog"]
    );
    let claim = claim(&store, "catalog", at(0));
    assert_eq!(claim.event, event);
    assert_eq!(claim.payload, bytes("one"));
    assert_eq!((claim.attempt, claim.scheduled_attempt), (1, 1));
    assert_eq!(claim.origin, event.origin);
}

#[test]
fn an_equal_happening_is_a_new_event() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let committed = store.record(one_event("a", "one", &["catalog"])).unwrap();
        ids.extend(committed.events.into_iter().map(|event| event.id));
    }
    let new = event(EventKind::SnapshotCreate, &key("a"), "one", &[]);
    let expected: Vec<EventId> = (0..3)
        .map(|repetition| {
            EventId::of(
                EventKind::SnapshotCreate,
                &key("a"),
                Some("v1"),
                &new.stamp,
                &hash("one"),
                repetition,
            )
        })
        .collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_missing_payload_commits_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut batch = one_event("a", "one", &["catalog"]);
    batch.payloads.clear();
    batch.meta.push((MetaKey::FirstStart, "done".to_owned()));
    let error = store.record(batch).unwrap_err();
    assert!(
        matches!(error.fault(), Fault::MissingPayload { .. }),
        "{error}"
    );
    assert_eq!(store.meta_of(None, MetaKey::FirstStart).unwrap(), None);
    assert!(claims(&store, "catalog", at(0)).ready.is_empty());

    let error = store
        .record(change("a", &Recorded::default(), &definition("one")))
        .unwrap_err();
    assert!(
        matches!(error.fault(), Fault::MissingPayload { .. }),
        "{error}"
    );
    assert!(store.keys().unwrap().is_empty());
}

#[test]
fn a_payload_that_is_not_its_hash_is_refused() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut batch = one_event("a", "one", &["catalog"]);
    batch.payloads = vec![(hash("one"), bytes("two"))];
    let error = store.record(batch).unwrap_err();
    assert!(
        matches!(error.fault(), Fault::WrongPayload { .. }),
        "{error}"
    );
}

#[test]
fn the_last_definition_stays_for_the_delete() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let (one, two) = (definition("one"), definition("two!"));
    let mut batch = change("a", &Recorded::default(), &one);
    batch.payloads.push(payload("one"));
    store.record(batch).unwrap();
    let mut batch = change("a", &one, &two);
    batch.payloads.push(payload("two!"));
    store.record(batch).unwrap();
    // The batch has no payload: the recorded definition's is stored.
    let mut batch = change("a", &two, &Recorded::default());
    let new = event(EventKind::ProjectDelete, &key("a"), "two!", &["catalog"]);
    batch.changes[0].events.push(new);
    store.record(batch).unwrap();
    assert_eq!(claim(&store, "catalog", at(0)).payload, bytes("two!"));

    collect(&store, 0);
    let listings = fixture.listings();
    let whole = |text| {
        let part = listings.payload_part(&hash(text), 0, usize::MAX);
        part.unwrap().map(|part| part.bytes)
    };
    assert_eq!(whole("one"), None);
    assert_eq!(whole("two!"), Some(bytes("two!")));
}

/// It is kept longer than its delete, and its listeners receive the last event.
#[test]
fn a_deleted_project_stays_until_its_copies_are_judged() {
    const YEAR: i64 = 365 * 24 * 60 * 60;
    let path = "sales/a/project.xml";
    let copy = file(Role::Published, "sales/a/published/project.xml", "copy");
    let defined = Recorded::from_iter([file(Role::Definition, path, "one"), copy.clone()]);
    let deleted = Recorded::from_iter([file(Role::Deleted, path, "one"), copy]);
    for is_unpublished in [true, false] {
        let fixture = Fixture::new();
        let store = fixture.store();
        let record = |kind, before: &Recorded, after: &Recorded, webhook: &[&str]| {
            let mut batch = change("a", before, after);
            let mut new = event(kind, &key("a"), "one", webhook);
            new.if_heard = vec![("audit".to_owned(), at(0))];
            batch.changes[0].events.push(new);
            batch
        };
        let none = Recorded::default();
        let mut batch = record(EventKind::ProjectImport, &none, &defined, &["audit"]);
        batch.changes[0].events[0].if_heard.clear();
        batch.payloads.push(payload("one"));
        store.record(batch).unwrap();
        let batch = record(EventKind::ProjectDelete, &defined, &deleted, &[]);
        store.record(batch).unwrap();
        assert_eq!(store.recorded(&key("a")).unwrap(), deleted);
        assert_eq!(store.keys().unwrap(), [key("a")]);
        assert_eq!(store.n_defined_of(None).unwrap(), 0);
        let identity = Identity::Id("é".to_owned());
        assert_eq!(store.with_identities(&[identity]).unwrap(), [[key("a")]]);
        for _ in 0..2 {
            let claim = claim(&store, "audit", at(0));
            end(&store, &claim, Verdict::Delivered);
        }
        let collected = collect(&store, YEAR);
        assert_eq!((collected.n_events, collected.n_payloads), (2, 0));
        if is_unpublished {
            let kind = EventKind::ProjectDeleteAndUnpublish;
            let batch = record(kind, &deleted, &none, &[]);
            store.record(batch).unwrap();
            let claim = claim(&store, "audit", at(0));
            assert_eq!(claim.payload, bytes("one"));
            end(&store, &claim, Verdict::Delivered);
        } else {
            store.record(change("a", &deleted, &none)).unwrap();
        }
        let collected = collect(&store, 2 * YEAR);
        assert_eq!(collected.n_payloads, 1);
        // A new project in this directory has no listeners.
        let mut batch = record(EventKind::SnapshotCreate, &none, &none, &[]);
        batch.payloads.push(payload("one"));
        store.record(batch).unwrap();
        assert!(claims(&store, "audit", at(0)).ready.is_empty());
    }
}

#[test]
fn a_payload_is_read_in_parts() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let text: String = (0..100_000).map(|n| format!("{n},")).collect();
    store.record(one_event("a", &text, &["catalog"])).unwrap();
    let listings = fixture.listings();
    let (mut read, whole) = (Vec::new(), bytes(&text));
    loop {
        let position = read.len() as u64;
        let part = listings.payload_part(&hash(&text), position, 100_000);
        let part = part.unwrap().unwrap();
        assert_eq!(part.size, whole.len() as u64);
        if part.bytes.is_empty() {
            break;
        }
        assert!(part.bytes.len() <= 100_000);
        read.extend_from_slice(&part.bytes);
    }
    assert!(read == whole);
    let after = listings.payload_part(&hash(&text), u64::MAX, 1).unwrap();
    assert!(after.unwrap().bytes.is_empty());
    assert_eq!(listings.payload_part(&hash("none"), 0, 1).unwrap(), None);
}

#[test]
fn a_batch_inferred_from_another_record_is_refused() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let (one, two) = (definition("one"), definition("two!"));
    let mut first = change("a", &Recorded::default(), &one);
    first.payloads.push(payload("one"));
    store.record(first.clone()).unwrap();
    let mut update = change("a", &two, &definition("three"));
    update.payloads.push(payload("three"));
    for batch in [first, update, change("a", &two, &Recorded::default())] {
        let error = store.record(batch).unwrap_err();
        assert!(matches!(error.fault(), Fault::Stale { .. }), "{error}");
        assert_eq!(store.recorded(&key("a")).unwrap(), one);
    }
}

#[test]
fn problems_are_replaced_per_project_and_keep_their_age() {
    let problem = |path: &str, reason: &str| Problem {
        path: path.to_owned(),
        reason: reason.to_owned(),
        line: Some(3),
        column: None,
        may_resolve: true,
    };
    let fixture = Fixture::new();
    let store = fixture.store();
    let record = |owner, problems, seconds| {
        let mut batch = Batch::new(at(seconds));
        batch.problems.push((owner, problems));
        store.record(batch).unwrap();
    };
    record(
        Some(key("a")),
        vec![problem("x", "cut"), problem("y", "cut")],
        1,
    );
    record(None, vec![problem("z", "odd")], 2);
    record(Some(key("a")), vec![problem("x", "still cut")], 3);
    let listed = store.problems(10).unwrap();
    let brief: Vec<_> = listed
        .iter()
        .map(|listed| (listed.key.clone(), listed.problem.clone(), listed.since))
        .collect();
    assert_eq!(
        brief,
        [
            (None, problem("z", "odd"), at(2)),
            (Some(key("a")), problem("x", "still cut"), at(1)),
        ]
    );
    assert_eq!(store.problems(1).unwrap().len(), 1);
    record(None, vec![], 4);
    record(Some(key("a")), vec![], 4);
    assert_eq!(store.problems(10).unwrap(), []);
}

#[test]
fn facts_about_the_repository_are_set_with_a_batch() {
    let fixture = Fixture::new();
    let store = fixture.store();
    assert_eq!(store.meta_of(None, MetaKey::FirstStart).unwrap(), None);
    for value in ["one", "two"] {
        let mut batch = Batch::new(at(0));
        batch.meta.push((MetaKey::FirstStart, value.to_owned()));
        store.record(batch).unwrap();
    }
    assert_eq!(
        store.meta_of(None, MetaKey::FirstStart).unwrap().as_deref(),
        Some("two")
    );
    assert_eq!(store.meta_of(None, MetaKey::RepositoryRoot).unwrap(), None);
}

#[test]
fn several_repositories_are_listed_and_their_pending_deliveries_counted() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let of = |organization: &str, project: &str| ProjectKey::new(organization, project);
    for (organization, project, is_defined) in [
        ("a//sales", "one", true),
        ("a//sales", "two", true),
        ("a//z", "three", false),
        ("b//sales", "one", false),
        ("c/d//sales", "one", true),
    ] {
        let key = of(organization, project);
        let text = format!("{organization}/{project}");
        let new = event(EventKind::SnapshotCreate, &key, &text, &["x", "y"]);
        let mut batch = of_event(new, &text);
        if is_defined {
            let path = format!("{project}/project.xml");
            batch.changes[0].after = Recorded::from_iter([file(Role::Definition, &path, &text)]);
        }
        store.record(batch).unwrap();
    }
    store.close();
    let listings = fixture.listings();
    assert_eq!(listings.repositories().unwrap(), ["a", "c/d"]);
    for (repository, most, expected) in [
        ("a", 100, 6),
        ("a", 4, 4),
        ("b", 100, 2),
        ("c", 100, 0),
        ("c/d", 100, 2),
    ] {
        let n = listings.n_pending_of(repository, most).unwrap();
        assert_eq!(n, expected, "{repository}");
    }
}
