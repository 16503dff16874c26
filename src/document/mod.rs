//! Reads project.xml: whether it is complete, and its name, id and annotations.
//!
//! Constraint: no callback ever carries a half-written file, so a document is valid only if it is
//! well-formed XML to its end with a `schema` root. Anybody may write into the repository, so time
//! and memory stay in proportion to the number of bytes. This module is pure: bytes in, a
//! [`Document`] or the first fault out.
//!
//! How: `encoding` decodes the bytes (UTF-8 is borrowed, the rest copied once), one pass finds
//! characters that XML forbids, and quick-xml splits the text into events. quick-xml matches end
//! tags, finds repeated attributes and resolves references. `reader`, `tag` and `doctype` check
//! the rules of XML 1.0, fifth edition, that quick-xml leaves to its caller.
//!
//! Choices where the Recommendation leaves one, or where a project.xml needs less of it:
//!
//! - The root is recognised by its local name: `schema`, or `x:schema` with any prefix. So are
//!   `annotations` and `annotation`. Namespaces are not resolved; an undeclared prefix is no fault.
//! - Every entity but `lt gt amp apos quot` is a fault where it is used. Declaring some is
//!   harmless, since nothing is ever expanded or fetched.
//! - The declarations of an internal DTD subset are checked for where they end, not for their
//!   grammar, and its attribute defaults are not applied.
//! - `version="1.x"` is accepted for any x and read by the rules of 1.0, as the fifth edition asks.
//! - More than [`DEPTH_MAX`] levels, [`NAME_MAX`] bytes of a name or [`ATTRIBUTES_MAX`] attributes
//!   of one element are faults of their own: they mark something other than a project.

mod characters;
mod doctype;
mod encoding;
mod reader;
mod tag;

use std::borrow::Cow;

pub use crate::domain::project::Document;

/// The most elements that may be open at once.
const DEPTH_MAX: usize = 1_000;

/// The longest name of an element or attribute, in bytes.
const NAME_MAX: usize = 4 * 1024;

/// The most attributes of one element.
const ATTRIBUTES_MAX: usize = 10_000;

/// The longest value that is kept, in bytes.
///
/// A longer root attribute `name` or `id`, or annotation `engineId` or `version`, is a fault,
/// because cutting it would name another project. Any other annotation that long is left out.
const VALUE_MAX: usize = 64 * 1024;

/// The most bytes of annotations that are kept, without `engineId` and `version`.
///
/// Names and values count. Annotations beyond it are left out.
const ANNOTATIONS_MAX: usize = 64 * 1024;

/// Why bytes are no complete project.xml, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct Malformed {
    /// The reason for a person, without file and position.
    pub reason: String,
    /// The line of the first fault, from 1. A line ends with LF, CR LF or CR.
    pub line: u64,
    /// The column of it in characters, from 1. A byte order mark takes no column.
    pub column: u64,
}

/// Reads a complete project.xml.
///
/// # Errors
///
/// The first fault, if the bytes are not well-formed XML to their end with a `schema` root, or
/// are in an encoding that is not supported.
pub fn parse(bytes: &[u8]) -> Result<Document, Malformed> {
    let (text, fault) = encoding::decode(bytes);
    let legible = fault.as_ref().map_or(text.len(), |fault| fault.at);
    let legible = text.get(..legible).unwrap_or(&text);
    let Some(fault) = characters::find_forbidden(legible).or(fault) else {
        return reader::read(&text).map_err(|fault| fault.locate(&text));
    };
    // An earlier fault has precedence. A fault at the end of the text before the illegible
    // character is none: the text only ends there because of that character.
    let before = text.get(..fault.at).unwrap_or(&text);
    let first = match reader::read(before) {
        Err(earlier) if earlier.at < before.len() => earlier,
        _ => fault,
    };
    Err(first.locate(&text))
}

/// Decodes a document for formats that hold text and no bytes.
///
/// UTF-8 keeps its byte order mark, so that encoding the text gives the same bytes again. The text
/// of any other encoding loses it and keeps its XML declaration. A document that [`parse`] accepts
/// has no invalid bytes. Elsewhere those of UTF-8 become U+FFFD, and other text ends before them.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match encoding::decode(bytes) {
        (Cow::Owned(text), _) => Cow::Owned(text),
        (Cow::Borrowed(_), _) => String::from_utf8_lossy(bytes),
    }
}

/// A fault at a byte offset of the decoded text.
#[derive(Debug)]
struct Fault {
    at: usize,
    reason: Cow<'static, str>,
}

impl Fault {
    fn at(at: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            at,
            reason: reason.into(),
        }
    }

    /// Adds the line and column of the fault in `text`.
    fn locate(self, text: &str) -> Malformed {
        let (line, column) = position(text, self.at);
        Malformed {
            reason: self.reason.into_owned(),
            line,
            column,
        }
    }
}

/// The line and column of a byte offset, both from 1.
fn position(text: &str, at: usize) -> (u64, u64) {
    let before = text.get(..at).unwrap_or(text);
    let mut line = 1;
    let mut line_start = 0;
    let mut bytes = before.bytes().enumerate().peekable();
    while let Some((index, byte)) = bytes.next() {
        let ends = match byte {
            b'\n' => true,
            b'\r' => bytes.peek().is_none_or(|(_, next)| *next != b'\n'),
            _ => false,
        };
        if ends {
            line += 1;
            line_start = index + 1;
        }
    }
    let column = before
        .get(line_start..)
        .map_or(0, |rest| rest.chars().count());
    (line, column as u64 + 1)
}

/// Quotes and shortens a piece of the document for a message.
fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}
