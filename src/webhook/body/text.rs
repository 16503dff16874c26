//! The text of an XML document, for the one format that cannot carry bytes.
//!
//! JSON holds text, so a document in another encoding than UTF-8 has to be decoded. The encoding
//! is found as XML 1.0, appendix F, says: a byte order mark, then the pattern of the first bytes,
//! then the declaration, else UTF-8. The text of a UTF-8 document, its byte order mark included,
//! gives the same bytes again when it is encoded as UTF-8. The text of any other loses its byte
//! order mark and keeps its declaration, which then names the encoding that the file was in, not
//! that of the text; XML parsers that are given text do not look at it. Bytes that the encoding
//! does not know become U+FFFD.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// The text of a document.
pub(crate) fn of_xml(bytes: &[u8]) -> Cow<'_, str> {
    let (encoding, rest) = match bytes {
        [0xFE, 0xFF, rest @ ..] => (UTF_16BE, rest),
        [0xFF, 0xFE, rest @ ..] => (UTF_16LE, rest),
        [0xEF, 0xBB, 0xBF, ..] => (UTF_8, bytes),
        [0x00, b'<', ..] => (UTF_16BE, bytes),
        [b'<', 0x00, ..] => (UTF_16LE, bytes),
        _ => (declared(bytes).unwrap_or(UTF_8), bytes),
    };
    if encoding == UTF_8 {
        return String::from_utf8_lossy(rest);
    }
    encoding.decode_without_bom_handling(rest).0
}

/// The encoding that the XML declaration names.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let declaration = bytes.strip_prefix(b"<?xml")?;
    let end = declaration
        .windows(2)
        .take(512)
        .position(|pair| pair == b"?>")?;
    let declaration = std::str::from_utf8(declaration.get(..end)?).ok()?;
    let (_, value) = declaration.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let label = value.get(1..)?.split(quote).next()?;
    // A document that is readable byte by byte up to here is not in UTF-16, whatever it says.
    Encoding::for_label(label.as_bytes())
        .filter(|encoding| *encoding != UTF_16BE && *encoding != UTF_16LE)
        .filter(|encoding| *encoding != encoding_rs::REPLACEMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, encode: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(encode).collect()
    }

    #[test]
    fn the_encoding_is_found() {
        let text = "<?xml version='1.0' encoding='UTF-16'?><schema name=\"Übersicht 😀\"/>";
        let big = utf16(text, u16::to_be_bytes);
        let little = utf16(text, u16::to_le_bytes);
        assert_eq!(of_xml(&big), text);
        assert_eq!(of_xml(&little), text);
        assert_eq!(of_xml(&[&[0xFE, 0xFF][..], &big].concat()), text);
        assert_eq!(of_xml(&[&[0xFF, 0xFE][..], &little].concat()), text);
        assert_eq!(
            of_xml(b"<?xml version=\"1.0\" encoding = \"ISO-8859-1\"?><schema name=\"\xDC\"/>"),
            "<?xml version=\"1.0\" encoding = \"ISO-8859-1\"?><schema name=\"Ü\"/>"
        );
    }

    #[test]
    fn utf_8_keeps_its_bytes() {
        for text in [
            "\u{feff}<schema/>",
            "<?xml version=\"1.0\"?><schema name=\"Ü\"/>",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><schema/>",
            "<?xml version=\"1.0\" encoding=\"UTF-16\"?><schema name=\"Ü\"/>",
            "<?xml version=\"1.0\" encoding=\"no such\"?><schema name=\"Ü\"/>",
            "<?xml encoding=",
            "<?xml encoding=\"?>",
            "",
        ] {
            assert_eq!(of_xml(text.as_bytes()).as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn what_is_in_no_encoding_is_replaced() {
        assert_eq!(
            of_xml(b"<schema name=\"\xFF\"/>"),
            "<schema name=\"\u{fffd}\"/>"
        );
        assert_eq!(of_xml(&[0xFE, 0xFF, 0xD8]), "\u{fffd}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _text = of_xml(&bytes);
            let _text = of_xml(&[b"<?xml encoding=".as_slice(), &bytes].concat());
        }
    }
}
