//! `application/json`.

use serde_json::Value;

use super::text;
use crate::webhook::request::CallbackContent;

/// The object of contract section 4, with its members in that order.
///
/// It is put together from strings that `serde_json` quoted: a map type would sort the members,
/// and printing a string cannot fail.
pub(super) fn encode(content: &CallbackContent) -> String {
    let parameters = content
        .parameters
        .iter()
        .map(|(parameter, value)| format!("{}:{}", quote(parameter.as_str()), quote(value)))
        .collect::<Vec<_>>()
        .join(",");
    format!(
        concat!(
            r#"{{"id":{id},"event":{event},"label":{label},"occurredAt":{occurred_at},"#,
            r#""origin":{origin},"parameters":{{{parameters}}},"payload":{payload}}}"#
        ),
        id = quote(&content.id.0),
        event = quote(content.event.name),
        label = quote(content.event.label),
        occurred_at = quote(content.occurred_at.to_string()),
        origin = quote(content.origin.as_str()),
        parameters = parameters,
        payload = quote(text::of_xml(&content.payload)),
    )
}

/// A JSON string.
fn quote(text: impl Into<String>) -> String {
    Value::String(text.into()).to_string()
}
