//! The XML declaration (productions 23 to 26, 32, 80 and 81).

use super::Fault;
use super::characters::name_length;
use super::cursor::Cursor;

const INSIDE: &str = "the XML declaration";

/// What the declaration says of the encoding.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoding<'a> {
    /// The byte offset of the name.
    pub at: usize,
    /// The name, as it is written.
    pub name: &'a str,
}

/// Whether a text begins with an XML declaration, or with so much of one that no other processing
/// instruction can become of it.
pub fn is_next(text: &str) -> bool {
    // `xml` ends a name there: `<?xml-stylesheet` is another instruction.
    text.strip_prefix("<?").map(name_length) == Some(3) && text.starts_with("<?xml")
}

/// Reads the declaration at the beginning of a text.
pub fn read<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Encoding<'a>>, Fault> {
    cursor.expect("<?xml", INSIDE, 0)?;
    require_space(cursor)?;
    cursor.expect("version", INSIDE, 0)?;
    let (at, version) = value(cursor)?;
    let digits = version.strip_prefix("1.").unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::at(at, "the XML version must be 1.0"));
    }

    let mut spaced = cursor.skip_space();
    let mut encoding = None;
    if spaced && is_starting(cursor, "encoding") {
        cursor.expect("encoding", INSIDE, 0)?;
        let (at, name) = value(cursor)?;
        let legal = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !legal {
            return Err(Fault::at(at, "this is no name of an encoding"));
        }
        encoding = Some(Encoding { at, name });
        spaced = cursor.skip_space();
    }
    if spaced && is_starting(cursor, "standalone") {
        cursor.expect("standalone", INSIDE, 0)?;
        let (at, standalone) = value(cursor)?;
        if !matches!(standalone, "yes" | "no") {
            return Err(Fault::at(at, "`standalone` must be `yes` or `no`"));
        }
        cursor.skip_space();
    }
    cursor.expect("?>", INSIDE, 0)?;
    Ok(encoding)
}

/// Whether the next letter is that of `keyword`: the keywords differ in their first.
fn is_starting(cursor: &Cursor<'_>, keyword: &str) -> bool {
    cursor.peek() == keyword.bytes().next()
}

fn require_space(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    if cursor.skip_space() {
        Ok(())
    } else {
        Err(cursor.unexpected("white space", INSIDE, 0))
    }
}

/// Passes `= "value"` and yields the value with its offset.
fn value<'a>(cursor: &mut Cursor<'a>) -> Result<(usize, &'a str), Fault> {
    cursor.skip_space();
    cursor.expect("=", INSIDE, 0)?;
    cursor.skip_space();
    let at = cursor.at() + 1;
    Ok((at, cursor.quoted(INSIDE, 0)?))
}
