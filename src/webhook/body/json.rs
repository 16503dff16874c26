//! `application/json`: the object of contract section 4.

use serde_json::{Map, Value, json};

use super::Body;
use crate::document;
use crate::webhook::request::CallbackContent;

pub(super) fn build(content: &CallbackContent) -> Body {
    let parameters: Map<String, Value> = content
        .parameters
        .iter()
        .map(|(parameter, value)| (parameter.as_str().to_owned(), value.as_str().into()))
        .collect();
    // The members keep this order: serde_json has the feature `preserve_order`.
    let object = json!({
        "id": content.id.0,
        "event": content.event.name,
        "label": content.event.label,
        "occurredAt": content.occurred_at.to_string(),
        "origin": content.origin.as_str(),
        "parameters": parameters,
        "payload": document::lossy_text(&content.payload),
    });
    Body::plain("application/json", object.to_string())
}

#[cfg(test)]
mod tests {
    use crate::document::lossy_text as text;

    fn utf16(text: &str, encode: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(encode).collect()
    }

    #[test]
    fn other_encodings_are_decoded() {
        let document = "<?xml version='1.0' encoding='UTF-16'?><schema name=\"Übersicht 😀\"/>";
        let big = utf16(document, u16::to_be_bytes);
        let little = utf16(document, u16::to_le_bytes);
        assert_eq!(text(&big), document);
        assert_eq!(text(&little), document);
        assert_eq!(text(&[&[0xFE, 0xFF][..], &big].concat()), document);
        assert_eq!(text(&[&[0xFF, 0xFE][..], &little].concat()), document);
        assert_eq!(
            text(b"<?xml version=\"1.0\" encoding = \"ISO-8859-1\"?><schema name=\"\xDC\"/>"),
            "<?xml version=\"1.0\" encoding = \"ISO-8859-1\"?><schema name=\"Ü\"/>"
        );
    }

    #[test]
    fn utf_8_keeps_its_bytes() {
        for document in [
            "\u{feff}<schema/>",
            "<?xml version=\"1.0\"?><schema name=\"Ü\"/>",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><schema/>",
            "<?xml version=\"1.0\" encoding=\"UTF-16\"?><schema name=\"Ü\"/>",
            "<?xml version=\"1.0\" encoding=\"no such\"?><schema name=\"Ü\"/>",
            "<?xml encoding=",
            "<?xml encoding=\"?>",
            "",
        ] {
            assert_eq!(text(document.as_bytes()).as_bytes(), document.as_bytes());
        }
    }

    #[test]
    fn illegible_bytes_are_replaced() {
        assert_eq!(
            text(b"<schema name=\"\xFF\"/>"),
            "<schema name=\"\u{fffd}\"/>"
        );
    }
}
