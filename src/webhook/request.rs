//! What is sent: a callback, its URL and its headers (contract section 4).
//!
//! Constraint: pure. The clock's reading and the attempt's number are arguments, and the body
//! depends on neither, so that every attempt signs and sends the same bytes.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use super::body;
use super::signature::{self, SigningKey};
use crate::config::Format;
use crate::domain::event::{Event, EventId, EventKind, Origin, Parameter};
use crate::domain::project::ProjectKey;

/// The event's id.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Unix seconds of the attempt.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The event's name in kebab case.
pub const WEBHOOK_EVENT: HeaderName = HeaderName::from_static("webhook-event");
/// The attempt's number, from 1.
pub const WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");
/// How this delivery came about.
pub const WEBHOOK_ORIGIN: HeaderName = HeaderName::from_static("webhook-origin");
/// The signatures.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What the program calls itself in requests.
pub const AGENT: &str = concat!("project-webhooks/", env!("CARGO_PKG_VERSION"));

/// The characters that a header value cannot hold as they are. It is the set of the CloudEvents
/// HTTP binding (section 3.1.3.2): everything but printable ASCII, and the space, the double
/// quote and the percent sign.
const HEADER_ESCAPES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The name of an event on the wire.
///
/// It is a name and a label rather than an [`EventKind`], since the `test` event is none of the
/// seven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventName {
    /// The kebab-case name, as in the header `webhook-event`.
    pub name: &'static str,
    /// The label that people know it by.
    pub label: &'static str,
}

impl EventName {
    /// The event that an operator sends to try a webhook.
    pub const TEST: EventName = EventName {
        name: "test",
        label: "Test",
    };

    /// The event of this name, one of the seven or `test`.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == Self::TEST.name {
            return Some(Self::TEST);
        }
        EventKind::from_name(name).map(Self::from)
    }
}

impl From<EventKind> for EventName {
    fn from(kind: EventKind) -> Self {
        Self {
            name: kind.as_str(),
            label: kind.label(),
        }
    }
}

/// What the body says. It is the same for every attempt and every delivery of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackContent {
    /// The event's id.
    pub id: EventId,
    /// What happened.
    pub event: EventName,
    /// Where.
    pub key: ProjectKey,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// How the event came about, frozen when it was recorded; a redelivery does not change it.
    pub origin: Origin,
    /// The parameters in their order.
    pub parameters: Vec<(Parameter, String)>,
    /// The bytes of the project.xml that the event is about.
    pub payload: Bytes,
}

impl CallbackContent {
    /// What a recorded event and its payload say.
    pub fn of(event: &Event, payload: Bytes) -> Self {
        Self {
            id: event.id.clone(),
            event: event.kind.into(),
            key: event.key.clone(),
            occurred_at: event.occurred_at,
            origin: event.origin,
            parameters: event.parameters.clone(),
            payload,
        }
    }

    /// A `test` event. It has every parameter, so that a receiver can try all of its fields.
    pub fn test(id: EventId, occurred_at: Timestamp) -> Self {
        const PAYLOAD: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <schema xmlns=\"http://www.atscale.com/xsd/project_2_0\" name=\"Test\" version=\"2.0\"/>\n";
        let parameters = [
            (Parameter::Username, "test"),
            (Parameter::ProjectName, "Test"),
            (Parameter::OrganizationName, "test"),
            (Parameter::OrganizationId, "test"),
            (Parameter::VersionTag, "test"),
            (Parameter::ProjectId, "00000000-0000-0000-0000-000000000000"),
        ];
        Self {
            id,
            event: EventName::TEST,
            key: ProjectKey::new("test", "test"),
            occurred_at,
            origin: Origin::Test,
            parameters: parameters
                .into_iter()
                .map(|(parameter, value)| (parameter, value.to_owned()))
                .collect(),
            payload: Bytes::from_static(PAYLOAD),
        }
    }
}

/// One attempt to tell one webhook of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// What the body says.
    pub content: CallbackContent,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// How this delivery came about; the header says it, the body does not.
    pub origin: Origin,
}

/// A request that is ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where it goes, with the parameters in the query where the format puts them there.
    pub url: Url,
    /// All headers but those of the connection itself.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Whether a header of this name cannot be configured, because it is the program's own or belongs
/// to the connection.
pub fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [HeaderName; 15] = [
        WEBHOOK_ID,
        WEBHOOK_TIMESTAMP,
        WEBHOOK_EVENT,
        WEBHOOK_ATTEMPT,
        WEBHOOK_ORIGIN,
        WEBHOOK_SIGNATURE,
        USER_AGENT,
        CONTENT_TYPE,
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        CONNECTION,
        EXPECT,
        TE,
        TRAILER,
        UPGRADE,
    ];
    RESERVED.contains(name) || name.as_str().starts_with("ce-")
}

/// The request that tells of `callback` at `now`.
///
/// Configured headers come last, and never replace one of the program's own.
pub fn build(
    url: &Url,
    format: Format,
    configured: &[(HeaderName, HeaderValue)],
    keys: &[SigningKey],
    callback: &Callback,
    now: Timestamp,
) -> Request {
    let content = &callback.content;
    let body = body::build(format, content);
    let id = header_text(&content.id.0);
    let timestamp = now.as_second();

    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, header_value(&body.content_type));
    headers.insert(WEBHOOK_ID, header_value(&id));
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(WEBHOOK_EVENT, HeaderValue::from_static(content.event.name));
    headers.insert(WEBHOOK_ATTEMPT, HeaderValue::from(callback.attempt));
    headers.insert(
        WEBHOOK_ORIGIN,
        HeaderValue::from_static(callback.origin.as_str()),
    );
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(signatures) = signature::sign(keys, &id, timestamp, &body.bytes) {
        headers.insert(WEBHOOK_SIGNATURE, header_value(&signatures));
    }
    for (name, value) in body.extra_headers {
        headers.insert(name, value);
    }
    for (name, value) in configured {
        if !is_reserved(name) {
            headers.append(name.clone(), value.clone());
        }
    }

    let mut url = url.clone();
    if !body.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&body.query);
    }
    Request {
        url,
        headers,
        body: body.bytes,
    }
}

/// Text as a header can hold it: what is not printable ASCII is percent-encoded as UTF-8, and so
/// is the percent sign.
pub fn header_text(text: &str) -> String {
    utf8_percent_encode(text, HEADER_ESCAPES).to_string()
}

/// The header value of ASCII text without control characters. Other text never reaches it; it
/// would become an empty value rather than a second header.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
