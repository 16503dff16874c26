//! Actions: the changes of the commands, with the same checks.

use serde_json::{Value, json};

use super::client::free_address;
use super::common::{Endpoint, Home, Settings, Webhook, wait_until, xml};
use super::{Server, admin, refusing, three_projects, with_api};

/// The ids of the deliveries in a state.
fn ids(server: &Server, state: &str) -> Vec<i64> {
    let page = server.json(&format!("/api/v1/deliveries?state={state}"));
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["id"].as_i64().unwrap())
        .collect()
}

/// Posts, and expects this status.
fn post(server: &Server, path: &str, body: &Value, status: u16) -> Value {
    let answer = server.post(path, body);
    assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
    answer.json()
}

#[test]
fn deliveries_are_redelivered_and_cancelled_one_by_one_and_in_bulk() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    three_projects(&home, &server);
    let dead = ids(&server, "dead");
    let delivered = ids(&server, "delivered");

    // One by one.
    let n = bad.n_all();
    let path = format!("/api/v1/deliveries/{}/redeliver", dead[0]);
    let changed = post(&server, &path, &json!({}), 200);
    assert_eq!(
        (&changed["changed"], &changed["daemonTold"]),
        (&json!(1), &json!(true))
    );
    wait_until("another attempt", || (bad.n_all() == n + 1).then_some(()));
    wait_until("its outcome", || {
        (ids(&server, "dead").len() == 3).then_some(())
    });
    let path = format!("/api/v1/deliveries/{}/cancel", delivered[0]);
    let refused = post(&server, &path, &json!({}), 409);
    assert!(refused["error"].as_str().unwrap().contains("only pending"));
    post(&server, "/api/v1/deliveries/999/redeliver", &json!({}), 404);
    post(&server, "/api/v1/deliveries/x/redeliver", &json!({}), 400);

    // In bulk: count first.
    let many = "/api/v1/deliveries/redeliver";
    let selected = |more: Value| {
        let mut selected = json!({ "webhook": "good", "state": "delivered" });
        let more = more.as_object().unwrap().clone();
        selected.as_object_mut().unwrap().extend(more);
        selected
    };
    let n = good.n_all();
    let counted = post(&server, many, &selected(json!({ "dryRun": true })), 200);
    assert_eq!(
        (&counted["matched"], &counted["changed"]),
        (&json!(6), &json!(0))
    );
    post(&server, many, &selected(json!({})), 400);
    let refused = post(&server, many, &selected(json!({ "expected": 5 })), 409);
    assert_eq!(refused["matched"], 6, "{refused}");
    post(&server, many, &json!({ "expected": 12 }), 400);
    let misspelt = json!({ "webhook": "god", "expected": 0 });
    post(&server, many, &misspelt, 400);
    post(
        &server,
        many,
        &json!({ "state": "dead", "color": "red" }),
        400,
    );
    assert_eq!(good.n_all(), n);
    let expected = selected(json!({ "expected": 6 }));
    assert_eq!(post(&server, many, &expected, 200)["changed"], 6);
    wait_until("six attempts", || (good.n_all() == n + 6).then_some(()));
    wait_until("their outcomes", || {
        (ids(&server, "delivered").len() == 6).then_some(())
    });

    // Pending deliveries of a webhook that is off wait, and can be cancelled.
    let reason = json!({ "reason": "<b>" });
    post(&server, "/api/v1/webhooks/good/disable", &reason, 200);
    assert_eq!(post(&server, many, &expected, 200)["changed"], 6);
    let pending = ids(&server, "pending");
    assert_eq!(pending.len(), 6);
    let path = format!("/api/v1/deliveries/{}/cancel", pending[0]);
    assert_eq!(post(&server, &path, &json!({}), 200)["changed"], 1);
    let cancel = json!({ "webhook": "good", "expected": 5 });
    let cancelled = post(&server, "/api/v1/deliveries/cancel", &cancel, 200);
    assert_eq!(cancelled["changed"], 5);
    assert_eq!(ids(&server, "cancelled").len(), 6);
    let cancel = json!({ "state": "dead", "expected": 0 });
    post(&server, "/api/v1/deliveries/cancel", &cancel, 400);
    assert!(daemon.n_messages("a request changed deliveries") >= 4);
}

#[test]
fn webhooks_are_switched_and_tested_and_events_are_replayed() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    let standing = || server.json("/api/v1/webhooks")[0]["standing"].clone();
    let switch = |action: &str| {
        let path = format!("/api/v1/webhooks/good/{action}");
        post(&server, &path, &json!({}), 200)["changed"].clone()
    };
    assert_eq!(switch("disable"), true);
    assert_eq!(switch("disable"), false);
    wait_until("off", || (standing() == "off").then_some(()));
    assert_eq!(home.json(&["webhooks"])[0]["standing"], "off");
    assert_eq!(switch("enable"), true);
    wait_until("on", || (standing() == "on").then_some(()));
    post(&server, "/api/v1/webhooks/god/enable", &json!({}), 404);
    let encoded = "/api/v1/webhooks/bad%2F%20%3Cb%3E/enable";
    let enabled = post(&server, encoded, &json!({}), 200);
    assert_eq!(enabled["webhook"], "bad/ <b>");

    let n = good.n_all();
    let sample = json!({ "event": "Project Publish" });
    let exchange = post(&server, "/api/v1/webhooks/good/test", &sample, 200);
    assert_eq!(
        (&exchange["delivered"], &exchange["status"]),
        (&json!(true), &json!(204))
    );
    assert_eq!(good.n_all(), n + 1);
    let exchange = post(
        &server,
        "/api/v1/webhooks/bad%2F%20%3Cb%3E/test",
        &json!({}),
        200,
    );
    assert_eq!(
        (&exchange["delivered"], &exchange["status"]),
        (&json!(false), &json!(500))
    );
    post(
        &server,
        "/api/v1/webhooks/good/test",
        &json!({ "event": "x" }),
        400,
    );

    let replay = "/api/v1/events/replay";
    let counted = post(
        &server,
        replay,
        &json!({ "to": "good", "dryRun": true }),
        200,
    );
    assert_eq!(
        (&counted["matched"], &counted["replayed"]),
        (&json!(6), &json!(0))
    );
    post(&server, replay, &json!({ "to": "good" }), 400);
    let five = json!({ "to": "good", "expected": 5 });
    let refused = post(&server, replay, &five, 409);
    assert_eq!(refused["matched"], 6, "{refused}");
    post(&server, replay, &json!({ "expected": 5 }), 400);
    post(&server, replay, &json!({ "to": "god", "expected": 5 }), 404);
    let empty = json!({ "to": "good", "since": "1h", "until": "2h", "expected": 0 });
    post(&server, replay, &empty, 400);
    let replayed = post(
        &server,
        replay,
        &json!({ "to": "good", "expected": 6 }),
        200,
    );
    assert_eq!(replayed["replayed"], 6);
    wait_until("the replayed events", || {
        (good.n_all() == n + 7).then_some(())
    });
}

#[test]
fn counting_and_a_refusal_send_no_probe_to_an_endpoint_that_is_down() {
    let (good, bad, address) = (Endpoint::new(), refusing(), free_address());
    let webhooks = [
        Webhook::new("good", &good.url()).events("[project-import-any]"),
        Webhook::new("bad", &bad.url())
            .events("[snapshot-create]")
            .schedule("[0s, 2s, 1h, 1h]"),
    ];
    let home = Home::new(&Settings::of(webhooks).top(&admin(address)));
    let server = Server::Tcp(address);
    let daemon = home.start();
    post(&server, "/api/v1/webhooks/bad/disable", &json!({}), 200);
    for name in ["a", "b", "c"] {
        let content = xml(name, name, "");
        home.write(&format!("sales/{name}/project.xml"), &content);
        home.write(&format!("sales/{name}/snapshots/s.xml"), &content);
    }
    good.wait_for(3);
    daemon.fence();
    post(&server, "/api/v1/webhooks/bad/enable", &json!({}), 200);
    // Three bring it down. One of them is a probe, and the others are due but wait for the next one.
    daemon.wait_message("the endpoint seems to be down", 1);
    wait_until("the probe", || (bad.n_all() == 4).then_some(()));
    daemon.wait_message("failed: ", 4);
    let n = good.n();
    let selected = json!({ "webhook": "good", "state": "delivered", "dryRun": true });
    let replay = json!({ "to": "good", "dryRun": true });
    let other = json!({ "webhook": "good", "state": "delivered", "expected": 7 });
    for round in 0..3 {
        post(&server, "/api/v1/deliveries/redeliver", &selected, 200);
        post(&server, "/api/v1/events/replay", &replay, 200);
        post(&server, "/api/v1/deliveries/redeliver", &other, 409);
        // Meanwhile a queue that was woken would have sent a probe.
        let name = format!("d{round}");
        home.write(&format!("sales/{name}/project.xml"), &xml(&name, &name, ""));
        good.wait_for(n + 1 + round);
    }
    assert_eq!(bad.n_all(), 4);
    // A change does send one.
    post(&server, "/api/v1/webhooks/good/disable", &json!({}), 200);
    wait_until("a probe", || (bad.n_all() > 4).then_some(()));
}
