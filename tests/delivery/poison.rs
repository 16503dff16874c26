use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Endpoint, Home, Settings, Webhook, wait_until};
use crate::{define, project, reply, snapshot, standing};

/// An endpoint that refuses the projects whose names begin with `bad`.
fn refusing() -> Endpoint {
    Endpoint::answering(|one| {
        let is_bad = project(one).starts_with("bad");
        reply(if is_bad { 500 } else { 204 })
    })
}

/// If the endpoint counted as down for all, the others would wait for probes, which are an hour apart.
#[test]
fn projects_that_always_fail_hold_up_no_others() {
    for n_bad in [3, 30] {
        let endpoint = refusing();
        let webhook = Webhook::new("all", &endpoint.url())
            .events("[snapshot-create]")
            .schedule("[0s, 50ms, 1h, 1h, 1h]");
        let home = Home::new(&Settings::of([webhook]));
        let bad: Vec<String> = (0..n_bad).map(|n| format!("bad{n}")).collect();
        for project in bad.iter().map(String::as_str).chain(["good", "late"]) {
            define(&home, project);
        }
        let daemon = home.start();
        for project in &bad {
            snapshot(&home, project, "s1");
        }
        daemon.wait_message("the endpoint seems to be down", 1);
        // Each project was sent, and the next probe is in an hour.
        wait_until("the probes", || (endpoint.n() > n_bad).then_some(()));
        snapshot(&home, "good", "s1");
        daemon.wait_message("delivered: ", 1);
        daemon.wait_message("the endpoint is up again", 1);
        // It is not down again, though they go on failing.
        let n_before = endpoint.n();
        home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
        wait_until("the next failures", || {
            (endpoint.n() >= n_before + n_bad).then_some(())
        });
        // One of them is renamed, and is still known.
        home.rename("sales/bad1", "sales/worse");
        daemon.fence();
        home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
        wait_until("the next failures", || {
            (endpoint.n() >= n_before + 2 * n_bad).then_some(())
        });
        snapshot(&home, "late", "s1");
        daemon.wait_message("delivered: ", 2);
        assert_eq!(daemon.n_messages("the endpoint seems to be down"), 1);
        // The log has the outcome before it is committed.
        wait_until("only failed deliveries", || {
            (standing(&home, "all")["pending"] == n_bad).then_some(())
        });
    }
}

/// After an outage all its projects had failed before, and a second outage must not use up their
/// attempts.
#[test]
fn a_second_outage_is_recognised_too() {
    let is_down = Arc::new(AtomicBool::new(true));
    let answers = Arc::clone(&is_down);
    let endpoint = Endpoint::answering(move |_| {
        reply(if answers.load(Ordering::Acquire) {
            500
        } else {
            204
        })
    });
    let webhook = Webhook::new("all", &endpoint.url())
        .events("[snapshot-create]")
        .schedule(&format!("[0s, {}1h]", "200ms, ".repeat(60)));
    let home = Home::new(&Settings::of([webhook]));
    let projects: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
    projects.iter().for_each(|project| define(&home, project));
    let daemon = home.start();
    for n in 1..=2 {
        is_down.store(true, Ordering::Release);
        for project in &projects {
            snapshot(&home, project, &format!("s{n}"));
        }
        daemon.wait_message("the endpoint seems to be down", n);
        is_down.store(false, Ordering::Release);
        daemon.wait_message("delivered: ", n * projects.len());
        daemon.wait_message("the endpoint is up again", n);
    }
}

/// An alert on errors must not miss a dead delivery because of retries in the same minute.
#[test]
fn retries_hide_no_dead_deliveries_in_the_log() {
    const N: usize = 7;
    let endpoint = Endpoint::answering(|_| reply(400));
    let webhook = Webhook::new("all", &endpoint.url())
        .events("[snapshot-create]")
        .schedule("[0s, 1s]");
    let home = Home::new(&Settings::of([webhook]));
    let projects: Vec<String> = (0..N).map(|n| format!("p{n}")).collect();
    for project in &projects {
        define(&home, project);
    }
    let daemon = home.start();
    for project in &projects {
        snapshot(&home, project, "s1");
    }
    wait_until("dead deliveries", || {
        (standing(&home, "all")["dead"] == N).then_some(())
    });
    // The first of a minute, as the retries before.
    let is_given_up = |message: &str| {
        message.starts_with("given up: ") || message.starts_with("dead after the last attempt: ")
    };
    let logged = || {
        daemon
            .entries()
            .iter()
            .filter(|one| is_given_up(one.message()))
            .count()
    };
    wait_until("errors in the log", || (logged() == 5).then_some(()));
}
