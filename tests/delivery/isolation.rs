use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::HeaderValue;
use project_webhooks::receiver::Received;

use crate::common::{Endpoint, Home, Settings, Webhook, wait_until, xml};
use crate::{assert_same_bytes, by_id, project, reply, standing};

const PROJECTS: usize = 10;
/// The events of a copied project: two of its import, its snapshots and its published copy.
const EVENTS: [&str; 6] = [
    "project-import",
    "project-import-any",
    "snapshot-create",
    "snapshot-create",
    "snapshot-create",
    "project-publish",
];
const ALL: usize = PROJECTS * EVENTS.len();

/// How many attempts of each event fail at the flaky endpoint.
const FAILURES: usize = 3;
const ASKED: Duration = Duration::from_secs(1);
const POISON: &str = "p3";
/// The projects for which the busy endpoint asks to wait.
const BUSY: [&str; 2] = ["p1", "p4"];

/// Copies all projects into the repository.
fn copy_projects(home: &Home) {
    for number in 0..PROJECTS {
        let name = format!("p{number}");
        let staged = format!(".staged-{name}");
        let content = |body: &str| xml(&name, &format!("id-{name}"), body);
        home.write(&format!("{staged}/project.xml"), &content("one"));
        for tag in ["s1", "s2", "s3"] {
            home.write(&format!("{staged}/snapshots/{tag}.xml"), &content(tag));
        }
        home.write(
            &format!("{staged}/published/v1/project.xml"),
            &content("v1"),
        );
    }
    for number in 0..PROJECTS {
        home.rename(&format!(".staged-p{number}"), &format!("sales/p{number}"));
    }
}

/// Asserts that the events of each project came in order, each after the one before was accepted.
///
/// `n` returns how many events of a project are expected.
fn assert_order(came: &[Received], n: impl Fn(&str) -> usize) {
    let mut events: BTreeMap<String, Vec<&Received>> = BTreeMap::new();
    for one in came {
        let known = events.entry(project(one)).or_default();
        if known.last().is_none_or(|last| last.id != one.id) {
            known.push(one);
        }
    }
    for (project, came) in events {
        let kinds: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
        assert_eq!(kinds, EVENTS[..n(&project)], "{project}");
        let tags: Vec<_> = came
            .iter()
            .skip(2)
            .filter_map(|o| o.parameter("versionTag"))
            .collect();
        assert!(tags.is_sorted(), "{project}: {tags:?}");
    }
}

#[test]
fn endpoints_with_faults_do_not_affect_each_other() {
    let good = Endpoint::new();
    let attempts: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let flaky = Endpoint::answering(move |one| {
        let mut attempts = attempts.lock().unwrap();
        let n = attempts.entry(one.id.clone()).or_default();
        *n += 1;
        reply(if *n > FAILURES { 200 } else { 500 })
    });
    let busy = Endpoint::answering(|one| {
        let is_busy = BUSY.contains(&project(one).as_str());
        if !is_busy || one.attempt > Some(1) || one.parameter("versionTag") != Some("s2") {
            return reply(200);
        }
        let mut answer = reply(429);
        answer
            .headers
            .insert("retry-after", HeaderValue::from(ASKED.as_secs()));
        answer
    });
    let wanted = Arc::new(AtomicBool::new(false));
    let wants = Arc::clone(&wanted);
    let gone = Endpoint::answering(move |_| {
        reply(if wants.load(Ordering::Acquire) {
            200
        } else {
            410
        })
    });
    let hung = Endpoint::answering(|_| {
        let mut answer = reply(200);
        answer.delay = Duration::from_secs(300);
        answer
    });
    let poison = Endpoint::answering(|one| reply(if project(one) == POISON { 500 } else { 200 }));

    // Consecutive failures in several projects make an endpoint down, so the flaky and the busy one
    // are probed in between. All delays are short.
    let short = "[0s, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms, 20ms]";
    let of = |more: &str| {
        Settings::of([
            Webhook::new("flaky", &flaky.url()).schedule(short),
            Webhook::new("busy", &busy.url()).schedule(short),
            Webhook::new("gone", &gone.url()).schedule(short).with(more),
            Webhook::new("hung", &hung.url()).with("timeout: 5m"),
            Webhook::new("poison", &poison.url()).schedule("[0s, 50ms, 100ms, 1h]"),
            Webhook::new("good", &good.url()),
        ])
    };
    let home = Home::new(&of("timeout: 15s"));
    let daemon = home.start();
    copy_projects(&home);

    // The hanging endpoint holds its requests for five minutes.
    wait_until("everything at the good endpoint", || {
        (good.n_all() >= ALL).then_some(())
    });
    wait_until("everything at the flaky endpoint", || {
        (flaky.n_all() >= ALL * (FAILURES + 1)).then_some(())
    });
    wait_until("everything at the busy endpoint", || {
        (busy.n_all() >= ALL + BUSY.len()).then_some(())
    });
    wait_until("all but one project at the poisoned endpoint", || {
        (standing(&home, "poison")["pending"] == EVENTS.len()).then_some(())
    });

    let came = good.all();
    assert_eq!((came.len(), by_id(&came).len()), (ALL, ALL));
    assert_order(&came, |_| EVENTS.len());

    let came = flaky.all();
    assert_order(&came, |_| EVENTS.len());
    assert_same_bytes(&came);
    assert_eq!(by_id(&came).len(), ALL);
    for (id, attempts) in by_id(&came) {
        let numbers: Vec<_> = attempts.iter().filter_map(|one| one.attempt).collect();
        assert_eq!(numbers, [1, 2, 3, 4], "{id}");
    }

    let came = busy.all();
    assert_order(&came, |_| EVENTS.len());
    assert_same_bytes(&came);
    assert_eq!(came.len(), ALL + BUSY.len());
    for (id, attempts) in by_id(&came) {
        if let [first, second] = attempts[..] {
            let waited = second.at.duration_since(first.at).unsigned_abs();
            assert!(waited >= ASKED, "{id}: retried after {waited:?}");
        }
    }

    // At most one attempt for each slot was answered, and the webhook is off.
    let concurrency = 8;
    assert!(gone.n_all() <= concurrency, "{}", gone.n_all());
    let state = wait_until("the webhook that is gone is off", || {
        let state = standing(&home, "gone");
        (state["standing"] == "off").then_some(state)
    });
    assert_eq!(state["off"]["cause"], "gone");
    assert_eq!(state["pending"], ALL);
    // The hanging endpoint got one attempt for each slot.
    assert!(hung.n_all() <= concurrency, "{}", hung.n_all());

    let came = poison.all();
    assert_order(
        &came,
        |project| if project == POISON { 1 } else { EVENTS.len() },
    );
    let pending = home.json(&["deliveries", "--webhook", "poison", "--state", "pending"]);
    let pending = pending.as_array().unwrap();
    assert!(
        pending.iter().all(|one| one["project"] == POISON),
        "{pending:?}"
    );

    // An operator enables it, and the receiver answers 410 again.
    let before = gone.n_all();
    home.command(&["webhooks", "enable", "gone"]);
    wait_until("another 410", || (gone.n_all() > before).then_some(()));
    wait_until("the webhook is off", || {
        (standing(&home, "gone")["standing"] == "off").then_some(())
    });
    assert_eq!(standing(&home, "gone")["pending"], ALL);
    // A reload of the same configuration does not enable it.
    let before = gone.n_all();
    assert!(daemon.reload());
    assert_eq!(standing(&home, "gone")["standing"], "off");
    // A changed configuration does.
    wanted.store(true, Ordering::Release);
    home.configure(&of("timeout: 14s"));
    assert!(daemon.reload());
    wait_until("everything at the endpoint that was gone", || {
        (gone.n_all() >= before + ALL).then_some(())
    });
    let came = gone.all();
    assert_eq!(came.len(), before + ALL);
    assert_order(&came, |_| EVENTS.len());
    assert_same_bytes(&came);
    wait_until("all deliveries to be recorded", || {
        (standing(&home, "gone")["pending"] == 0).then_some(())
    });
    assert_eq!(standing(&home, "gone")["standing"], "on");
}
