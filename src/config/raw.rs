//! config.yaml as written: a tree of values, each with its place in the file.
//!
//! Constraint: whatever the bytes are, reading them takes bounded time and memory and ends in a
//! tree or in problems. Hence a limit on size and depth, and no anchors, aliases, merge keys or
//! tags: a configuration of this size needs none of them, and aliases are what makes a small file
//! large.
//!
//! Two parsers see the text. `saphyr-parser`, in `marks`, yields events with their places, from
//! which the rules above are checked while it reads; `serde_yaml`, here, yields the values with
//! their types. Both visit the nodes in the same order, so that the places are handed out as the
//! values are made.

use std::fmt;
use std::path::Path;
use std::slice;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::marks;
use super::problem::{Mark, Problem, shown};

/// The largest configuration file, in bytes.
pub const SIZE_MAX: usize = 1024 * 1024;

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
    let marks = marks::marks(text, file)?;
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
