//! Projects that are renamed: their pending deliveries and their receivers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use project_webhooks::receiver::Received;

use crate::common::{Endpoint, Home, PATIENCE, Settings, Webhook, wait_until, xml};
use crate::{reply, standing, tag};

fn publish(home: &Home, project: &str, version: &str) {
    home.write(
        &format!("sales/{project}/published/{version}/project.xml"),
        &xml("orders", "id-orders", version),
    );
}

/// A repository with one project, and a webhook for its published copies.
fn one_project(endpoint: &Endpoint) -> Home {
    // An answer may come late.
    let webhook = Webhook::new("all", &endpoint.url())
        .events("[project-publish]")
        .schedule("[0s, 1h, 1h]")
        .with("timeout: 10m");
    let home = Home::new(&Settings::of([webhook]));
    home.write("sales/orders/project.xml", &xml("orders", "id-orders", ""));
    home
}

fn wait_pending(home: &Home, n: usize) {
    wait_until(&format!("{n} pending"), || {
        (standing(home, "all")["pending"] == n).then_some(())
    });
}

fn tags(came: &[Received]) -> Vec<String> {
    came.iter().map(tag).collect()
}

#[test]
fn a_renamed_project_keeps_its_place_in_the_queue() {
    let works = Arc::new(AtomicBool::new(false));
    let is_working = Arc::clone(&works);
    let endpoint = Endpoint::answering(move |one| {
        let is_first = tag(one) == "v1" && !is_working.load(Ordering::Acquire);
        reply(if is_first { 500 } else { 200 })
    });
    let home = one_project(&endpoint);
    let daemon = home.start();
    publish(&home, "orders", "v1");
    daemon.wait_message("failed: ", 1);
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    publish(&home, "renamed", "v2");
    wait_pending(&home, 2);
    daemon.fence();
    assert_eq!(tags(&endpoint.all()), ["v1"]);
    let pending = home.json(&["deliveries", "--state", "pending"]);
    let projects = pending.as_array().unwrap().iter();
    assert!(projects.clone().all(|one| one["project"] == "renamed"));

    works.store(true, Ordering::Release);
    home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
    endpoint.wait_for(3);
    wait_pending(&home, 0);
    let came = endpoint.all();
    assert_eq!(tags(&came), ["v1", "v1", "v2"]);
    assert_eq!((&came[0].id, &came[0].body), (&came[1].id, &came[1].body));
}

#[test]
fn a_redelivered_delivery_holds_back_later_ones_of_its_renamed_project() {
    let works = Arc::new(AtomicBool::new(true));
    let is_working = Arc::clone(&works);
    let endpoint = Endpoint::answering(move |one| {
        let fails = tag(one) == "v1" && !is_working.load(Ordering::Acquire);
        reply(if fails { 500 } else { 200 })
    });
    let home = one_project(&endpoint);
    let daemon = home.start();
    publish(&home, "orders", "v1");
    endpoint.wait_for(1);
    wait_pending(&home, 0);
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    works.store(false, Ordering::Release);
    home.command(&["deliveries", "redeliver", "--state", "delivered", "--yes"]);
    daemon.wait_message("failed: ", 1);
    publish(&home, "renamed", "v2");
    wait_pending(&home, 2);
    daemon.fence();
    assert_eq!(tags(&endpoint.all()), ["v1", "v1"]);
    works.store(true, Ordering::Release);
    home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
    endpoint.wait_for(4);
    wait_pending(&home, 0);
    assert_eq!(tags(&endpoint.all()), ["v1", "v1", "v1", "v2"]);
}

#[test]
fn a_project_that_is_renamed_while_its_delivery_is_in_flight_sends_it_once() {
    let (answer, may_answer) = mpsc::channel::<()>();
    let may_answer = Mutex::new(may_answer);
    let endpoint = Endpoint::answering(move |one| {
        if tag(one) == "v1" {
            // Until the test says so, or has failed.
            let _ = may_answer.lock().unwrap().recv_timeout(PATIENCE);
        }
        reply(200)
    });
    let home = one_project(&endpoint);
    let daemon = home.start();
    publish(&home, "orders", "v1");
    endpoint.wait_for(1);
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    publish(&home, "renamed", "v2");
    wait_pending(&home, 2);
    answer.send(()).unwrap();
    wait_pending(&home, 0);
    assert_eq!(tags(&endpoint.all()), ["v1", "v2"]);
}

#[test]
fn a_cancelled_delivery_in_flight_holds_back_later_ones_of_its_renamed_project() {
    let endpoint = Endpoint::answering(|one| {
        let mut answer = reply(200);
        if tag(one) == "v1" {
            // It is in flight until the end of the test.
            answer.delay = Duration::from_secs(3_600);
        }
        answer
    });
    let home = one_project(&endpoint);
    home.write("sales/other/project.xml", &xml("other", "id-other", ""));
    let daemon = home.start();
    publish(&home, "orders", "v1");
    endpoint.wait_for(1);
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    publish(&home, "renamed", "v2");
    wait_pending(&home, 2);
    let pending = home.json(&["deliveries", "--state", "pending"]);
    let ids = pending.as_array().unwrap().iter();
    let first = ids.map(|one| one["id"].as_i64().unwrap()).min().unwrap();
    home.command(&["deliveries", "cancel", &first.to_string(), "--yes"]);
    // Later deliveries of another project come after everything that the daemon sends now.
    for (version, n) in [("v3", 2), ("v4", 3)] {
        let copy = format!("sales/other/published/{version}/project.xml");
        home.write(&copy, &xml("other", "id-other", version));
        endpoint.wait_for(n);
    }
    assert_eq!(tags(&endpoint.all()), ["v1", "v3", "v4"]);
}

#[test]
fn a_receiver_of_the_import_receives_the_delete_of_the_renamed_project() {
    let (exact, other) = (Endpoint::new(), Endpoint::new());
    let home = Home::new(&Settings::of([
        Webhook::new("exact", &exact.url()).projects("[\"sales/orders\"]"),
        Webhook::new("other", &other.url()).projects("[\"sales/other\"]"),
    ]));
    let daemon = home.start();
    home.write("sales/orders/project.xml", &xml("orders", "id-orders", ""));
    exact.wait_for(2);
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    // Its later events have another name.
    home.write(
        "sales/renamed/snapshots/s1.xml",
        &xml("orders", "id-orders", "s1"),
    );
    daemon.fence();
    assert!(daemon.terminate().success());
    let daemon = home.start();
    home.remove_all("sales/renamed");
    daemon.fence();
    let came = exact.wait_for(3);
    let events: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
    assert_eq!(
        events,
        ["project-import", "project-import-any", "project-delete"]
    );
    // Another project under that name is none of its own.
    home.write("sales/renamed/project.xml", &xml("new", "id-new", ""));
    home.remove_all("sales/renamed");
    daemon.fence();
    assert_eq!(exact.n(), 3);
    assert_eq!(other.n(), 0);
}
