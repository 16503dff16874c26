//! Builds the body of a callback. Each format has a file.
//!
//! Constraint: every attempt sends the same bytes, unless the settings change. So a body depends
//! only on its content and format, and uses no clock, no random boundary and no unstable order. An
//! untrusted value cannot add a part, a header or a field.

mod cloudevents;
mod form;
mod json;
mod multipart;
mod parts;
mod xml;

pub use json::schema as json_schema;
pub use parts::BodyBytes;

use http::{HeaderName, HeaderValue};

use super::request::CallbackContent;
use crate::config::{BodyFormat, Format};
use crate::document;
use crate::template::{Template, Variables};

/// The body of a request, with the headers and the query that belong to its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The value of the header `Content-Type`.
    pub content_type: String,
    /// The names and values to append to the query of the URL.
    pub query: Vec<(String, String)>,
    /// Additional headers of the format.
    pub extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// The bytes of the body.
    pub bytes: BodyBytes,
}

impl Body {
    /// Makes a body without a query or additional headers.
    fn plain(content_type: impl Into<String>, bytes: impl Into<BodyBytes>) -> Self {
        Self {
            content_type: content_type.into(),
            query: Vec::new(),
            extra_headers: Vec::new(),
            bytes: bytes.into(),
        }
    }
}

/// The name of the form field that contains the project.xml.
pub(crate) const PAYLOAD: &str = "payload";

/// Makes the body for this content, in a fixed format or from a template.
///
/// # Errors
///
/// The template exceeds a limit or fails.
pub fn make(format: &BodyFormat, content: &CallbackContent) -> Result<Body, String> {
    match format {
        BodyFormat::Fixed(format) => Ok(build(*format, content)),
        BodyFormat::Template(template) => rendered(template, content),
    }
}

fn rendered(template: &Template, content: &CallbackContent) -> Result<Body, String> {
    let payload = document::text(&content.payload);
    let variables = Variables {
        event: content.event.name,
        label: content.event.label,
        id: &content.id.0,
        occurred_at: content.occurred_at,
        origin: content.origin.as_str(),
        parameters: &content.parameters,
        payload: &payload,
        actor: content.actor.as_ref(),
    };
    match template.render(&variables) {
        Ok(bytes) => Ok(Body::plain(template.content_type(), bytes)),
        Err(error) => Err(format!(
            "not sent: {error}; correct template.body and reload"
        )),
    }
}

/// Builds the body for this content in this format.
pub fn build(format: Format, content: &CallbackContent) -> Body {
    match format {
        Format::Multipart => multipart::build(content),
        Format::Form => form::build(content),
        Format::Xml => xml::build(content),
        Format::Json => json::build(content),
        Format::CloudEvents => cloudevents::build(content),
    }
}
