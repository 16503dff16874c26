//! Builds `multipart/form-data` (RFC 7578): a field for each parameter, then the XML as a file.

use memchr::memmem;

use super::{Body, BodyBytes, PAYLOAD};
use crate::webhook::request::CallbackContent;

pub(super) fn build(content: &CallbackContent) -> Body {
    let boundary = boundary(content);
    let mut head = String::new();
    let mut put = |text: &str| head.push_str(text);
    for (parameter, value) in &content.parameters {
        put("--");
        put(&boundary);
        put("\r\nContent-Disposition: form-data; name=\"");
        put(parameter.as_str());
        // No Content-Type: browsers and curl send none (HTML standard, "multipart/form-data
        // encoding algorithm"). With this header, some parsers, such as formidable, treat the part
        // as a file.
        put("\"\r\n\r\n");
        put(value);
        put("\r\n");
    }
    put("--");
    put(&boundary);
    put("\r\nContent-Disposition: form-data; name=\"");
    put(PAYLOAD);
    put("\"; filename=\"project.xml\"\r\nContent-Type: application/xml\r\n\r\n");
    let tail = format!("\r\n--{boundary}--\r\n");
    let bytes = BodyBytes::around(head, content.payload.clone(), tail);
    Body::plain(format!("multipart/form-data; boundary={boundary}"), bytes)
}

/// Returns a boundary that does not occur in the content.
///
/// Tries the boundaries of a series that depends only on the event's id.
fn boundary(content: &CallbackContent) -> String {
    let mut number: u32 = 0;
    loop {
        let candidate = candidate(&content.id.0, number);
        let finder = memmem::Finder::new(candidate.as_bytes());
        let occurs = finder.find(&content.payload).is_some()
            || content
                .parameters
                .iter()
                .any(|(_, value)| finder.find(value.as_bytes()).is_some());
        if !occurs {
            return candidate;
        }
        // The loop ends, because a finite content cannot contain all boundaries of the series.
        number = number.wrapping_add(1);
    }
}

/// Returns one boundary of the series for an id.
///
/// Its characters need no quotes in a header. It is shorter than 70 characters, the limit of RFC
/// 2046.
fn candidate(id: &str, number: u32) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"project-webhooks boundary 1");
    hasher.update(&number.to_le_bytes());
    hasher.update(id.as_bytes());
    let hex = hasher.finalize().to_hex();
    format!("project-webhooks-{}", hex.get(..32).unwrap_or_default())
}
