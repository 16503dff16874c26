use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use project_webhooks::receiver::{ReceiverOptions, Signature};
use rustix::process::Signal;

use crate::common::{Endpoint, Home, Settings, Stop, Webhook, wait_until};
use crate::{
    assert_in_order, assert_same_bytes, by_id, define, order, reply, snapshot, standing, tag,
};

const PROJECTS: usize = 8;
const RELOADS: usize = 30;
const PAUSE: Duration = Duration::from_millis(200);

/// A slow endpoint, so that an attempt is always in flight.
fn slow() -> Endpoint {
    Endpoint::answering(|_| {
        let mut answer = reply(204);
        answer.delay = Duration::from_millis(30);
        answer
    })
}

fn ids(home: &Home, webhook: &str) -> Vec<String> {
    let listed = home.json(&["deliveries", "--webhook", webhook, "--limit", "0"]);
    let listed = listed.as_array().unwrap();
    assert!(
        listed.iter().all(|one| one["state"] == "delivered"),
        "{webhook}"
    );
    let ids = listed.iter().map(|one| one["eventId"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

#[test]
fn reloads_under_load_lose_and_double_nothing() {
    let (steady, often, seldom) = (slow(), slow(), slow());
    let settings = |number: usize| {
        let mut webhooks = vec![("steady", &steady)];
        if number.is_multiple_of(2) {
            webhooks.push(("often", &often));
        }
        if number.is_multiple_of(5) {
            webhooks.push(("seldom", &seldom));
        }
        Settings::of(webhooks.into_iter().map(|(name, endpoint)| {
            Webhook::new(name, &endpoint.url()).events("[snapshot-create]")
        }))
    };
    let home = Home::new(&settings(0));
    for number in 0..PROJECTS {
        define(&home, &format!("p{number}"));
    }
    let daemon = home.start();
    let stop = AtomicBool::new(false);
    let n_written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n_written: usize = 0;
            while !stop.load(Ordering::Acquire) {
                let name = format!("p{}", n_written % PROJECTS);
                snapshot(&home, &name, &format!("s{n_written:05}"));
                n_written += 1;
                // The rate of the load, not a wait.
                std::thread::sleep(Duration::from_millis(10));
            }
            n_written
        });
        let end = Stop(&stop);
        for number in 1..=RELOADS {
            home.reconfigure(&settings(number));
            daemon.signal(Signal::HUP);
            // The pace of the reloads. None waits for the one before.
            std::thread::sleep(PAUSE);
        }
        drop(end);
        writer.join().unwrap()
    });
    // All three are configured at the end, and send their pending deliveries.
    home.reconfigure(&settings(0));
    assert!(daemon.reload());
    // The pauses above may have been too short for one of them.
    snapshot(&home, "p0", "s99999");
    let n_written = n_written + 1;
    daemon.fence();
    for name in ["steady", "often", "seldom"] {
        wait_until(&format!("everything of {name} is delivered"), || {
            (standing(&home, name)["pending"] == 0).then_some(())
        });
    }
    assert_eq!(daemon.n_messages("rejected"), 0);
    assert_eq!(steady.all().len(), n_written);
    for (name, endpoint) in [("steady", &steady), ("often", &often), ("seldom", &seldom)] {
        let came = endpoint.all();
        assert_in_order(&came);
        let recorded = ids(&home, name);
        assert_eq!(came.len(), recorded.len(), "{name}");
        let recorded: BTreeSet<&str> = recorded.iter().map(String::as_str).collect();
        let sent: BTreeSet<&str> = by_id(&came).into_keys().collect();
        assert_eq!(sent, recorded, "{name}");
        assert!(!sent.is_empty(), "{name}");
    }
}

#[test]
fn a_backlog_keeps_its_order_over_a_restart_and_a_reload() {
    let old = Endpoint::answering(|_| reply(500));
    // The first attempts fail at the new address as well. By the old schedule the next would come in
    // an hour.
    let new = Endpoint::with(
        ReceiverOptions::new(Timestamp::now)
            .with_secrets(vec!["a secret of the test".to_owned().into()])
            .with_answer(|one| reply(if one.attempt <= Some(2) { 500 } else { 200 })),
    );
    let before = Webhook::new("all", &old.url())
        .events("[snapshot-create]")
        .schedule("[0s, 1h, 1h, 1h]");
    let home = Home::new(&Settings::of([before]));
    for project in ["a", "b"] {
        define(&home, project);
    }
    let tags = ["s1", "s2", "s3", "s4", "s5"];
    let daemon = home.start();
    for tag in &tags[..2] {
        snapshot(&home, "a", tag);
        snapshot(&home, "b", tag);
    }
    daemon.fence();
    old.wait_for(2);
    daemon.wait_message("failed: ", 2);
    assert!(daemon.terminate().success());
    // More changes while it is stopped, and the rest when it runs again.
    snapshot(&home, "a", "s3");
    snapshot(&home, "b", "s3");
    let daemon = home.start();
    for tag in &tags[3..] {
        snapshot(&home, "a", tag);
        snapshot(&home, "b", tag);
    }
    daemon.fence();
    assert_eq!(old.n(), 2, "the next attempt is not due");
    assert_eq!(standing(&home, "all")["pending"], 2 * tags.len());

    let after = Webhook::new("all", &new.url())
        .events("[snapshot-create]")
        .schedule("[0s, 50ms, 50ms, 50ms]")
        .with("secret: a secret of the test")
        .with("headers: { X-New: \"yes\" }");
    home.configure(&Settings::of([after]));
    assert!(daemon.reload());
    wait_until("everything is delivered", || {
        (standing(&home, "all")["pending"] == 0).then_some(())
    });
    let came = new.all();
    assert_same_bytes(&came);
    assert_in_order(&came);
    for (project, came) in order(&came) {
        assert_eq!(came, tags, "{project}");
    }
    for one in &came {
        assert_eq!(one.header("x-new"), Some("yes"));
        assert_eq!(one.signature, Signature::Verified);
    }
    // The attempt numbers continue.
    for one in came.iter().filter(|one| tag(one) == "s1") {
        assert!(one.attempt >= Some(2), "{:?}", one.attempt);
    }
    assert_eq!(old.n(), 2);
}

#[test]
fn listings_show_what_the_daemon_works_by_and_not_an_edited_file() {
    let (old, new) = (Endpoint::new(), Endpoint::new());
    let settings = |name: &str, endpoint: &Endpoint| {
        Settings::of([Webhook::new(name, &endpoint.url()).events("[snapshot-create]")])
    };
    let home = Home::new(&settings("first", &old));
    let daemon = home.start();
    home.configure(&settings("second", &new));
    let listed = |command: &str| {
        let listed = home.json(&[command]);
        let webhooks = listed.get("webhooks").unwrap_or(&listed).clone();
        let names = webhooks.as_array().unwrap().iter();
        names
            .filter_map(|one| one["name"].as_str().map(str::to_owned))
            .filter(|name| name == "first" || name == "second")
            .collect::<Vec<_>>()
    };
    for command in ["webhooks", "status"] {
        assert_eq!(listed(command), ["first"], "{command}");
        let text = home.command(&[command]);
        assert!(text.contains("file has changed since"), "{text}");
    }
    assert!(home.command(&["webhooks"]).contains(&old.url()));
    assert!(daemon.reload());
    for command in ["webhooks", "status"] {
        assert_eq!(listed(command), ["second"], "{command}");
        let text = home.command(&[command]);
        assert!(!text.contains("file has changed since"), "{text}");
    }
    // Without a daemon the file counts.
    assert!(daemon.terminate().success());
    home.configure(&settings("first", &old));
    assert_eq!(listed("webhooks"), ["first"]);
}
