//! Decodes the bytes of a document.
//!
//! Constraint: a file is invalid if its first bytes and its declaration indicate different
//! encodings. UTF-8 is used without a copy.
//!
//! The first bytes show whether the text is UTF-16 or a superset of ASCII, with or without a byte
//! order mark (XML 1.0, appendix F). A superset of ASCII is UTF-8, unless the declaration names an
//! encoding with one byte for each character.

use std::borrow::Cow;

use encoding_rs::{DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

use quick_xml::Reader;
use quick_xml::events::Event;

use super::tag::{is_encoding_name, offset_in};
use super::{Fault, shown};

/// The family of encodings that the first bytes of a document indicate.
enum Family {
    /// UTF-16 in this byte order, after a byte order mark of this length (0 or 2).
    Utf16(&'static Encoding, usize),
    /// UTF-8 with a byte order mark, which has three bytes.
    MarkedUtf8,
    /// A superset of ASCII.
    Ascii,
    Utf32,
    /// There are too few bytes to decide.
    Cut,
}

fn family(bytes: &[u8]) -> Family {
    match bytes {
        [0xFF, 0xFE, 0, 0, ..]
        | [0, 0, 0xFE, 0xFF, ..]
        | [b'<', 0, 0, 0, ..]
        | [0, 0, 0, b'<', ..] => Family::Utf32,
        [0xFF, 0xFE, ..] => Family::Utf16(UTF_16LE, 2),
        [0xFE, 0xFF, ..] => Family::Utf16(UTF_16BE, 2),
        [0xEF, 0xBB, 0xBF, ..] => Family::MarkedUtf8,
        // A document begins with `<` or white space, and contains no NUL.
        [b'<' | b' ' | b'\t' | b'\r' | b'\n', 0, ..] => Family::Utf16(UTF_16LE, 0),
        [0, b'<' | b' ' | b'\t' | b'\r' | b'\n', ..] => Family::Utf16(UTF_16BE, 0),
        [0xFF | 0xFE | 0] => Family::Cut,
        _ => Family::Ascii,
    }
}

/// Decodes bytes to text, without a byte order mark.
///
/// If there is a fault, the text contains at least everything before the fault.
pub(super) fn decode(bytes: &[u8]) -> (Cow<'_, str>, Option<Fault>) {
    match family(bytes) {
        Family::Cut => (
            Cow::Borrowed(""),
            Some(Fault::at(0, "the file ends inside its first character")),
        ),
        Family::Utf32 => (Cow::Borrowed(""), Some(Fault::at(0, unsupported("UTF-32")))),
        Family::Utf16(encoding, mark) => {
            let (text, fault) = transcode(encoding, bytes.get(mark..).unwrap_or_default());
            let lie = declared(&text).and_then(|(at, name)| {
                let agrees = ["UTF-16", encoding.name()]
                    .iter()
                    .any(|label| label.eq_ignore_ascii_case(name));
                (!agrees).then(|| contradiction(at, name, encoding.name()))
            });
            (Cow::Owned(text), lie.or(fault))
        }
        Family::MarkedUtf8 => {
            let (text, fault) = utf8(bytes.get(3..).unwrap_or_default());
            let lie = declared(text)
                .filter(|(_, name)| !is_utf8(name))
                .map(|(at, name)| contradiction(at, name, "UTF-8 with a byte order mark"));
            (Cow::Borrowed(text), lie.or(fault))
        }
        Family::Ascii => ascii_superset(bytes),
    }
}

/// Decodes a superset of ASCII, whose declaration can be read as ASCII.
fn ascii_superset(bytes: &[u8]) -> (Cow<'_, str>, Option<Fault>) {
    let (text, fault) = utf8(bytes);
    let Some((at, name)) = declared(text) else {
        return (Cow::Borrowed(text), fault);
    };
    if is_utf8(name) {
        return (Cow::Borrowed(text), fault);
    }
    if name.eq_ignore_ascii_case("US-ASCII") || name.eq_ignore_ascii_case("ASCII") {
        let first = text.bytes().position(|byte| !byte.is_ascii());
        let at = first.or(fault.map(|fault| fault.at));
        let fault = at.map(|at| {
            Fault::at(
                at,
                format!(
                    "this byte is not valid in the declared encoding {}",
                    shown(name)
                ),
            )
        });
        return (Cow::Borrowed(text), fault);
    }
    match Encoding::for_label(name.as_bytes()) {
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => {
            let fault = contradiction(at, name, "another encoding, such as UTF-8");
            (Cow::Borrowed(text), Some(fault))
        }
        // Like browsers, encoding_rs reads Latin-1 as windows-1252. XML does not, so Latin-1 is
        // decoded here.
        Some(encoding) if encoding == WINDOWS_1252 && !is_windows_1252(name) => {
            (encoding_rs::mem::decode_latin1(bytes), None)
        }
        Some(encoding) if encoding.is_single_byte() => {
            let (text, fault) = transcode(encoding, bytes);
            (Cow::Owned(text), fault)
        }
        _ => {
            let fault = Fault::at(at, unsupported(&shown(name)));
            (Cow::Borrowed(text), Some(fault))
        }
    }
}

/// Returns the encoding that the declaration names, and the offset of this name.
///
/// Returns `None` if there is no such name, or if it cannot be read. The reader reports the fault
/// of an invalid declaration.
fn declared(text: &str) -> Option<(usize, &str)> {
    if !text.starts_with("<?xml") {
        return None;
    }
    let Ok(Event::Decl(declaration)) = Reader::from_str(text).read_event() else {
        return None;
    };
    let name = declaration.encoding()?.ok()?;
    let at = "<?".len() + offset_in(&declaration, &name);
    let name = text.get(at..at + name.len())?;
    is_encoding_name(name).then_some((at, name))
}

fn is_utf8(name: &str) -> bool {
    Encoding::for_label(name.as_bytes()) == Some(UTF_8)
}

fn is_windows_1252(name: &str) -> bool {
    ["windows-1252", "cp1252", "x-cp1252"]
        .iter()
        .any(|label| label.eq_ignore_ascii_case(name))
}

/// Decodes UTF-8 up to the first fault. Also returns the fault.
fn utf8(bytes: &[u8]) -> (&str, Option<Fault>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let at = error.valid_up_to();
            let text = bytes
                .get(..at)
                .and_then(|valid| std::str::from_utf8(valid).ok())
                .unwrap_or_default();
            (
                text,
                Some(illegible(at, "UTF-8", error.error_len().is_none())),
            )
        }
    }
}

/// Decodes another encoding up to the first fault. Also returns the fault.
fn transcode(encoding: &'static Encoding, bytes: &[u8]) -> (String, Option<Fault>) {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::new();
    let mut read = 0;
    loop {
        let rest = bytes.get(read..).unwrap_or_default();
        // This is enough for ASCII in UTF-16. Other text may need another iteration.
        text.reserve(rest.len() / 2 + 64);
        let (result, used) = decoder.decode_to_string_without_replacement(rest, &mut text, true);
        read += used;
        match result {
            DecoderResult::InputEmpty => return (text, None),
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(_, _) => {
                let is_cut = read == bytes.len() && ends_cut(encoding, bytes);
                let fault = illegible(text.len(), encoding.name(), is_cut);
                return (text, Some(fault));
            }
        }
    }
}

/// Whether UTF-16 ends inside a code unit or inside a surrogate pair.
fn ends_cut(encoding: &'static Encoding, bytes: &[u8]) -> bool {
    if encoding.is_single_byte() {
        return false;
    }
    if bytes.len() % 2 == 1 {
        return true;
    }
    let unit = match bytes.last_chunk() {
        Some(unit) if encoding == UTF_16BE => u16::from_be_bytes(*unit),
        Some(unit) => u16::from_le_bytes(*unit),
        None => return false,
    };
    (0xD800..0xDC00).contains(&unit)
}

fn illegible(at: usize, encoding: &str, is_cut: bool) -> Fault {
    if is_cut {
        Fault::at(
            at,
            format!("the file ends inside a character of {encoding}"),
        )
    } else {
        Fault::at(at, format!("this is not valid {encoding}"))
    }
}

fn contradiction(at: usize, declared: &str, found: &str) -> Fault {
    Fault::at(
        at,
        format!(
            "the declared encoding is {}, but the file is in {found}",
            shown(declared)
        ),
    )
}

fn unsupported(encoding: &str) -> String {
    format!(
        "the encoding {encoding} is not supported; use UTF-8, UTF-16 or an encoding with one \
         byte for each character"
    )
}
