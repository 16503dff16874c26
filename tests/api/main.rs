//! The admin API: it answers what the commands print, changes what they change, and nobody who can
//! reach it without the token learns or changes anything.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod access;
mod actions;
mod browser;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod description;
mod hostile;
mod many;
mod page;
mod reading;
mod streaming;
mod webdriver;

use client::{Server, TOKEN, free_address};
use common::{Endpoint, Home, Settings, Webhook, wait_until, xml};
use project_webhooks::receiver::Reply;

/// A home whose daemon has the API at a TCP address, and a failing and a working webhook.
fn with_api(good: &Endpoint, bad: &Endpoint) -> (Home, Server) {
    let address = free_address();
    let home = Home::new(&settings(good, bad, &admin(address)));
    (home, Server::Tcp(address))
}

fn settings(good: &Endpoint, bad: &Endpoint, admin: &str) -> Settings {
    Settings::of([
        Webhook::new("good", &good.url()),
        Webhook::new("bad/ <b>", &bad.url())
            .schedule("[0s]")
            .events("[project-import-any]")
            .with("concurrency: 2"),
    ])
    .top(admin)
}

fn admin(listen: impl std::fmt::Display) -> String {
    format!("admin: {{ listen: \"{listen}\", token: {TOKEN} }}")
}

/// An endpoint that refuses everything, with markup in its answers.
fn refusing() -> Endpoint {
    Endpoint::answering(|_| Reply {
        body: "<script>alert(1)</script>".into(),
        ..Reply::status(http::StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// Writes projects with markup in their names, and waits until their callbacks have outcomes.
fn three_projects(home: &Home, server: &Server) {
    for n in 0..3 {
        let name = format!("&lt;script>alert({n})&lt;/script>");
        let path = format!("sales/<b>project{n}/project.xml");
        home.write(&path, &xml(&name, &format!("p{n}"), ""));
    }
    wait_until("the outcomes", || {
        let dead = server.json("/api/v1/deliveries?state=dead");
        let delivered = server.json("/api/v1/deliveries?state=delivered");
        let n = |page: &serde_json::Value| page["items"].as_array().unwrap().len();
        (n(&dead) == 3 && n(&delivered) == 6).then_some(())
    });
}

/// A field of the daemon's status in /proc, in KiB.
fn memory_kib(daemon: &common::Daemon<'_>, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}
