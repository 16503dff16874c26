//! Listings: the JSON of the commands, in pages.

use serde_json::Value;

use super::common::{Endpoint, wait_until, xml};
use super::{refusing, three_projects, with_api};

/// Follows the cursors to the end.
fn all(server: &super::Server, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.json(&format!("{path}{cursor}"));
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

#[test]
fn the_api_answers_what_the_commands_print() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    for (path, command) in [
        ("/api/v1/events?limit=2", "events"),
        ("/api/v1/deliveries?limit=2", "deliveries"),
    ] {
        let mut items = all(&server, path);
        items.reverse();
        assert_eq!(Value::Array(items.clone()), home.json(&[command]));
        let id = items[0]["id"].to_string();
        let id = id.trim_matches('"');
        let one = server.json(&format!("/api/v1/{command}/{id}"));
        assert_eq!(one, home.json(&[command, "show", id]));
    }
    assert_eq!(server.json("/api/v1/webhooks"), home.json(&["webhooks"]));
    // A counter may still change after the outcome was recorded.
    wait_until("the same status", || {
        let mut status = [server.json("/api/v1/status"), home.json(&["status"])];
        for status in &mut status {
            status["uptimeSeconds"] = Value::Null;
            status["stateSize"] = Value::Null;
        }
        (status[0] == status[1]).then_some(())
    });

    // The filters, as options of the commands.
    let event = &home.json(&["events"])[0];
    let recorded = event["recordedAt"].as_str().unwrap();
    for filters in [
        vec![("webhook", "good")],
        vec![("state", "dead")],
        vec![("webhook", "bad/ <b>"), ("state", "dead")],
        vec![("state", "pending")],
        vec![("event", "Project Import")],
        vec![("project", "sales/<b>project1")],
        vec![("project", "<b>project2"), ("webhook", "good")],
        vec![("since", recorded)],
        vec![("until", recorded)],
        vec![("since", "1h"), ("until", "1ms")],
    ] {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&filters);
        let mut items = all(&server, &format!("/api/v1/deliveries?{}", query.finish()));
        items.reverse();
        let options: Vec<String> = filters
            .iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
        let arguments: Vec<&str> = ["deliveries"]
            .into_iter()
            .chain(options.iter().map(String::as_str))
            .collect();
        assert_eq!(Value::Array(items), home.json(&arguments), "{filters:?}");
    }
    let mut items = all(&server, "/api/v1/events?event=project-import&limit=1");
    items.reverse();
    let listed = home.json(&["events", "--event", "project-import"]);
    assert_eq!(Value::Array(items), listed);
}

#[test]
fn pages_neither_repeat_nor_hide_rows_that_come_and_go() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    let before = all(&server, "/api/v1/deliveries?limit=500");
    let page = server.json("/api/v1/deliveries?limit=4");
    let mut seen = page["items"].as_array().unwrap().clone();
    // New rows come, and a row of the next page goes.
    home.write("sales/later/project.xml", &xml("Later", "later", ""));
    wait_until("new deliveries", || {
        let n = all(&server, "/api/v1/deliveries?webhook=good").len();
        (n == 8).then_some(())
    });
    let gone = before[6]["id"].to_string();
    home.command(&["deliveries", "purge", "--yes", &gone]);
    let next = page["next"].as_str().unwrap();
    seen.extend(all(
        &server,
        &format!("/api/v1/deliveries?limit=4&cursor={next}"),
    ));
    let mut expected = before.clone();
    expected.remove(6);
    assert_eq!(seen, expected);
}

#[test]
fn bad_filters_ids_and_cursors_are_refused_with_a_reason() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let huge = "A".repeat(5_000);
    for (path, status, reason) in [
        ("/api/v1/deliveries?limit=0", 400, "from 1 to 500"),
        (
            "/api/v1/deliveries?limit=99999999999999999999",
            400,
            "from 1 to 500",
        ),
        ("/api/v1/deliveries?limit=1&limit=2", 400, "limit"),
        ("/api/v1/deliveries?cursor=ZTE", 400, "cursor"),
        (&format!("/api/v1/events?cursor={huge}"), 400, "cursor"),
        ("/api/v1/deliveries?state=gone", 400, "pending, delivered"),
        ("/api/v1/deliveries?webhook=god", 400, "did you mean good?"),
        ("/api/v1/deliveries?event=x", 400, "event"),
        ("/api/v1/events?since=yesterday", 400, "such as 90s"),
        ("/api/v1/events?color=red", 400, "unknown field"),
        ("/api/v1/events/evt_", 400, "hexadecimal"),
        ("/api/v1/events/evt_0000000000", 404, "no event"),
        ("/api/v1/events/..%2f..%2fetc%2fpasswd", 400, "hexadecimal"),
        ("/api/v1/deliveries/0", 404, "no delivery 0"),
        ("/api/v1/deliveries/-1", 404, "no delivery -1"),
        ("/api/v1/deliveries/9223372036854775808", 400, "number"),
        ("/api/v1/deliveries/%ff", 400, "UTF-8"),
        ("/api/v1/nothing", 404, "openapi.json"),
        ("/api/v1/../../etc/passwd", 404, "openapi.json"),
        ("/%2e%2e/etc/passwd", 404, "openapi.json"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        let error = answer.json()["error"].to_string();
        assert!(error.contains(reason), "{path}: {error}");
    }
}

#[test]
fn a_page_of_large_items_is_short_and_its_cursor_goes_on() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    for n in 0..30 {
        let name = format!("{n}{}", "x".repeat(60_000));
        home.write(
            &format!("sales/p{n}/project.xml"),
            &xml(&name, &format!("p{n}"), ""),
        );
    }
    good.wait_for(60);
    let answer = server.get("/api/v1/events?limit=500");
    assert_eq!(answer.status, 200);
    let n_bytes = answer.body.len();
    assert!(n_bytes < 1_300_000, "{n_bytes}");
    let page = answer.json();
    assert!(page["items"].as_array().unwrap().len() > 10);
    assert!(page["next"].is_string());
    let mut items = all(&server, "/api/v1/events?limit=500");
    items.reverse();
    assert_eq!(items.len(), 60);
    let listed = home.json(&["events", "--limit", "100"]);
    assert!(Value::Array(items) == listed);
}
