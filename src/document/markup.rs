//! Comments, processing instructions and CDATA sections (productions 15 to 21).
//!
//! Each function starts at the `<` and ends behind the `>`.

use super::Fault;
use super::cursor::Cursor;

/// Passes a comment.
pub fn comment(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    const INSIDE: &str = "a comment";
    let start = cursor.at();
    cursor.expect("<!--", INSIDE, start)?;
    let Some(length) = cursor.rest().find("--") else {
        return Err(cursor.ended_inside(INSIDE, start));
    };
    cursor.skip(length);
    let hyphens = cursor.at();
    cursor.skip(2);
    match cursor.peek() {
        None => Err(cursor.ended_inside(INSIDE, start)),
        Some(b'>') => {
            cursor.skip(1);
            Ok(())
        }
        Some(_) => Err(Fault::at(hyphens, "`--` is not allowed inside a comment")),
    }
}

/// Passes a processing instruction.
pub fn instruction(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    const INSIDE: &str = "a processing instruction";
    let start = cursor.at();
    cursor.expect("<?", INSIDE, start)?;
    let target = cursor.bounded_name(INSIDE, start)?;
    if cursor.peek().is_none() {
        return Err(cursor.ended_inside(INSIDE, start));
    }
    if target == "xml" {
        return Err(Fault::at(
            start,
            "an XML declaration is allowed at the very start only",
        ));
    }
    if target.eq_ignore_ascii_case("xml") {
        return Err(Fault::at(
            start,
            "a processing instruction must not be called `xml` in any case of letters",
        ));
    }
    if !cursor.skip_space() {
        return cursor.expect("?>", INSIDE, start);
    }
    let Some(length) = cursor.rest().find("?>") else {
        return Err(cursor.ended_inside(INSIDE, start));
    };
    cursor.skip(length + 2);
    Ok(())
}

/// Passes a CDATA section and yields its content.
pub fn cdata<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, Fault> {
    const INSIDE: &str = "a CDATA section";
    let start = cursor.at();
    cursor.expect("<![CDATA[", INSIDE, start)?;
    let rest = cursor.rest();
    let Some(length) = rest.find("]]>") else {
        return Err(cursor.ended_inside(INSIDE, start));
    };
    cursor.skip(length + 3);
    Ok(rest.get(..length).unwrap_or_default())
}
