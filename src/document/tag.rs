//! Reads the attributes of start tags, and checks the XML declaration.

use quick_xml::events::attributes::{AttrError, Attributes};

use super::characters::{check_name, is_space, resolve_reference};
use super::{ATTRIBUTES_MAX, Fault, shown};

/// An attribute of a tag. References and line ends in its value are not resolved yet.
pub(super) struct Attribute<'a> {
    /// The byte offset of the name.
    pub(super) at: usize,
    pub(super) name: &'a str,
    /// The byte offset of the value.
    pub(super) value_at: usize,
    /// The text between the quotes.
    pub(super) value: &'a str,
}

/// Reads the attributes of a tag.
///
/// `content` begins with the name of the tag, and `at` is the offset of `content`. quick-xml splits
/// the attributes and finds repeated ones. This function checks names, values and the white space
/// between attributes.
pub(super) fn read_attributes(
    content: &str,
    name_length: usize,
    at: usize,
    mut each: impl FnMut(Attribute<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut end = name_length;
    for (count, attribute) in Attributes::new(content, name_length).enumerate() {
        if count >= ATTRIBUTES_MAX {
            return Err(Fault::at(
                at.saturating_sub(1),
                format!("a tag has more than {ATTRIBUTES_MAX} attributes"),
            ));
        }
        let attribute = attribute.map_err(|error| fault_of(&error, content, end, at))?;
        let name = attribute.key.into_inner();
        let value = attribute.value.as_ref();
        let (name_start, value_start) = (offset_in(content, name), offset_in(content, value));
        if name_start == end {
            return Err(Fault::at(
                at + name_start,
                "white space is expected between two attributes",
            ));
        }
        check_name(name, at + name_start)?;
        for index in memchr::memchr_iter(b'&', value.as_bytes()) {
            let reference = value.get(index..).unwrap_or_default();
            resolve_reference(reference, at + value_start + index)?;
        }
        end = value_start + value.len() + 1;
        each(Attribute {
            at: at + name_start,
            name,
            value_at: at + value_start,
            value,
        })?;
    }
    Ok(())
}

/// Converts an error to a fault. The wrong attribute begins at or after the offset `end`.
fn fault_of(error: &AttrError, content: &str, end: usize, at: usize) -> Fault {
    let name_from = |start: usize| {
        let rest = content.get(start..).unwrap_or_default();
        let length = rest
            .bytes()
            .position(|byte| byte == b'=' || is_space(byte))
            .unwrap_or(rest.len());
        rest.get(..length).unwrap_or_default()
    };
    match *error {
        AttrError::ExpectedEq(_) => {
            let rest = content.as_bytes().iter().skip(end);
            let start = end + rest.take_while(|byte| is_space(**byte)).count();
            let name = name_from(start);
            check_name(name, at + start).err().unwrap_or_else(|| {
                let reason = format!("the attribute {} has no value", shown(name));
                Fault::at(at + start, reason)
            })
        }
        AttrError::Duplicated(start, _) => Fault::at(
            at + start,
            format!("the attribute {} is given twice", shown(name_from(start))),
        ),
        AttrError::UnquotedValue(start)
        | AttrError::ExpectedValue(start)
        | AttrError::ExpectedQuote(start, _) => {
            Fault::at(at + start, "a quoted value is expected in a tag")
        }
    }
}

/// Returns the offset of `part`, which must be a slice of `whole`.
pub(super) fn offset_in(whole: &str, part: &str) -> usize {
    let (whole, part) = (whole.as_ptr().addr(), part.as_ptr().addr());
    part.saturating_sub(whole)
}

/// Checks an XML declaration (productions 23 to 26, 32, 80 and 81).
///
/// `content` is the text between `<?` and `?>`.
pub(super) fn check_declaration(content: &str) -> Result<(), Fault> {
    const AT: usize = "<?".len();
    const NAME_LENGTH: usize = "xml".len();
    const ORDER: &str = "the XML declaration must contain `version`, then perhaps `encoding`, then \
                         perhaps `standalone`";
    let mut has_version = false;
    let mut expected = ["version", "encoding", "standalone"].iter();
    read_attributes(content, NAME_LENGTH, AT, |attribute| {
        let is_in_order = expected.any(|name| *name == attribute.name);
        has_version |= attribute.name == "version";
        if !(is_in_order && has_version) {
            return Err(Fault::at(attribute.at, ORDER));
        }
        let value = attribute.value;
        let reason = match attribute.name {
            "version" if !is_version(value) => {
                "the XML version must be `1.` and digits, such as 1.0"
            }
            "encoding" if !is_encoding_name(value) => "this is not the name of an encoding",
            "standalone" if !matches!(value, "yes" | "no") => "`standalone` must be `yes` or `no`",
            _ => return Ok(()),
        };
        Err(Fault::at(attribute.value_at, reason))
    })?;
    if has_version {
        Ok(())
    } else {
        Err(Fault::at(AT + content.len(), ORDER))
    }
}

fn is_version(value: &str) -> bool {
    value.strip_prefix("1.").is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

pub(super) fn is_encoding_name(value: &str) -> bool {
    value.starts_with(|first: char| first.is_ascii_alphabetic())
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
