//! Several senders of one database, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use project_webhooks::config::Postgres as Settings;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::{ProjectKey, Recorded};
use project_webhooks::store::{
    Alone, Asking, Batch, Change, Claim, Finish, Operations, Selector, Store,
};

use crate::common::{PATIENCE, Postgres, wait_exit, wait_until};
use crate::helpers::*;
use crate::postgres::{schema, server, settings};

/// A database with a process that watches and two that only send.
struct Fleet {
    server: &'static Postgres,
    settings: Settings,
    schema: String,
    watching: Store,
    one: Store,
    other: Store,
}

impl Fleet {
    fn new(test: &str) -> Option<Self> {
        let server = server(test)?;
        let settings = settings(server);
        Some(Self {
            server,
            schema: schema(&settings).to_owned(),
            watching: Store::connect(&settings).unwrap(),
            one: Store::connect_sender(&settings).unwrap(),
            other: Store::connect_sender(&settings).unwrap(),
            settings,
        })
    }

    /// Keeps commits of this delivery's attempts from ending.
    fn hold(&self, delivery: i64) -> Held {
        // The number of the lock is that of the schema.
        let name = format!("hashtext('{}')", self.schema);
        let mut holder = Command::new("psql");
        holder.args(["-X", "-q", "-d", &self.server.connection("postgres")]);
        holder.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut held = Held(holder.spawn().unwrap());
        let sql = format!("SELECT pg_advisory_lock({name});\n");
        let input = held.0.stdin.as_mut().unwrap();
        input.write_all(sql.as_bytes()).unwrap();
        wait_until("the lock", || (self.n_locks(true) == 1).then_some(()));
        let schema = &self.schema;
        self.server.sql(
            "postgres",
            &format!(
                "CREATE FUNCTION {schema}.hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF NEW.delivery = {delivery} THEN PERFORM pg_advisory_xact_lock_shared({name}); \
                 END IF; RETURN NULL; END $$; \
                 CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON {schema}.attempts \
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.hold()"
            ),
        );
        held
    }

    /// The number of locks of [`hold`](Self::hold), or of commits that wait for it.
    fn n_locks(&self, granted: bool) -> usize {
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
             AND objid::bigint = hashtext('{}')::bigint & 4294967295 AND granted = {granted}",
            self.schema
        );
        self.server.sql("postgres", &sql).parse().unwrap()
    }

    /// The number of transactions that wait for the lock of their repository.
    fn n_waiting(&self) -> usize {
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
             AND classid = '{}.repositories'::regclass::oid AND NOT granted",
            self.schema
        );
        self.server.sql("postgres", &sql).parse().unwrap()
    }

    /// Records two results at the same time: the commit of the second one ends after the first one waits.
    fn finish_together(&self, first: &Claim, second: &Claim) {
        let held = self.hold(second.delivery);
        thread::scope(|scope| {
            scope.spawn(|| end(&self.other, second, Verdict::Delivered));
            wait_until("the commit", || (self.n_locks(false) == 1).then_some(()));
            let first = scope.spawn(|| end(&self.one, first, Verdict::Delivered));
            wait_until("the other", || {
                (first.is_finished() || self.n_waiting() == 1).then_some(())
            });
            drop(held);
        });
    }
}

/// A session that holds a lock until it is dropped.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // The session ends with its input.
        drop(self.0.stdin.take());
        wait_exit(&mut self.0);
    }
}

fn claim_one(store: &Store) -> Claim {
    let found = wait(store.claim("catalog", asking(at(0), 1))).unwrap();
    found.ready.into_iter().next().unwrap()
}

#[test]
fn a_sender_does_not_wait_for_the_commit_of_another() {
    let Some(fleet) = Fleet::new("a_sender_does_not_wait_for_the_commit_of_another") else {
        return;
    };
    for (project, text) in [("a", "one"), ("b", "two"), ("b", "three")] {
        let batch = one_event(project, text, &["catalog"]);
        fleet.watching.record(batch).unwrap();
    }
    let (slow, quick) = (claim_one(&fleet.one), claim_one(&fleet.other));
    let held = fleet.hold(slow.delivery);
    thread::scope(|scope| {
        let ending = scope.spawn(|| end(&fleet.one, &slow, Verdict::Delivered));
        wait_until("the commit", || (fleet.n_locks(false) == 1).then_some(()));
        end(&fleet.other, &quick, Verdict::Delivered);
        assert_eq!(claim_one(&fleet.other).payload, bytes("three"));
        assert!(!ending.is_finished());
        drop(held);
    });
}

/// The lane of a moved project waits for the delete, and its earlier delivery ends at the same time.
#[test]
fn a_delete_and_the_lane_that_waits_for_it_may_end_together() {
    let Some(fleet) = Fleet::new("a_delete_and_the_lane_that_waits_for_it_may_end_together") else {
        return;
    };
    let of_e1 = |kind, project: &str, text| {
        let mut new = event(kind, &key(project), text, &["catalog"]);
        new.project_id = "e-1".to_owned();
        fleet.watching.record(of_event(new, text)).unwrap();
    };
    of_e1(EventKind::ProjectDelete, "old", "one");
    let before = one_event("new", "two", &["catalog"]);
    fleet.watching.record(before).unwrap();
    of_e1(EventKind::ProjectImport, "new", "three");
    let (delete, before) = (claim_one(&fleet.one), claim_one(&fleet.other));
    assert_eq!(
        (&delete.key, &before.key),
        (&key("old"), &key("new")),
        "{delete:?} {before:?}"
    );
    fleet.finish_together(&delete, &before);
    assert_eq!(claim_one(&fleet.one).payload, bytes("three"));
}

/// Two senders have claims of one lane, because a project moved to the key of another.
#[test]
fn the_claims_of_lanes_that_became_one_may_end_together() {
    let Some(fleet) = Fleet::new("the_claims_of_lanes_that_became_one_may_end_together") else {
        return;
    };
    for (project, text) in [("a", "one"), ("b", "two"), ("b", "three")] {
        let batch = one_event(project, text, &["catalog"]);
        fleet.watching.record(batch).unwrap();
    }
    let (one, two) = (claim_one(&fleet.one), claim_one(&fleet.other));
    let moved = Change {
        key: key("b"),
        moved_from: Some(key("a")),
        before: Recorded::default(),
        after: Recorded::default(),
        events: Vec::new(),
    };
    let batch = Batch {
        changes: vec![moved],
        ..Batch::new(at(0))
    };
    fleet.watching.record(batch).unwrap();
    fleet.finish_together(&one, &two);
    assert_eq!(claim_one(&fleet.one).payload, bytes("three"));
}

/// The sender knows the project by its former key, because another process watches.
#[test]
fn a_lane_with_a_cancelled_delivery_under_way_has_nothing_to_claim() {
    let Some(fleet) = Fleet::new("a_lane_with_a_cancelled_delivery_under_way_has_nothing_to_claim")
    else {
        return;
    };
    for text in ["one", "two"] {
        let batch = one_event("a", text, &["catalog"]);
        fleet.watching.record(batch).unwrap();
    }
    let cancelled = claim_one(&fleet.one);
    let moved = Change {
        key: key("b"),
        moved_from: Some(key("a")),
        before: Recorded::default(),
        after: Recorded::default(),
        events: Vec::new(),
    };
    let batch = Batch {
        changes: vec![moved],
        ..Batch::new(at(0))
    };
    fleet.watching.record(batch).unwrap();
    let one = Selector {
        ids: vec![cancelled.delivery],
        ..Selector::default()
    };
    let mut operations = Operations::connect(&fleet.settings).unwrap();
    assert_eq!(operations.cancel(&one, at(0)).unwrap(), 1);
    for sender in [&fleet.one, &fleet.other] {
        let asking = Asking {
            excluding: [key("a")].into(),
            ..asking(at(0), 9)
        };
        let found = wait(sender.claim("catalog", asking)).unwrap();
        assert_eq!((found.ready, found.next_due), (Vec::new(), None));
    }
    end(&fleet.one, &cancelled, Verdict::Delivered);
    assert_eq!(claim_one(&fleet.one).payload, bytes("two"));
}

/// A process that does not watch may still have the former configuration.
#[test]
fn an_answer_to_other_settings_does_not_pause_the_webhook() {
    let Some(fleet) = Fleet::new("an_answer_to_other_settings_does_not_pause_the_webhook") else {
        return;
    };
    let configured = vec![("catalog".to_owned(), [2; 32])];
    wait(fleet.watching.set_fingerprints(configured, at(1))).unwrap();
    for (verdict, rests_until) in [
        (Verdict::SwitchOff, None),
        (Verdict::RetryAsAsked(at(60)), Some(at(3_600))),
    ] {
        let batch = one_event("a", &format!("{verdict:?}"), &["catalog"]);
        fleet.watching.record(batch).unwrap();
        let old = Finish {
            fingerprint: Some([1; 32]),
            rests_until,
            retry_at: Some(at(60)),
            ..finish(&claim_one(&fleet.one), verdict)
        };
        wait(fleet.one.finish([old].into())).unwrap();
        assert_eq!(states(&fleet.watching)["catalog"].off, None, "{verdict:?}");
        // It is due by the schedule.
        assert_eq!(claims(&fleet.other, "catalog", at(59)).ready, []);
        let again = claims(&fleet.other, "catalog", at(60)).ready;
        assert_eq!(again[0].attempt, 2, "{verdict:?}");
        end(&fleet.other, &again[0], Verdict::Delivered);
    }
    let batch = one_event("a", "gone", &["catalog"]);
    fleet.watching.record(batch).unwrap();
    let new = Finish {
        fingerprint: Some([2; 32]),
        ..finish(&claim_one(&fleet.one), Verdict::SwitchOff)
    };
    wait(fleet.one.finish([new].into())).unwrap();
    assert!(states(&fleet.watching)["catalog"].off.is_some());
}

/// The answer of a claim may be lost, so its sender does not know the claims.
#[test]
fn a_sender_releases_all_claims_but_those_that_it_has() {
    let Some(fleet) = Fleet::new("a_sender_releases_all_claims_but_those_that_it_has") else {
        return;
    };
    for webhook in ["catalog", "audit"] {
        for project in ["a", "b", "c"] {
            let batch = one_event(project, webhook, &[webhook]);
            fleet.watching.record(batch).unwrap();
        }
    }
    let lost = claims(&fleet.one, "catalog", at(0)).ready;
    assert_eq!(lost.len(), 3);
    assert_eq!(claims(&fleet.one, "audit", at(0)).ready.len(), 3);
    let asking = Asking {
        keeping: Some([lost[1].delivery].into()),
        ..asking(at(0), 0)
    };
    wait(fleet.one.claim("catalog", asking)).unwrap();
    assert_eq!(
        claims(&fleet.other, "catalog", at(0)).ready,
        [lost[0].clone(), lost[2].clone()]
    );
    assert_eq!(claims(&fleet.other, "audit", at(0)).ready, []);
}

/// The other senders keep their claims of other webhooks.
#[test]
fn a_sole_sender_pauses_only_its_webhook() {
    let Some(fleet) = Fleet::new("a_sole_sender_pauses_only_its_webhook") else {
        return;
    };
    let notices = fleet.other.notices().unwrap();
    // When it begins to listen, it pauses all: it may have missed notices.
    wait_until("the first pause", || {
        (notices.borrow().n_pauses > 0).then_some(())
    });
    for webhook in ["catalog", "the catalog"] {
        let before = notices.borrow().clone();
        let asking = Asking {
            alone: Alone::Yes,
            ..asking(at(0), 1)
        };
        wait_until("the notice", || {
            wait(fleet.one.claim(webhook, asking.clone())).unwrap();
            let alone = Alone::No;
            let leaving = Asking {
                alone,
                ..asking.clone()
            };
            wait(fleet.one.claim(webhook, leaving)).unwrap();
            notices
                .borrow()
                .n_pauses_of
                .contains_key(webhook)
                .then_some(())
        });
        let mut after = notices.borrow().clone();
        after.n_pauses_of.remove(webhook);
        assert_eq!(after.n_pauses_of, before.n_pauses_of);
        assert_eq!(after.n_pauses, before.n_pauses);
    }
}

/// The deliveries that senders have claimed now, and those that they delivered.
#[derive(Default)]
struct Sent {
    lanes: BTreeSet<ProjectKey>,
    delivered: BTreeMap<ProjectKey, Vec<i64>>,
    n_delivered: usize,
}

/// Sends until `n_events` are delivered. Some attempts fail first.
fn send(store: &Store, sent: &Mutex<Sent>, n_events: usize) {
    let begin = Instant::now();
    while sent.lock().unwrap().n_delivered < n_events {
        // Another sender, or the recording, may have failed.
        assert!(begin.elapsed() < 3 * PATIENCE, "not all are delivered");
        let found = wait(store.claim("catalog", asking(at(9), 3))).unwrap();
        for claim in &found.ready {
            let is_free = sent.lock().unwrap().lanes.insert(claim.key.clone());
            assert!(is_free, "two senders have the lane {}", claim.key);
        }
        let finishes = found.ready.iter().map(|claim| {
            let fails = claim.delivery % 3 == 0 && claim.attempt == 1;
            let mut sent = sent.lock().unwrap();
            sent.lanes.remove(&claim.key);
            if fails {
                return finish(claim, Verdict::Retry(at(0)));
            }
            sent.n_delivered += 1;
            let delivered = sent.delivered.entry(claim.key.clone()).or_default();
            delivered.push(claim.delivery);
            finish(claim, Verdict::Delivered)
        });
        let finishes: Vec<_> = finishes.collect();
        wait(store.finish(finishes.into())).unwrap();
    }
}

#[test]
fn many_senders_share_the_lanes_of_a_growing_queue() {
    let Some(fleet) = Fleet::new("many_senders_share_the_lanes_of_a_growing_queue") else {
        return;
    };
    const N_EVENTS: usize = 200;
    let sent = Mutex::new(Sent::default());
    let third = Store::connect_sender(&fleet.settings).unwrap();
    thread::scope(|scope| {
        for store in [&fleet.watching, &fleet.one, &fleet.other, &third] {
            scope.spawn(|| send(store, &sent, N_EVENTS));
        }
        for number in 0..N_EVENTS {
            // One of seven is a delete, whose project id others have too.
            let kind = match number % 7 {
                0 => EventKind::ProjectDelete,
                1 => EventKind::ProjectImport,
                _ => EventKind::SnapshotCreate,
            };
            let project = format!("p{}", number % 11);
            let mut new = event(kind, &key(&project), &number.to_string(), &["catalog"]);
            new.project_id = format!("e{}", number % 5);
            let batch = of_event(new, &number.to_string());
            fleet.watching.record(batch).unwrap();
        }
    });
    let sent = sent.into_inner().unwrap();
    for (project, delivered) in &sent.delivered {
        assert!(delivered.is_sorted(), "{project}: {delivered:?}");
    }
    let all: BTreeSet<i64> = sent.delivered.into_values().flatten().collect();
    assert_eq!((all.len(), sent.n_delivered), (N_EVENTS, N_EVENTS));
}
