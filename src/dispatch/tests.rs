//! The queues with a real store and a real endpoint, and what waits for room.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::ahead::Ahead;
use super::*;
use crate::config::fixtures::webhook;
use crate::domain::event::{Event, EventId, EventKind, Explanation, Origin};
use crate::domain::project::{ContentHash, ProjectKey, Recorded, Stamp};
use crate::receiver::{Receiver, ReceiverOptions};
use crate::store::{Batch, Change, Claims, NewEvent, Operations, Selector};

fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn stamp() -> Stamp {
    Stamp {
        inode: 1,
        size: 2,
        modified_ns: 3,
        changed_ns: 4,
    }
}

fn event(project: &str) -> Event {
    let key = ProjectKey::new("sales", project);
    let stamp = stamp();
    let payload = ContentHash::of(project.as_bytes());
    let kind = EventKind::SnapshotCreate;
    Event {
        id: EventId::of(kind, &key, None, &stamp, &payload, 0),
        kind,
        key,
        origin: Origin::Live,
        occurred_at: start(),
        parameters: Vec::new(),
        payload,
        explanation: Explanation::default(),
    }
}

fn claim(delivery: i64, project: &str) -> Claim {
    Claim {
        delivery,
        attempt: 1,
        scheduled_attempt: 1,
        event: event(project),
        payload: Bytes::copy_from_slice(project.as_bytes()),
        origin: Origin::Live,
    }
}

fn answer(ready: Vec<Claim>) -> Claims {
    Claims {
        ready,
        ..Claims::default()
    }
}

/// A batch with one event of a project, of which the webhook hears.
fn batch(project: &str) -> Batch {
    let event = event(project);
    let payload = Bytes::copy_from_slice(project.as_bytes());
    Batch {
        payloads: vec![(event.payload, payload)],
        changes: vec![Change {
            key: event.key.clone(),
            before: Recorded::default(),
            after: Recorded::default(),
            events: vec![NewEvent {
                event,
                tag: None,
                stamp: stamp(),
                webhooks: vec![("catalog".to_owned(), start())],
            }],
        }],
        ..Batch::new(start())
    }
}

/// Deliveries passed by an engine that still knew the webhook are not sent by the queue that runs
/// when the webhook comes back: an operator may have cancelled them.
#[tokio::test]
async fn deliveries_passed_to_a_queue_that_is_gone_are_asked_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let queues = Arc::new(QueueHandles::default());
    let handle = queues.of("catalog");
    queues.deliver(store.record(batch("cancelled")).unwrap().deliveries);
    assert_eq!(handle.ready.lock().unwrap().len(), 1);
    let selector = Selector {
        webhook: Some("catalog".to_owned()),
        ..Selector::default()
    };
    let n_cancelled = Operations::open(directory.path())
        .unwrap()
        .cancel(&selector, start());
    assert_eq!(n_cancelled.unwrap(), 1);

    let stop = CancellationToken::new();
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let options = ReceiverOptions::new(start);
    let (receiver, mut received) = Receiver::bind(address, options).await.unwrap();
    let webhook = webhook(&receiver.url());
    tokio::spawn(receiver.serve(stop.clone()));
    let targets = Targets::prepare(&[webhook], &NetworkPolicy::default()).unwrap();
    let shared = Shared {
        store: store.clone(),
        clock: Clock::start(),
        queues: Arc::clone(&queues),
        jitter: Arc::new(|| 0.0),
        metrics: Arc::new(Metrics::new([("catalog".to_owned(), true)].into()).unwrap()),
    };
    let dispatcher = Dispatcher::start(shared, targets, stop.clone());
    queues.deliver(store.record(batch("wanted")).unwrap().deliveries);
    let first = received.recv().await.unwrap();
    assert_eq!(first.payload, Bytes::from_static(b"wanted"));
    stop.cancel();
    dispatcher.drain().await;
    assert!(received.try_recv().is_err());
}

struct Room {
    _directory: tempfile::TempDir,
    store: Store,
    ahead: Ahead,
}

impl Room {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(directory.path()).unwrap(),
            _directory: directory,
            ahead: Ahead::new(Arc::default()),
        }
    }

    fn ask(&mut self) {
        let at = Clock::start().reading();
        self.ahead.ask(&self.store, "catalog", at, 4, true);
    }

    /// Takes an answer in the place of the store's.
    async fn take(&mut self, ready: Vec<Claim>) {
        self.ahead.answer().await.unwrap();
        self.ahead.take_answer(answer(ready));
    }

    fn next(&mut self) -> Option<i64> {
        self.ahead.take().map(|claim| claim.delivery)
    }
}

#[tokio::test]
async fn a_delivery_is_claimed_once() {
    let mut room = Room::new();
    room.ask();
    room.take(vec![claim(1, "a"), claim(2, "b")]).await;
    assert_eq!(room.next(), Some(1));
    // One waits, one is in flight: neither is taken again.
    room.ahead.look_again();
    room.ask();
    room.take(vec![claim(1, "a"), claim(2, "b"), claim(3, "c")])
        .await;
    assert_eq!(
        (room.next(), room.next(), room.next()),
        (Some(2), Some(3), None)
    );
}

#[tokio::test]
async fn what_was_recorded_since_the_question_is_not_taken_from_the_answer() {
    let mut room = Room::new();
    room.ask();
    room.take(vec![claim(1, "a")]).await;
    assert_eq!(room.next(), Some(1));
    room.ahead.look_again();
    room.ask();
    // It lands and is recorded while the store is being asked.
    room.ahead.free(ProjectKey::new("sales", "a"));
    room.take(vec![claim(1, "a"), claim(2, "b")]).await;
    assert_eq!((room.next(), room.next()), (Some(2), None));
    // What the lane has now is asked for.
    room.ask();
    room.take(vec![claim(3, "a")]).await;
    assert_eq!(room.next(), Some(3));
}

#[tokio::test]
async fn an_answer_from_before_an_operators_command_is_not_taken() {
    let mut room = Room::new();
    room.ask();
    room.ahead.drop_all();
    room.take(vec![claim(1, "a")]).await;
    assert_eq!(room.next(), None);
    room.ask();
    room.take(vec![claim(1, "a")]).await;
    assert_eq!(room.next(), Some(1));
}

#[tokio::test]
async fn claims_that_waited_for_long_are_given_back() {
    let mut room = Room::new();
    room.ask();
    room.take(vec![claim(1, "a")]).await;
    room.ahead.drop_old(Duration::from_millis(400));
    assert!(!room.ahead.is_empty());
    room.ahead.drop_old(Duration::from_secs(1));
    assert!(room.ahead.is_empty());
    room.ask();
    room.take(vec![claim(1, "a")]).await;
    assert_eq!(room.next(), Some(1));
}

#[tokio::test]
async fn nothing_is_asked_while_nothing_can_have_become_due() {
    let mut room = Room::new();
    room.ask();
    room.take(Vec::new()).await;
    room.ask();
    let asked = tokio::time::timeout(Duration::ZERO, room.ahead.answer()).await;
    assert!(asked.is_err());
}

#[tokio::test]
async fn large_payloads_are_not_claimed_ahead() {
    let mut room = Room::new();
    room.ask();
    let mut large = claim(1, "a");
    large.payload = Bytes::from(vec![0; 2 * 1024 * 1024]);
    room.take(vec![large, claim(2, "b"), claim(3, "c"), claim(4, "d")])
        .await;
    // As many wait as can go out, and hold enough.
    room.ahead.look_again();
    room.ask();
    assert!(!room.ahead.is_asking());
    assert_eq!(room.next(), Some(1));
    room.ask();
    assert!(room.ahead.is_asking());
}
