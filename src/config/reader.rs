//! Reads the mappings of a tree of values as the table of settings describes them.
//!
//! Constraint: reading continues after an error, so that one run lists as many errors as possible.
//! A function that finds an error reports it to the [`Context`] and returns `None`. A function that
//! reads several values reads all of them, if it can, before it returns `None`.
//!
//! Known keys, defaults and bounds come from the table, so that messages agree with it. Only the
//! keys of a source, such as `file`, are not in the table.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::looks::{Looks, is_silent};
use super::problem::{LISTED_MAX, Position, Problem, nearest, one_line};
use super::settings::{self, DefaultValue, Setting};
use super::value::Value;
use super::yaml::{Entry, Kind, key_text};

/// The state of reading a configuration, with the problems found so far.
pub(super) struct Context<'a> {
    /// The path of the configuration file in messages: as given, or a default.
    pub file: &'a Path,
    /// The absolute path of the directory that relative paths start from.
    pub base: PathBuf,
    pub environment: &'a dyn Environment,
    /// Checks the paths of repositories and reads files.
    pub looks: Looks,
    /// Whether every user of the machine can read the configuration file.
    pub world_readable: bool,
    /// Problems that make the configuration invalid.
    pub errors: Vec<Problem>,
    /// Problems that do not make the configuration invalid.
    pub warnings: Vec<Problem>,
}

/// A position in the configuration file, with its key path.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub position: Position,
    /// The key path for messages, such as `webhooks[2].headers.X-Token`.
    pub key: String,
    /// The key path in the table of settings, such as `webhooks[].headers.NAME`.
    row: String,
}

impl Location {
    pub(super) fn root(position: Position) -> Self {
        Self {
            position,
            key: String::new(),
            row: String::new(),
        }
    }

    /// Returns the location of a key below this one. The position stays the same.
    pub(super) fn below(&self, name: &str) -> Self {
        Self {
            position: self.position,
            key: joined(&self.key, name),
            row: joined(&self.row, name),
        }
    }

    /// Returns the location of a key in the file. If `is_free`, the user chose the key.
    fn below_key(&self, entry: &Entry, is_free: bool) -> Self {
        let name = key_text(&entry.key);
        Self {
            position: entry.key.position,
            key: joined(&self.key, &name),
            row: joined(&self.row, if is_free { settings::NAME } else { &name }),
        }
    }

    /// Returns the location of an item of this list.
    pub(super) fn item(&self, index: usize, position: Position) -> Self {
        Self {
            position,
            key: format!("{}[{index}]", self.key),
            // Each item of `repositories` has the settings of `repository`.
            row: match self.row.as_str() {
                "repositories" => "repository".to_owned(),
                list => format!("{list}[]"),
            },
        }
    }

    /// Returns the keys that a mapping at this location may have.
    pub(super) fn keys(&self) -> Vec<&'static str> {
        settings::keys_below(&self.row)
    }

    /// Returns the row of this setting in the table. `None` if there is no such row.
    pub(super) fn setting(&self) -> Option<&'static Setting> {
        settings::find(&self.row)
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// A fault of a value, with the allowed values for the message.
#[derive(Debug)]
pub(super) struct Fault {
    message: String,
    allowed: Allowed,
    suggestion: Option<String>,
    is_passing: bool,
}

/// The allowed values at the end of a message.
#[derive(Debug)]
enum Allowed {
    /// The message lists no allowed values.
    Nothing,
    /// The allowed values of the setting, from the table.
    BySetting,
    /// This description of the allowed values.
    Text(String),
}

impl Fault {
    /// Makes a fault without a list of allowed values.
    ///
    /// If no list is added, the message itself should say how to fix the fault.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            allowed: Allowed::Nothing,
            suggestion: None,
            is_passing: false,
        }
    }

    /// Makes a fault about a file that cannot be read.
    pub(super) fn of_file(path: &Path, error: &io::Error) -> Self {
        Self {
            is_passing: is_silent(error),
            ..Self::new(format!("{} cannot be read: {error}", path.display()))
        }
    }

    /// Makes a fault whose message ends with the allowed values of the setting.
    pub(super) fn not_allowed(message: impl Into<String>) -> Self {
        Self {
            allowed: Allowed::BySetting,
            ..Self::new(message)
        }
    }

    pub(super) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Allowed::Text(allowed.into());
        self
    }

    pub(super) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
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
    fn problem(&self, location: &Location, fault: Fault) -> Problem {
        let allowed = match fault.allowed {
            Allowed::Nothing => None,
            Allowed::BySetting => location
                .setting()
                .map(|setting| setting.allowed().replace('`', "")),
            Allowed::Text(text) => Some(text),
        };
        Problem {
            file: self.file.to_owned(),
            position: Some(location.position),
            key: location.key.clone(),
            message: one_line(&fault.message),
            allowed: allowed.as_deref().map(one_line),
            suggestion: fault.suggestion.as_deref().map(one_line),
            is_passing: fault.is_passing,
        }
    }

    /// Reports an error, which makes the configuration invalid.
    pub(super) fn error(&mut self, location: &Location, fault: impl Into<Fault>) {
        let problem = self.problem(location, fault.into());
        self.errors.push(problem);
    }

    /// Reports a problem that does not make the configuration invalid.
    pub(super) fn warning(&mut self, location: &Location, fault: impl Into<Fault>) {
        let problem = self.problem(location, fault.into());
        self.warnings.push(problem);
    }

    /// Returns the value of a result, or reports its error.
    pub(super) fn accept<T>(
        &mut self,
        location: &Location,
        result: Result<T, impl Into<Fault>>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.error(location, fault);
                None
            }
        }
    }

    /// Makes a path from the configuration absolute.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        let joined = self.base.join(written);
        // `components` drops each `.`, so that listings do not show `/./`.
        joined.components().collect()
    }
}

/// Collects values. Returns `None` if any value is invalid.
///
/// Visits all values even after an invalid one, so that all errors are reported.
pub(super) fn all<T>(values: impl IntoIterator<Item = Option<T>>) -> Option<Vec<T>> {
    let values: Vec<Option<T>> = values.into_iter().collect();
    values.into_iter().collect()
}

pub(super) struct Mapping<'n> {
    pub location: Location,
    /// The entries with known keys, in the order of the file.
    ///
    /// Each has the location of its key.
    entries: Vec<(&'n str, Location, Value<'n>)>,
}

impl<'n> Mapping<'n> {
    /// Opens a mapping. The known keys are those in the table of settings.
    pub(super) fn open(
        entries: &'n [Entry],
        location: Location,
        context: &mut Context<'_>,
    ) -> Self {
        let known = location.keys();
        Self::with_keys(entries, location, &known, context)
    }

    /// Opens a mapping. Reports keys that are unknown, given twice or not strings.
    pub(super) fn with_keys(
        entries: &'n [Entry],
        location: Location,
        known: &[&str],
        context: &mut Context<'_>,
    ) -> Self {
        let is_free = known == [settings::NAME];
        let mut mapping = Self {
            location,
            entries: Vec::new(),
        };
        let mut lines: HashMap<&str, usize> = HashMap::new();
        for entry in entries {
            let key_location = mapping.location.below_key(entry, is_free);
            let Kind::Text(name) = &entry.key.kind else {
                let found = entry.key.kind.name();
                let message = format!("a key must be a string, not {found}; put it in quotes");
                context.error(&key_location, message);
                continue;
            };
            if let Some(line) = lines.get(name.as_str()) {
                let message = format!("is given twice, first on line {line}");
                context.error(&key_location, message);
                continue;
            }
            lines.insert(name, key_location.position.line);
            if !is_free && !known.contains(&name.as_str()) {
                // Finding a suggestion takes time, and errors beyond the limit are not listed.
                let suggestion = (context.errors.len() < LISTED_MAX)
                    .then(|| nearest(name, known.iter().copied()))
                    .flatten();
                let fault = Fault::new("unknown key")
                    .allowed(known.join(", "))
                    .suggest(suggestion);
                context.error(&key_location, fault);
                continue;
            }
            let mut location = key_location.clone();
            // An empty value has no useful position, so messages use the position of its key.
            if !matches!(entry.value.kind, Kind::Null) {
                location.position = entry.value.position;
            }
            let node = &entry.value;
            let value = Value { node, location };
            mapping.entries.push((name, key_location, value));
        }
        mapping
    }

    pub(super) fn given(&self, name: &str) -> Option<Value<'n>> {
        let found = self.entries.iter().find(|(known, ..)| *known == name);
        found.map(|(.., value)| value.clone())
    }

    /// Reads a setting, or its default.
    ///
    /// An absent setting without a default is an error.
    pub(super) fn read<T>(
        &self,
        context: &mut Context<'_>,
        name: &str,
        read: impl FnOnce(&Value<'n>, &mut Context<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.given(name).or_else(|| self.default(name));
        match value {
            Some(value) => read(&value, context),
            None => {
                let location = self.location.below(name);
                context.error(&location, Fault::not_allowed("is missing"));
                None
            }
        }
    }

    /// Reads a setting that may be absent.
    ///
    /// Returns `Some(None)` if the setting is absent, and `None` after an error.
    pub(super) fn read_optional<T>(
        &self,
        context: &mut Context<'_>,
        name: &str,
        read: impl FnOnce(&Value<'n>, &mut Context<'_>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.given(name) {
            Some(value) => read(&value, context).map(Some),
            None => Some(None),
        }
    }

    fn default(&self, name: &str) -> Option<Value<'n>> {
        let location = self.location.below(name);
        let setting = location.setting()?;
        match setting.default {
            DefaultValue::Values(_) | DefaultValue::AtMost(..) => {
                let node = settings::default_node(setting)?;
                Some(Value { node, location })
            }
            DefaultValue::Required | DefaultValue::Described(_) => None,
        }
    }

    /// Returns the mapping below a key, or an empty mapping if the key is absent.
    pub(super) fn mapping(&self, context: &mut Context<'_>, name: &str) -> Option<Mapping<'n>> {
        match self.given(name) {
            Some(value) => value.mapping(context),
            None => Some(Mapping::open(&[], self.location.below(name), context)),
        }
    }

    pub(super) fn entries(&self) -> &[(&'n str, Location, Value<'n>)] {
        &self.entries
    }
}
