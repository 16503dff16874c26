use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Endpoint, Home, Settings, Stop, Webhook, wait_until};
use crate::{
    assert_in_order, assert_same_bytes, by_id, define, project, reply, snapshot, standing, tag,
};

/// How often the daemon is killed, about a second apart.
///
/// `PROJECT_WEBHOOKS_TEST_KILLS` sets another number.
const KILLS: usize = 8;

fn n_kills() -> usize {
    std::env::var("PROJECT_WEBHOOKS_TEST_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(KILLS)
}

const SEED: u64 = 20_260_101;
const PROJECTS: usize = 12;
const CONCURRENCY: usize = 8;

#[test]
fn repeated_kills_lose_and_invent_nothing() {
    let random = Mutex::new(fastrand::Rng::with_seed(SEED));
    let accepted: Arc<Mutex<Vec<String>>> = Arc::default();
    let accepts = Arc::clone(&accepted);
    let endpoint = Endpoint::answering(move |one| match random.lock().unwrap().u8(0..4) {
        0 => reply(500),
        1 => reply(503),
        _ => {
            accepts.lock().unwrap().push(one.id.clone());
            reply(204)
        }
    });
    // Consecutive failures are likely, and make the endpoint down.
    let short = "[0s, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, \
                 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms]";
    let webhook = Webhook::new("all", &endpoint.url())
        .events("[snapshot-create]")
        .schedule(short)
        .with(&format!("concurrency: {CONCURRENCY}"));
    let home = Home::new(&Settings::of([webhook]));
    for number in 0..PROJECTS {
        define(&home, &format!("p{number:02}"));
    }
    let n_kills = n_kills();
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let mut daemon = home.start();
        let writer = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(SEED);
            let mut written = BTreeSet::new();
            let mut number = 0;
            while !stop.load(Ordering::Acquire) {
                let name = format!("p{:02}", random.usize(0..PROJECTS));
                let tag = format!("s{number:05}");
                snapshot(&home, &name, &tag);
                written.insert((name, tag));
                number += 1;
                // The rate of the load, not a wait: some 50 snapshots a second.
                std::thread::sleep(Duration::from_millis(20));
            }
            written
        });
        let end = Stop(&stop);
        for _ in 0..n_kills {
            let came = endpoint.n_all();
            let began = Instant::now();
            // The pace of the kills. Each daemon sends something, however slow the machine is.
            wait_until("callbacks between kills", || {
                (began.elapsed() >= Duration::from_secs(1) && endpoint.n_all() > came).then_some(())
            });
            daemon.kill();
            daemon = home.start();
        }
        drop(end);
        let written = writer.join().unwrap();
        daemon.fence();
        wait_until("everything is delivered", || {
            (standing(&home, "all")["pending"] == 0).then_some(())
        });
        assert!(daemon.terminate().success());
        written
    });

    let came = endpoint.all();
    assert_in_order(&came);
    assert_same_bytes(&came);
    // Every snapshot has one id, and there is nothing but snapshots.
    let mut ids: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    for one in &came {
        ids.entry((project(one), tag(one)))
            .or_default()
            .insert(&one.id);
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "one id per event");
    assert_eq!(ids.keys().cloned().collect::<BTreeSet<_>>(), written);
    // Each was accepted once, or again after a kill between the answer and its record.
    let accepted = accepted.lock().unwrap();
    let distinct: BTreeSet<&str> = accepted.iter().map(String::as_str).collect();
    assert_eq!(distinct, by_id(&came).into_keys().collect::<BTreeSet<_>>());
    let again = accepted.len() - distinct.len();
    assert!(again <= n_kills * CONCURRENCY, "{again} were sent again");
    let dead = home.json(&["deliveries", "--state", "dead"]);
    assert_eq!(dead, serde_json::json!([]));
}

/// Sets up one project; the endpoint calls `then` before it answers the first request.
fn one_snapshot(then: impl Fn() + Send + Sync + 'static) -> (Endpoint, Home) {
    let first = AtomicBool::new(true);
    let endpoint = Endpoint::answering(move |_| {
        if first.swap(false, Ordering::AcqRel) {
            then();
        }
        reply(204)
    });
    let home = Home::new(&Settings::of([
        Webhook::new("all", &endpoint.url()).events("[snapshot-create]")
    ]));
    define(&home, "p");
    (endpoint, home)
}

fn assert_sent_twice(endpoint: &Endpoint, home: &Home) {
    let daemon = home.start();
    wait_until("the record", || {
        (standing(home, "all")["delivered"] == 1).then_some(())
    });
    daemon.fence();
    assert!(daemon.terminate().success());
    let came = endpoint.all();
    assert_eq!((came.len(), by_id(&came).len()), (2, 1));
    assert_same_bytes(&came);
    // It is the same attempt: the first one was not recorded.
    assert_eq!((came[0].attempt, came[1].attempt), (Some(1), Some(1)));
    // Once recorded, it is never sent again.
    let daemon = home.start();
    daemon.fence();
    assert_eq!(endpoint.n(), 2);
}

#[test]
fn a_kill_before_the_answer_repeats_the_request() {
    let process = Arc::new(AtomicU32::new(0));
    let victim = Arc::clone(&process);
    let (endpoint, home) = one_snapshot(move || {
        let process = i32::try_from(victim.load(Ordering::Acquire)).unwrap();
        kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    });
    let mut daemon = home.start();
    process.store(daemon.pid(), Ordering::Release);
    snapshot(&home, "p", "s1");
    assert!(!daemon.wait_exit().success());
    drop(daemon);
    assert_sent_twice(&endpoint, &home);
}

#[test]
fn a_kill_between_the_answer_and_its_record_repeats_the_request() {
    // While this transaction is open, the daemon can commit nothing.
    let held: Arc<Mutex<Option<Connection>>> = Arc::default();
    let database = Arc::new(Mutex::new(std::path::PathBuf::new()));
    let (holds, path) = (Arc::clone(&held), Arc::clone(&database));
    let (endpoint, home) = one_snapshot(move || {
        let connection = Connection::open(&*path.lock().unwrap()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        *holds.lock().unwrap() = Some(connection);
    });
    *database.lock().unwrap() = home.database();
    let daemon = home.start();
    snapshot(&home, "p", "s1");
    daemon.wait_message("delivered: ", 1);
    daemon.kill();
    drop(held.lock().unwrap().take());
    assert_sent_twice(&endpoint, &home);
}
