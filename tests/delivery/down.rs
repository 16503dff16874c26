use std::time::Instant;

use jiff::Timestamp;
use project_webhooks::receiver::ReceiverOptions;

use crate::common::{Endpoint, Home, PATIENCE, Settings, Webhook, wait_until, wait_within};
use crate::{assert_in_order, by_id, define, snapshot, standing};

const PROJECTS: usize = 100;
const SNAPSHOTS: usize = 100;
const ALL: usize = PROJECTS * SNAPSHOTS;

#[test]
fn an_endpoint_that_is_down_uses_up_no_attempts() {
    let reserved = Endpoint::reserved();
    // After its first retry, the endpoint is probed every two seconds.
    let webhook = Webhook::new("all", &reserved.url())
        .events("[snapshot-create]")
        .schedule("[0s, 5s, 2s, 2s, 2s, 2s, 2s, 2s, 2s, 2s]")
        .with("format: xml")
        .with("concurrency: 32");
    let home = Home::new(&Settings::of([webhook]));
    for number in 0..PROJECTS {
        define(&home, &format!("p{number}"));
    }
    let daemon = home.start();
    let began = Instant::now();
    // Every project has a pending delivery before the first attempt fails, so that each probe takes
    // another project.
    home.command(&["webhooks", "disable", "all"]);
    for number in 0..PROJECTS {
        snapshot(&home, &format!("p{number}"), "s000");
    }
    daemon.fence();
    assert_eq!(standing(&home, "all")["pending"], PROJECTS);
    home.command(&["webhooks", "enable", "all"]);
    for tag in 1..SNAPSHOTS {
        for number in 0..PROJECTS {
            snapshot(&home, &format!("p{number}"), &format!("s{tag:03}"));
        }
    }
    wait_within(PATIENCE * 5, "everything is recorded", || {
        (standing(&home, "all")["pending"] == ALL).then_some(())
    });
    let recorded = began.elapsed();
    daemon.wait_message("the endpoint seems to be down", 1);
    // Each project was sent once, and the first failure of a project used up no attempt. Later ones
    // are probes, one at a time.
    let listed = home.json(&["deliveries", "--state", "pending", "--limit", "20000"]);
    let n_attempts = |one: &serde_json::Value| one["attempts"].as_u64().unwrap();
    let listed = listed.as_array().unwrap();
    let attempts: Vec<u64> = listed.iter().map(n_attempts).filter(|n| *n > 0).collect();
    let (n_sent, n_all) = (attempts.len(), attempts.iter().sum::<u64>());
    let n_probes = began.elapsed().as_secs() / 2 + 2;
    assert_eq!(n_sent, PROJECTS);
    assert!(
        n_all <= PROJECTS as u64 + n_probes,
        "{n_all} attempts for {n_probes} probes"
    );

    let back = Instant::now();
    let endpoint = reserved.open(ReceiverOptions::new(Timestamp::now));
    wait_within(PATIENCE * 5, "everything is delivered", || {
        (endpoint.n_all() >= ALL).then_some(())
    });
    eprintln!(
        "recorded in {recorded:?}, delivered in {:?}",
        back.elapsed()
    );
    wait_until("all deliveries to be recorded", || {
        (standing(&home, "all")["pending"] == 0).then_some(())
    });
    let came = endpoint.all();
    assert_eq!((came.len(), by_id(&came).len()), (ALL, ALL));
    assert_in_order(&came);
    // Three brought it down.
    let n_first = came.iter().filter(|one| one.attempt == Some(1)).count();
    assert_eq!(n_first, ALL - PROJECTS);
    daemon.wait_message("the endpoint is up again", 1);
}
