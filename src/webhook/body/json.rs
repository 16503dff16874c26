//! Builds `application/json`: an object with the event, the parameters and the XML.

use serde_json::{Map, Value, json};

use super::Body;
use crate::document;
use crate::domain::event::{EventKind, Origin, Parameter};
use crate::webhook::request::{CallbackContent, EventName};

pub(super) fn build(content: &CallbackContent) -> Body {
    let parameters: Map<String, Value> = content
        .parameters
        .iter()
        .map(|(parameter, value)| (parameter.as_str().to_owned(), value.as_str().into()))
        .collect();
    let actor = content.actor.as_ref().map(|actor| json!(actor));
    // `serde_json` keeps the order of the members, because its feature `preserve_order` is enabled.
    let mut object = json!({
        "id": content.id.0,
        "event": content.event.name,
        "label": content.event.label,
        "occurredAt": content.occurred_at.to_string(),
        "origin": content.origin.as_str(),
        "parameters": parameters,
        "payload": document::text(&content.payload),
    });
    if let (Some(actor), Some(members)) = (actor, object.as_object_mut()) {
        members.insert("actor".to_owned(), actor);
    }
    Body::plain("application/json", object.to_string())
}

/// Makes the JSON Schema of the body. It requires the exact parameters of each event.
#[must_use]
pub fn schema() -> Value {
    let mut events: Vec<Value> = EventKind::ALL
        .iter()
        .map(|kind| of_event((*kind).into(), kind.parameters()))
        .collect();
    // The event `test` has every parameter.
    events.push(of_event(EventName::TEST, &Parameter::ALL));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a callback of project-webhooks with format: json",
        "type": "object",
        "properties": {
            "id": {
                "type": "string",
                "pattern": "^[^.]+$",
                "description": "The id of the event, the same in all attempts.",
            },
            "event": { "type": "string", "description": "The name of the event." },
            "label": { "type": "string", "description": "The label of the event." },
            "occurredAt": { "type": "string", "format": "date-time" },
            "origin": { "enum": Origin::ALL.map(Origin::as_str) },
            "parameters": { "type": "object", "additionalProperties": { "type": "string" } },
            "payload": {
                "type": "string",
                "description": "The project.xml that the event is about.",
            },
            "actor": actor(),
        },
        "required": ["id", "event", "label", "occurredAt", "origin", "parameters", "payload"],
        "additionalProperties": false,
        "oneOf": events,
    })
}

fn of_event(event: EventName, parameters: &[Parameter]) -> Value {
    let names: Vec<&str> = parameters.iter().map(|one| one.as_str()).collect();
    let all: Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "type": "string" })))
        .collect();
    json!({ "properties": {
        "event": { "const": event.name },
        "label": { "const": event.label },
        "parameters": { "properties": all, "required": names, "additionalProperties": false },
    } })
}

/// Makes the schema of `actor`, the user who made the change.
fn actor() -> Value {
    json!({
        "type": "object",
        "description": "The user who made the change, according to the kernel's audit records.",
        "properties": {
            "user": { "type": "string" },
            "uid": { "type": "integer", "minimum": 0 },
            "account": { "enum": ["login", "effective"] },
            "program": { "type": "string" },
            "pid": { "type": "integer", "minimum": 0 },
            "key": { "type": "string" },
        },
        "required": ["user", "uid", "account", "program", "pid"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::actor::{Account, Actor};
    use crate::domain::event::EventId;
    use crate::webhook::body;

    /// Whether the schema accepts the body of this content after `change`.
    fn accepts(content: &CallbackContent, change: impl Fn(&mut Value)) -> bool {
        let format = crate::config::Format::Json;
        let bytes = body::build(format, content).bytes.joined();
        let mut value = serde_json::from_slice(&bytes).expect("JSON");
        change(&mut value);
        jsonschema::draft202012::is_valid(&schema(), &value)
    }

    #[test]
    fn the_schema_accepts_every_event_with_exactly_its_parameters() {
        let id = EventId("evt_0123456789abcdef".to_owned());
        let test = CallbackContent::test(id, jiff::Timestamp::UNIX_EPOCH);
        assert!(accepts(&test, |_| {}));
        for kind in EventKind::ALL {
            for account in [None, Some(Account::Login), Some(Account::Effective)] {
                let mut content = test.clone();
                content.event = kind.into();
                let values = kind.parameters().iter();
                content.parameters = values.map(|one| (*one, "x".to_owned())).collect();
                content.actor = account.map(|account| Actor {
                    user: "ada".to_owned(),
                    uid: 1000,
                    account,
                    program: "/usr/bin/cp".to_owned(),
                    pid: 7,
                    key: None,
                });
                assert!(accepts(&content, |_| {}), "{kind:?}");
                let one_more = |value: &mut Value| value["parameters"]["more"] = "x".into();
                assert!(!accepts(&content, one_more), "{kind:?}");
                content.parameters.pop();
                assert!(!accepts(&content, |_| {}), "{kind:?}");
            }
        }
        for (name, value) in [("label", "Test2"), ("event", "unknown"), ("id", "a.b")] {
            assert!(!accepts(&test, |body| body[name] = value.into()), "{name}");
        }
    }
}
