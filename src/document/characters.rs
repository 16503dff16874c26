//! Checks characters, names and references, by the rules of XML 1.0.

use quick_xml::Error;
use quick_xml::escape::{EscapeError, ParseCharRefError, resolve_predefined_entity};
use quick_xml::events::BytesRef;

use super::{Fault, NAME_MAX, shown};

/// Whether a byte is white space (production 3).
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether a document may contain this character (production 2).
const fn is_allowed(character: char) -> bool {
    !matches!(character,
        '\0'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}')
}

/// Whether a name may begin with this character (production 4).
const fn is_name_start(character: char) -> bool {
    matches!(character,
        ':' | '_' | 'A'..='Z' | 'a'..='z'
        | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}'
        | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}'
        | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
}

/// Whether a name may contain this character after its first (production 4a).
const fn is_name_part(character: char) -> bool {
    is_name_start(character)
        || matches!(character,
            '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Returns the name at the beginning of `text`. Empty if there is none.
pub(super) fn name_of(text: &str) -> &str {
    // Nearly every name is ASCII, which is faster to check.
    let ascii = text
        .bytes()
        .position(|byte| !matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':'))
        .unwrap_or(text.len());
    let is_allowed = |index: usize, character: char| match ascii + index {
        0 => is_name_start(character),
        _ => is_name_part(character),
    };
    let rest = text.get(ascii..).unwrap_or_default();
    let end = rest
        .char_indices()
        .find(|(index, character)| !is_allowed(*index, *character));
    let length = end.map_or(text.len(), |(index, _)| ascii + index);
    text.get(..length).unwrap_or_default()
}

/// Checks that `text` is exactly one name. `at` is its offset in the document.
pub(super) fn check_name(text: &str, at: usize) -> Result<(), Fault> {
    let length = name_of(text).len();
    if length > NAME_MAX {
        return Err(Fault::at(
            at,
            format!("a name is longer than {NAME_MAX} bytes"),
        ));
    }
    match text.get(length..).and_then(|rest| rest.chars().next()) {
        _ if length == 0 => Err(Fault::at(at, "a name is expected")),
        None => Ok(()),
        Some(other) => Err(Fault::at(
            at + length,
            format!("`{}` is not allowed in a name", other.escape_debug()),
        )),
    }
}

/// Finds the first character that a document must not contain.
pub(super) fn find_forbidden(text: &str) -> Option<Fault> {
    // Suspicious bytes are control characters other than white space, and the first byte of U+FFFE
    // and U+FFFF. Each block is first searched for any such byte, which the compiler does with
    // vector instructions. If a block has such bytes, the characters that begin there are checked.
    const BLOCK: usize = 128;
    let suspicious = |byte: u8| (byte < b' ' && !is_space(byte)) || byte == 0xEF;
    for (index, block) in text.as_bytes().chunks(BLOCK).enumerate() {
        let found = block
            .iter()
            .fold(false, |found, byte| found | suspicious(*byte));
        if !found {
            continue;
        }
        for (offset, byte) in block.iter().enumerate() {
            if !suspicious(*byte) {
                continue;
            }
            let at = index * BLOCK + offset;
            let character = text.get(at..).and_then(|rest| rest.chars().next());
            if let Some(character) = character.filter(|character| !is_allowed(*character)) {
                return Some(Fault::at(at, forbidden(u32::from(character))));
            }
        }
    }
    None
}

fn forbidden(code: u32) -> String {
    format!("the character U+{code:04X} is not allowed in XML")
}

/// Returns the part of a reference between `&` and `;`. `text` begins with the `&`.
pub(super) fn reference_name(text: &str) -> &str {
    let body = text.get(1..).unwrap_or_default();
    let length = body.find(|character| character != '#' && !is_name_part(character));
    body.get(..length.unwrap_or(body.len())).unwrap_or_default()
}

/// Returns the character of the reference at the start of `text`.
///
/// `at` is the offset of the reference in the document.
pub(super) fn resolve_reference(text: &str, at: usize) -> Result<char, Fault> {
    let name = reference_name(text);
    if name.is_empty() {
        return Err(Fault::at(at, "a lone `&` must be written `&amp;`"));
    }
    if text.as_bytes().get(1 + name.len()) != Some(&b';') {
        return Err(Fault::at(
            at,
            format!("the reference to {} lacks its `;`", shown(name)),
        ));
    }
    let resolved = match BytesRef::new(name).resolve_char_ref() {
        Ok(Some(character)) if is_allowed(character) => return Ok(character),
        Ok(Some(character)) => forbidden(u32::from(character)),
        Ok(None) => match resolve_predefined_entity(name).and_then(|text| text.chars().next()) {
            Some(character) => return Ok(character),
            None => format!(
                "the entity {} is not supported; only lt, gt, amp, apos and quot are",
                shown(name)
            ),
        },
        Err(Error::Escape(EscapeError::InvalidCharRef(
            ParseCharRefError::InvalidCodepoint(code) | ParseCharRefError::IllegalCharacter(code),
        ))) => forbidden(code),
        Err(_) => "this character reference is not allowed; write the number of a character, in \
                   decimal as in `&#65;` or in hexadecimal as in `&#x41;`"
            .to_owned(),
    };
    Err(Fault::at(at, resolved))
}
