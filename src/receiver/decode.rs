//! Decodes a request into a callback.
//!
//! Constraint: decoding never fails. If a body is malformed, the result describes the problem, and
//! has the parts before the malformed part.

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::received::{Received, Signature};
use crate::config::Format;
use crate::domain::event::Parameter;
use crate::webhook::EventName;
use crate::webhook::body::PAYLOAD;
use crate::webhook::request::{
    WEBHOOK_ATTEMPT, WEBHOOK_EVENT, WEBHOOK_ID, WEBHOOK_ORIGIN, WEBHOOK_SIGNATURE,
    WEBHOOK_SIGNED_HEADERS, WEBHOOK_TIMESTAMP,
};
use crate::webhook::signature::{self, SigningKey};

/// The attributes that CloudEvents defines. Other attributes are decoded as parameters.
const CORE_ATTRIBUTES: [&str; 8] = [
    "id",
    "source",
    "specversion",
    "type",
    "datacontenttype",
    "dataschema",
    "subject",
    "time",
];

/// Decodes a request without checking its signature.
///
/// `target` is the path and the query of the request. `now` is the time when the request was
/// complete.
pub async fn decode(target: &str, headers: &HeaderMap, body: Bytes, now: Timestamp) -> Received {
    let text = |name: &str| headers.get(name).map(lossy).unwrap_or_default();
    let event = text(WEBHOOK_EVENT.as_str());
    let mut received = Received {
        at: now,
        id: text(WEBHOOK_ID.as_str()),
        label: label(&event),
        event,
        attempt: text(WEBHOOK_ATTEMPT.as_str()).parse().ok(),
        origin: text(WEBHOOK_ORIGIN.as_str()),
        timestamp: text(WEBHOOK_TIMESTAMP.as_str())
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok()),
        parameters: Vec::new(),
        payload: Bytes::new(),
        signature: Signature::NotChecked,
        format: None,
        problem: None,
        target: target.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), lossy(value)))
            .collect(),
        body,
    };
    let content_type = text(CONTENT_TYPE.as_str());
    received.format = format(&content_type, headers);
    let body = received.body.clone();
    let problem = match received.format {
        Some(Format::Multipart) => multipart(&content_type, body, &mut received).await,
        Some(Format::Form) => form(&body, &mut received),
        Some(Format::Json) => json(&body, &mut received),
        Some(Format::CloudEvents) => cloudevents(body, &mut received),
        Some(Format::Xml) | None => with_query(body, &mut received),
    };
    received.problem = problem.err();
    received
}

/// Checks the signatures and the time stamp of a request.
pub fn check(received: &Received, keys: &[SigningKey], tolerance: Duration) -> Signature {
    if keys.is_empty() {
        return Signature::NotChecked;
    }
    let Some(signatures) = received.header(WEBHOOK_SIGNATURE.as_str()) else {
        return Signature::Missing;
    };
    let header = |name| received.header(name).unwrap_or_default();
    let (id, timestamp) = (
        header(WEBHOOK_ID.as_str()),
        header(WEBHOOK_TIMESTAMP.as_str()),
    );
    let (body, at) = (&received.body, received.at);
    if let Err(reason) = signature::verify(keys, id, timestamp, body, signatures, at, tolerance) {
        return Signature::Wrong(reason.to_string());
    }
    let Some(signed) = received.header(WEBHOOK_SIGNED_HEADERS.as_str()) else {
        return Signature::Verified;
    };
    let fields = signature::verify_headers(keys, id, timestamp, signed, body);
    let fields = fields.map_err(|reason| reason.to_string());
    match fields.and_then(|fields| compare(fields, received)) {
        Ok(()) => Signature::Verified,
        Err(reason) => Signature::Wrong(reason),
    }
}

/// Compares the signed fields with the headers and the parameters of the request.
///
/// A parameter must not be in the request more often than in the signed fields. This applies only
/// to names in [`Parameter::ALL`], because the configured URL may contain other names.
fn compare(fields: &str, received: &Received) -> Result<(), String> {
    let attempt = received.attempt.map(|attempt| attempt.to_string());
    for (name, signed) in form_urlencoded::parse(fields.as_bytes()) {
        let found = match &*name {
            "event" => Some(received.event.as_str()),
            "attempt" => attempt.as_deref(),
            "origin" => Some(received.origin.as_str()),
            name => received.parameter(name),
        };
        if found != Some(&*signed) {
            return Err(format!("{name} is not the signed value {signed:?}"));
        }
    }
    for name in Parameter::ALL.map(Parameter::as_str) {
        let signed = form_urlencoded::parse(fields.as_bytes()).filter(|(known, _)| known == name);
        let found = received
            .parameters
            .iter()
            .filter(|(known, _)| known == name);
        if found.count() > signed.count() {
            return Err(format!(
                "{name} is in the request more often than in the signed content"
            ));
        }
    }
    Ok(())
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn label(event: &str) -> String {
    EventName::from_name(event).map_or_else(|| event.to_owned(), |known| known.label.to_owned())
}

/// Detects the format from the headers of a request.
fn format(content_type: &str, headers: &HeaderMap) -> Option<Format> {
    if headers.contains_key("ce-specversion") {
        return Some(Format::CloudEvents);
    }
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "multipart/form-data" => Some(Format::Multipart),
        "application/x-www-form-urlencoded" => Some(Format::Form),
        "application/json" => Some(Format::Json),
        "application/xml" | "text/xml" => Some(Format::Xml),
        _ => None,
    }
}

async fn multipart(content_type: &str, body: Bytes, received: &mut Received) -> Result<(), String> {
    let boundary = multer::parse_boundary(content_type).map_err(|error| error.to_string())?;
    let stream = BodyDataStream::new(Full::<Bytes>::new(body));
    let mut parts = multer::Multipart::new(stream, boundary);
    while let Some(part) = parts
        .next_field()
        .await
        .map_err(|error| error.to_string())?
    {
        let name = part.name().unwrap_or_default().to_owned();
        let bytes = part.bytes().await.map_err(|error| error.to_string())?;
        if name == PAYLOAD {
            received.payload = bytes;
        } else {
            let value = String::from_utf8_lossy(&bytes).into_owned();
            received.parameters.push((name, value));
        }
    }
    Ok(())
}

fn form(body: &[u8], received: &mut Received) -> Result<(), String> {
    for pair in body.split(|byte| *byte == b'&') {
        // The payload may have any character encoding, so decode it to bytes, not to text.
        if let Some(value) = pair.strip_prefix(b"payload=") {
            let spaced: Vec<u8> = value
                .iter()
                .map(|byte| if *byte == b'+' { b' ' } else { *byte })
                .collect();
            let decoded: Vec<u8> = percent_encoding::percent_decode(&spaced).collect();
            received.payload = decoded.into();
        } else {
            let pairs = form_urlencoded::parse(pair);
            received.parameters.extend(pairs.into_owned());
        }
    }
    Ok(())
}

fn with_query(body: Bytes, received: &mut Received) -> Result<(), String> {
    let query = received.target.split_once('?').map(|(_, query)| query);
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    received.parameters = pairs.into_owned().collect();
    received.payload = body;
    Ok(())
}

fn cloudevents(body: Bytes, received: &mut Received) -> Result<(), String> {
    received.payload = body;
    for (name, value) in &received.headers {
        let Some(attribute) = name.strip_prefix("ce-") else {
            continue;
        };
        if CORE_ATTRIBUTES.contains(&attribute) {
            continue;
        }
        let name = Parameter::ALL
            .into_iter()
            .map(Parameter::as_str)
            .find(|known| known.eq_ignore_ascii_case(attribute))
            .unwrap_or(attribute);
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        received.parameters.push((name.to_owned(), value));
    }
    Ok(())
}

fn json(body: &[u8], received: &mut Received) -> Result<(), String> {
    let object: Object = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if let Some(event) = object.event.filter(|event| *event != received.event) {
        let header = &received.event;
        return Err(format!(
            "webhook-event is {header:?}, but the body has {event:?}"
        ));
    }
    received.label = object.label;
    for (name, value) in object.parameters {
        let Value::String(value) = value else {
            return Err(format!("the parameter {name} is not a string"));
        };
        received.parameters.push((name, value));
    }
    received.payload = object.payload.into();
    Ok(())
}

/// The members of a JSON body that the receiver uses.
#[derive(Deserialize)]
struct Object {
    event: Option<String>,
    label: String,
    /// The parameters. The feature `preserve_order` of `serde_json` keeps their order.
    parameters: Map<String, Value>,
    payload: String,
}
