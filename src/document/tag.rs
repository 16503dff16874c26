//! Start tags and end tags (productions 40 to 44).

use super::cursor::Cursor;
use super::{ATTRIBUTES_MAX, Fault, characters, shown};

const INSIDE: &str = "a tag";

/// An attribute as it is written: its value still has its references and line ends.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// The byte offset of the name.
    pub at: usize,
    /// The name with its prefix.
    pub name: &'a str,
    /// What stands between the quotes.
    pub raw: &'a str,
}

/// Passes a start tag or an empty-element tag, of which the `<` is next. Yields its name and
/// leaves its attributes in `attributes`, which is reused from tag to tag.
pub fn start<'a>(
    cursor: &mut Cursor<'a>,
    attributes: &mut Vec<Attribute<'a>>,
) -> Result<&'a str, Fault> {
    let start = cursor.at();
    attributes.clear();
    cursor.expect("<", INSIDE, start)?;
    let name = cursor.bounded_name(INSIDE, start)?;
    loop {
        let spaced = cursor.skip_space();
        match cursor.peek() {
            Some(b'>') => {
                cursor.skip(1);
                break;
            }
            Some(b'/') => {
                cursor.expect("/>", INSIDE, start)?;
                break;
            }
            Some(_) if !spaced => {
                return Err(cursor.unexpected("white space, `/>` or `>`", INSIDE, start));
            }
            _ => attributes.push(attribute(cursor, start)?),
        }
        if attributes.len() > ATTRIBUTES_MAX {
            return Err(Fault::at(
                start,
                format!("a tag has more than {ATTRIBUTES_MAX} attributes"),
            ));
        }
    }
    unique(attributes)?;
    Ok(name)
}

fn attribute<'a>(cursor: &mut Cursor<'a>, start: usize) -> Result<Attribute<'a>, Fault> {
    let at = cursor.at();
    let name = cursor.bounded_name(INSIDE, start)?;
    cursor.skip_space();
    if cursor.peek().is_some_and(|byte| byte != b'=') {
        return Err(Fault::at(
            at,
            format!("the attribute {} has no value", shown(name)),
        ));
    }
    cursor.expect("=", INSIDE, start)?;
    cursor.skip_space();
    let quote = match cursor.peek() {
        Some(quote @ (b'"' | b'\'')) => quote,
        _ => return Err(cursor.unexpected("a quoted value", INSIDE, start)),
    };
    cursor.skip(1);
    let value = cursor.at();
    loop {
        cursor.take_until(|byte| byte == quote || matches!(byte, b'<' | b'&'));
        match cursor.peek() {
            Some(b'&') => {
                characters::reference(cursor)?;
            }
            Some(b'<') => {
                return Err(Fault::at(
                    cursor.at(),
                    format!(
                        "`<` is not allowed in the value of the attribute {}; is a quote missing?",
                        shown(name)
                    ),
                ));
            }
            Some(_) => break,
            None => return Err(cursor.ended_inside(INSIDE, start)),
        }
    }
    let raw = cursor.since(value);
    cursor.skip(1);
    Ok(Attribute { at, name, raw })
}

/// That no two attributes have the same name.
fn unique(attributes: &[Attribute<'_>]) -> Result<(), Fault> {
    /// Up to so many attributes comparing each with each is cheaper than sorting.
    const FEW: usize = 16;
    let repeated = if attributes.len() <= FEW {
        attributes
            .iter()
            .enumerate()
            .find_map(|(index, attribute)| {
                let mut earlier = attributes.iter().take(index);
                earlier
                    .any(|other| other.name == attribute.name)
                    .then_some(*attribute)
            })
    } else {
        let mut sorted = attributes.to_vec();
        sorted.sort_by_key(|attribute| (attribute.name, attribute.at));
        sorted
            .windows(2)
            .filter_map(|pair| match pair {
                [one, other] if one.name == other.name => Some(*other),
                _ => None,
            })
            .min_by_key(|attribute| attribute.at)
    };
    match repeated {
        None => Ok(()),
        Some(attribute) => Err(Fault::at(
            attribute.at,
            format!("the attribute {} is given twice", shown(attribute.name)),
        )),
    }
}

/// Passes an end tag, of which the `</` is next, and which must be that of the element `open`.
pub fn end(cursor: &mut Cursor<'_>, open: &str) -> Result<(), Fault> {
    const INSIDE: &str = "an end tag";
    let start = cursor.at();
    cursor.expect("</", INSIDE, start)?;
    if open.starts_with(cursor.rest()) {
        return Err(cursor.ended_inside(INSIDE, start));
    }
    let name = cursor.name();
    if name != open {
        return Err(Fault::at(
            start,
            format!(
                "the end tag of {} is expected, not {}",
                shown(open),
                shown(name)
            ),
        ));
    }
    cursor.skip_space();
    cursor.expect(">", INSIDE, start)
}

/// The name without its prefix.
pub fn local_name(name: &str) -> &str {
    name.split_once(':').map_or(name, |(_, local)| local)
}
