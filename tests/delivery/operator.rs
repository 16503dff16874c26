use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use project_webhooks::receiver::ReceiverOptions;

use crate::common::{Daemon, Endpoint, Home, Settings, Webhook, wait_until, wait_within};
use crate::{assert_in_order, define, reply, snapshot, standing, tag};

/// The longest reaction of a daemon that an operator's command has woken, on a busy machine too.
///
/// It reacts within a second. A daemon that is not woken asks the store once a minute.
const WOKEN: Duration = Duration::from_secs(40);

/// Sets up the webhook `all`, which retries after an hour, and some projects.
///
/// The endpoint answers with the returned status.
fn start(status: u16, projects: &[&str]) -> (Endpoint, Arc<AtomicU16>, Home) {
    let answer = Arc::new(AtomicU16::new(status));
    let answers = Arc::clone(&answer);
    let endpoint = Endpoint::answering(move |_| reply(answers.load(Ordering::Acquire)));
    let home = home(&endpoint.url(), projects);
    (endpoint, answer, home)
}

fn home(url: &str, projects: &[&str]) -> Home {
    let webhook = Webhook::new("all", url)
        .events("[snapshot-create]")
        .schedule("[0s, 1h, 1h]");
    let home = Home::new(&Settings::of([webhook]));
    for project in projects {
        define(&home, project);
    }
    home
}

fn wait_count(home: &Home, state: &str, n: usize) {
    wait_until(&format!("{n} {state}"), || {
        (standing(home, "all")[state] == n).then_some(())
    });
}

/// Waits until this many failed attempts are recorded.
fn wait_failed(home: &Home, daemon: &Daemon<'_>, n: usize) {
    daemon.wait_message("failed: ", n);
    wait_until("recorded failures", || {
        let pending = home.json(&["deliveries", "--state", "pending"]);
        let failed = pending.as_array().unwrap().iter();
        (failed.filter(|one| one["attempts"] != 0).count() >= n).then_some(())
    });
}

fn wait_woken(endpoint: &Endpoint, n: usize) {
    wait_within(WOKEN, &format!("{n} callbacks"), || {
        (endpoint.n() >= n).then_some(())
    });
}

#[test]
fn a_redelivery_is_sent_at_once() {
    let (endpoint, answer, home) = start(500, &["p"]);
    let daemon = home.start();
    snapshot(&home, "p", "s1");
    snapshot(&home, "p", "s2");
    wait_failed(&home, &daemon, 1);
    answer.store(200, Ordering::Release);
    // Pending deliveries that have failed.
    home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
    wait_woken(&endpoint, 3);
    wait_count(&home, "delivered", 2);
    // Delivered ones.
    home.command(&["deliveries", "redeliver", "--state", "delivered", "--yes"]);
    wait_woken(&endpoint, 5);
    let came = endpoint.all();
    let tags: Vec<String> = came.iter().map(tag).collect();
    assert_eq!(tags, ["s1", "s1", "s2", "s1", "s2"]);
    assert_eq!(came[0].id, came[3].id);
    assert_eq!(came[0].body, came[3].body);
    assert_eq!(
        (came[3].attempt, came[3].origin.as_str()),
        (Some(3), "redelivery")
    );
}

#[test]
fn a_redelivery_probes_an_endpoint_that_is_down() {
    let projects = ["a", "b", "c", "d"];
    let reserved = Endpoint::reserved();
    let home = home(&reserved.url(), &projects);
    let daemon = home.start();
    for project in projects {
        snapshot(&home, project, "s1");
        snapshot(&home, project, "s2");
    }
    daemon.wait_message("the endpoint seems to be down", 1);
    wait_count(&home, "pending", 8);
    // It is up again; by the schedule the next probe would come in an hour.
    let endpoint = reserved.open(ReceiverOptions::new(Timestamp::now));
    home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
    wait_woken(&endpoint, 8);
    assert_in_order(&endpoint.all());
    wait_count(&home, "delivered", 8);
}

#[test]
fn after_a_cancelled_delivery_the_next_one_is_sent() {
    let (endpoint, answer, home) = start(500, &["p"]);
    let daemon = home.start();
    snapshot(&home, "p", "s1");
    wait_failed(&home, &daemon, 1);
    snapshot(&home, "p", "s2");
    wait_count(&home, "pending", 2);
    answer.store(200, Ordering::Release);
    let pending = home.json(&["deliveries", "--state", "pending"]);
    let head = pending[0]["id"].to_string();
    home.command(&["deliveries", "cancel", &head, "--yes"]);
    wait_woken(&endpoint, 2);
    assert_eq!(tag(&endpoint.all()[1]), "s2");
    wait_count(&home, "delivered", 1);
    wait_count(&home, "cancelled", 1);
    // Finished deliveries can be purged while the daemon runs.
    home.command(&["deliveries", "purge", "--webhook", "all", "--yes"]);
    wait_count(&home, "delivered", 0);
    wait_count(&home, "cancelled", 0);
    snapshot(&home, "p", "s3");
    wait_woken(&endpoint, 3);
    daemon.fence();
    assert_eq!(endpoint.n(), 3);
}

#[test]
fn a_disabled_webhook_sends_once_it_is_enabled() {
    let (endpoint, _, home) = start(200, &["p", "q"]);
    let daemon = home.start();
    snapshot(&home, "p", "s1");
    endpoint.wait_for(1);
    wait_count(&home, "delivered", 1);
    home.command(&["webhooks", "disable", "all", "--reason", "maintenance"]);
    snapshot(&home, "p", "s2");
    snapshot(&home, "q", "s1");
    snapshot(&home, "p", "s3");
    daemon.fence();
    wait_count(&home, "pending", 3);
    let state = standing(&home, "all");
    assert_eq!(state["standing"], "off");
    assert_eq!(state["off"]["reason"], "maintenance");
    // Neither a reload nor a restart enables a webhook that an operator disabled.
    assert!(daemon.reload());
    assert!(daemon.terminate().success());
    let daemon = home.start();
    daemon.fence();
    assert_eq!(endpoint.n(), 1);
    home.command(&["webhooks", "enable", "all"]);
    wait_woken(&endpoint, 4);
    assert_in_order(&endpoint.all());
    wait_count(&home, "pending", 0);
}

/// With a running daemon and without one.
#[test]
fn a_replay_sends_recorded_events_to_a_webhook_that_is_new() {
    let (endpoint, _, home) = start(200, &["p"]);
    let daemon = home.start();
    snapshot(&home, "p", "s1");
    snapshot(&home, "p", "s2");
    endpoint.wait_for(2);
    wait_count(&home, "delivered", 2);
    let replay = ["events", "replay", "--to", "all"];
    let plan = home.json(&[&replay[..], &["--dry-run"]].concat());
    assert_eq!(
        (&plan["matched"], &plan["replayed"]),
        (&2.into(), &0.into())
    );
    home.command(&[&replay[..], &["--project", "sales/p", "--yes"]].concat());
    wait_woken(&endpoint, 4);
    wait_count(&home, "delivered", 2);
    assert!(daemon.terminate().success());
    // Events of the past, for another webhook.
    let new = Endpoint::answering(|_| reply(200));
    let webhook = Webhook::new("new", &new.url()).events("[snapshot-create]");
    home.configure(&Settings::of([webhook]));
    let replayed = home.json(&["events", "replay", "--to", "new"]);
    assert_eq!(
        (&replayed["replayed"], &replayed["daemonTold"]),
        (&2.into(), &false.into())
    );
    let _daemon = home.start();
    wait_woken(&new, 2);
    let (before, came) = (endpoint.all(), new.all());
    for (old, new) in before.iter().zip(&came) {
        assert_eq!((&old.id, &old.body), (&new.id, &new.body));
        assert_eq!((new.attempt, new.origin.as_str()), (Some(1), "redelivery"));
    }
    assert_eq!(before[2].id, before[0].id);
    assert_eq!(came.iter().map(tag).collect::<Vec<_>>(), ["s1", "s2"]);
}
