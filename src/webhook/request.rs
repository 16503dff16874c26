//! Builds the request of a callback: its URL, headers and body.
//!
//! Constraint: the module is pure. The time and the number of the attempt are arguments. The body
//! depends on neither, so all attempts with the same settings send the same body.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use super::body::{self, BodyBytes};
use super::signature::{self, SigningKey};
use crate::config::{self, BodyFormat};
use crate::domain::actor::Actor;
use crate::domain::event::{Event, EventId, EventKind, Origin, Parameter};
use crate::domain::project::ProjectKey;

/// The header with the id of the event.
pub(crate) const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// The header with the time of the attempt, in Unix seconds.
pub(crate) const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header with the name of the event in kebab case.
pub(crate) const WEBHOOK_EVENT: HeaderName = HeaderName::from_static("webhook-event");
/// The header with the number of the attempt, from 1.
pub(crate) const WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");
/// The header with the origin of the delivery.
pub(crate) const WEBHOOK_ORIGIN: HeaderName = HeaderName::from_static("webhook-origin");
/// The header with the signatures.
pub(crate) const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// The header with the signed event, attempt, origin and parameters.
///
/// It also has the signatures over these fields and the body.
pub(crate) const WEBHOOK_SIGNED_HEADERS: HeaderName =
    HeaderName::from_static("webhook-signed-headers");

/// The header of W3C Trace Context, which lets a receiver continue a trace.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The value of the header User-Agent.
pub const AGENT: &str = concat!("project-webhooks/", env!("CARGO_PKG_VERSION"));

/// The characters to percent-encode in a header value.
///
/// The CloudEvents HTTP binding (section 3.1.3.2) defines them: the space, the double quote, the
/// percent sign, and everything except printable ASCII.
const HEADER_ESCAPES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The name of an event in a request.
///
/// This is not an [`EventKind`], because a request may also have the event `test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventName {
    /// The name in kebab case, as in the header `webhook-event`.
    pub name: &'static str,
    /// The label, such as `Project Publish`.
    pub label: &'static str,
}

impl EventName {
    /// The event that `webhooks test` sends by default.
    pub(crate) const TEST: EventName = EventName {
        name: "test",
        label: "Test",
    };

    /// Returns the event with this name: a kind of event, or `test`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
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

/// The content of a request body. It is the same in all attempts of all deliveries of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackContent {
    /// The id of the event.
    pub id: EventId,
    /// The name of the event.
    pub event: EventName,
    /// The project of the event.
    pub key: ProjectKey,
    /// The time of the event.
    pub occurred_at: Timestamp,
    /// The origin when the event was recorded. A redelivery does not change it.
    pub origin: Origin,
    /// The parameters, in the documented order.
    pub parameters: Vec<(Parameter, String)>,
    /// The user who made the change, if the kernel recorded it.
    pub actor: Option<Actor>,
    /// The bytes of the project.xml.
    pub payload: Bytes,
}

impl CallbackContent {
    /// Makes the content of a recorded event and its payload.
    pub(crate) fn of(event: Event, payload: Bytes) -> Self {
        Self {
            id: event.id,
            event: event.kind.into(),
            key: event.key,
            occurred_at: event.occurred_at,
            origin: event.origin,
            parameters: event.parameters,
            actor: event.explanation.actor,
            payload,
        }
    }

    /// Makes a `test` event. It has every parameter, so that a receiver can test all of them.
    pub fn test(id: EventId, occurred_at: Timestamp) -> Self {
        const PAYLOAD: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <schema xmlns=\"http://www.atscale.com/xsd/project_2_0\" name=\"Test\" version=\"2.0\"/>\n";
        let parameters = Parameter::ALL.map(|parameter| {
            let value = match parameter {
                Parameter::ProjectName => "Test",
                Parameter::ProjectId => "00000000-0000-0000-0000-000000000000",
                _ => "test",
            };
            (parameter, value.to_owned())
        });
        Self {
            id,
            event: EventName::TEST,
            key: ProjectKey::new("test", "test"),
            occurred_at,
            origin: Origin::Test,
            parameters: parameters.into(),
            actor: None,
            payload: Bytes::from_static(PAYLOAD),
        }
    }

    /// Makes a sample of an event of this kind.
    ///
    /// It has the parameters of the kind, with the values of a `test` event.
    pub fn sample(kind: EventKind, id: EventId, occurred_at: Timestamp) -> Self {
        let test = Self::test(id, occurred_at);
        let parameters = test.parameters.into_iter();
        Self {
            event: kind.into(),
            parameters: parameters
                .filter(|(parameter, _)| kind.parameters().contains(parameter))
                .collect(),
            ..test
        }
    }
}

/// One callback: the content of an event, in one attempt of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The content of the body.
    pub content: CallbackContent,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The origin of the delivery, for the header `webhook-origin`.
    pub origin: Origin,
    /// The value of the header `traceparent`. `None` without a trace.
    pub traceparent: Option<String>,
}

/// A request that is ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The URL. In the format `xml`, its query has the parameters.
    pub url: Url,
    /// The headers. [`build`] does not set `Authorization`.
    ///
    /// The HTTP client also adds the headers of the connection.
    pub headers: HeaderMap,
    /// The bytes of the body.
    pub body: BodyBytes,
}

/// The settings of a webhook that determine its requests.
#[derive(Clone, Debug)]
pub struct RequestSettings {
    /// The URL of the receiver.
    pub url: Url,
    /// The format of the body, or its template.
    pub format: BodyFormat,
    /// The configured headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The signing keys.
    pub keys: Vec<SigningKey>,
    /// Whether to add the header `webhook-signed-headers`.
    ///
    /// Its signatures also cover the event, attempt, origin and parameters.
    pub signed_headers: bool,
}

/// Builds the request for `callback` at the time `now`.
///
/// Configured headers never replace a header that the daemon sets, except `traceparent`.
///
/// # Errors
///
/// The template of the body fails.
pub fn build(
    settings: &RequestSettings,
    callback: &Callback,
    now: Timestamp,
) -> Result<Request, String> {
    let RequestSettings {
        url,
        format,
        headers: configured,
        keys,
        signed_headers,
    } = settings;
    let content = &callback.content;
    let body = body::make(format, content)?;
    let id = header_text(&content.id.0);
    let timestamp = now.as_second();

    // Reserve room for twelve headers of the daemon, the headers of the format, and the configured
    // headers. Growing the map later would hash all headers again.
    let mut headers = HeaderMap::with_capacity(12 + body.extra_headers.len() + configured.len());
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
    if let Some(signatures) = signature::sign(keys, &id, timestamp, &body.bytes.parts()) {
        headers.insert(WEBHOOK_SIGNATURE, header_value(&signatures));
    }
    if *signed_headers {
        let fields = signed_fields(callback);
        if let Some(text) =
            signature::sign_headers(keys, &id, timestamp, &fields, &body.bytes.parts())
        {
            headers.insert(WEBHOOK_SIGNED_HEADERS, header_value(&text));
        }
    }
    let is_configured = || configured.iter().any(|(name, _)| *name == TRACEPARENT);
    if let Some(parent) = callback.traceparent.as_deref().filter(|_| !is_configured()) {
        headers.insert(TRACEPARENT, header_value(parent));
    }
    headers.extend(body.extra_headers);
    for (name, value) in configured {
        if !config::is_reserved(name) {
            headers.append(name.clone(), value.clone());
        }
    }

    let mut url = url.clone();
    if !body.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&body.query);
    }
    Ok(Request {
        url,
        headers,
        body: body.bytes,
    })
}

/// Formats the event, attempt, origin and parameters for the signed header.
///
/// The format `application/x-www-form-urlencoded` uses only ASCII letters, digits and `*-._+%&=`.
/// So the header arrives exactly as it was signed.
fn signed_fields(callback: &Callback) -> String {
    let content = &callback.content;
    let mut fields = form_urlencoded::Serializer::new(String::new());
    fields
        .append_pair("event", content.event.name)
        .append_pair("attempt", &callback.attempt.to_string())
        .append_pair("origin", callback.origin.as_str());
    for (parameter, value) in &content.parameters {
        fields.append_pair(parameter.as_str(), value);
    }
    fields.finish()
}

/// The maximum length of a URL or of a header value with parameters, in bytes.
///
/// RFC 9110 recommends that every receiver accepts URLs of this length. Most receivers limit a
/// header to 8 KiB.
pub const LENGTH_MAX: usize = 8_000;

/// Checks that the URL and the headers with parameters are not too long for receivers.
///
/// # Errors
///
/// The message says what is too long and what to do.
pub(super) fn check_lengths(request: &Request) -> Result<(), String> {
    let advice = "set a format that sends the parameters in the body, such as multipart, and reload; \
                  or shorten the names in the project, which helps later events only";
    let length = request.url.as_str().len();
    if length > LENGTH_MAX {
        return Err(format!(
            "not sent: the parameters make the URL {length} bytes long, but receivers accept at \
             most {LENGTH_MAX}; {advice}"
        ));
    }
    let is_format =
        |name: &HeaderName| name == WEBHOOK_SIGNED_HEADERS || name.as_str().starts_with("ce-");
    let mut headers = request.headers.iter();
    match headers.find(|(name, value)| is_format(name) && value.len() > LENGTH_MAX) {
        Some((name, value)) if name == WEBHOOK_SIGNED_HEADERS => Err(format!(
            "not sent: the header {name} is {} bytes long, but receivers accept at most {LENGTH_MAX}; \
             remove `signed_headers: true` and reload; or shorten the names in the project, which helps \
             later events only",
            value.len()
        )),
        Some((name, value)) => Err(format!(
            "not sent: the header {name} is {} bytes long, but receivers accept at most {LENGTH_MAX}; {advice}",
            value.len()
        )),
        None => Ok(()),
    }
}

/// Percent-encodes a text for a header value; see [`HEADER_ESCAPES`].
pub fn header_text(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, HEADER_ESCAPES).into()
}

/// Makes a header value from ASCII text without control characters.
///
/// Callers pass no other text. Any other text would become an empty value, not a second header.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
