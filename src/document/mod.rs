//! project.xml: whether it is complete, and what it says of itself.
//!
//! Constraint: no callback ever carries a half-written file, so a document counts only when it is
//! well-formed XML to its end with a `schema` root; and since anybody may write into the
//! repository, no bytes whatever may cost more than time and memory in proportion to their number.
//! This module is pure: bytes in, a [`Document`] or the first fault out.
//!
//! How: text is made of the bytes (UTF-8 is borrowed, everything else copied once), one pass over
//! it finds characters that XML forbids, and quick-xml cuts it into tags, text and comments.
//! quick-xml leaves most well-formedness to its caller, so each piece is then read by the grammar
//! of XML 1.0, fifth edition, as a processor that does not validate has to. Where two faults are
//! found by different passes, the one that comes first in the file counts.
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
mod cursor;
mod declaration;
mod doctype;
mod encoding;
mod markup;
mod tag;
mod walk;

use std::borrow::Cow;

pub use crate::domain::project::Document;

/// How many elements may be open at once.
pub const DEPTH_MAX: usize = 1_000;

/// The longest name of an element or attribute, in bytes.
pub const NAME_MAX: usize = 4 * 1024;

/// How many attributes one element may have.
pub const ATTRIBUTES_MAX: usize = 10_000;

/// The longest value that is kept, in bytes.
///
/// A longer root attribute `name` or `id`, or annotation `engineId` or `version`, is a fault,
/// because cutting it would name another project; any other annotation that long is left out.
pub const VALUE_MAX: usize = 64 * 1024;

/// How many bytes of annotations are kept, names and values together, beside `engineId` and
/// `version`. What comes after is left out.
pub const ANNOTATIONS_MAX: usize = 64 * 1024;

/// Why bytes are no complete project.xml, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct Malformed {
    /// What is wrong, for a person; it names neither file nor position.
    pub reason: String,
    /// The line of the first fault, from 1. A line ends with LF, CR LF or CR.
    pub line: u64,
    /// The column of it in characters, from 1. A byte order mark takes no column.
    pub column: u64,
    /// Whether the document is faultless as far as it goes and merely ends too early: its file may
    /// still be being written.
    pub truncated: bool,
}

/// Reads a complete project.xml.
///
/// # Errors
///
/// The first fault, where the bytes are not well-formed XML to their end with a `schema` root, or
/// are in an encoding that is not supported.
pub fn parse(bytes: &[u8]) -> Result<Document, Malformed> {
    let (text, fault) = legible(bytes);
    match fault {
        None => walk::walk(&text).map_err(|fault| fault.locate(&text)),
        Some(fault) => {
            // What stands before an illegible place may be at fault already, or may end too early
            // only because the illegible place cuts it off.
            let before = text.get(..fault.at).unwrap_or(&text);
            let first = match walk::walk(before) {
                Err(earlier) if !earlier.truncated => earlier,
                _ => fault,
            };
            Err(first.locate(&text))
        }
    }
}

/// The text of a project.xml in whichever encoding it is in, without its byte order mark; the XML
/// declaration keeps what it says. UTF-8 is borrowed.
///
/// # Errors
///
/// The first byte sequence that is not of the encoding, or character that XML forbids. That the
/// text is well-formed is for [`parse`] to say.
pub fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Malformed> {
    match legible(bytes) {
        (text, None) => Ok(text),
        (text, Some(fault)) => Err(fault.locate(&text)),
    }
}

/// Returns a project.xml as text whatever is wrong with it, for people and for JSON.
///
/// UTF-8 keeps its bytes, a byte order mark included. Text from another encoding loses its byte
/// order mark and keeps its declaration, which parsers ignore when they are given text. Illegible
/// bytes become U+FFFD.
pub(crate) fn lossy_text(bytes: &[u8]) -> Cow<'_, str> {
    match text(bytes) {
        Ok(Cow::Owned(decoded)) => Cow::Owned(decoded),
        _ => String::from_utf8_lossy(bytes),
    }
}

/// The text of these bytes, and the first place where they are not text that XML allows.
fn legible(bytes: &[u8]) -> (Cow<'_, str>, Option<Fault>) {
    let (text, fault) = encoding::decode(bytes);
    let until = fault.as_ref().map_or(text.len(), |fault| fault.at);
    let forbidden = characters::find_forbidden(text.get(..until).unwrap_or(&text));
    (text, forbidden.or(fault))
}

/// A fault at a byte offset of the decoded text.
#[derive(Debug)]
struct Fault {
    at: usize,
    reason: Cow<'static, str>,
    truncated: bool,
}

impl Fault {
    /// A fault that no further bytes would mend.
    fn at(at: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            at,
            reason: reason.into(),
            truncated: false,
        }
    }

    /// An end that comes too early, at this length of the text.
    fn truncated(at: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            at,
            reason: reason.into(),
            truncated: true,
        }
    }

    /// The fault with its line and column in `text`.
    fn locate(self, text: &str) -> Malformed {
        let (line, column) = position(text, self.at);
        Malformed {
            reason: self.reason.into_owned(),
            line,
            column,
            truncated: self.truncated,
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

/// A piece of the document in a message: quoted, and short whatever was found.
fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests;
