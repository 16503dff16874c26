//! Small projects, events and answers.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

pub use crate::fixture::{Fixture, n_cases};
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::domain::event::{Event, EventId, EventKind, Explanation, Origin, Parameter};
use project_webhooks::domain::project::{
    ContentHash, Document, FileState, KeptIds, ProjectKey, Recorded, Role, Stamp,
};
use project_webhooks::store::{
    Alone, Asking, AttemptLog, Batch, Change, Claim, Claims, Finish, NewEvent, Store, WebhookState,
};

use crate::common::RUN_MAX;

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

pub fn key(project: &str) -> ProjectKey {
    ProjectKey::new("sales", project)
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::from(format!("<schema name=\"{text}\"/>"))
}

pub fn hash(text: &str) -> ContentHash {
    ContentHash::of(&bytes(text))
}

pub fn payload(text: &str) -> (ContentHash, Bytes) {
    (hash(text), bytes(text))
}

pub fn file(role: Role, path: &str, text: &str) -> FileState {
    FileState {
        path: path.to_owned(),
        role,
        tag: (role != Role::Definition).then(|| "v1".to_owned()),
        stamp: Stamp {
            // Beyond what SQLite's signed integers hold.
            inode: u64::MAX - 1,
            size: 10,
            modified_ns: 1,
            changed_ns: i64::try_from(text.len()).unwrap(),
        },
        read_ns: 3,
        hash: hash(text),
        document: Document {
            name: Some("Sales \"Insights\"".to_owned()),
            id: None,
            annotations: [("engineId".to_owned(), "é\n".to_owned())].into(),
            kept: KeptIds {
                engine_id: Some("e".to_owned()),
                made_up: Some("m".to_owned()),
                ..KeptIds::default()
            }
            .boxed(),
        },
        owner: "ann".to_owned(),
    }
}

pub fn definition(text: &str) -> Recorded {
    Recorded::from_iter([file(Role::Definition, "sales/a/project.xml", text)])
}

/// An event of a project whose payload has this text.
pub fn event(kind: EventKind, key: &ProjectKey, text: &str, webhooks: &[&str]) -> NewEvent {
    let stamp = Stamp {
        inode: 7,
        size: 1,
        modified_ns: 2,
        changed_ns: 3,
    };
    let tag = Some("v1".to_owned());
    NewEvent {
        event: Event {
            id: EventId::of(kind, key, tag.as_deref(), &stamp, &hash(text), 0),
            kind,
            key: key.clone(),
            origin: Origin::Live,
            // Times have whole microseconds.
            occurred_at: at(0) + Duration::from_micros(123_456),
            parameters: vec![(Parameter::Username, "ann".to_owned())],
            payload: hash(text),
            explanation: Explanation {
                because: "it appeared".to_owned(),
                ..Explanation::default()
            },
        },
        project_id: key.to_string(),
        is_arrival: kind.is_import(),
        tag,
        stamp,
        webhooks: webhooks
            .iter()
            .map(|webhook| ((*webhook).to_owned(), at(0)))
            .collect(),
        if_heard: Vec::new(),
    }
}

/// A batch with one snapshot event of a project, which changes nothing else.
pub fn one_event(project: &str, text: &str, webhooks: &[&str]) -> Batch {
    let new = event(EventKind::SnapshotCreate, &key(project), text, webhooks);
    of_event(new, text)
}

/// A batch with this event, whose payload has this text.
pub fn of_event(new: NewEvent, text: &str) -> Batch {
    Batch {
        changes: vec![Change {
            key: new.event.key.clone(),
            moved_from: None,
            before: Recorded::default(),
            after: Recorded::default(),
            events: vec![new],
        }],
        payloads: vec![payload(text)],
        ..Batch::new(at(0))
    }
}

/// A batch in which a project's record changes without events.
pub fn change(project: &str, before: &Recorded, after: &Recorded) -> Batch {
    Batch {
        changes: vec![Change {
            key: key(project),
            moved_from: None,
            before: before.clone(),
            after: after.clone(),
            events: Vec::new(),
        }],
        ..Batch::new(at(0))
    }
}

pub fn finish(claim: &Claim, verdict: Verdict) -> Finish {
    Finish {
        delivery: claim.delivery,
        attempt: attempt(claim.attempt, verdict),
        verdict,
        n_redeliveries: claim.n_redeliveries,
        fingerprint: None,
        rests_until: None,
        retry_at: None,
    }
}

pub fn attempt(number: u32, verdict: Verdict) -> AttemptLog {
    let delivered = verdict == Verdict::Delivered;
    AttemptLog {
        number,
        at: at(10),
        duration: Duration::from_millis(1500),
        status: Some(match verdict {
            Verdict::Delivered => 200,
            Verdict::SwitchOff => 410,
            Verdict::Retry(_)
            | Verdict::RetryAsAsked(_)
            | Verdict::Repeat(_)
            | Verdict::RepeatAsAsked(_)
            | Verdict::Dead => 500,
        }),
        error: (!delivered).then(|| "no luck".to_owned()),
        answer: Bytes::from_static(b"answer"),
        request_headers: vec![("webhook-id".to_owned(), "evt_1".to_owned())],
    }
}

/// Runs a future to its end on this thread.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let answer = runtime.block_on(async { tokio::time::timeout(RUN_MAX, future).await });
    answer.expect("the store answers")
}

/// A request of at most `limit` deliveries, by a sender that has none.
pub fn asking(now: Timestamp, limit: usize) -> Asking {
    Asking {
        now,
        limit,
        excluding: HashSet::new(),
        alone: Alone::No,
        keeping: None,
    }
}

pub fn next_due(store: &Store, webhook: &str) -> Option<Timestamp> {
    let claims = wait(store.claim(webhook, asking(at(0), 0)));
    claims.unwrap().next_due
}

pub fn claims(store: &Store, webhook: &str, now: Timestamp) -> Claims {
    wait(store.claim(webhook, asking(now, 100))).unwrap()
}

/// The one delivery that is due.
pub fn claim(store: &Store, webhook: &str, now: Timestamp) -> Claim {
    let mut claims = claims(store, webhook, now);
    assert_eq!(claims.ready.len(), 1);
    claims.ready.remove(0)
}

pub fn end(store: &Store, claim: &Claim, verdict: Verdict) {
    wait(store.finish([finish(claim, verdict)].into())).unwrap();
}

pub fn states(store: &Store) -> BTreeMap<String, WebhookState> {
    wait(store.webhook_states())
        .unwrap()
        .into_iter()
        .map(|state| (state.name.clone(), state))
        .collect()
}
