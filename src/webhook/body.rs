//! Builds the body of a callback. Each format has a file.
//!
//! Constraint: a body depends only on its content, so that every attempt sends the same bytes. It
//! uses no clock, no random boundary and no unstable order. Untrusted values are escaped, so they
//! cannot add a part, a header or a field.

mod cloudevents;
mod form;
mod json;
mod multipart;
mod xml;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::request::CallbackContent;
use crate::config::Format;

/// The body of a request, with the headers and the query that belong to its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The value of the header `Content-Type`.
    pub content_type: String,
    /// Names and values to append to the query of the URL.
    pub query: Vec<(String, String)>,
    /// Additional headers of the format.
    pub extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// The bytes of the body.
    pub bytes: Bytes,
}

impl Body {
    /// Makes a body without a query and additional headers.
    fn plain(content_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
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
