//! Which characters XML allows where: the productions Char, S, NameStartChar, NameChar and
//! Reference of XML 1.0, fifth edition.

use super::cursor::Cursor;
use super::{Fault, shown};

/// White space (production 3).
pub const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether a document may hold this character at all (production 2).
pub const fn is_allowed(character: char) -> bool {
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

/// Whether a name may go on with this character (production 4a).
const fn is_name_part(character: char) -> bool {
    is_name_start(character)
        || matches!(character,
            '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// The length in bytes of the name at the beginning of `text`; 0 where none begins there.
pub fn name_length(text: &str) -> usize {
    // Nearly every name is ASCII; only what is not pays for decoding.
    let ascii = text
        .bytes()
        .position(|byte| !matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':'))
        .unwrap_or(text.len());
    let mut rest = text
        .get(ascii..)
        .unwrap_or_default()
        .char_indices()
        .skip_while(|(index, character)| {
            if ascii + index == 0 {
                is_name_start(*character)
            } else {
                is_name_part(*character)
            }
        });
    rest.next().map_or(text.len(), |(index, _)| ascii + index)
}

/// The first character that no document may hold.
pub fn find_forbidden(text: &str) -> Option<Fault> {
    // Control characters, and the lead byte of U+FFFE and U+FFFF, are looked for in blocks, which
    // the compiler turns into vector instructions; a block with one is then read by character.
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

/// Reads a reference, of which the `&` is next, and yields the character it stands for.
pub fn reference(cursor: &mut Cursor<'_>) -> Result<char, Fault> {
    const INSIDE: &str = "a reference";
    let start = cursor.at();
    cursor.skip(1);
    if cursor.take("#") {
        return character_reference(cursor, start);
    }
    let name = cursor.name();
    match cursor.peek() {
        None => return Err(cursor.ended_inside(INSIDE, start)),
        Some(_) if name.is_empty() => {
            return Err(Fault::at(start, "a lone `&` must be written `&amp;`"));
        }
        Some(b';') => cursor.skip(1),
        Some(_) => {
            return Err(Fault::at(
                start,
                format!("the reference to {} lacks its `;`", shown(name)),
            ));
        }
    }
    match name {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => Err(Fault::at(
            start,
            format!(
                "the entity {} is none of the five built-in ones (lt, gt, amp, apos, quot); \
                 others are never expanded",
                shown(name)
            ),
        )),
    }
}

fn character_reference(cursor: &mut Cursor<'_>, start: usize) -> Result<char, Fault> {
    let radix = if cursor.take("x") { 16 } else { 10 };
    let mut code: u32 = 0;
    let mut digits = 0_usize;
    while let Some(digit) = cursor
        .peek()
        .and_then(|byte| char::from(byte).to_digit(radix))
    {
        // It saturates far above the last character, where leading zeros do no harm.
        code = code.saturating_mul(radix).saturating_add(digit);
        digits += 1;
        cursor.skip(1);
    }
    match cursor.peek() {
        None => return Err(cursor.ended_inside("a character reference", start)),
        Some(b';') if digits > 0 => cursor.skip(1),
        Some(_) => {
            return Err(Fault::at(
                start,
                "a character reference is `&#` digits `;` or `&#x` hexadecimal digits `;`",
            ));
        }
    }
    char::from_u32(code)
        .filter(|character| is_allowed(*character))
        .ok_or_else(|| Fault::at(start, forbidden(code)))
}

/// Appends an attribute's value with its references resolved and its white space made spaces
/// (section 3.3.3). References that [`reference()`] rejects stay as they are; a tag that was read
/// has none.
pub fn append_attribute_value(raw: &str, value: &mut String) {
    let mut cursor = Cursor::new(raw);
    while let Some(byte) = cursor.peek() {
        match byte {
            b'&' => append_reference(&mut cursor, value),
            b'\r' => {
                cursor.skip(1);
                // CR LF is one line end (section 2.11), hence one space.
                cursor.take("\n");
                value.push(' ');
            }
            b'\n' | b'\t' => {
                cursor.skip(1);
                value.push(' ');
            }
            _ => value
                .push_str(cursor.take_until(|byte| matches!(byte, b'&' | b'\r' | b'\n' | b'\t'))),
        }
    }
}

fn append_reference(cursor: &mut Cursor<'_>, value: &mut String) {
    let start = cursor.at();
    match reference(cursor) {
        Ok(character) => value.push(character),
        Err(_) => value.push_str(cursor.since(start)),
    }
}

/// Appends text or a CDATA section with its line ends made LF (section 2.11).
pub fn append_text(raw: &str, value: &mut String) {
    let mut parts = raw.split('\r');
    value.push_str(parts.next().unwrap_or_default());
    for part in parts {
        value.push('\n');
        value.push_str(part.strip_prefix('\n').unwrap_or(part));
    }
}
