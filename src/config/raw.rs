//! config.yaml as written: a tree of values, each with its place in the file.
//!
//! Constraint: whatever the bytes are, reading them takes bounded time and memory and ends in a
//! tree or in problems. Hence a limit on size and depth, and no anchors, aliases, merge keys or
//! tags: a configuration of this size needs none of them, and aliases are what makes a small file
//! large.
//!
//! Two parsers see the text. `saphyr-parser` yields events with their places, from which the rules
//! above are checked while it reads; `serde_yaml` yields the values with their types. Both visit
//! the nodes in the same order, so that the places are handed out as the values are made.

use std::fmt;
use std::path::Path;
use std::slice;

use saphyr_parser::{Event, Parser, ScanError, Span};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::problem::{Mark, Problem, shown};

/// The largest configuration file, in bytes.
pub const SIZE_MAX: usize = 1024 * 1024;

/// How deep values may be nested; the deepest setting is at five.
const DEPTH_MAX: usize = 32;

/// A value and where it begins. There is no `Debug`: a tree holds secrets.
pub struct Node {
    /// Where it begins.
    pub mark: Mark,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
pub enum Kind {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number that is not negative.
    Whole(u64),
    /// Any other number.
    Number,
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file, duplicate keys included.
    Map(Vec<Entry>),
}

/// A key and its value.
pub struct Entry {
    /// The key.
    pub key: Node,
    /// The value.
    pub value: Node,
}

impl Kind {
    /// What it is called in a message.
    pub const fn called(&self) -> &'static str {
        match self {
            Kind::Null => "nothing",
            Kind::Boolean(_) => "true or false",
            Kind::Whole(_) | Kind::Number => "a number",
            Kind::Text(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// The tree that these bytes spell.
///
/// # Errors
///
/// Too large, not UTF-8, not YAML, empty, several documents, or one of the constructs that the
/// module's constraint excludes; every one of those that is in the file.
pub fn parse(bytes: &[u8], file: &Path) -> Result<Node, Vec<Problem>> {
    let whole = |message: String| vec![Problem::of_file(file, message)];
    if bytes.len() > SIZE_MAX {
        return Err(whole(format!(
            "is larger than {SIZE_MAX} bytes; a configuration is a few kilobytes"
        )));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            return Err(vec![Problem {
                mark: Some(end_of(before)),
                ..Problem::of_file(file, "is not UTF-8; save the file in that encoding")
            }]);
        }
    };
    let marks = marks(text, file)?;
    if marks.is_empty() {
        return Err(whole(
            "is empty; the least it needs is repository: { path: DIRECTORY }".to_owned(),
        ));
    }
    let mut places = marks.iter();
    let seed = NodeSeed {
        marks: &mut places,
        last: Mark { line: 1, column: 1 },
    };
    seed.deserialize(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| {
            let mark = error.location().map(|location| Mark {
                line: location.line(),
                column: location.column(),
            });
            vec![Problem {
                mark,
                ..Problem::of_file(file, format!("is not valid YAML: {error}"))
            }]
        })
}

/// Where a text ends.
fn end_of(text: &[u8]) -> Mark {
    let line = text.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = text.rsplit(|byte| *byte == b'\n').next().unwrap_or(text);
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    Mark { line, column }
}

/// The places of all nodes, keys included, each before its children.
fn marks(text: &str, file: &Path) -> Result<Vec<Mark>, Vec<Problem>> {
    let mut walk = Walk {
        file,
        marks: Vec::new(),
        open: Vec::new(),
        documents: 0,
        problems: Vec::new(),
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(step) = parser.next_event() {
        match step {
            Ok((event, span)) => {
                if walk.step(&event, span).is_break() {
                    break;
                }
            }
            Err(error) => {
                walk.problems.push(syntax(&error, file));
                break;
            }
        }
    }
    if walk.problems.is_empty() {
        Ok(walk.marks)
    } else {
        Err(walk.problems)
    }
}

fn place(span: Span) -> Mark {
    Mark {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

/// A syntax error, with a remedy for what people stumble over most.
fn syntax(error: &ScanError, file: &Path) -> Problem {
    let marker = error.marker();
    let info = error.info();
    let lower = info.to_lowercase();
    let mark = Some(Mark {
        line: marker.line(),
        column: marker.col() + 1,
    });
    if lower.contains("recursion") {
        // The parser's own limit, reached because it reads ahead of the events it gives.
        return Problem {
            mark,
            ..Problem::of_file(file, too_deep())
        };
    }
    let remedy = if lower.contains("tab") {
        "; YAML is indented with spaces, not tabs"
    } else if lower.contains("alias") || lower.contains("anchor") {
        "; a text that begins with * or & stands in quotes"
    } else {
        ""
    };
    Problem {
        mark,
        ..Problem::of_file(file, format!("is not valid YAML: {info}{remedy}"))
    }
}

fn too_deep() -> String {
    format!("is nested deeper than {DEPTH_MAX} levels; no setting is")
}

/// A collection that is being read.
enum Open {
    List,
    /// A mapping, and whether its next node is a key.
    Map {
        key_next: bool,
    },
}

/// The first pass: rules and places.
struct Walk<'a> {
    file: &'a Path,
    marks: Vec<Mark>,
    open: Vec<Open>,
    documents: usize,
    problems: Vec<Problem>,
}

type Flow = std::ops::ControlFlow<()>;

impl Walk<'_> {
    fn problem(&mut self, mark: Mark, message: impl Into<String>) {
        // One line is enough for each; the list is cut later anyway.
        if self.problems.len() < super::problem::LISTED_MAX {
            self.problems.push(Problem {
                mark: Some(mark),
                ..Problem::of_file(self.file, message)
            });
        }
    }

    /// One event; breaks where going on is of no use.
    fn step(&mut self, event: &Event<'_>, span: Span) -> Flow {
        let mark = place(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.problem(
                        mark,
                        "a second document begins here; a configuration is one document",
                    );
                    return Flow::Break(());
                }
            }
            Event::Alias(_) => {
                self.problem(
                    mark,
                    "an alias (*name) is not allowed; write the value out, or put the text into \
                     quotes",
                );
                self.node(mark);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.properties(mark, *anchor, tag.is_some());
                let is_key = self.node(mark);
                if is_key && text == "<<" && *style == saphyr_parser::ScalarStyle::Plain {
                    self.problem(
                        mark,
                        "a merge key (<<) is not allowed; write the values out",
                    );
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.properties(mark, *anchor, tag.is_some());
                return self.enter(mark, Open::List);
            }
            Event::MappingStart(anchor, tag) => {
                self.properties(mark, *anchor, tag.is_some());
                return self.enter(mark, Open::Map { key_next: true });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
            }
        }
        Flow::Continue(())
    }

    fn properties(&mut self, mark: Mark, anchor: usize, tagged: bool) {
        if anchor > 0 {
            self.problem(
                mark,
                "an anchor (&name) is not allowed; write the value out where it is needed, or \
                 put the text into quotes",
            );
        }
        if tagged {
            self.problem(
                mark,
                "a tag (!name) is not allowed; put a text that begins with ! into quotes",
            );
        }
    }

    /// Notes a node; whether it is a key.
    fn node(&mut self, mark: Mark) -> bool {
        self.marks.push(mark);
        match self.open.last_mut() {
            Some(Open::Map { key_next }) => {
                let is_key = *key_next;
                *key_next = !is_key;
                is_key
            }
            Some(Open::List) | None => false,
        }
    }

    fn enter(&mut self, mark: Mark, open: Open) -> Flow {
        if self.node(mark) {
            self.problem(mark, "a key must be a text, not a list or a mapping");
            return Flow::Break(());
        }
        if self.open.len() >= DEPTH_MAX {
            self.problem(mark, too_deep());
            return Flow::Break(());
        }
        self.open.push(open);
        Flow::Continue(())
    }
}

/// The second pass: values, each with the next place.
struct NodeSeed<'a, 'm> {
    marks: &'a mut slice::Iter<'m, Mark>,
    /// The place of the node around it, in case the two passes ever disagree.
    last: Mark,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_, '_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let mark = self.marks.next().copied().unwrap_or(self.last);
        let kind = deserializer.deserialize_any(KindVisitor {
            marks: self.marks,
            mark,
        })?;
        Ok(Node { mark, kind })
    }
}

struct KindVisitor<'a, 'm> {
    marks: &'a mut slice::Iter<'m, Mark>,
    mark: Mark,
}

impl KindVisitor<'_, '_> {
    fn whole<N>(number: N) -> Kind
    where
        u64: TryFrom<N>,
    {
        u64::try_from(number).map_or(Kind::Number, Kind::Whole)
    }
}

impl<'de> Visitor<'de> for KindVisitor<'_, '_> {
    type Value = Kind;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Boolean(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Kind, E> {
        Ok(Self::whole(value))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Kind, E> {
        Ok(Self::whole(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Whole(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Kind, E> {
        Ok(Self::whole(value))
    }

    fn visit_f64<E: de::Error>(self, _value: f64) -> Result<Kind, E> {
        Ok(Kind::Number)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(NodeSeed {
            marks: &mut *self.marks,
            last: self.mark,
        })? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(NodeSeed {
            marks: &mut *self.marks,
            last: self.mark,
        })? {
            let value = access.next_value_seed(NodeSeed {
                marks: &mut *self.marks,
                last: key.mark,
            })?;
            entries.push(Entry { key, value });
        }
        Ok(Kind::Map(entries))
    }
}

/// A key as a message names it.
pub(super) fn key_text(key: &Node) -> String {
    match &key.kind {
        Kind::Text(text) => {
            let plain = text
                .chars()
                .all(|character| character.is_alphanumeric() || matches!(character, '_' | '-'));
            if plain && !text.is_empty() {
                super::problem::shortened(text)
            } else {
                shown(text)
            }
        }
        Kind::Whole(number) => number.to_string(),
        Kind::Boolean(value) => value.to_string(),
        other => format!("({})", other.called()),
    }
}
