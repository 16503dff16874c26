//! Parses project.xml: checks it, and reads its name, id and annotations.
//!
//! Constraint: a callback must never contain a half-written file. So a document is valid only if
//! it is complete and well-formed XML with a `schema` root. Anybody may write into the repository,
//! so time and memory are proportional to the number of bytes. This module is pure: it takes
//! bytes, and returns a [`Document`] or the first fault.
//!
//! `encoding` decodes the bytes. Then one pass looks for characters that XML forbids. quick-xml
//! splits the text into events, matches end tags, finds repeated attributes and resolves
//! references. `reader`, `tag` and `doctype` check the other rules of XML 1.0, fifth edition.
//!
//! These rules are not in the Recommendation, or are limits of this parser:
//!
//! - Elements are recognised by their local name. The root is `schema`, or `x:schema` with any
//!   prefix, and likewise `annotations` and `annotation`. Namespaces are not resolved, so an
//!   undeclared prefix is valid.
//! - A reference to an entity other than `lt gt amp apos quot` is a fault. A declaration of such an
//!   entity is valid, because nothing is ever expanded or fetched.
//! - In an internal DTD subset, the parser checks where declarations end, but not their grammar.
//!   It does not apply attribute defaults.
//! - `version="1.x"` is accepted for any number x and read as 1.0, as the fifth edition requires.
//! - More than [`DEPTH_MAX`] levels, [`NAME_MAX`] bytes of a name or [`ATTRIBUTES_MAX`] attributes
//!   of an element are faults. No real project.xml has as many.

mod characters;
mod doctype;
mod encoding;
mod reader;
mod tag;

use std::borrow::Cow;

pub use crate::domain::project::Document;

/// The maximum nesting depth of elements.
const DEPTH_MAX: usize = 1_000;

/// The maximum length of a name, such as that of an element, in bytes.
const NAME_MAX: usize = 4 * 1024;

/// The maximum number of attributes of an element.
const ATTRIBUTES_MAX: usize = 10_000;

/// The maximum length of a value, in bytes.
///
/// A longer root attribute `name` or `id`, or annotation `engineId` or `version`, is a fault,
/// because a shortened value would identify another project. Other longer annotations are left out.
const VALUE_MAX: usize = 64 * 1024;

/// The maximum total size of the names and values of annotations, in bytes.
///
/// Annotations beyond this size are left out. `engineId` and `version` are always kept.
///
/// The name of an annotation that is left out is not remembered, because a file may have any number
/// of them. So a later, shorter annotation of that name may be kept.
const ANNOTATIONS_MAX: usize = 64 * 1024;

/// The first fault of an invalid project.xml, with its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct Malformed {
    /// The fault in words, without its position.
    pub reason: String,
    /// The line of the fault, from 1. A line ends with LF, CR LF or CR.
    pub line: u64,
    /// The column of the fault in characters, from 1. A byte order mark is not counted.
    pub column: u64,
}

/// Parses a complete project.xml.
///
/// # Errors
///
/// The bytes are not well-formed XML with a `schema` root, the encoding is not supported, or a
/// limit of this parser is exceeded.
pub fn parse(bytes: &[u8]) -> Result<Document, Malformed> {
    let (text, fault) = encoding::decode(bytes);
    let legible = fault.as_ref().map_or(text.len(), |fault| fault.at);
    let legible = text.get(..legible).unwrap_or(&text);
    let Some(fault) = characters::find_forbidden(legible).or(fault) else {
        return reader::read(&text).map_err(|fault| fault.locate(&text));
    };
    // An earlier fault is reported instead. A fault at the end of `before` is ignored, because the
    // text was only cut there.
    let before = text.get(..fault.at).unwrap_or(&text);
    let first = match reader::read(before) {
        Err(earlier) if earlier.at < before.len() => earlier,
        _ => fault,
    };
    Err(first.locate(&text))
}

/// Decodes a document for request formats that contain text instead of bytes.
///
/// UTF-8 keeps its byte order mark, so encoding the text again gives the same bytes. Other
/// encodings lose the mark and keep the XML declaration. Documents that [`parse`] accepts are
/// decoded exactly. In others, invalid bytes are replaced, or the text ends before them.
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

    /// Adds the line and column of the fault.
    fn locate(self, text: &str) -> Malformed {
        let (line, column) = position(text, self.at);
        Malformed {
            reason: self.reason.into_owned(),
            line,
            column,
        }
    }
}

/// Returns the line and column of a byte offset, both from 1.
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

/// Quotes and shortens a part of the document for a message.
fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}
