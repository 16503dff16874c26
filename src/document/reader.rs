//! Checks the events of quick-xml, and keeps the name, the id and the annotations.
//!
//! Constraint: the reader is not recursive. It stores one number for each open element.

use std::collections::btree_map::Entry;

use quick_xml::errors::{IllFormedError, SyntaxError};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Error, Reader, XmlVersion};

use super::characters::{check_name, is_space, name_of, reference_name, resolve_reference};
use super::tag::{check_declaration, offset_in, read_attributes};
use super::{ANNOTATIONS_MAX, DEPTH_MAX, Document, Fault, VALUE_MAX, doctype, position, shown};

const OUTSIDE: &str = "text is not allowed outside the root element";
const DOCTYPE_ONCE: &str = "a DOCTYPE is allowed once, before the root element";
const UNKNOWN_MARKUP: &str = "this markup with `<!` is not allowed here";

/// Reads a whole document. The caller has checked its characters.
pub(super) fn read(text: &str) -> Result<Document, Fault> {
    if text.starts_with('\u{FEFF}') {
        // quick-xml would ignore a second byte order mark.
        return Err(Fault::at(0, OUTSIDE));
    }
    let mut state = State::new(text);
    let mut reader = Reader::from_str(text);
    loop {
        let start = offset(reader.buffer_position());
        let event = reader.read_event();
        let end = offset(reader.buffer_position());
        match event {
            Ok(Event::Eof) => return state.finish(),
            Ok(event) => state.event(event, start, end)?,
            Err(Error::IllFormed(IllFormedError::MissingDoctypeName)) => {
                let at = offset(reader.error_position());
                return Err(Fault::at(at, "a name is expected in the DOCTYPE"));
            }
            Err(error) => return Err(state.explain(error, start)),
        }
    }
}

fn offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Checks a comment. `start` is the offset of its `<!--`.
pub(super) fn check_comment(content: &str, start: usize) -> Result<(), Fault> {
    // A hyphen at the end also makes a `--`, together with the `-->`.
    let hyphens = content
        .find("--")
        .or_else(|| content.ends_with('-').then(|| content.len() - 1));
    match hyphens {
        None => Ok(()),
        Some(offset) => Err(Fault::at(
            start + "<!--".len() + offset,
            "`--` is not allowed inside a comment",
        )),
    }
}

/// Checks a processing instruction. `start` is the offset of its `<?`.
pub(super) fn check_instruction(content: &str, start: usize) -> Result<(), Fault> {
    let end = content.bytes().position(is_space).unwrap_or(content.len());
    let target = content.get(..end).unwrap_or_default();
    check_name(target, start + "<?".len())?;
    let reason = if target == "xml" {
        "an XML declaration is allowed only at the start of the file"
    } else if target.eq_ignore_ascii_case("xml") {
        "a processing instruction must not be named `xml`, in upper or lower case"
    } else {
        return Ok(());
    };
    Err(Fault::at(start, reason))
}

struct State<'a> {
    text: &'a str,
    /// The byte offsets of the open elements.
    open: Vec<usize>,
    has_doctype: bool,
    has_root: bool,
    in_annotations: bool,
    annotation: Option<Annotation>,
    /// The total size in bytes of the annotations that [`ANNOTATIONS_MAX`] limits.
    n_kept: usize,
    document: Document,
}

/// An annotation whose end tag was not read yet.
struct Annotation {
    at: usize,
    name: String,
    value: String,
    is_too_long: bool,
}

impl<'a> State<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            open: Vec::new(),
            has_doctype: false,
            has_root: false,
            in_annotations: false,
            annotation: None,
            n_kept: 0,
            document: Document::default(),
        }
    }

    fn rest(&self, start: usize) -> &'a str {
        self.text.get(start..).unwrap_or_default()
    }

    /// Checks the event between `start` and `end`.
    fn event(&mut self, event: Event<'a>, start: usize, end: usize) -> Result<(), Fault> {
        match event {
            Event::Start(tag) => self.open(&tag, start),
            Event::Empty(tag) => {
                self.open(&tag, start)?;
                self.close()
            }
            Event::End(_) => self.close(),
            Event::Text(text) => {
                self.check_text(&text, start)?;
                self.keep(|value| value.push_str(&text.xml10_content()));
                Ok(())
            }
            Event::CData(_) | Event::GeneralRef(_) if self.open.is_empty() => {
                Err(Fault::at(start, OUTSIDE))
            }
            Event::CData(section) => {
                self.keep(|value| value.push_str(&section.xml10_content()));
                Ok(())
            }
            Event::GeneralRef(_) => {
                let character = resolve_reference(self.rest(start), start)?;
                self.keep(|value| value.push(character));
                Ok(())
            }
            Event::Comment(comment) => check_comment(&comment, start),
            Event::Decl(declaration) if start == 0 => check_declaration(&declaration),
            Event::Decl(declaration) => check_instruction(&declaration, start),
            Event::PI(instruction) => check_instruction(&instruction, start),
            Event::DocType(_) => self.doctype(start, end),
            Event::Eof => Ok(()),
        }
    }

    fn doctype(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        // quick-xml also accepts the keyword in lower case, but XML does not.
        if !self.rest(start).starts_with("<!DOCTYPE") {
            return Err(Fault::at(start, UNKNOWN_MARKUP));
        }
        if self.has_root || self.has_doctype {
            return Err(Fault::at(start, DOCTYPE_ONCE));
        }
        self.has_doctype = true;
        doctype::check(self.text, start, end)
    }

    fn check_text(&self, text: &str, start: usize) -> Result<(), Fault> {
        if self.open.is_empty() {
            return match text.bytes().position(|byte| !is_space(byte)) {
                None => Ok(()),
                Some(offset) => Err(Fault::at(start + offset, OUTSIDE)),
            };
        }
        match memchr::memmem::find(text.as_bytes(), b"]]>") {
            None => Ok(()),
            Some(offset) => Err(Fault::at(
                start + offset,
                "`]]>` is not allowed in text; write `]]&gt;`",
            )),
        }
    }

    fn open(&mut self, tag: &BytesStart<'_>, start: usize) -> Result<(), Fault> {
        let at = start + "<".len();
        let is_root = self.open.is_empty();
        if is_root && self.has_root {
            return Err(Fault::at(
                start,
                "only comments and processing instructions may follow the root element",
            ));
        }
        check_tag_end(tag, at)?;
        let name = tag.name();
        check_name(name.as_ref(), at)?;
        read_attributes(tag, name.as_ref().len(), at, |_| Ok(()))?;
        let local = name
            .as_ref()
            .split_once(':')
            .map_or(name.as_ref(), |(_, local)| local);
        if is_root {
            if local != "schema" {
                return Err(Fault::at(
                    start,
                    format!(
                        "the root element must be `schema`, not {}",
                        shown(name.as_ref())
                    ),
                ));
            }
            self.has_root = true;
            self.document.name = root_attribute(tag, "name", at)?;
            self.document.id = root_attribute(tag, "id", at)?;
        }
        match self.open.len() {
            DEPTH_MAX => {
                return Err(Fault::at(
                    start,
                    format!("elements are nested more than {DEPTH_MAX} levels deep"),
                ));
            }
            1 => self.in_annotations = local == "annotations",
            2 if self.in_annotations && local == "annotation" => {
                self.annotation = value_of(tag, "name", at)?
                    .filter(|(name, _)| name.len() <= VALUE_MAX)
                    .map(|(name, _)| Annotation {
                        at: start,
                        name,
                        value: String::new(),
                        is_too_long: false,
                    });
            }
            _ => {}
        }
        self.open.push(start);
        Ok(())
    }

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

    /// Appends to the value of the open annotation, except inside a nested element.
    fn keep(&mut self, append: impl FnOnce(&mut String)) {
        const ANNOTATION_DEPTH: usize = 3;
        if let Some(annotation) = &mut self.annotation
            && self.open.len() == ANNOTATION_DEPTH
            && !annotation.is_too_long
        {
            append(&mut annotation.value);
            if annotation.value.len() > VALUE_MAX {
                annotation.is_too_long = true;
                annotation.value = String::new();
            }
        }
    }

    fn finish_annotation(&mut self) -> Result<(), Fault> {
        let Some(annotation) = self.annotation.take() else {
            return Ok(());
        };
        let is_identity = matches!(annotation.name.as_str(), "engineId" | "version");
        if annotation.is_too_long && is_identity {
            return Err(Fault::at(
                annotation.at,
                format!(
                    "the annotation `{}` is longer than {VALUE_MAX} bytes",
                    annotation.name
                ),
            ));
        }
        if annotation.is_too_long {
            return Ok(());
        }
        // Of annotations with the same name, the first one that is not left out is kept. Only its
        // size counts towards `ANNOTATIONS_MAX`.
        let Entry::Vacant(entry) = self.document.annotations.entry(annotation.name) else {
            return Ok(());
        };
        if !is_identity {
            let size = entry.key().len() + annotation.value.len();
            if self.n_kept + size > ANNOTATIONS_MAX {
                return Ok(());
            }
            self.n_kept += size;
        }
        entry.insert(annotation.value);
        Ok(())
    }

    fn finish(self) -> Result<Document, Fault> {
        if let Some(start) = self.open.last() {
            let name = name_of(self.rest(start + 1));
            return Err(self.ended_inside(&format!("the element {}", shown(name)), *start));
        }
        if self.has_root {
            return Ok(self.document);
        }
        let reason = if self.text.bytes().all(is_space) {
            "the file is empty"
        } else {
            "the file ends before its root element"
        };
        Err(Fault::at(self.text.len(), reason))
    }

    fn ended_inside(&self, inside: &str, start: usize) -> Fault {
        let (line, column) = position(self.text, start);
        Fault::at(
            self.text.len(),
            format!("the file ends inside {inside} that begins at line {line}, column {column}"),
        )
    }

    /// Converts an error of quick-xml to a fault.
    ///
    /// `start` is the offset of the wrong markup.
    fn explain(&self, error: Error, start: usize) -> Fault {
        let rest = self.rest(start);
        match error {
            Error::IllFormed(IllFormedError::MismatchedEndTag { expected, found }) => Fault::at(
                start,
                format!(
                    "the end tag of {} is expected, not {}",
                    shown(&expected),
                    shown(&found)
                ),
            ),
            Error::IllFormed(IllFormedError::UnmatchedEndTag(_)) => {
                Fault::at(start, "this end tag has no start tag")
            }
            Error::IllFormed(IllFormedError::UnclosedReference) if self.open.is_empty() => {
                Fault::at(start, OUTSIDE)
            }
            Error::IllFormed(IllFormedError::UnclosedReference) => {
                let is_cut = rest.len() == 1 + reference_name(rest).len();
                let fault = (!is_cut).then(|| resolve_reference(rest, start).err());
                fault
                    .flatten()
                    .unwrap_or_else(|| self.ended_inside("a reference", start))
            }
            Error::Syntax(error) => self.explain_syntax(error, start),
            error => Fault::at(start, error.to_string()),
        }
    }

    /// Converts an error about unfinished or unknown markup to a fault.
    fn explain_syntax(&self, error: SyntaxError, start: usize) -> Fault {
        let rest = self.rest(start);
        let (inside, opening) = match error {
            SyntaxError::UnclosedComment => ("a comment", "<!--"),
            SyntaxError::UnclosedCData => ("a CDATA section", "<![CDATA["),
            SyntaxError::UnclosedDoctype => ("the DOCTYPE", "<!DOCTYPE"),
            SyntaxError::InvalidBangMarkup => ("markup", "<!--"),
            SyntaxError::UnclosedXmlDecl => ("the XML declaration", "<?xml"),
            SyntaxError::UnclosedPI => ("a processing instruction", "<?"),
            SyntaxError::UnclosedTag
            | SyntaxError::UnclosedSingleQuotedAttributeValue
            | SyntaxError::UnclosedDoubleQuotedAttributeValue => {
                let content = rest.get(1..).unwrap_or_default();
                let inside = match content.starts_with('/') {
                    true => "an end tag",
                    false => "a tag",
                };
                return check_tag_end(content, start + 1)
                    .err()
                    .unwrap_or_else(|| self.ended_inside(inside, start));
            }
        };
        if rest.starts_with(opening) || opening.starts_with(rest) {
            self.ended_inside(inside, start)
        } else {
            Fault::at(start, UNKNOWN_MARKUP)
        }
    }
}

/// Checks that a tag contains no `<`, with which another tag would begin.
fn check_tag_end(content: &str, at: usize) -> Result<(), Fault> {
    match memchr::memchr(b'<', content.as_bytes()) {
        None => Ok(()),
        Some(offset) => Err(Fault::at(
            at + offset,
            "`<` is not allowed inside a tag; is a quote missing?",
        )),
    }
}

/// Returns the value of an attribute, and the offset of its name.
///
/// `at` is the offset of the tag's name. References are resolved, and white space becomes spaces
/// (section 3.3.3).
fn value_of(tag: &BytesStart<'_>, name: &str, at: usize) -> Result<Option<(String, usize)>, Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::at(at, error.to_string());
    let attribute = tag.try_get_attribute(name);
    let Some(attribute) = attribute.map_err(|error| failed(&error))? else {
        return Ok(None);
    };
    let at = at + offset_in(tag, attribute.key.into_inner());
    let value = attribute.normalized_value(XmlVersion::Implicit1_0);
    let value = value.map_err(|error| failed(&error))?;
    Ok(Some((value.into_owned(), at)))
}

fn root_attribute(tag: &BytesStart<'_>, name: &str, at: usize) -> Result<Option<String>, Fault> {
    match value_of(tag, name, at)? {
        Some((value, at)) if value.len() > VALUE_MAX => Err(Fault::at(
            at,
            format!("the root attribute `{name}` is longer than {VALUE_MAX} bytes"),
        )),
        value => Ok(value.map(|(value, _)| value)),
    }
}
