//! The five forms of a body (contract section 4).
//!
//! Constraint: a body is a function of its content alone, so that every attempt sends the same
//! bytes: no clock, no random boundary, no order that may change. Only values come from outside;
//! the names of fields and headers are the program's own, and no value can end a part, a header
//! or a string.

mod cloudevents;
mod json;
mod multipart;
pub(crate) mod text;

use bytes::Bytes;
use form_urlencoded::byte_serialize;
use http::{HeaderName, HeaderValue};

use super::request::CallbackContent;
use crate::config::Format;

/// A body, and what must go with it outside the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The header `Content-Type`.
    pub content_type: String,
    /// Pairs to append to the URL's query.
    pub query: Vec<(String, String)>,
    /// Headers that belong to the format.
    pub extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// The bytes.
    pub bytes: Bytes,
}

impl Body {
    /// A body that needs nothing but its type.
    fn plain(content_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self {
            content_type: content_type.into(),
            query: Vec::new(),
            extra_headers: Vec::new(),
            bytes: bytes.into(),
        }
    }
}

/// The name of the field that carries the project.xml.
pub const PAYLOAD: &str = "payload";

/// The body of this content in this format.
pub fn build(format: Format, content: &CallbackContent) -> Body {
    match format {
        Format::Multipart => multipart::build(content),
        Format::Form => form(content),
        Format::Xml => xml(content),
        Format::Json => Body::plain("application/json", json::encode(content)),
        Format::CloudEvents => cloudevents::build(content),
    }
}

/// The parameters and then the XML, whose bytes are percent-encoded as they are, whatever
/// encoding the document is in.
fn form(content: &CallbackContent) -> Body {
    let mut text = String::with_capacity(content.payload.len().saturating_mul(2));
    for (parameter, value) in &content.parameters {
        text.push_str(parameter.as_str());
        text.push('=');
        text.extend(byte_serialize(value.as_bytes()));
        text.push('&');
    }
    text.push_str(PAYLOAD);
    text.push('=');
    text.extend(byte_serialize(&content.payload));
    Body::plain("application/x-www-form-urlencoded", text)
}

/// The XML itself, with the parameters in the query.
fn xml(content: &CallbackContent) -> Body {
    Body {
        query: content
            .parameters
            .iter()
            .map(|(parameter, value)| (parameter.as_str().to_owned(), value.clone()))
            .collect(),
        ..Body::plain("application/xml", content.payload.clone())
    }
}

#[cfg(test)]
mod tests;
