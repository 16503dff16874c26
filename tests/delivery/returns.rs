use std::collections::BTreeSet;
use std::fs;

use crate::common::{Endpoint, Home, Settings, wait_until};
use crate::{define, standing};

/// Nothing on disk tells two removals apart when a directory is moved out and back: the files keep
/// their inodes and their change times.
#[test]
fn a_project_that_returns_after_its_retention_gets_new_ids() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    define(&home, "orders");
    let daemon = home.start();
    let mut n_sent = 0;
    let mut out_and_back = || {
        for (from, to, n_events) in [
            (home.at("sales/orders"), home.beside("orders"), 1),
            (home.beside("orders"), home.at("sales/orders"), 2),
        ] {
            fs::rename(from, to).unwrap();
            n_sent += n_events;
            endpoint.wait_for(n_sent);
        }
    };
    out_and_back();
    out_and_back();
    wait_until("all deliveries to be recorded", || {
        (standing(&home, "all")["pending"] == 0).then_some(())
    });

    let short = Settings::all_to(&endpoint).top("retention: { delivered: 1ms, dead: 1ms }");
    home.configure(&short);
    assert!(daemon.reload());
    wait_until("the events are removed", || {
        (home.json(&["events"]) == serde_json::json!([])).then_some(())
    });
    out_and_back();

    let came = endpoint.all();
    let kinds: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
    let round = ["project-delete", "project-import", "project-import-any"];
    assert_eq!(kinds, round.repeat(3));
    let ids: BTreeSet<&str> = came.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids.len(), came.len(), "{ids:?}");
}
