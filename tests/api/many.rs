//! The page with many deliveries: counts are bounded, and every view answers.

use std::process::Command;

use rusqlite::Connection;

use super::client::{Server, TOKEN, bearer};
use super::common::{Endpoint, Run as _, xml};
use super::{refusing, with_api};

/// The number of deliveries to generate. If it is set, the test prints the time of each view.
const DELIVERIES: &str = "PROJECT_WEBHOOKS_DELIVERIES";

/// Adds deliveries in all states, each of an event like the first one. None is due.
fn fill(database: &std::path::Path, n: u64) {
    let connection = Connection::open(database).unwrap();
    let numbers = format!(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {n}), \
         first AS (SELECT * FROM events ORDER BY sequence LIMIT 1)"
    );
    connection
        .execute_batch(&format!(
            "BEGIN; {numbers} INSERT INTO events (sequence, id, repetition, kind, organization, \
             project, origin, occurred_ns, recorded_ms, parameters, explanation, payload, \
             first_delivery, end_delivery) SELECT 1000 + n, 'evt_' || printf('%032x', n), 0, kind, \
             organization, 'p' || n, origin, occurred_ns, recorded_ms, parameters, explanation, \
             payload, 1000 + n, 1001 + n FROM numbers, first; \
             {numbers} INSERT INTO deliveries (id, event, webhook, organization, project, state, \
             is_head, is_delete, origin, n_attempts, due_ms, created_ms, waiting_ms, finished_ms, \
             last_status) SELECT 1000 + n, 1000 + n, iif(n % 2, 'good', 'bad/ <b>'), organization, \
             'p' || n, CASE n % 100 WHEN 0 THEN 'dead' WHEN 1 THEN 'cancelled' WHEN 2 THEN 'pending' \
             ELSE 'delivered' END, n % 100 = 2, 0, 'live', 1, 4102444800000, recorded_ms, recorded_ms, \
             iif(n % 100 = 2, NULL, recorded_ms), 204 FROM numbers, first; COMMIT;"
        ))
        .unwrap();
}

/// The time of a request in seconds, as curl measures it.
fn seconds(server: &Server, path: &str) -> String {
    let Server::Tcp(address) = server else {
        unreachable!()
    };
    let output = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{time_total}", "-H"])
        .arg(bearer(TOKEN))
        .args(["-H", "accept: text/html"])
        .arg(format!("http://{address}{path}"))
        .run();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn every_view_shows_its_first_page_of_many_deliveries() {
    let n = std::env::var(DELIVERIES).ok().map(|n| n.parse().unwrap());
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    home.write("sales/one/project.xml", &xml("One", "one", ""));
    good.wait_for(2);
    assert!(daemon.terminate().success());
    fill(&home.database(), n.unwrap_or(30_000));
    let _daemon = home.start();
    let lines = ["host: localhost", "accept: text/html", &bearer(TOKEN)];
    let event = "evt_00000000000000000000000000000001";
    for path in [
        "/",
        "/webhooks",
        "/deliveries",
        "/deliveries?webhook=good",
        "/deliveries?state=dead",
        "/deliveries?state=pending",
        "/deliveries?webhook=good&state=delivered&event=project-import",
        "/deliveries?project=sales/p7",
        "/deliveries?webhook=nobody",
        "/deliveries/1001",
        "/deliveries/bulk?action=redeliver&webhook=good&state=dead",
        "/events",
        "/events?project=sales/p7",
        &format!("/events/{event}"),
        &format!("/events/{event}/payload"),
        "/events/replay",
        "/files",
        "/settings",
    ] {
        let answer = server.send("GET", path, &lines, "");
        let status = if path.ends_with("nobody") { 400 } else { 200 };
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        if n.is_some() {
            eprintln!("{} s {path}", seconds(&server, path));
        }
    }
    for path in ["/", "/webhooks"] {
        let answer = server.send("GET", path, &lines, "");
        assert!(
            answer.body.contains("more than 10,000"),
            "{path}: {answer:?}"
        );
    }
}
