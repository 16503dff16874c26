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

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod disabled;
mod failures;
mod fleet;
mod leases;

use std::time::{Duration, Instant};

use common::{Daemon, Endpoint, Home, wait_within};
use fleet::{Fleet, PATIENCE, assert_in_order, launch, senders};
use http::StatusCode;
use project_webhooks::receiver::{Received, Reply};

fn slow(delay: Duration) -> Endpoint {
    Endpoint::answering(move |_| {
        let mut reply = Reply::status(StatusCode::NO_CONTENT);
        reply.delay = delay;
        reply
    })
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
