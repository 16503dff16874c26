//! Several real processes deliver side by side from one PostgreSQL database.
//!
//! `PROJECT_WEBHOOKS_SENT=100000 cargo test --release --test senders four_senders -- --nocapture` compares four
//! senders with one at a receiver that takes 20 ms. With 4 requests at a time, the receiver bounds one sender,
//! and not the processors of a small machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Daemon, Endpoint, Home, Postgres, Relay, Settings, Webhook, skip, wait_within};
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use project_webhooks::config::Postgres as Database;
use project_webhooks::domain::event::{Event, EventId, EventKind, Explanation, Origin, Parameter};
use project_webhooks::domain::project::{ContentHash, ProjectKey, Recorded, Stamp};
use project_webhooks::receiver::{Received, Reply};
use project_webhooks::store::{Batch, Change, NewEvent, Store};

/// How long a test waits for an outcome.
const PATIENCE: Duration = Duration::from_secs(120);

/// The length of the leases, in seconds: longer than a process waits on a busy machine.
const LEASE: u64 = 10;

/// A database with deliveries to the webhook `all`.
struct Fleet {
    server: Postgres,
    connection: String,
}

impl Fleet {
    fn new(test: &str) -> Option<Self> {
        let Some(server) = Postgres::start() else {
            skip(test, "needs Debian's package postgresql");
            return None;
        };
        let connection = server.connection(&server.database());
        Some(Self { server, connection })
    }

    fn settings(&self) -> Database {
        Database {
            connection: self.connection.clone(),
            password: None,
            tls: false,
            lease: Duration::from_secs(LEASE),
            repository: "models".to_owned(),
            repositories: Vec::new(),
        }
    }

    /// Records events `numbers` in turn for the projects. The version tag of each is its number.
    fn record(&self, numbers: std::ops::Range<usize>, n_projects: usize) {
        let store = Store::connect(&self.settings()).unwrap();
        let numbers: Vec<usize> = numbers.collect();
        for some in numbers.chunks(2_000) {
            let mut batch = Batch::new(Timestamp::now());
            let payload = Bytes::from_static(b"<schema name=\"x\"/>");
            let hash = ContentHash::of(&payload);
            batch.payloads = vec![(hash, payload)];
            batch.changes = some
                .iter()
                .map(|number| change(*number, number % n_projects, hash))
                .collect();
            store.record(batch).unwrap();
        }
        store.close();
    }

    /// The home of a process that sends a header with this name.
    fn home(&self, endpoint: &Endpoint, name: &str, roles: &str, more: &[&str]) -> Home {
        self.home_for(&endpoint.url(), name, roles, more)
    }

    fn home_for(&self, url: &str, name: &str, roles: &str, more: &[&str]) -> Home {
        let mut webhook =
            Webhook::new("all", url).with(&format!("headers: {{ X-Sender: {name} }}"));
        for line in more {
            webhook = match line.strip_prefix("schedule: ") {
                Some(schedule) => webhook.schedule(schedule),
                None => webhook.with(line),
            };
        }
        Home::new(
            &Settings::of([webhook])
                .repository("name: models")
                .top(&format!("roles: {roles}"))
                .top(&format!(
                    "store: {{ postgres: \"{}\", lease: {LEASE}s }}",
                    self.connection
                )),
        )
    }

    fn database(&self) -> &str {
        self.connection.rsplit('=').next().unwrap()
    }

    fn sql(&self, sql: &str) -> String {
        self.server.sql(self.database(), sql)
    }

    /// Waits until all senders have renewed their leases `n` times.
    fn wait_renewals(&self, n_senders: usize, n: usize) {
        let seen = || self.sql("SELECT count(*), min(seen) FROM senders");
        let all = format!("{n_senders}|");
        let mut before = wait_within(PATIENCE, "the senders", || {
            Some(seen()).filter(|seen| seen.starts_with(&all))
        });
        for _ in 0..n {
            before = wait_within(PATIENCE, "a renewal of all senders", || {
                Some(seen()).filter(|seen| *seen != before)
            });
        }
    }

    fn n_pending(&self) -> usize {
        let sql = "SELECT count(*) FROM deliveries WHERE state <> 'delivered'";
        self.sql(sql).parse().unwrap()
    }
}

fn change(number: usize, project: usize, hash: ContentHash) -> Change {
    let key = ProjectKey::new("sales", format!("p{project}"));
    let kind = EventKind::SnapshotCreate;
    let tag = number.to_string();
    let stamp = Stamp {
        inode: 7,
        size: 1,
        modified_ns: 2,
        changed_ns: 3,
    };
    let event = Event {
        id: EventId::of(kind, &key, Some(&tag), &stamp, &hash, 0),
        kind,
        key: key.clone(),
        origin: Origin::Live,
        occurred_at: Timestamp::UNIX_EPOCH,
        parameters: vec![
            (Parameter::ProjectName, key.project.clone()),
            (Parameter::VersionTag, tag.clone()),
        ],
        payload: hash,
        explanation: Explanation::default(),
    };
    Change {
        moved_from: None,
        before: Recorded::default(),
        after: Recorded::default(),
        events: vec![NewEvent {
            project_id: key.to_string(),
            event,
            is_arrival: false,
            tag: Some(tag),
            stamp,
            webhooks: vec![("all".to_owned(), Timestamp::UNIX_EPOCH)],
            if_heard: Vec::new(),
        }],
        key,
    }
}

fn launch(home: &Home) -> Daemon<'_> {
    Daemon::launch(home, Daemon::command(home))
}

fn slow(delay: Duration) -> Endpoint {
    Endpoint::answering(move |_| {
        let mut reply = Reply::status(StatusCode::NO_CONTENT);
        reply.delay = delay;
        reply
    })
}

fn number(one: &Received) -> usize {
    one.parameter("versionTag").unwrap().parse().unwrap()
}

fn senders(all: &[Received]) -> BTreeSet<String> {
    let names = all
        .iter()
        .map(|one| one.header("X-Sender").unwrap().to_owned());
    names.collect()
}

/// Every event came, and the first arrivals of each project are in the order of recording.
fn assert_in_order(all: &[Received], n_events: usize) {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    let mut came = BTreeSet::new();
    for one in all {
        if came.insert(number(one)) {
            let project = one.parameter("projectName").unwrap();
            let before = last.insert(project, number(one));
            assert!(
                before.is_none_or(|before| before < number(one)),
                "{project}"
            );
        }
    }
    assert_eq!(came.len(), n_events);
}

/// Starts senders, and waits until they have delivered everything. Returns how long that takes.
///
/// Each of them has a part in it.
fn drain(fleet: &Fleet, endpoint: &Endpoint, n_senders: usize, n_events: usize) -> Duration {
    // The number of later events, and how often they may be recorded.
    const MORE: usize = 100;
    const ROUNDS: usize = 20;
    let homes: Vec<Home> = (0..n_senders)
        .map(|name| {
            let concurrency = ["concurrency: 4"];
            fleet.home(endpoint, &format!("s{name}"), "[deliver]", &concurrency)
        })
        .collect();
    let began = Instant::now();
    let daemons: Vec<Daemon<'_>> = homes.iter().map(launch).collect();
    wait_within(
        PATIENCE + Duration::from_millis(10) * u32::try_from(n_events).unwrap(),
        "all",
        || (endpoint.n_all() >= n_events).then_some(()),
    );
    let took = began.elapsed();
    for daemon in &daemons {
        daemon.wait_message("sending callbacks", 1);
    }
    // A process that started late may have got none. Of later events each sends some.
    let mut n_all = n_events;
    for round in 0..ROUNDS {
        if senders(&endpoint.all()).len() == n_senders {
            break;
        }
        let first = 2 * n_events + round * MORE;
        fleet.record(first..first + MORE, MORE);
        n_all += MORE;
        wait_within(PATIENCE, "the later events", || {
            (endpoint.n_all() >= n_all).then_some(())
        });
    }
    for daemon in daemons {
        assert!(daemon.terminate().success());
    }
    assert_eq!(fleet.n_pending(), 0);
    let all = endpoint.all();
    assert_eq!(all.len(), n_all);
    assert_in_order(&all, n_all);
    assert_eq!(senders(&all).len(), n_senders);
    took
}

#[test]
fn four_senders_drain_the_queue_in_order() {
    let Some(fleet) = Fleet::new("four_senders_drain_the_queue_in_order") else {
        return;
    };
    let given = std::env::var("PROJECT_WEBHOOKS_SENT").ok();
    let n_events = given.as_ref().map_or(400, |n| n.parse().unwrap());
    fleet.record(0..n_events, 100);
    let four = drain(&fleet, &slow(Duration::from_millis(20)), 4, n_events);
    if given.is_some() {
        fleet.record(n_events..2 * n_events, 100);
        let endpoint = slow(Duration::from_millis(20));
        let one = drain(&fleet, &endpoint, 1, n_events);
        let faster = one.as_secs_f64() / four.as_secs_f64();
        println!("one sender {one:.1?}, four {four:.1?}: {faster:.2} times as fast");
        assert!(faster >= 3.0);
    }
}

#[test]
fn a_sender_that_is_killed_during_an_exchange_leaves_its_lanes() {
    let Some(fleet) = Fleet::new("a_sender_that_is_killed_during_an_exchange_leaves_its_lanes")
    else {
        return;
    };
    // The first sender gets no answers.
    let endpoint = Endpoint::answering(|one| {
        let mut reply = Reply::status(StatusCode::NO_CONTENT);
        if one.header("X-Sender") == Some("first") {
            reply.delay = Duration::from_secs(3_600);
        }
        reply
    });
    fleet.record(0..20, 2);
    let more = ["timeout: 1h"];
    let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    let first = launch(&homes[0]);
    endpoint.wait_for(2);
    let second = launch(&homes[1]);
    second.wait_message("sending callbacks", 1);
    // Its lanes are claimed, so the other one sends only later events.
    fleet.record(20..22, 22);
    endpoint.wait_for(4);
    first.kill();
    wait_within(PATIENCE, "the end", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(second.terminate().success());
    let all = endpoint.all();
    assert_in_order(&all, 22);
    // Only the exchanges that were under way happen twice, with the same body.
    let of_first = || {
        all.iter()
            .filter(|one| one.header("X-Sender") == Some("first"))
    };
    assert_eq!(all.len(), 22 + of_first().count());
    for one in of_first() {
        let again = all.iter().filter(|other| other.id == one.id);
        let bodies: Vec<&Bytes> = again.map(|other| &other.body).collect();
        assert_eq!(bodies.len(), 2);
        assert_eq!(bodies[0], bodies[1]);
    }
}

/// The sender has claimed its delivery, and waits for a token when its lease ends.
#[test]
fn a_sender_that_gets_its_token_after_its_lease_ended_sends_nothing() {
    let Some(fleet) =
        Fleet::new("a_sender_that_gets_its_token_after_its_lease_ended_sends_nothing")
    else {
        return;
    };
    let (issue, may_issue) = mpsc::channel::<()>();
    let may_issue = Mutex::new(may_issue);
    let tokens = Endpoint::answering(move |_| {
        // Until the test says so, or has failed.
        let _ = may_issue.lock().unwrap().recv_timeout(PATIENCE);
        let mut reply = Reply::status(StatusCode::OK);
        reply.body = Bytes::from_static(b"{\"access_token\": \"t\", \"token_type\": \"bearer\"}");
        reply
    });
    let endpoint = Endpoint::new();
    fleet.record(0..2, 1);
    let relay = Relay::start(fleet.server.port);
    let auth = format!(
        "auth: {{ oauth2: {{ token_url: '{}', client_id: c, client_secret: s }} }}",
        tokens.url()
    );
    let late = fleet.home(&endpoint, "late", "[deliver]", &["timeout: 1h", &auth]);
    let config = std::fs::read_to_string(late.config()).unwrap();
    let through = relay.through(&config, &fleet.server);
    std::fs::write(late.config(), through).unwrap();
    let other = fleet.home(&endpoint, "other", "[deliver]", &[]);
    let late = launch(&late);
    wait_within(PATIENCE, "the request for a token", || {
        (tokens.n_all() == 1).then_some(())
    });
    relay.close();
    let other = launch(&other);
    wait_within(PATIENCE, "the other sender", || {
        (endpoint.n_all() == 2).then_some(())
    });
    issue.send(()).unwrap();
    // It lets its exchanges end.
    assert!(late.terminate().success());
    assert!(other.terminate().success());
    let all = endpoint.all();
    assert_eq!(senders(&all), ["other".to_owned()].into());
    assert_in_order(&all, 2);
}

/// The answer to a claim takes longer than half of a lease, which is renewed meanwhile.
#[test]
fn a_claim_whose_answer_takes_long_is_sent() {
    let Some(fleet) = Fleet::new("a_claim_whose_answer_takes_long_is_sent") else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let slow = LEASE / 2 + 1;
    fleet.sql(&format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_sleep({slow}); RETURN NULL; END $$; \
         CREATE TRIGGER slow AFTER INSERT ON claims FOR EACH ROW EXECUTE FUNCTION slow()"
    ));
    let home = fleet.home(&endpoint, "slow", "[deliver]", &[]);
    let daemon = launch(&home);
    wait_within(PATIENCE, "the end", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(daemon.terminate().success());
    assert_eq!(endpoint.n_all(), 1);
}

#[test]
fn a_sender_says_that_it_sends_nothing_without_a_confirmed_lease() {
    let Some(fleet) = Fleet::new("a_sender_says_that_it_sends_nothing_without_a_confirmed_lease")
    else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let home = fleet.home(&endpoint, "slow", "[deliver]", &[]);
    let daemon = launch(&home);
    let all_sent = || {
        wait_within(PATIENCE, "the end", || {
            (fleet.n_pending() == 0).then_some(())
        });
    };
    all_sent();
    let locks = "BEGIN; SELECT FROM senders FOR UPDATE;";
    let locked = fleet.server.session(fleet.database(), locks);
    daemon.wait_message(
        "sending no callbacks: the database has not confirmed the lease",
        1,
    );
    fleet.record(1..2, 1);
    assert_eq!(endpoint.n_all(), 1);
    locked.end();
    daemon.wait_message("the database answers again", 1);
    all_sent();
    assert!(daemon.terminate().success());
    assert_eq!(endpoint.n_all(), 2);
}

#[test]
fn a_resting_receiver_is_asked_once_for_all_senders() {
    let Some(fleet) = Fleet::new("a_resting_receiver_is_asked_once_for_all_senders") else {
        return;
    };
    const REST: Duration = Duration::from_secs(2);
    let n_refused = Arc::new(AtomicUsize::new(0));
    let n_early = Arc::new(AtomicUsize::new(0));
    let rests_since: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (refused, early) = (Arc::clone(&n_refused), Arc::clone(&n_early));
    let endpoint = Endpoint::answering(move |_| {
        let mut since = rests_since.lock().unwrap();
        if since.is_some_and(|since| since.elapsed() < REST) {
            early.fetch_add(1, Ordering::Relaxed);
        }
        if refused.fetch_add(1, Ordering::Relaxed) >= 2 {
            *since = None;
            return Reply::status(StatusCode::NO_CONTENT);
        }
        *since = Some(Instant::now());
        let mut reply = Reply::status(StatusCode::SERVICE_UNAVAILABLE);
        reply
            .headers
            .insert("retry-after", HeaderValue::from_static("3"));
        reply
    });
    fleet.record(0..1, 1);
    let names = ["a", "b", "c"];
    let homes = names.map(|name| fleet.home(&endpoint, name, "[deliver]", &[]));
    let daemons: Vec<Daemon<'_>> = homes.iter().map(launch).collect();
    endpoint.wait_for(1);
    fleet.record(1..13, 13);
    wait_within(PATIENCE, "the end", || {
        (fleet.n_pending() == 0).then_some(())
    });
    for daemon in daemons {
        assert!(daemon.terminate().success());
    }
    let all = endpoint.all();
    assert_in_order(&all, 13);
    assert_eq!(n_early.load(Ordering::Relaxed), 0);
    // Two were refused: one for each rest.
    assert_eq!(all.len(), 15);
}

/// The first sender is the only one that cannot reach the receiver.
#[test]
fn a_sender_that_cannot_reach_the_receiver_leaves_it_to_others() {
    let Some(fleet) = Fleet::new("a_sender_that_cannot_reach_the_receiver_leaves_it_to_others")
    else {
        return;
    };
    let mut n_events = 0;
    let rate = ["rate: 100/s"];
    // Few projects never make the endpoint down.
    for (more, n, failure) in [
        (&[][..], 8, "the endpoint seems to be down"),
        (&rate, 8, "the endpoint seems to be down"),
        (&rate, 1, "failed: "),
    ] {
        let endpoint = Endpoint::new();
        fleet.record(n_events..n_events + n, n);
        n_events += n;
        let cut_off = fleet.home_for("http://127.0.0.1:9/", "cut-off", "[deliver]", more);
        let cut_off = launch(&cut_off);
        cut_off.wait_message(failure, 1);
        let working = fleet.home(&endpoint, "working", "[deliver]", more);
        let working = launch(&working);
        working.wait_message("sending callbacks", 1);
        fleet.record(n_events..n_events + n, 2 * n);
        n_events += n;
        wait_within(PATIENCE, "the other sender", || {
            (fleet.n_pending() == 0).then_some(())
        });
        assert!(cut_off.terminate().success());
        assert!(working.terminate().success());
        assert_eq!(endpoint.n_all(), 2 * n);
    }
}

/// The receiver answers, so it is in reach of the sender, and others need not try.
#[test]
fn a_sender_with_a_rate_goes_on_after_a_failure_of_the_receiver_itself() {
    let Some(fleet) =
        Fleet::new("a_sender_with_a_rate_goes_on_after_a_failure_of_the_receiver_itself")
    else {
        return;
    };
    let endpoint = Endpoint::answering(|one| {
        Reply::status(match one.parameter("projectName") {
            Some("p1" | "p2") => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::NO_CONTENT,
        })
    });
    let more = ["rate: 2/s", "concurrency: 1", "schedule: [0s, 1h]"];
    let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    fleet.record(0..1, 1);
    let first = launch(&homes[0]);
    endpoint.wait_for(1);
    let second = launch(&homes[1]);
    second.wait_message("sending callbacks", 1);
    fleet.record(1..9, 9);
    endpoint.wait_for(9);
    assert_eq!(senders(&endpoint.all()), ["first".to_owned()].into());
    assert!(first.terminate().success());
    assert!(second.terminate().success());
}

/// A project that failed before may fail because the receiver is out of reach of one sender.
#[test]
fn a_sender_that_cannot_reach_the_receiver_leaves_suspects_to_others() {
    let Some(fleet) =
        Fleet::new("a_sender_that_cannot_reach_the_receiver_leaves_suspects_to_others")
    else {
        return;
    };
    let endpoint = Endpoint::answering(|one| {
        let is_cut_off = one.header("X-Sender") == Some("cut-off");
        Reply::status(match one.parameter("projectName") {
            Some("p0") if is_cut_off => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::NO_CONTENT,
        })
    });
    let schedule = vec!["2s"; 99].join(", ");
    let schedule = format!("schedule: [0s, {schedule}]");
    let more = ["rate: 100/s", &schedule];
    let homes = ["cut-off", "working"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    fleet.record(0..1, 2);
    let cut_off = launch(&homes[0]);
    cut_off.wait_message("failed: ", 1);
    // The success of another project makes it a suspect.
    fleet.record(1..2, 2);
    wait_within(PATIENCE, "the other project", || {
        (fleet.n_pending() == 1).then_some(())
    });
    let working = launch(&homes[1]);
    wait_within(PATIENCE, "the other sender", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(cut_off.terminate().success());
    assert!(working.terminate().success());
    assert_in_order(&endpoint.all(), 2);
}

/// The path of a file with the offset of a process's clock, and the command with that clock.
fn with_clock(home: &Home, offset: &str) -> Option<(Command, PathBuf)> {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| std::fs::exists(path).unwrap_or(false))?;
    let path = home.beside("offset");
    std::fs::write(&path, offset).unwrap();
    let mut command = Daemon::command(home);
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &path)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    Some((command, path))
}

/// Asks for a wait of this many seconds, and accepts the next request.
fn asking_for_a_wait(seconds: &'static str) -> Endpoint {
    let is_first = AtomicBool::new(true);
    Endpoint::answering(move |_| {
        if !is_first.swap(false, Ordering::SeqCst) {
            return Reply::status(StatusCode::NO_CONTENT);
        }
        let mut reply = Reply::status(StatusCode::SERVICE_UNAVAILABLE);
        let wait = HeaderValue::from_static(seconds);
        reply.headers.insert("retry-after", wait);
        reply
    })
}

#[test]
fn a_clock_that_is_set_back_on_one_host_ends_no_wait() {
    const TEST: &str = "a_clock_that_is_set_back_on_one_host_ends_no_wait";
    let Some(fleet) = Fleet::new(TEST) else {
        return;
    };
    let endpoint = asking_for_a_wait("3600");
    let homes = ["right", "wrong"].map(|name| fleet.home(&endpoint, name, "[deliver]", &[]));
    let Some((command, offset)) = with_clock(&homes[1], "+0") else {
        return skip(TEST, "needs libfaketime");
    };
    let right = launch(&homes[0]);
    right.wait_message("sending callbacks", 1);
    let wrong = Daemon::launch(&homes[1], command);
    wrong.wait_message("sending callbacks", 1);
    fleet.record(0..1, 1);
    endpoint.wait_for(1);
    fleet.wait_renewals(2, 1);
    let beside = homes[1].beside("offset.new");
    std::fs::write(&beside, "-7200").unwrap();
    std::fs::rename(beside, offset).unwrap();
    // Both look for due deliveries every second.
    fleet.wait_renewals(2, 2);
    assert_eq!(endpoint.n_all(), 1);
    assert!(right.terminate().success());
    assert!(wrong.terminate().success());
}

#[test]
fn a_clock_that_is_ahead_on_one_host_changes_no_wait() {
    const TEST: &str = "a_clock_that_is_ahead_on_one_host_changes_no_wait";
    for (seconds, is_first_wrong) in [("3600", false), ("5", true)] {
        let Some(fleet) = Fleet::new(TEST) else {
            return;
        };
        let endpoint = asking_for_a_wait(seconds);
        let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &[]));
        let mut commands = homes.each_ref().map(Daemon::command);
        let wrong = usize::from(!is_first_wrong);
        let Some((command, _)) = with_clock(&homes[wrong], "+7200") else {
            return skip(TEST, "needs libfaketime");
        };
        commands[wrong] = command;
        let [first, second] = commands;
        fleet.record(0..1, 1);
        let first = Daemon::launch(&homes[0], first);
        endpoint.wait_for(1);
        assert!(first.terminate().success());
        let second = Daemon::launch(&homes[1], second);
        second.wait_message("sending callbacks", 1);
        if is_first_wrong {
            endpoint.wait_for(2);
        } else {
            fleet.wait_renewals(1, 2);
            assert_eq!(endpoint.n_all(), 1);
        }
        assert!(second.terminate().success());
    }
}

#[test]
fn a_clock_that_is_ahead_on_one_host_removes_no_delivery() {
    const TEST: &str = "a_clock_that_is_ahead_on_one_host_removes_no_delivery";
    let Some(fleet) = Fleet::new(TEST) else {
        return;
    };
    let endpoint = Endpoint::new();
    // Only a process that watches removes deliveries.
    let homes = [("right", "[deliver]"), ("wrong", "[watch, deliver]")]
        .map(|(name, roles)| fleet.home(&endpoint, name, roles, &[]));
    // Longer than the test takes, and shorter than the clock is ahead.
    let mut config = std::fs::read_to_string(homes[1].config()).unwrap();
    config.push_str("\nretention: { delivered: 10m, dead: 10m }\n");
    std::fs::write(homes[1].config(), config).unwrap();
    let Some((command, _)) = with_clock(&homes[1], "+1800") else {
        return skip(TEST, "needs libfaketime");
    };
    fleet.record(0..1, 1);
    let right = launch(&homes[0]);
    wait_within(PATIENCE, "the delivery", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(right.terminate().success());
    let wrong = Daemon::launch(&homes[1], command);
    wrong.wait_ready();
    fleet.wait_renewals(1, 2);
    assert_eq!(fleet.sql("SELECT count(*) FROM deliveries"), "1");
    assert!(wrong.terminate().success());
}

#[test]
fn an_event_of_a_host_whose_clock_is_ahead_is_due_at_once() {
    const TEST: &str = "an_event_of_a_host_whose_clock_is_ahead_is_due_at_once";
    let Some(fleet) = Fleet::new(TEST) else {
        return;
    };
    let endpoint = Endpoint::new();
    let watching = fleet.home(&endpoint, "watching", "[watch]", &[]);
    let Some((command, _)) = with_clock(&watching, "+7200") else {
        return skip(TEST, "needs libfaketime");
    };
    let watch = Daemon::launch(&watching, command);
    watch.wait_ready();
    watching.write("sales/a/project.xml", &common::xml("A", "id-a", "one"));
    let sending = fleet.home(&endpoint, "sending", "[deliver]", &[]);
    let sending = launch(&sending);
    endpoint.wait_for(2);
    assert!(watch.terminate().success());
    assert!(sending.terminate().success());
}

/// Only the sender of the last request knows when the next one may start.
#[test]
fn senders_keep_the_rate_together_while_the_receiver_fails() {
    let Some(fleet) = Fleet::new("senders_keep_the_rate_together_while_the_receiver_fails") else {
        return;
    };
    let endpoint = Endpoint::answering(|_| Reply::status(StatusCode::INTERNAL_SERVER_ERROR));
    let more = ["rate: 1/h"];
    let homes = ["a", "b", "c"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    let daemons = homes.each_ref().map(launch);
    for daemon in &daemons {
        daemon.wait_message("sending callbacks", 1);
    }
    fleet.record(0..12, 12);
    endpoint.wait_for(1);
    // The others ask every second.
    fleet.wait_renewals(3, 2);
    assert_eq!(endpoint.n_all(), 1);
    for daemon in daemons {
        assert!(daemon.terminate().success());
    }
}

/// The next probe of the endpoint is far away, and the failed projects are due before it.
#[test]
fn a_sender_with_a_rate_asks_rarely_while_the_endpoint_is_down() {
    let Some(fleet) = Fleet::new("a_sender_with_a_rate_asks_rarely_while_the_endpoint_is_down")
    else {
        return;
    };
    fleet.record(0..3, 3);
    let more = ["rate: 100/s", "schedule: [0s, 1s, 1h]"];
    let home = fleet.home_for("http://127.0.0.1:9/", "a", "[deliver]", &more);
    let daemon = launch(&home);
    daemon.wait_message("the endpoint seems to be down", 1);
    wait_within(PATIENCE, "the failed probe", || {
        (fleet.sql("SELECT count(*) FROM attempts") == "4").then_some(())
    });
    // The statistics of the database, without the queries for them.
    let counted = || -> (f64, f64) {
        let sql = format!(
            "SELECT xact_commit || ' ' || extract(epoch FROM clock_timestamp()) \
             FROM pg_stat_database WHERE datname = '{}'",
            fleet.database()
        );
        let found = fleet.server.sql("postgres", &sql);
        let (n, at) = found.split_once(' ').unwrap();
        (n.parse().unwrap(), at.parse().unwrap())
    };
    let (n_before, from) = counted();
    let (n_after, to) = wait_within(PATIENCE, "five seconds", || {
        Some(counted()).filter(|(_, at)| at - from > 5.0)
    });
    let rate = (n_after - n_before) / (to - from);
    assert!(rate < 30.0, "{rate} transactions in a second");
    assert!(daemon.terminate().success());
}

/// One sender has the webhook for itself. The other one asks now and then, and disturbs nobody.
#[test]
fn senders_at_rest_send_no_notices() {
    let Some(fleet) = Fleet::new("senders_at_rest_send_no_notices") else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let homes = ["a", "b"].map(|name| fleet.home(&endpoint, name, "[deliver]", &["rate: 100/s"]));
    let daemons = homes.each_ref().map(launch);
    for daemon in &daemons {
        daemon.wait_message("sending callbacks", 1);
    }
    wait_within(PATIENCE, "the end", || {
        (fleet.n_pending() == 0).then_some(())
    });
    let listening = fleet
        .server
        .session(fleet.database(), "LISTEN project_webhooks;");
    fleet.wait_renewals(2, 4);
    let n_notices = listening.end().matches("payload").count();
    assert!(n_notices <= 3, "{n_notices}");
    for daemon in daemons {
        assert!(daemon.terminate().success());
    }
}

#[test]
fn a_webhook_that_is_disabled_in_one_process_is_left_to_others() {
    let Some(fleet) = Fleet::new("a_webhook_that_is_disabled_in_one_process_is_left_to_others")
    else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let more = ["rate: 100/s"];
    let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    let first = launch(&homes[0]);
    endpoint.wait_for(1);
    let config = std::fs::read_to_string(homes[0].config()).unwrap();
    let disabled = config.replace(more[0], "enabled: false");
    std::fs::write(homes[0].config(), disabled).unwrap();
    assert!(first.reload());
    let second = launch(&homes[1]);
    fleet.record(1..4, 4);
    wait_within(PATIENCE, "the other sender", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(first.terminate().success());
    assert!(second.terminate().success());
    let all = endpoint.all();
    assert_eq!(senders(&all[..1]), ["first".to_owned()].into());
    assert_eq!(senders(&all[1..]), ["second".to_owned()].into());
}

/// The process cannot say so at once, because the database is away.
#[test]
fn a_webhook_that_is_disabled_during_an_outage_is_left_to_others_after_it() {
    let Some(fleet) =
        Fleet::new("a_webhook_that_is_disabled_during_an_outage_is_left_to_others_after_it")
    else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let more = ["rate: 100/s"];
    let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    let relay = Relay::start(fleet.server.port);
    let config = std::fs::read_to_string(homes[0].config()).unwrap();
    let config = relay.through(&config, &fleet.server);
    std::fs::write(homes[0].config(), &config).unwrap();
    let first = launch(&homes[0]);
    endpoint.wait_for(1);
    wait_within(PATIENCE, "the result", || {
        (fleet.n_pending() == 0).then_some(())
    });
    relay.close();
    let disabled = config.replace(more[0], "enabled: false");
    std::fs::write(homes[0].config(), disabled).unwrap();
    assert!(first.reload());
    // One in each second.
    let n_before = first.n_messages("cannot renew the lease of the sender");
    first.wait_message("cannot renew the lease of the sender", n_before + 6);
    relay.open();
    let second = launch(&homes[1]);
    fleet.record(1..4, 4);
    wait_within(PATIENCE, "the other sender", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(first.terminate().success());
    assert!(second.terminate().success());
    assert_eq!(senders(&endpoint.all()[1..]), ["second".to_owned()].into());
}

#[test]
fn a_process_does_what_its_roles_say() {
    let Some(fleet) = Fleet::new("a_process_does_what_its_roles_say") else {
        return;
    };
    let endpoint = Endpoint::new();
    let watching = fleet.home(&endpoint, "watching", "[watch]", &[]);
    let sending = fleet.home(&endpoint, "sending", "[deliver]", &[]);
    let both = fleet.home(&endpoint, "both", "[watch, deliver]", &[]);
    let config = std::fs::read_to_string(both.config()).unwrap();
    let root = watching.at("").display().to_string();
    std::fs::write(both.config(), config.replace("./repository", &root)).unwrap();
    let watch = watching.start();
    watching.write("sales/a/project.xml", &common::xml("A", "id-a", "one"));
    wait_within(PATIENCE, "the events", || {
        (fleet.n_pending() == 2).then_some(())
    });
    assert_eq!(endpoint.n(), 0);
    let send = launch(&sending);
    endpoint.wait_for(2);
    // A standby sends too.
    assert!(send.terminate().success());
    let standby = launch(&both);
    standby.wait_message("sending callbacks", 1);
    watching.write("sales/b/project.xml", &common::xml("B", "id-b", "one"));
    endpoint.wait_for(4);
    assert!(watch.terminate().success());
    standby.wait_message("ready", 1);
    assert!(standby.terminate().success());
    let all = endpoint.all();
    let names = |some: &[Received]| senders(some).into_iter().collect::<Vec<_>>();
    assert_eq!(
        (names(&all[..2]), names(&all[2..])),
        (vec!["sending".to_owned()], vec!["both".to_owned()])
    );
}
