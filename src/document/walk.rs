//! The walk through the document: quick-xml cuts it into pieces, each is checked and the few that
//! say something of the project are kept.
//!
//! Constraint: no recursion and, besides what is kept, one entry for each open element.

use quick_xml::Reader;
use quick_xml::events::Event;

use super::cursor::Cursor;
use super::tag::{self, Attribute};
use super::{
    ANNOTATIONS_MAX, DEPTH_MAX, Document, Fault, VALUE_MAX, characters, declaration, doctype,
    markup, shown,
};

/// Walks through a whole document, whose characters are all allowed.
pub fn walk(text: &str) -> Result<Document, Fault> {
    let mut walk = Walk::new(text);
    let mut base = 0;
    let mut reader = reader(text, base)?;
    loop {
        let start = base.saturating_add(position(&reader));
        if walk.open.is_empty() && walk.rest(start).starts_with("<!DOCTYPE") {
            // quick-xml does not see every DOCTYPE end where it does; go on behind it with a new
            // reader, which has nothing to remember outside of the root.
            base = walk.doctype(start)?;
            reader = self::reader(text, base)?;
            continue;
        }
        match reader.read_event() {
            Ok(Event::Eof) => return walk.finish(),
            Ok(Event::Text(_)) => walk.text(start, base.saturating_add(position(&reader)))?,
            Ok(_) => {
                let end = walk.piece(start)?;
                if end != base.saturating_add(position(&reader)) {
                    return Err(Fault::at(start, "this is not well-formed"));
                }
            }
            Err(error) => {
                // Our own reading knows the fault more exactly, and whether the end is to blame.
                walk.piece(start)?;
                return Err(Fault::at(start, error.to_string()));
            }
        }
    }
}

fn reader(text: &str, base: usize) -> Result<Reader<&[u8]>, Fault> {
    let rest = text.get(base..).unwrap_or_default();
    if rest.starts_with('\u{FEFF}') {
        // quick-xml would pass over it in silence.
        return Err(Fault::at(base, OUTSIDE));
    }
    let mut reader = Reader::from_reader(rest.as_bytes());
    let config = reader.config_mut();
    // The walk keeps its own record of open elements, which also knows where each began.
    config.check_end_names = false;
    config.allow_unmatched_ends = true;
    Ok(reader)
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

const OUTSIDE: &str = "text is not allowed outside of the root element";

struct Walk<'a> {
    text: &'a str,
    /// The open elements: their names and byte offsets.
    open: Vec<(&'a str, usize)>,
    /// The attributes of the tag that was read last.
    attributes: Vec<Attribute<'a>>,
    has_doctype: bool,
    has_root: bool,
    in_annotations: bool,
    annotation: Option<Annotation>,
    /// How many bytes of annotations are kept already.
    kept: usize,
    document: Document,
}

/// An annotation that is being read.
struct Annotation {
    at: usize,
    name: String,
    value: String,
    is_too_long: bool,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            open: Vec::new(),
            attributes: Vec::new(),
            has_doctype: false,
            has_root: false,
            in_annotations: false,
            annotation: None,
            kept: 0,
            document: Document::default(),
        }
    }

    fn rest(&self, start: usize) -> &'a str {
        self.text.get(start..).unwrap_or_default()
    }

    /// Reads the piece of markup or the reference at `start` and yields where it ends.
    fn piece(&mut self, start: usize) -> Result<usize, Fault> {
        let mut cursor = Cursor::at_offset(self.text, start);
        let rest = cursor.rest();
        match rest.as_bytes() {
            [b'&', ..] => self.reference(&mut cursor)?,
            [b'<', b'/', ..] => self.end_tag(&mut cursor)?,
            [b'<', b'?', ..] if start == 0 && declaration::is_next(rest) => {
                declaration::read(&mut cursor)?;
            }
            [b'<', b'?', ..] => markup::instruction(&mut cursor)?,
            [b'<', b'!', b'-', b'-', ..] => markup::comment(&mut cursor)?,
            [b'<', b'!', ..] => self.bang(&mut cursor)?,
            _ => self.start_tag(&mut cursor)?,
        }
        Ok(cursor.at())
    }

    fn doctype(&mut self, start: usize) -> Result<usize, Fault> {
        if self.has_root || self.has_doctype {
            return Err(Fault::at(
                start,
                "a DOCTYPE is allowed once, before the root element",
            ));
        }
        self.has_doctype = true;
        let mut cursor = Cursor::at_offset(self.text, start);
        doctype::read(&mut cursor)?;
        Ok(cursor.at())
    }

    fn text(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        let raw = self.text.get(start..end).unwrap_or_default();
        if self.open.is_empty() {
            return match raw.bytes().position(|byte| !characters::is_space(byte)) {
                None => Ok(()),
                Some(offset) => Err(Fault::at(start + offset, OUTSIDE)),
            };
        }
        // Looking for one byte first is much faster than looking for three.
        if raw.as_bytes().contains(&b'>')
            && let Some(offset) = raw.find("]]>")
        {
            return Err(Fault::at(
                start + offset,
                "`]]>` is not allowed in text; write `]]&gt;`",
            ));
        }
        self.keep(raw);
        Ok(())
    }

    fn reference(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Fault> {
        if self.open.is_empty() {
            return Err(Fault::at(cursor.at(), OUTSIDE));
        }
        let character = characters::reference(cursor)?;
        if let Some(annotation) = self.direct_annotation() {
            annotation.push(|value| value.push(character));
        }
        Ok(())
    }

    /// Reads what begins with `<!` and is no comment.
    fn bang(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Fault> {
        const CDATA: &str = "<![CDATA[";
        const DOCTYPE: &str = "<!DOCTYPE";
        let start = cursor.at();
        let rest = cursor.rest();
        let in_root = !self.open.is_empty();
        if rest.starts_with(CDATA) && in_root {
            let raw = markup::cdata(cursor)?;
            self.keep(raw);
            return Ok(());
        }
        if rest.starts_with(DOCTYPE) && in_root {
            return Err(Fault::at(
                start,
                "a DOCTYPE is allowed once, before the root element",
            ));
        }
        let is_cut = "<!--".starts_with(rest)
            || (in_root && CDATA.starts_with(rest))
            || (!self.has_root && !self.has_doctype && DOCTYPE.starts_with(rest));
        Err(if is_cut {
            cursor.ended_inside("markup", start)
        } else if rest.starts_with(CDATA) {
            Fault::at(start, OUTSIDE)
        } else {
            Fault::at(start, "`<!` begins nothing that is allowed here")
        })
    }

    fn start_tag(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Fault> {
        let start = cursor.at();
        let is_root = self.open.is_empty();
        if is_root && self.has_root && cursor.rest() != "<" {
            return Err(Fault::at(
                start,
                "only comments and processing instructions may follow the root element",
            ));
        }
        let name = tag::start(cursor, &mut self.attributes)?;
        if is_root {
            if tag::local_name(name) != "schema" {
                return Err(Fault::at(
                    start,
                    format!("the root element must be `schema`, not {}", shown(name)),
                ));
            }
            self.has_root = true;
            self.document.name = self.root_attribute("name")?;
            self.document.id = self.root_attribute("id")?;
        }
        match self.open.len() {
            DEPTH_MAX => {
                return Err(Fault::at(
                    start,
                    format!("elements are nested more than {DEPTH_MAX} levels deep"),
                ));
            }
            1 => self.in_annotations = tag::local_name(name) == "annotations",
            2 if self.in_annotations && tag::local_name(name) == "annotation" => {
                self.annotation = self.attribute("name").map(|raw| {
                    let mut annotation = Annotation {
                        at: start,
                        name: String::new(),
                        value: String::new(),
                        is_too_long: raw.len() > VALUE_MAX,
                    };
                    if !annotation.is_too_long {
                        characters::append_attribute_value(raw, &mut annotation.name);
                    }
                    annotation
                });
            }
            _ => {}
        }
        self.open.push((name, start));
        if cursor.since(start).ends_with("/>") {
            self.close()?;
        }
        Ok(())
    }

    fn end_tag(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Fault> {
        let Some((name, _)) = self.open.last() else {
            return Err(Fault::at(
                cursor.at(),
                "an end tag is here without its start tag",
            ));
        };
        tag::end(cursor, name)?;
        self.close()
    }

    /// Closes the innermost element.
    fn close(&mut self) -> Result<(), Fault> {
        self.open.pop();
        match self.open.len() {
            2 => self.finish_annotation(),
            1 => {
                self.in_annotations = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The raw value of an attribute of the tag that was read last.
    fn attribute(&self, name: &str) -> Option<&'a str> {
        let mut attributes = self.attributes.iter();
        attributes
            .find(|attribute| attribute.name == name)
            .map(|attribute| attribute.raw)
    }

    fn root_attribute(&self, name: &str) -> Result<Option<String>, Fault> {
        let mut attributes = self.attributes.iter();
        let Some(attribute) = attributes.find(|attribute| attribute.name == name) else {
            return Ok(None);
        };
        let mut value = String::new();
        characters::append_attribute_value(attribute.raw, &mut value);
        if value.len() > VALUE_MAX {
            return Err(Fault::at(
                attribute.at,
                format!("the root attribute `{name}` is longer than {VALUE_MAX} bytes"),
            ));
        }
        Ok(Some(value))
    }

    /// The annotation whose own text is being read; not that of an element inside of it.
    fn direct_annotation(&mut self) -> Option<&mut Annotation> {
        const ANNOTATION_DEPTH: usize = 3;
        (self.open.len() == ANNOTATION_DEPTH)
            .then_some(self.annotation.as_mut())
            .flatten()
    }

    fn keep(&mut self, raw: &str) {
        if let Some(annotation) = self.direct_annotation() {
            annotation.push(|value| characters::append_text(raw, value));
        }
    }

    fn finish_annotation(&mut self) -> Result<(), Fault> {
        let Some(annotation) = self.annotation.take() else {
            return Ok(());
        };
        let is_identity = matches!(annotation.name.as_str(), "engineId" | "version");
        if annotation.is_too_long {
            return if is_identity {
                Err(Fault::at(
                    annotation.at,
                    format!(
                        "the annotation `{}` is longer than {VALUE_MAX} bytes",
                        annotation.name
                    ),
                ))
            } else {
                Ok(())
            };
        }
        if !is_identity {
            let size = annotation.name.len() + annotation.value.len();
            if self.kept + size > ANNOTATIONS_MAX {
                return Ok(());
            }
            self.kept += size;
        }
        // Of two with one name the first counts.
        let annotations = &mut self.document.annotations;
        annotations
            .entry(annotation.name)
            .or_insert(annotation.value);
        Ok(())
    }

    fn finish(self) -> Result<Document, Fault> {
        let end = self.text.len();
        if let Some((name, start)) = self.open.last() {
            let inside = format!("the element {}", shown(name));
            return Err(Cursor::at_offset(self.text, end).ended_inside(&inside, *start));
        }
        if self.has_root {
            return Ok(self.document);
        }
        let is_empty = self.text.bytes().all(characters::is_space);
        Err(Fault::truncated(
            end,
            if is_empty {
                "it is empty"
            } else {
                "it ends before its root element"
            },
        ))
    }
}

impl Annotation {
    /// Lets `append` add to the value, unless that is too long already.
    fn push(&mut self, append: impl FnOnce(&mut String)) {
        if !self.is_too_long {
            append(&mut self.value);
            if self.value.len() > VALUE_MAX {
                self.is_too_long = true;
                self.value = String::new();
            }
        }
    }
}
