//! Builds the body of a callback, one file for each format .
//!
//! Constraint: a body depends on its content alone, so that every attempt sends the same bytes. It
//! uses no clock, no random boundary and no unstable order. Untrusted values cannot break out of
//! their part, header or string.

mod cloudevents;
mod form;
mod json;
mod multipart;
mod xml;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::request::CallbackContent;
use crate::config::Format;

/// A body, with its parts outside the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The header `Content-Type`.
    pub content_type: String,
    /// Pairs to append to the URL's query.
    pub query: Vec<(String, String)>,
    /// Headers of the format.
    pub extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// The bytes.
    pub bytes: Bytes,
}

impl Body {
    /// Makes a body that has no part outside but its type.
    fn plain(content_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self {
            content_type: content_type.into(),
            query: Vec::new(),
            extra_headers: Vec::new(),
            bytes: bytes.into(),
        }
    }
}

/// The name of the field with the project.xml.
pub(crate) const PAYLOAD: &str = "payload";

/// Builds the body of this content in this format.
pub fn build(format: Format, content: &CallbackContent) -> Body {
    match format {
        Format::Multipart => multipart::build(content),
        Format::Form => form::build(content),
        Format::Xml => xml::build(content),
        Format::Json => json::build(content),
        Format::CloudEvents => cloudevents::build(content),
    }
}
