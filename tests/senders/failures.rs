//! Senders share what they know about a receiver that fails, and its rate.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use project_webhooks::receiver::Reply;

use super::common::{Daemon, Endpoint, wait_within};
use super::fleet::{Fleet, PATIENCE, assert_in_order, launch, senders};

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
