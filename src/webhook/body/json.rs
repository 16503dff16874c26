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
    // The members keep this order, because serde_json's feature `preserve_order` is enabled.
    let object = json!({
        "id": content.id.0,
        "event": content.event.name,
        "label": content.event.label,
        "occurredAt": content.occurred_at.to_string(),
        "origin": content.origin.as_str(),
        "parameters": parameters,
        "payload": document::text(&content.payload),
    });
    Body::plain("application/json", object.to_string())
}
