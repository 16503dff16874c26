//! The places of all values in config.yaml, and what is not allowed in it as YAML.
//!
//! Constraint: this pass comes first and sees any bytes, so that it works event by event, keeps no
//! text, and stops where going on is of no use.

use std::ops::ControlFlow;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::problem::{LISTED_MAX, Mark, Problem};

/// How deep values may be nested; the deepest setting is at five.
const DEPTH_MAX: usize = 32;

/// The places of all nodes, keys included, each before its children.
pub(super) fn marks(text: &str, file: &Path) -> Result<Vec<Mark>, Vec<Problem>> {
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

type Flow = ControlFlow<()>;

impl Walk<'_> {
    fn problem(&mut self, mark: Mark, message: impl Into<String>) {
        // One line is enough for each; the list is cut later anyway.
        if self.problems.len() < LISTED_MAX {
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
                if is_key && text == "<<" && *style == ScalarStyle::Plain {
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
