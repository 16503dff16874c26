//! Tests of a queue with a real store and receiver, and of prefetched deliveries.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::timeout;

use super::prefetch::{Prefetch, Wanted};
use super::*;
use crate::clock::Reading;
use crate::config::NetworkPolicy;
use crate::config::fixtures::webhook;
use crate::domain::event::{Event, EventId, EventKind, Explanation, Origin};
use crate::domain::project::{ContentHash, ProjectKey, Recorded, Stamp};
use crate::receiver::{Receiver, ReceiverOptions};
use crate::store::{Alone, Batch, Change, Claim, Claims, NewEvent, Operations, Selector};

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

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
        n_redeliveries: 0,
        key: ProjectKey::new("sales", project),
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

/// A batch with one event of this project, to be sent to the webhook.
fn batch(project: &str) -> Batch {
    let event = event(project);
    let payload = Bytes::copy_from_slice(project.as_bytes());
    Batch {
        payloads: vec![(event.payload, payload)],
        changes: vec![Change {
            key: event.key.clone(),
            moved_from: None,
            before: Recorded::default(),
            after: Recorded::default(),
            events: vec![NewEvent {
                event,
                project_id: project.to_owned(),
                is_arrival: false,
                tag: None,
                stamp: stamp(),
                webhooks: vec![("catalog".to_owned(), start())],
                if_heard: Vec::new(),
            }],
        }],
        ..Batch::new(start())
    }
}

/// A removed webhook is added again. Its new queue does not send deliveries that were passed to the
/// old queue, because an operator may have cancelled them.
#[tokio::test]
async fn deliveries_passed_to_a_removed_queue_are_not_sent_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let queues = Arc::new(QueueHandles::default());
    let handle = queues.of("catalog");
    let epoch = queues.epoch();
    queues.deliver(store.record(batch("cancelled")).unwrap().deliveries, epoch);
    assert_eq!(handle.n_committed(), 1);
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
    let targets = Targets::prepare(&[webhook], &NetworkPolicy::default(), |_| false).unwrap();
    let shared = Shared {
        traces: None,
        store: store.clone(),
        clock: Clock::start(),
        queues: Arc::clone(&queues),
        jitter: Arc::new(|| 0.0),
        metrics: Arc::new(Metrics::new([("catalog".to_owned(), true)].into()).unwrap()),
    };
    let dispatcher = Dispatcher::start(shared, targets, stop.clone());
    let epoch = queues.epoch();
    queues.deliver(store.record(batch("wanted")).unwrap().deliveries, epoch);
    let first = timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    assert_eq!(first.payload, Bytes::from_static(b"wanted"));
    stop.cancel();
    dispatcher.drain().await;
    assert!(received.try_recv().is_err());
}

/// Deliveries of earlier commits are not passed to a queue.
///
/// A commit is earlier if it began before an operator's command, or before the receiver switched
/// its webhook off.
#[test]
fn deliveries_committed_before_a_command_are_not_passed_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let queues = QueueHandles::default();
    let handle = queues.of("catalog");
    let ends_epoch: [&dyn Fn(); 2] = [&|| queues.wake_all(), &|| handle.drop_committed()];
    for (number, end_epoch) in ends_epoch.into_iter().enumerate() {
        let epoch = queues.epoch();
        let committed = store.record(batch(&format!("before {number}"))).unwrap();
        end_epoch();
        queues.deliver(committed.deliveries, epoch);
        assert_eq!(handle.n_committed(), 0);
    }
    let epoch = queues.epoch();
    let committed = store.record(batch("after")).unwrap();
    queues.deliver(committed.deliveries, epoch);
    assert_eq!(handle.n_committed(), 1);
}

#[test]
fn only_the_queue_of_a_paused_webhook_drops_its_claims() {
    let queues = QueueHandles::default();
    let [paused, other] = ["catalog", "audit"].map(|webhook| queues.of(webhook));
    queues.pause(|webhook| webhook == "catalog");
    assert!(paused.take_paused_by_other());
    assert!(!paused.take_paused_by_other());
    assert!(!other.take_paused_by_other());
}

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    prefetch: Prefetch,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(directory.path()).unwrap(),
            _directory: directory,
            prefetch: Prefetch::new(Arc::default(), false),
        }
    }

    /// Makes a fixture for a webhook to which other processes send too.
    fn shared() -> Self {
        let mut fixture = Self::new();
        fixture.prefetch = Prefetch::new(Arc::default(), true);
        fixture
    }

    fn ask(&mut self) {
        let at = Reading::of(start(), Duration::ZERO);
        self.prefetch
            .ask(&self.store, "catalog", at, 4, Wanted::Ahead, Alone::No);
    }

    /// Passes an answer to the queue at time 0, in place of the store's answer.
    async fn accept(&mut self, ready: Vec<Claim>) {
        self.accept_at(Duration::ZERO, ready).await;
    }

    async fn accept_at(&mut self, moment: Duration, ready: Vec<Claim>) {
        let answered = timeout(PATIENCE, self.prefetch.answer()).await;
        answered.unwrap().unwrap();
        self.prefetch.accept(answer(ready), moment);
    }

    fn next(&mut self) -> Option<i64> {
        self.prefetch.pop().map(|(claim, _)| claim.delivery)
    }
}

#[tokio::test]
async fn a_delivery_is_claimed_once() {
    let mut fixture = Fixture::new();
    fixture.ask();
    fixture.accept(vec![claim(1, "a"), claim(2, "b")]).await;
    assert_eq!(fixture.next(), Some(1));
    // One delivery is prefetched and one is in flight. Neither is claimed again.
    fixture.prefetch.expect_more();
    fixture.ask();
    fixture
        .accept(vec![claim(1, "a"), claim(2, "b"), claim(3, "c")])
        .await;
    assert_eq!(
        (fixture.next(), fixture.next(), fixture.next()),
        (Some(2), Some(3), None)
    );
}

#[tokio::test]
async fn a_project_released_since_the_question_is_not_taken_from_the_answer() {
    let mut fixture = Fixture::new();
    fixture.ask();
    fixture.accept(vec![claim(1, "a")]).await;
    assert_eq!(fixture.next(), Some(1));
    fixture.prefetch.expect_more();
    fixture.ask();
    // The result of the delivery is recorded while a claim is in progress.
    fixture.prefetch.release(ProjectKey::new("sales", "a"), 1);
    fixture.accept(vec![claim(1, "a"), claim(2, "b")]).await;
    assert_eq!((fixture.next(), fixture.next()), (Some(2), None));
    // The next claim finds the next delivery of the project.
    fixture.ask();
    fixture.accept(vec![claim(3, "a")]).await;
    assert_eq!(fixture.next(), Some(3));
}

/// The store returns a delivery of a renamed project with the new key.
#[tokio::test]
async fn a_delivery_in_flight_is_not_claimed_again_under_its_projects_new_name() {
    let mut fixture = Fixture::new();
    fixture.ask();
    fixture.accept(vec![claim(1, "a")]).await;
    assert_eq!(fixture.next(), Some(1));
    let mut renamed = claim(1, "a");
    renamed.key = ProjectKey::new("sales", "b");
    fixture.prefetch.expect_more();
    fixture.ask();
    fixture.accept(vec![renamed.clone()]).await;
    assert_eq!(fixture.next(), None);
    // The result of the delivery is recorded while a claim is in progress.
    fixture.prefetch.expect_more();
    fixture.ask();
    fixture.prefetch.release(ProjectKey::new("sales", "a"), 1);
    fixture.accept(vec![renamed]).await;
    assert_eq!(fixture.next(), None);
    fixture.ask();
    fixture.accept(vec![claim(2, "b")]).await;
    assert_eq!(fixture.next(), Some(2));
}

#[tokio::test]
async fn an_answer_from_before_an_operators_command_is_dropped() {
    let mut fixture = Fixture::new();
    fixture.ask();
    fixture.prefetch.clear();
    fixture.accept(vec![claim(1, "a")]).await;
    assert_eq!(fixture.next(), None);
    fixture.ask();
    fixture.accept(vec![claim(1, "a")]).await;
    assert_eq!(fixture.next(), Some(1));
}

#[tokio::test]
async fn claims_expire() {
    let mut fixture = Fixture::new();
    fixture.ask();
    fixture.accept(vec![claim(1, "a")]).await;
    fixture.prefetch.drop_expired(Duration::from_millis(400));
    assert!(!fixture.prefetch.is_empty());
    fixture.prefetch.drop_expired(Duration::from_secs(1));
    assert!(fixture.prefetch.is_empty());
    fixture.ask();
    fixture.accept(vec![claim(1, "a")]).await;
    assert_eq!(fixture.next(), Some(1));
}

/// The validity of claims begins when the answer arrives. Otherwise claims from a slow store would
/// expire before they are used.
#[tokio::test]
async fn claims_of_a_late_answer_are_valid() {
    let mut fixture = Fixture::new();
    fixture.ask();
    let late = Duration::from_secs(10);
    fixture.accept_at(late, vec![claim(1, "a")]).await;
    fixture.prefetch.drop_expired(late);
    assert_eq!(fixture.next(), Some(1));
}

/// The queue repeats the request to drop other claims until the store confirms it.
#[tokio::test]
async fn dropped_claims_are_released_although_a_release_fails() {
    let mut fixture = Fixture::shared();
    // An earlier queue may have left claims.
    let at = Reading::of(start(), Duration::ZERO);
    let keeping = |fixture: &mut Fixture| fixture.prefetch.asking(at, 0, Alone::No).keeping;
    assert_eq!(keeping(&mut fixture), Some([].into()));
    fixture.ask();
    fixture.accept(vec![claim(1, "a")]).await;
    assert_eq!(fixture.next(), Some(1));
    fixture.prefetch.expect_more();
    fixture.ask();
    fixture.accept(vec![claim(2, "b")]).await;
    assert_eq!(keeping(&mut fixture), None);
    fixture.prefetch.clear();
    fixture.store.close();
    fixture.ask();
    assert!(fixture.prefetch.answer().await.is_err());
    assert_eq!(keeping(&mut fixture), Some([1].into()));
    assert_eq!(keeping(&mut fixture), None);
}

#[tokio::test]
async fn nothing_is_asked_while_no_delivery_can_be_due() {
    let mut fixture = Fixture::new();
    fixture.ask();
    fixture.accept(Vec::new()).await;
    fixture.ask();
    let asked = tokio::time::timeout(Duration::ZERO, fixture.prefetch.answer()).await;
    assert!(asked.is_err());
}

#[tokio::test]
async fn large_payloads_are_not_prefetched() {
    let mut fixture = Fixture::new();
    fixture.ask();
    let mut large = claim(1, "a");
    large.payload = Bytes::from(vec![0; 2 * 1024 * 1024]);
    fixture
        .accept(vec![large, claim(2, "b"), claim(3, "c"), claim(4, "d")])
        .await;
    // All deliveries that can be sent now are prefetched. No more are claimed in advance, because
    // the payloads are large.
    fixture.prefetch.expect_more();
    fixture.ask();
    assert!(!fixture.prefetch.is_asking());
    assert_eq!(fixture.next(), Some(1));
    fixture.ask();
    assert!(fixture.prefetch.is_asking());
}
