//! Spans in the JSON of OTLP, the protocol of OpenTelemetry.
//!
//! [The specification](https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding) fixes the names,
//! and that ids are hexadecimal and times are decimal strings.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Attribute, Span};

/// The kind of a span inside the program.
const INTERNAL: u8 = 1;
/// The kind of a request.
const CLIENT: u8 = 3;
/// The status of a failed span.
const ERROR: u8 = 2;

/// The body of a request with these spans.
pub(super) fn request(spans: &[Span]) -> Value {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let resource = [text("service.name", name), text("service.version", version)];
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": name, "version": version}, "spans": spans}],
    }]})
}

fn span(span: &Span) -> Value {
    let attributes: Vec<Value> = span
        .attributes
        .iter()
        .map(|(key, value)| match value {
            Attribute::Text(text) => json!({"key": key, "value": {"stringValue": text}}),
            // JSON of OTLP has 64-bit numbers as strings.
            Attribute::Number(n) => json!({"key": key, "value": {"intValue": n.to_string()}}),
        })
        .collect();
    let mut object = json!({
        "traceId": span.trace,
        "spanId": span.id,
        "name": span.name,
        "kind": if span.is_request { CLIENT } else { INTERNAL },
        "startTimeUnixNano": nanoseconds(span.start),
        "endTimeUnixNano": nanoseconds(span.end.max(span.start)),
        "attributes": attributes,
    });
    if let Some(members) = object.as_object_mut() {
        if let Some(parent) = &span.parent {
            members.insert("parentSpanId".to_owned(), json!(parent));
        }
        if let Some(error) = &span.error {
            let status = json!({"code": ERROR, "message": error});
            members.insert("status".to_owned(), status);
        }
    }
    object
}

fn nanoseconds(at: Timestamp) -> String {
    at.as_nanosecond().max(0).to_string()
}
