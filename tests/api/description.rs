//! `/api/v1/openapi.json` describes the real answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{TOKEN, bearer};
use super::common::Endpoint;
use super::{refusing, three_projects, with_api};

/// The schema of the answers of a path, as a schema by itself.
fn schema(document: &Value, method: &str, path: &str, status: &str) -> Value {
    let answer = &document["paths"][path][method]["responses"][status];
    let schema = &answer["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} {status}: {answer}");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": document["components"],
        "allOf": [schema],
    })
}

fn check(document: &Value, (method, path, status): (&str, &str, &str), answer: &Value) {
    let validator = jsonschema::validator_for(&schema(document, method, path, status)).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(answer)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(
        errors.is_empty(),
        "{method} {path}: {errors:#?}\n{answer:#}"
    );
}

/// The methods and paths of the document.
fn described(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap();
    let methods = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(move |method| format!("{method} {path}"))
    });
    methods.collect()
}

/// Times have at most six digits after the second, as many as most parsers read. Returns their number.
fn assert_times_are_short(answer: &Value) -> usize {
    match answer {
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => {
            let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
            assert!(fraction.len() <= "123456Z".len(), "{text}");
            1
        }
        Value::Array(items) => items.iter().map(assert_times_are_short).sum(),
        Value::Object(fields) => fields.values().map(assert_times_are_short).sum(),
        _ => 0,
    }
}

#[test]
fn every_answer_fits_its_description() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    // An ignored file, and a field for each kind of trouble.
    home.write("sales/broken/project.xml", "<schema");
    let document = server.json("/api/v1/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));

    let event = server.json("/api/v1/events")["items"][0]["id"].clone();
    let dead = server.json("/api/v1/deliveries?state=dead")["items"][0]["id"].clone();
    let sent = server.json("/api/v1/deliveries?state=delivered")["items"][0]["id"].clone();
    let (event, dead, sent) = (
        event.as_str().unwrap(),
        dead.as_i64().unwrap(),
        sent.as_i64().unwrap(),
    );
    let mut checked = BTreeSet::new();
    let mut n_times = 0;
    for (described, path) in [
        ("/api/v1/status", "/api/v1/status".to_owned()),
        ("/api/v1/events", "/api/v1/events?limit=2".to_owned()),
        ("/api/v1/events/{id}", format!("/api/v1/events/{event}")),
        (
            "/api/v1/deliveries",
            "/api/v1/deliveries?limit=2".to_owned(),
        ),
        (
            "/api/v1/deliveries/{id}",
            format!("/api/v1/deliveries/{dead}"),
        ),
        ("/api/v1/webhooks", "/api/v1/webhooks".to_owned()),
    ] {
        let answer = server.json(&path);
        check(&document, ("get", described, "200"), &answer);
        n_times += assert_times_are_short(&answer);
        checked.insert(format!("get {described}"));
    }
    assert!(n_times > 10, "{n_times}");
    let refused = server.get("/api/v1/deliveries/0");
    check(
        &document,
        ("get", "/api/v1/deliveries/{id}", "default"),
        &refused.json(),
    );
    for (described, path, body) in [
        (
            "/api/v1/deliveries/{id}/redeliver",
            format!("/api/v1/deliveries/{dead}/redeliver"),
            json!({}),
        ),
        (
            "/api/v1/deliveries/redeliver",
            "/api/v1/deliveries/redeliver".to_owned(),
            json!({ "state": "dead", "dryRun": true }),
        ),
        (
            "/api/v1/deliveries/cancel",
            "/api/v1/deliveries/cancel".to_owned(),
            json!({ "webhook": "good", "dryRun": true }),
        ),
        (
            "/api/v1/webhooks/{name}/disable",
            "/api/v1/webhooks/good/disable".to_owned(),
            json!({}),
        ),
        // Pending, because its webhook is off.
        (
            "/api/v1/deliveries/{id}/redeliver",
            format!("/api/v1/deliveries/{sent}/redeliver"),
            json!({}),
        ),
        (
            "/api/v1/deliveries/{id}/cancel",
            format!("/api/v1/deliveries/{sent}/cancel"),
            json!({}),
        ),
        (
            "/api/v1/webhooks/{name}/enable",
            "/api/v1/webhooks/good/enable".to_owned(),
            json!({}),
        ),
        (
            "/api/v1/webhooks/{name}/test",
            "/api/v1/webhooks/good/test".to_owned(),
            json!({}),
        ),
        (
            "/api/v1/events/replay",
            "/api/v1/events/replay".to_owned(),
            json!({ "to": "good", "dryRun": true }),
        ),
    ] {
        let answer = server.post(&path, &body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        check(&document, ("post", described, "200"), &answer.json());
        checked.insert(format!("post {described}"));
    }
    let stream = &document["paths"]["/api/v1/stream"]["get"]["responses"];
    assert!(stream["200"]["content"]["text/event-stream"].is_object());
    let lines = ["host: localhost", &bearer(TOKEN)];
    let answer = server.send("HEAD", "/api/v1/stream", &lines, "");
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("text/event-stream"), "{answer:?}");
    checked.insert("get /api/v1/stream".to_owned());
    assert_eq!(described(&document), checked);
    // A schema that accepts everything would make this test useless.
    let validator = jsonschema::validator_for(&schema(&document, "get", "/api/v1/events", "200"));
    assert!(
        !validator
            .unwrap()
            .is_valid(&json!({ "items": [{}], "next": null }))
    );
}
