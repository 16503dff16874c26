//! Builds `application/json`: an object with the event, the parameters and the XML.

use serde_json::{Map, Value, json};

use super::Body;
use crate::document;
use crate::webhook::request::CallbackContent;

pub(super) fn build(content: &CallbackContent) -> Body {
    let parameters: Map<String, Value> = content
        .parameters
        .iter()
        .map(|(parameter, value)| (parameter.as_str().to_owned(), value.as_str().into()))
        .collect();
    let actor = content.actor.as_ref().map(|actor| json!(actor));
    // The members keep this order, because serde_json's feature `preserve_order` is enabled.
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
