//! Parses config.yaml into a tree of values, each with its position in the file.
//!
//! Constraint: parsing takes limited time and memory for any input. So the size and the depth are
//! limited, and anchors, aliases, merge keys and tags are errors. A configuration does not need
//! these, and aliases can expand a small file into a large one.
//!
//! `saphyr-parser` reports the structure event by event, with lines and columns. So the depth limit
//! applies during parsing. `serde_yaml` decides the type of each unquoted value.

use std::ops::ControlFlow;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_yaml::Value;

use super::problem::{Position, Problem, shortened, shown};

/// The largest configuration file, in bytes.
pub(super) const SIZE_MAX: usize = 1024 * 1024;

/// The maximum number of nested lists and mappings.
///
/// Settings need at most six, for example `webhooks[].auth.oauth2.client_id.credential`.
const DEPTH_MAX: usize = 32;

/// A value and its position. It has no `Debug`, because a tree contains secrets.
pub(super) struct Node {
    pub position: Position,
    pub kind: Kind,
    /// Whether this is a literal block (`|`).
    ///
    /// The `position` of such a block is the position of its first line that is not empty.
    pub is_literal: bool,
}

pub(super) enum Kind {
    /// No value, `null` or `~`.
    Null,
    Boolean(bool),
    /// A whole number that is not negative.
    Whole(u64),
    /// Any other number.
    Number,
    Text(String),
    List(Vec<Node>),
    /// A mapping in the order of the file, including duplicate keys.
    Map(Vec<Entry>),
}

pub(super) struct Entry {
    pub key: Node,
    pub value: Node,
}

impl Kind {
    /// Returns the kind of an unquoted value.
    pub(super) fn of_plain(text: &str) -> Self {
        // The text is parsed as an item of a list, because `---` alone is an empty document.
        match serde_yaml::from_str::<[Value; 1]>(&format!("- {text}")) {
            Ok([Value::Null]) => Kind::Null,
            Ok([Value::Bool(value)]) => Kind::Boolean(value),
            Ok([Value::Number(number)]) => number.as_u64().map_or(Kind::Number, Kind::Whole),
            // `Value` has no whole numbers above 64 bits.
            Err(_) if serde_yaml::from_str::<f64>(text).is_ok() => Kind::Number,
            _ => Kind::Text(text.to_owned()),
        }
    }

    /// The name of the kind in a message.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Kind::Null => "nothing",
            Kind::Boolean(_) => "true or false",
            Kind::Whole(_) | Kind::Number => "a number",
            Kind::Text(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// Returns the text of a key for messages and key paths.
pub(super) fn key_text(key: &Node) -> String {
    match &key.kind {
        Kind::Text(text) => {
            let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
            if !text.is_empty() && text.chars().all(is_plain) {
                shortened(text)
            } else {
                shown(text)
            }
        }
        Kind::Whole(number) => number.to_string(),
        Kind::Boolean(value) => value.to_string(),
        other => format!("({})", other.name()),
    }
}

/// Parses a file into a tree.
///
/// # Errors
///
/// The file is too large, not UTF-8, not YAML, nested too deeply, or empty. Or it has several
/// documents, a list or mapping as a key, anchors, aliases, merge keys or tags. There is one error
/// for each anchor, alias, merge key and tag before parsing stops.
pub(super) fn parse(bytes: &[u8], file: &Path) -> Result<Node, Vec<Problem>> {
    let whole = |message: String| vec![Problem::of_file(file, message)];
    if bytes.len() > SIZE_MAX {
        return Err(whole(format!(
            "is larger than {SIZE_MAX} bytes; a configuration usually has a few kilobytes"
        )));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            return Err(vec![Problem {
                position: Some(end_of(before)),
                ..Problem::of_file(file, "is not UTF-8; save the file as UTF-8")
            }]);
        }
    };
    let mut builder = Builder {
        file,
        open: Vec::new(),
        root: None,
        n_documents: 0,
        problems: Vec::new(),
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(step) = parser.next_event() {
        match step {
            Ok((event, span)) => {
                if builder.step(event, span).is_break() {
                    break;
                }
            }
            Err(error) => {
                builder.problems.push(syntax_problem(&error, file));
                break;
            }
        }
    }
    match builder.root {
        _ if !builder.problems.is_empty() => Err(builder.problems),
        Some(root) if !matches!(root.kind, Kind::Null) => Ok(root),
        _ => Err(whole(
            "is empty; it needs at least repository: { path: DIRECTORY }".to_owned(),
        )),
    }
}

/// Returns the position of the end of a text.
fn end_of(text: &[u8]) -> Position {
    let line = text.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = text.rsplit(|byte| *byte == b'\n').next().unwrap_or(text);
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    Position { line, column }
}

/// Makes a problem from a syntax error, with advice for frequent errors.
fn syntax_problem(error: &ScanError, file: &Path) -> Problem {
    let (marker, info) = (error.marker(), error.info());
    let lower = info.to_lowercase();
    let message = if lower.contains("recursion") {
        // The parser reads ahead, so it may reach its own depth limit before `DEPTH_MAX` applies.
        too_deep()
    } else {
        let remedy = if lower.contains("tab") {
            "; YAML is indented with spaces, not tabs"
        } else if lower.contains("alias") || lower.contains("anchor") {
            "; put a string that begins with * or & in quotes"
        } else {
            ""
        };
        format!("is not valid YAML: {info}{remedy}")
    };
    Problem {
        position: Some(Position {
            line: marker.line(),
            column: marker.col() + 1,
        }),
        ..Problem::of_file(file, message)
    }
}

fn too_deep() -> String {
    format!("is nested deeper than {DEPTH_MAX} levels; settings need at most six levels")
}

/// A list or a mapping that has not ended yet.
enum Open {
    List(Vec<Node>),
    /// The complete entries, and the key whose value comes next, if any.
    Map(Vec<Entry>, Option<Node>),
}

/// Builds a tree from the parser's events.
struct Builder<'a> {
    file: &'a Path,
    /// The lists and mappings that have not ended, with their positions.
    ///
    /// The outermost is first.
    open: Vec<(Position, Open)>,
    root: Option<Node>,
    n_documents: usize,
    problems: Vec<Problem>,
}

impl Builder<'_> {
    fn problem(&mut self, position: Position, message: impl Into<String>) {
        self.problems.push(Problem {
            position: Some(position),
            ..Problem::of_file(self.file, message)
        });
    }

    /// Handles one event. Returns `Break` if parsing cannot continue.
    fn step(&mut self, event: Event<'_>, span: Span) -> ControlFlow<()> {
        let position = Position {
            line: span.start.line(),
            column: span.start.col() + 1,
        };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.n_documents += 1;
                if self.n_documents > 1 {
                    let message = "a second document begins here; the file must have one document";
                    self.problem(position, message);
                    return ControlFlow::Break(());
                }
            }
            Event::Alias(_) => {
                let message = "an alias (*name) is not allowed; repeat the value, or put the \
                               string in quotes";
                self.problem(position, message);
                self.finish(position, Kind::Null);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_properties(position, anchor, tag.is_some());
                let is_plain = style == ScalarStyle::Plain;
                if is_plain && text == "<<" && self.expects_key() {
                    let message = "a merge key (<<) is not allowed; repeat the keys and values";
                    self.problem(position, message);
                }
                let kind = if is_plain {
                    Kind::of_plain(&text)
                } else {
                    Kind::Text(text.into_owned())
                };
                self.finish_node(Node {
                    position,
                    kind,
                    is_literal: style == ScalarStyle::Literal,
                });
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_properties(position, anchor, tag.is_some());
                return self.begin(position, Open::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.check_properties(position, anchor, tag.is_some());
                return self.begin(position, Open::Map(Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((position, Open::List(items))) => self.finish(position, Kind::List(items)),
                Some((position, Open::Map(entries, _))) => {
                    self.finish(position, Kind::Map(entries));
                }
                None => {}
            },
        }
        ControlFlow::Continue(())
    }

    fn check_properties(&mut self, position: Position, anchor: usize, is_tagged: bool) {
        if anchor > 0 {
            let message = "an anchor (&name) is not allowed; repeat the value wherever it is \
                           needed, or put the string in quotes";
            self.problem(position, message);
        }
        if is_tagged {
            let message = "a tag (!name) is not allowed; put a string that begins with ! in quotes";
            self.problem(position, message);
        }
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some((_, Open::Map(_, None))))
    }

    /// Opens a list or a mapping.
    fn begin(&mut self, position: Position, open: Open) -> ControlFlow<()> {
        let message = if self.expects_key() {
            "a key must be a string, not a list or a mapping".to_owned()
        } else if self.open.len() >= DEPTH_MAX {
            too_deep()
        } else {
            self.open.push((position, open));
            return ControlFlow::Continue(());
        };
        self.problem(position, message);
        ControlFlow::Break(())
    }

    /// Adds a complete value to the list or mapping that contains it, or as the root.
    fn finish(&mut self, position: Position, kind: Kind) {
        self.finish_node(Node {
            position,
            kind,
            is_literal: false,
        });
    }

    fn finish_node(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((_, Open::List(items))) => items.push(node),
            Some((_, Open::Map(entries, key))) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push(Entry { key, value: node }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::{LISTED_MAX, arranged};
    use super::*;

    #[test]
    fn all_problems_are_counted() {
        let text = "- &a 1\n".repeat(LISTED_MAX + 50);
        let problems = parse(text.as_bytes(), Path::new("config.yaml"))
            .err()
            .unwrap();
        let listed = arranged(problems, Path::new("config.yaml"));
        assert_eq!(listed.len(), LISTED_MAX + 1);
        assert_eq!(
            listed.last().unwrap().message,
            "further problems not listed: 50"
        );
    }

    #[test]
    fn unquoted_texts_have_the_kinds_of_yaml() {
        for (texts, expected) in [
            ("~ null NULL", "nothing"),
            ("true False", "true or false"),
            ("0 8 +3 0x1F 0o17 18446744073709551615", "a number"),
            (
                "-1 1.5 .5 1e3 .inf -.INF .nan 18446744073709551616",
                "a number",
            ),
            (
                "007 -01 1s 64MiB inf nan yes 10.1.2.3 10.0.0.0/8 0xyz - . 1.2.3 --- ...",
                "a string",
            ),
        ] {
            for text in texts.split(' ') {
                assert_eq!(Kind::of_plain(text).name(), expected, "{text}");
            }
        }
    }
}
