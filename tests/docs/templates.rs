//! The example templates make bodies that their receivers accept.

use std::collections::BTreeMap;

use project_webhooks::domain::event::{EventId, EventKind};
use project_webhooks::webhook::CallbackContent;
use project_webhooks::webhook::body;
use serde_json::{Value, json};

use crate::{blocks, load};

/// A name with everything that a template could forget to escape.
const HOSTILE: &str = "\"R&D\" <!channel>\\\r\n{{ id }}\u{2028}größe";

fn content(kind: EventKind) -> CallbackContent {
    let occurred_at = "2026-04-24T03:06:40Z".parse().unwrap();
    let mut content = CallbackContent::test(EventId("evt_1".to_owned()), occurred_at);
    content.event = kind.into();
    let parameters = kind.parameters().iter();
    content.parameters = parameters
        .map(|parameter| (*parameter, HOSTILE.to_owned()))
        .collect();
    content
}

/// Checks a body by the format that the vendor publishes.
fn check_schema(example: &str, body: &Value) {
    let schema = match example {
        "slack" => include_str!("schemas/slack.json"),
        "teams" => include_str!("schemas/teams.json"),
        _ => return,
    };
    let schema = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(body)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{example}: {errors:?}");
}

/// The text that the receiver reads from a body. Panics if the body is unexpected.
fn check(example: &str, kind: EventKind, body: &Value) {
    let line = format!("{}: {HOSTILE}/{HOSTILE} by {HOSTILE}", kind.label());
    let keys = |value: &Value| -> Vec<String> {
        let members = value.as_object().unwrap();
        members.keys().cloned().collect()
    };
    match example {
        "slack" => {
            let line = line.replace('&', "&amp;");
            let line = line.replace('<', "&lt;").replace('>', "&gt;");
            assert_eq!(*body, json!({ "text": line }));
        }
        "mattermost" => {
            assert_eq!(
                *body,
                json!({ "username": "project-webhooks", "text": line })
            );
        }
        "teams" => {
            assert_eq!(keys(body), ["type", "attachments"]);
            assert_eq!(body["type"], "message");
            let [attachment] = body["attachments"].as_array().unwrap().as_slice() else {
                panic!("{body}")
            };
            let kind_of_card = "application/vnd.microsoft.card.adaptive";
            assert_eq!(attachment["contentType"], kind_of_card);
            let card = &attachment["content"];
            assert_eq!(card["type"], "AdaptiveCard");
            assert_eq!(card["version"], "1.4");
            assert_eq!(card["body"][0]["type"], "TextBlock");
            assert_eq!(card["body"][0]["text"], kind.label());
            assert_eq!(card["body"][1]["type"], "FactSet");
            let facts = card["body"][1]["facts"].as_array().unwrap();
            let has_version = kind
                .parameters()
                .iter()
                .any(|one| one.as_str() == "versionTag");
            assert_eq!(facts.len(), if has_version { 4 } else { 3 });
            for fact in facts {
                assert_eq!(keys(fact), ["title", "value"]);
                assert_eq!(fact["value"], HOSTILE);
            }
        }
        "pagerduty" => {
            assert_eq!(body["routing_key"].as_str().unwrap().len(), 32);
            assert_eq!(body["event_action"], "trigger");
            assert_eq!(body["dedup_key"], "evt_1");
            let payload = &body["payload"];
            let summary = payload["summary"].as_str().unwrap();
            assert!(summary.starts_with(kind.label()) && summary.chars().count() <= 1024);
            assert_eq!(payload["source"], HOSTILE);
            assert_eq!(payload["severity"], "warning");
            assert_eq!(payload["timestamp"], "2026-04-24T03:06:40Z");
        }
        "github" => {
            assert_eq!(keys(body), ["event_type", "client_payload"]);
            assert_eq!(body["event_type"], kind.as_str());
            let payload = keys(&body["client_payload"]);
            assert!(!payload.is_empty() && payload.len() <= 10);
            assert_eq!(body["client_payload"]["version"], HOSTILE);
        }
        "snake_case" => {
            assert_eq!(body["event"], kind.as_str().replace('-', "_"));
            assert_eq!(body["project_name"], HOSTILE);
            assert_eq!(body["actor"], Value::Null);
            let payload = body["payload"].as_str().unwrap();
            assert!(payload.starts_with("<?xml") && payload.ends_with("/>\n"));
            for key in keys(body) {
                assert_eq!(key, key.to_lowercase());
            }
        }
        other => panic!("nothing checks the example {other}"),
    }
}

#[test]
fn every_example_of_a_template_makes_what_its_receiver_expects() {
    let directory = tempfile::tempdir().unwrap();
    for block in blocks::all() {
        if block.kind() != "template" {
            continue;
        }
        let config = load(&block, directory.path(), &BTreeMap::new());
        let webhook = &config.webhooks[0];
        for kind in &webhook.subscription.events {
            let content = content(*kind);
            let made = body::make(&webhook.format, &content).unwrap();
            assert_eq!(made.content_type, "application/json");
            let value = serde_json::from_slice(&made.bytes.joined())
                .unwrap_or_else(|error| panic!("{}: {kind}: {error}", block.position()));
            check(block.argument(), *kind, &value);
            check_schema(block.argument(), &value);
            // Every attempt sends the same bytes.
            assert_eq!(body::make(&webhook.format, &content).unwrap(), made);
        }
    }
}
