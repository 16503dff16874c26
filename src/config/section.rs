//! Reading a tree of values key by key.
//!
//! Constraint: reading goes on after an error, so that one run lists them all. A reader that found
//! an error has reported it to the [`Context`] and returns nothing; whoever builds on several
//! values reads them all first and gives up afterwards.
//!
//! The keys that are allowed in a mapping are the ones that were asked for, so that the list in
//! the message cannot differ from what is read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::problem::{LISTED_MAX, Mark, Problem, nearest, shown};
use super::raw::{Entry, Kind, Node, key_text};
use super::scalar;

/// What a reading needs to know and what it has found wrong.
pub(super) struct Context<'a> {
    /// The file as it was named, for messages.
    pub file: &'a Path,
    /// The directory that relative paths start from, absolute.
    pub base: PathBuf,
    /// The environment.
    pub environment: &'a dyn Environment,
    /// Whether everybody on the machine can read the file.
    pub world_readable: bool,
    /// What makes the configuration invalid.
    pub errors: Vec<Problem>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Problem>,
}

/// A place in the file, with its key path.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub mark: Mark,
    pub key: String,
}

impl Place {
    /// The place of a key below this one.
    pub fn below(&self, key: &str) -> Place {
        let key = if self.key.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.key)
        };
        Place {
            mark: self.mark,
            key,
        }
    }
}

/// A value and its place.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub node: &'n Node,
    pub place: Place,
}

/// What is wrong with a value, and what would be right.
pub(super) struct Fault {
    message: String,
    allowed: Option<String>,
    suggestion: Option<String>,
}

impl Fault {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            allowed: None,
            suggestion: None,
        }
    }

    pub fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    pub fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl Context<'_> {
    fn problem(&self, place: &Place, fault: Fault) -> Problem {
        Problem {
            file: self.file.to_owned(),
            mark: Some(place.mark),
            key: place.key.clone(),
            message: fault.message,
            allowed: fault.allowed,
            suggestion: fault.suggestion,
        }
    }

    /// Notes what makes the configuration invalid.
    pub fn error(&mut self, place: &Place, fault: impl Into<Fault>) {
        let problem = self.problem(place, fault.into());
        self.errors.push(problem);
    }

    /// Notes what is allowed and probably not meant.
    pub fn warning(&mut self, place: &Place, fault: impl Into<Fault>) {
        let problem = self.problem(place, fault.into());
        self.warnings.push(problem);
    }

    /// A path of the file's, made absolute.
    pub fn path(&self, written: &str) -> PathBuf {
        let joined = self.base.join(written);
        // `components` drops `.` in the middle, so that listings show no `/./`.
        joined.components().collect()
    }
}

impl<'n> At<'n> {
    fn wrong_type(&self, context: &mut Context<'_>, expected: &str, hint: &str) {
        let found = self.node.kind.called();
        let message = match self.node.kind {
            Kind::Null => "has no value".to_owned(),
            _ => format!("must be {expected}, not {found}{hint}"),
        };
        context.error(&self.place, Fault::new(message).allowed(expected));
    }

    /// Whether nothing stands after the key.
    pub fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    /// A text that is not empty.
    pub fn text(&self, context: &mut Context<'_>) -> Option<&'n str> {
        match &self.node.kind {
            Kind::Text(text) if text.trim().is_empty() => {
                context.error(&self.place, "is empty");
                None
            }
            Kind::Text(text) => Some(text),
            Kind::Boolean(_) | Kind::Whole(_) | Kind::Number => {
                self.wrong_type(context, "a text", "; put it into quotes");
                None
            }
            Kind::Null | Kind::List(_) | Kind::Map(_) => {
                self.wrong_type(context, "a text", "");
                None
            }
        }
    }

    /// A path, made absolute.
    pub fn path(&self, context: &mut Context<'_>) -> Option<PathBuf> {
        let text = self.text(context)?;
        Some(context.path(text))
    }

    /// `true` or `false`.
    pub fn boolean(&self, context: &mut Context<'_>) -> Option<bool> {
        match &self.node.kind {
            Kind::Boolean(value) => Some(*value),
            Kind::Text(text) => {
                let meant = match text.to_lowercase().as_str() {
                    "yes" | "on" | "true" | "y" => Some("true"),
                    "no" | "off" | "false" | "n" => Some("false"),
                    _ => None,
                };
                context.error(
                    &self.place,
                    Fault::new("must be true or false, not a text")
                        .allowed("true, false")
                        .suggest(meant),
                );
                None
            }
            _ => {
                self.wrong_type(context, "true or false", "");
                None
            }
        }
    }

    /// One of some words.
    pub fn choice<T: Copy>(
        &self,
        context: &mut Context<'_>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let allowed = || {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            words.join(", ")
        };
        let Kind::Text(text) = &self.node.kind else {
            let fault = match self.node.kind {
                Kind::Null => Fault::new("has no value"),
                _ => Fault::new(format!("must be a word, not {}", self.node.kind.called())),
            };
            context.error(&self.place, fault.allowed(allowed()));
            return None;
        };
        let found = choices.iter().find(|(word, _)| word == text);
        if found.is_none() {
            let fault = Fault::new(format!("unknown value {}", shown(text)))
                .allowed(allowed())
                .suggest(nearest(text, choices.iter().map(|(word, _)| *word)));
            context.error(&self.place, fault);
        }
        found.map(|(_, value)| *value)
    }

    /// A whole number within bounds.
    pub fn whole(
        &self,
        context: &mut Context<'_>,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let allowed = format!("{} to {}", bounds.start(), bounds.end());
        match self.node.kind {
            Kind::Whole(number) if bounds.contains(&number) => Some(number),
            Kind::Whole(number) => {
                let fault = Fault::new(format!("{number} is out of bounds")).allowed(allowed);
                context.error(&self.place, fault);
                None
            }
            Kind::Number => {
                let fault = Fault::new("must be a whole number").allowed(allowed);
                context.error(&self.place, fault);
                None
            }
            _ => {
                self.wrong_type(context, "a whole number", "");
                None
            }
        }
    }

    /// A duration within bounds.
    pub fn duration(
        &self,
        context: &mut Context<'_>,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let result = match &self.node.kind {
            Kind::Text(text) => scalar::duration(text),
            // Zero is zero in every unit.
            Kind::Whole(0) => Ok(Duration::ZERO),
            Kind::Whole(number) => {
                Err(Fault::new(format!("{number} has no unit")).suggest(Some(format!("{number}s"))))
            }
            _ => {
                self.wrong_type(context, "a duration such as 1s, 5m, 10h or 7d", "");
                return None;
            }
        };
        let result = result.and_then(|duration| {
            if bounds.contains(&duration) {
                Ok(duration)
            } else {
                let what = humantime::format_duration(duration);
                Err(Fault::new(format!("{what} is out of bounds")))
            }
        });
        match result {
            Ok(duration) => Some(duration),
            Err(fault) => {
                let allowed = format!(
                    "a duration from {} to {}, with a unit (ms, s, m, h, d)",
                    humantime::format_duration(*bounds.start()),
                    humantime::format_duration(*bounds.end()),
                );
                context.error(&self.place, fault.allowed(allowed));
                None
            }
        }
    }

    /// A size in bytes within bounds.
    pub fn size(
        &self,
        context: &mut Context<'_>,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let result = match &self.node.kind {
            Kind::Text(text) => scalar::size(text),
            Kind::Whole(number) => Ok(*number),
            _ => {
                self.wrong_type(context, "a size such as 64MiB, or a number of bytes", "");
                return None;
            }
        };
        let result = result.and_then(|size| {
            if bounds.contains(&size) {
                Ok(size)
            } else {
                Err(Fault::new(format!("{size} bytes is out of bounds")))
            }
        });
        match result {
            Ok(size) => Some(size),
            Err(fault) => {
                let allowed = format!(
                    "a size from {} to {}, such as 64MiB",
                    bytesize::ByteSize(*bounds.start()),
                    bytesize::ByteSize(*bounds.end()),
                );
                context.error(&self.place, fault.allowed(allowed));
                None
            }
        }
    }

    /// The items of a list.
    pub fn list(&self, context: &mut Context<'_>, expected: &str) -> Option<Vec<At<'n>>> {
        match &self.node.kind {
            Kind::List(items) => Some(self.items(items)),
            _ => {
                self.wrong_type(context, expected, "");
                None
            }
        }
    }

    /// The items of a list, or the one value that stands in its place.
    pub fn one_or_many(&self) -> Vec<At<'n>> {
        match &self.node.kind {
            Kind::List(items) => self.items(items),
            _ => vec![self.clone()],
        }
    }

    fn items(&self, items: &'n [Node]) -> Vec<At<'n>> {
        items
            .iter()
            .enumerate()
            .map(|(index, node)| At {
                node,
                place: Place {
                    mark: node.mark,
                    key: format!("{}[{index}]", self.place.key),
                },
            })
            .collect()
    }

    /// The mapping that this is; nothing after the key counts as an empty one, as when all its
    /// lines are commented out.
    pub fn section(&self, context: &mut Context<'_>) -> Option<Section<'n>> {
        match &self.node.kind {
            Kind::Map(entries) => Some(Section::open(entries, self.place.clone(), context)),
            Kind::Null => Some(Section::open(&[], self.place.clone(), context)),
            _ => {
                self.wrong_type(context, "a mapping (key: value)", "");
                None
            }
        }
    }
}

/// A mapping whose keys are settings.
pub(super) struct Section<'n> {
    /// Where it is.
    pub place: Place,
    /// The values not asked for yet, each with the line of its key.
    entries: HashMap<&'n str, (At<'n>, usize)>,
    in_order: Vec<(&'n str, Place)>,
    asked: Vec<&'static str>,
}

impl<'n> Section<'n> {
    fn open(entries: &'n [Entry], place: Place, context: &mut Context<'_>) -> Self {
        let mut section = Self {
            place,
            entries: HashMap::new(),
            in_order: Vec::new(),
            asked: Vec::new(),
        };
        for entry in entries {
            let mut key_place = section.place.below(&key_text(&entry.key));
            key_place.mark = entry.key.mark;
            let Kind::Text(name) = &entry.key.kind else {
                let found = entry.key.kind.called();
                let message = format!("a key must be a text, not {found}; put it into quotes");
                context.error(&key_place, message);
                continue;
            };
            let at = At {
                node: &entry.value,
                place: Place {
                    mark: entry.value.mark,
                    key: key_place.key.clone(),
                },
            };
            // An empty value has no place of its own that a person would look for.
            let at = match entry.value.kind {
                Kind::Null => At {
                    place: key_place.clone(),
                    ..at
                },
                _ => at,
            };
            if let Some((_, line)) = section.entries.get(name.as_str()) {
                let message = format!("is given twice, first in line {line}");
                context.error(&key_place, message);
                continue;
            }
            section.entries.insert(name, (at, key_place.mark.line));
            section.in_order.push((name, key_place));
        }
        section
    }

    /// The value of a setting, if it is given.
    pub fn take(&mut self, name: &'static str) -> Option<At<'n>> {
        self.asked.push(name);
        self.entries.remove(name).map(|(at, _)| at)
    }

    /// The value of a setting that must be given.
    pub fn require(
        &mut self,
        context: &mut Context<'_>,
        name: &'static str,
        allowed: &str,
    ) -> Option<At<'n>> {
        let at = self.take(name);
        if at.is_none() {
            let place = self.place.below(name);
            context.error(&place, Fault::new("is missing").allowed(allowed));
        }
        at
    }

    /// A duration, or its default.
    pub fn duration(
        &mut self,
        context: &mut Context<'_>,
        name: &'static str,
        default: Duration,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        match self.take(name) {
            Some(at) => at.duration(context, bounds),
            None => Some(default),
        }
    }

    /// One of some words, or its default.
    pub fn choice<T: Copy>(
        &mut self,
        context: &mut Context<'_>,
        name: &'static str,
        default: T,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        match self.take(name) {
            Some(at) => at.choice(context, choices),
            None => Some(default),
        }
    }

    /// The mapping of a key; an empty one where the key is absent.
    pub fn section(
        &mut self,
        context: &mut Context<'_>,
        name: &'static str,
    ) -> Option<Section<'n>> {
        match self.take(name) {
            Some(at) => at.section(context),
            None => Some(Section::open(&[], self.place.below(name), context)),
        }
    }

    /// All entries that were not asked for, in their order, with the place of the key; for
    /// mappings whose keys are names of the user's.
    pub fn names(mut self) -> Vec<(&'n str, Place, At<'n>)> {
        let in_order = std::mem::take(&mut self.in_order);
        in_order
            .into_iter()
            .filter_map(|(name, place)| {
                let (at, _) = self.entries.remove(name)?;
                Some((name, place, at))
            })
            .collect()
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self, context: &mut Context<'_>) {
        let asked = self.asked.clone();
        for (name, place, _) in self.names() {
            // What is not listed needs no suggestion, which is what takes time.
            let suggestion = (context.errors.len() < LISTED_MAX)
                .then(|| nearest(name, asked.iter().copied()))
                .flatten();
            let fault = Fault::new("unknown key")
                .allowed(asked.join(", "))
                .suggest(suggestion);
            context.error(&place, fault);
        }
    }
}
