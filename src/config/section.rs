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
use super::problem::{LISTED_MAX, Mark, Problem, nearest, one_line};
use super::raw::{Entry, Kind, key_text};
use super::value::At;

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
            message: one_line(&fault.message),
            allowed: fault.allowed.as_deref().map(one_line),
            suggestion: fault.suggestion.as_deref().map(one_line),
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
    pub fn open(entries: &'n [Entry], place: Place, context: &mut Context<'_>) -> Self {
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
