//! The document type declaration (production 28).
//!
//! Constraint: nothing in it is ever expanded or fetched; it only has to be passed. quick-xml
//! takes any `<!d…>` for one, so its extent is found here. Of the declarations in an internal
//! subset only the keyword, the name and the balance of quotes are checked.

use super::Fault;
use super::characters::is_space;
use super::cursor::Cursor;
use super::markup;

const INSIDE: &str = "the DOCTYPE";

/// Passes a document type declaration, of which the `<` is next.
pub fn read(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    let start = cursor.at();
    cursor.expect("<!DOCTYPE", INSIDE, start)?;
    require_space(cursor, start)?;
    cursor.bounded_name(INSIDE, start)?;
    if cursor.skip_space() {
        match cursor.peek() {
            Some(b'S') => {
                cursor.expect("SYSTEM", INSIDE, start)?;
                require_space(cursor, start)?;
                cursor.quoted(INSIDE, start)?;
            }
            Some(b'P') => {
                cursor.expect("PUBLIC", INSIDE, start)?;
                require_space(cursor, start)?;
                public_identifier(cursor, start)?;
                require_space(cursor, start)?;
                cursor.quoted(INSIDE, start)?;
            }
            _ => {}
        }
        cursor.skip_space();
    }
    if cursor.take("[") {
        internal_subset(cursor, start)?;
        cursor.skip_space();
    }
    cursor.expect(">", INSIDE, start)
}

fn require_space(cursor: &mut Cursor<'_>, start: usize) -> Result<(), Fault> {
    if cursor.skip_space() {
        Ok(())
    } else {
        Err(cursor.unexpected("white space", INSIDE, start))
    }
}

fn public_identifier(cursor: &mut Cursor<'_>, start: usize) -> Result<(), Fault> {
    let at = cursor.at() + 1;
    let identifier = cursor.quoted(INSIDE, start)?;
    let is_legal =
        |byte: u8| byte.is_ascii_alphanumeric() || b" \r\n-'()+,./:=?;!*#@$_%".contains(&byte);
    match identifier.bytes().position(|byte| !is_legal(byte)) {
        None => Ok(()),
        Some(offset) => Err(Fault::at(
            at + offset,
            "a public identifier must not hold this character",
        )),
    }
}

/// Passes an internal subset up to and with its `]`.
fn internal_subset(cursor: &mut Cursor<'_>, start: usize) -> Result<(), Fault> {
    loop {
        cursor.skip_space();
        if cursor.take("]") {
            return Ok(());
        }
        if cursor.take("%") {
            cursor.bounded_name(INSIDE, start)?;
            cursor.expect(";", INSIDE, start)?;
        } else if cursor.rest().starts_with("<!--") {
            markup::comment(cursor)?;
        } else if cursor.rest().starts_with("<?") {
            markup::instruction(cursor)?;
        } else {
            declaration(cursor, start)?;
        }
    }
}

/// Passes a declaration of an element, an attribute list, an entity or a notation.
fn declaration(cursor: &mut Cursor<'_>, start: usize) -> Result<(), Fault> {
    const KEYWORDS: [&str; 4] = ["<!ELEMENT", "<!ATTLIST", "<!ENTITY", "<!NOTATION"];
    let Some(keyword) = KEYWORDS.into_iter().find(|keyword| cursor.take(keyword)) else {
        let rest = cursor.rest();
        let is_cut = KEYWORDS
            .into_iter()
            .chain(["<!--", "<?"])
            .any(|next| next.starts_with(rest));
        return Err(if is_cut {
            cursor.ended_inside(INSIDE, start)
        } else {
            cursor.unexpected("a declaration or `]`", INSIDE, start)
        });
    };
    require_space(cursor, start)?;
    if keyword == "<!ENTITY" && cursor.take("%") {
        require_space(cursor, start)?;
    }
    cursor.bounded_name(INSIDE, start)?;
    if cursor
        .peek()
        .is_some_and(|byte| !is_space(byte) && byte != b'>')
    {
        return Err(cursor.unexpected("white space", INSIDE, start));
    }
    loop {
        cursor.take_until(|byte| matches!(byte, b'"' | b'\'' | b'<' | b'>'));
        match cursor.peek() {
            Some(b'>') => {
                cursor.skip(1);
                return Ok(());
            }
            Some(b'"' | b'\'') => {
                cursor.quoted(INSIDE, start)?;
            }
            _ => return Err(cursor.unexpected("`>`", INSIDE, start)),
        }
    }
}
