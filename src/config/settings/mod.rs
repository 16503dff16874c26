//! The table of settings: one row for each setting of config.yaml.
//!
//! Constraint: the defaults and bounds in the rows are nowhere else. The reader uses this table.
//! The manual page, the JSON Schema and the table in the documentation are generated from it, and a
//! test compares the sample config.yaml with it. `table` has the rows.

mod table;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use self::table::SETTINGS;
use super::problem::Position;
use super::yaml::{Kind, Node};

/// The placeholder for the part of a key path that the user chooses.
pub(super) const NAME: &str = "NAME";

/// The longest name of a webhook, in characters.
pub(super) const WEBHOOK_NAME_MAX: usize = 100;

/// The longest name of a repository, in characters.
///
/// Indexed values in PostgreSQL begin with the name, and PostgreSQL limits their length.
pub(super) const REPOSITORY_NAME_MAX: usize = 500;

/// The maximum number of repositories. Each has its own threads and watches.
pub(super) const REPOSITORIES_MAX: usize = 64;

/// One setting of config.yaml.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key path.
    ///
    /// `NAME` stands for a name that the user chooses, and `[]` for each item of a list.
    pub key: &'static str,
    /// The type of the value, or of each item of a list.
    pub value: ValueType,
    /// How many values the setting may have.
    pub count: Count,
    /// The value if the setting is absent.
    pub default: DefaultValue,
    /// Whether a changed value takes effect only after a restart.
    ///
    /// This does not apply to `name` in a list of repositories.
    pub needs_restart: bool,
    /// The effect of the setting.
    pub meaning: &'static str,
}

/// The type of a value, with its bounds.
#[derive(Clone, Copy, Debug)]
pub enum ValueType {
    /// A value, usually a string: its description, and its pattern, if any.
    Text(&'static str, Option<&'static str>),
    /// A string of at most this many characters.
    TextUpTo(usize),
    /// A string, or the credential, environment variable or file that contains it.
    Sourced,
    /// The URL of a receiver, or the source that contains it.
    Url,
    /// The name or the label of an event, or `*`.
    Event,
    /// One of these words.
    Word(fn() -> Vec<&'static str>),
    /// `true` or `false`.
    Boolean,
    /// A whole number between these bounds.
    Whole(u64, u64),
    /// A duration between these bounds, which are written as in the configuration.
    Duration(&'static str, &'static str),
    /// A size between these bounds, which are written as in the configuration.
    Size(&'static str, &'static str),
}

/// How many values a setting may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One value. A list is an error.
    One,
    /// One value, or a list with a length between these bounds.
    OneOrList(usize, usize),
    /// A list with a length between these bounds.
    List(usize, usize),
}

/// The value of a setting that is not in the file.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// There is no default: the setting is required.
    Required,
    /// These values, written as in the configuration.
    Values(&'static [&'static str]),
    /// These values, or the value of the named setting if that is smaller.
    AtMost(&'static [&'static str], &'static str),
    /// There is no fixed value. The text says what holds without the setting.
    Described(&'static str),
}

use Count::List;
use DefaultValue::{AtMost, Described, Required, Values};
use ValueType::{Boolean, Duration, Event, Size, Sourced, Text, TextUpTo, Url, Whole, Word};

impl Setting {
    /// Describes the allowed values.
    pub fn allowed(&self) -> String {
        let one = self.value.allowed();
        match self.count {
            Count::One => one,
            Count::OneOrList(0 | 1, max) => format!("{one}; or a list of up to {max}"),
            Count::OneOrList(min, max) => format!("{one}; or a list of {min} to {max}"),
            Count::List(min, max) => format!("a list of {min} to {max}, each {one}"),
        }
    }

    /// Describes the default.
    pub fn default_text(&self) -> String {
        let code = |values: &[&str]| {
            let code: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            code.join(", ")
        };
        match self.default {
            Required => "required".to_owned(),
            Values(values) => code(values),
            AtMost(values, bound) => format!("{}, or {bound} if that is less", code(values)),
            Described(text) => text.to_owned(),
        }
    }

    /// Describes what the setting does, and whether a change needs a restart.
    pub fn meaning_text(&self) -> String {
        if self.needs_restart {
            format!("{}; a change needs a restart", self.meaning)
        } else {
            self.meaning.to_owned()
        }
    }

    /// Returns [`Setting::meaning_text`] without the targets of its links.
    ///
    /// For readers who have no pages to open: in the manual and in an editor.
    pub(crate) fn plain_meaning(&self) -> String {
        without_links(&self.meaning_text())
    }
}

/// Replaces each link of Markdown with its text.
fn without_links(markdown: &str) -> String {
    let mut plain = String::new();
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        let link = after.split_once("](");
        let link = link.filter(|(text, _)| !text.contains(['[', ']']));
        match link.and_then(|(text, target)| Some((text, target.split_once(')')?.1))) {
            Some((text, after)) => {
                plain.push_str(text);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

impl ValueType {
    /// Describes the allowed values.
    pub fn allowed(self) -> String {
        match self {
            Text(kind, _) => kind.to_owned(),
            TextUpTo(max) => format!("a string of up to {max} characters"),
            Sourced => {
                "a string, `{ credential: NAME }`, `{ env: NAME }` or `{ file: PATH }`".to_owned()
            }
            Url => {
                "`http://HOST/…` or `https://HOST/…`, `{ credential: NAME }`, `{ env: NAME }` or \
                    `{ file: PATH }`"
                    .to_owned()
            }
            Event => "the name or the label of an event".to_owned(),
            Word(words) => words()
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(", "),
            Boolean => "`true`, `false`".to_owned(),
            Whole(min, max) => format!("{min} to {max}"),
            Duration(min, max) => format!("a duration from {min} to {max}"),
            Size(min, max) => format!("a size from {min} to {max}"),
        }
    }
}

/// Returns the row of a key path. An item of a list has the row of the list.
pub(super) fn find(path: &str) -> Option<&'static Setting> {
    let path = path.strip_suffix("[]").unwrap_or(path);
    SETTINGS.iter().find(|setting| setting.key == path)
}

/// Returns the keys of the mapping at a path, in the order of the table.
pub(super) fn keys_below(path: &str) -> Vec<&'static str> {
    let mut keys: Vec<&'static str> = SETTINGS
        .iter()
        .filter_map(|setting| match path {
            "" => Some(setting.key),
            _ => setting.key.strip_prefix(path)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split(['.', '[']).next())
        .collect();
    keys.dedup();
    keys
}

/// Returns the default of a setting as a node of the tree.
pub(super) fn default_node(setting: &Setting) -> Option<&'static Node> {
    static NODES: LazyLock<HashMap<&str, Node>> = LazyLock::new(|| {
        let nodes = SETTINGS.iter().filter_map(|setting| match setting.default {
            Values(values) | AtMost(values, _) => Some((setting.key, written(setting, values))),
            Required | Described(_) => None,
        });
        nodes.collect()
    });
    NODES.get(setting.key)
}

fn written(setting: &Setting, values: &[&str]) -> Node {
    let node = |kind| Node {
        position: Position { line: 1, column: 1 },
        kind,
        is_literal: false,
    };
    let kind = |value: &str| match setting.value {
        Boolean | Whole(..) => Kind::of_plain(value),
        // Not parsed as YAML, which would read some strings as other types or as comments.
        _ => Kind::Text(value.to_owned()),
    };
    let mut items: Vec<Node> = values.iter().map(|value| node(kind(value))).collect();
    match items.pop() {
        Some(only) if items.is_empty() && !matches!(setting.count, List(..)) => only,
        last => {
            items.extend(last);
            node(Kind::List(items))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::units;
    use super::*;

    #[test]
    fn bounds_can_be_read_and_keys_are_unique() {
        for setting in SETTINGS {
            let is_in_order = match setting.value {
                Duration(min, max) => units::duration(min).unwrap() < units::duration(max).unwrap(),
                Size(min, max) => units::size(min).unwrap() < units::size(max).unwrap(),
                Whole(min, max) => min < max,
                _ => true,
            };
            assert!(is_in_order, "{}", setting.key);
            let same = SETTINGS.iter().filter(|other| other.key == setting.key);
            assert_eq!(same.count(), 1, "{}", setting.key);
        }
    }

    #[test]
    fn links_are_replaced_with_their_text() {
        for (markdown, plain) in [
            ("a [b](c.md#d) e", "a b e"),
            ("`[0s, 10s]` and [a](b)[c](d)", "`[0s, 10s]` and ac"),
            ("[a] (b) [", "[a] (b) ["),
            ("[a](b", "[a](b"),
        ] {
            assert_eq!(without_links(markdown), plain);
        }
    }
}
