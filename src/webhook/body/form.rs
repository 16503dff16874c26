//! Builds `application/x-www-form-urlencoded`: the parameters, then the XML.
//!
//! The bytes of the XML are percent-encoded. Their character encoding is not changed.

use form_urlencoded::byte_serialize;

use super::{Body, PAYLOAD};
use crate::webhook::request::CallbackContent;

pub(super) fn build(content: &CallbackContent) -> Body {
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
