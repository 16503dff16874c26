//! Errors and warnings of a configuration.
//!
//! Constraint: a problem never shows a secret. Its message quotes only names, keys, paths and
//! settings that are not secret. The values of headers and secrets never reach this module.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The maximum number of errors, and of warnings, in a list.
pub(super) const LISTED_MAX: usize = 100;

/// The maximum length of quoted user text in a message, in characters.
const SHOWN_MAX: usize = 60;

/// A position in the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// An error or a warning about a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The path of the configuration file: as given, or a default.
    pub file: PathBuf,
    /// The position in the file. `None` if the problem concerns the whole file.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// The key path, such as `webhooks[2].url`. Empty if the problem has no key.
    pub key: String,
    /// The fault, in words.
    pub message: String,
    /// The allowed values, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// The value that the user probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// Whether the same configuration may be valid later, once a file system answers.
    #[serde(skip)]
    pub is_passing: bool,
}

impl Problem {
    pub(crate) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            position: None,
            key: String::new(),
            message: one_line(&message.into()),
            allowed: None,
            suggestion: None,
            is_passing: false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if let Some(position) = self.position {
            write!(formatter, ":{}:{}", position.line, position.column)?;
        }
        if !self.key.is_empty() {
            write!(formatter, ": {}", self.key)?;
        }
        write!(formatter, ": {}", self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(formatter, "; did you mean \"{suggestion}\"?")?;
        }
        if let Some(allowed) = &self.allowed {
            let separator = if self.suggestion.is_some() { "" } else { ";" };
            write!(formatter, "{separator} allowed: {allowed}")?;
        }
        Ok(())
    }
}

/// The problems of an invalid configuration, sorted by position in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// The errors, at least one.
    ///
    /// If there are more than 100, the first 100 and an entry with the number of further errors.
    pub errors: Vec<Problem>,
    /// Problems that do not make the configuration invalid.
    pub warnings: Vec<Problem>,
}

impl Problems {
    /// Whether the same configuration may be valid later, once file systems answer.
    #[must_use]
    pub fn are_passing(&self) -> bool {
        self.errors.iter().all(|error| error.is_passing)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Sorts problems by position.
///
/// If there are more than [`LISTED_MAX`], drops the others and adds an entry with their number.
pub(super) fn arranged(mut problems: Vec<Problem>, file: &Path) -> Vec<Problem> {
    problems.sort_by_key(|problem| problem.position);
    if problems.len() > LISTED_MAX {
        let others = problems.split_off(LISTED_MAX);
        problems.push(Problem {
            is_passing: others.iter().all(|problem| problem.is_passing),
            ..Problem::of_file(
                file,
                format!("further problems not listed: {}", others.len()),
            )
        });
    }
    problems
}

/// Quotes user text for a message.
///
/// Long text is cut. Control characters are escaped, so that a terminal does not interpret them.
pub(super) fn shown(text: &str) -> String {
    let mut quoted = String::from('"');
    quoted.push_str(&shortened(text));
    quoted.push('"');
    quoted
}

/// Like [`shown`], without the quotes.
pub(super) fn shortened(text: &str) -> String {
    let end = text.char_indices().nth(SHOWN_MAX);
    let mut short = one_line(end.map_or(text, |(end, _)| text.get(..end).unwrap_or(text)));
    if end.is_some() {
        short.push('…');
    }
    short
}

/// Escapes control characters.
///
/// A message must be one line, and must not control a terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escape = character.is_control().then(|| character.escape_default());
            let plain = (!character.is_control()).then_some(character);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Returns the candidate that the user probably meant by `word`.
///
/// Case, spaces, hyphens and underscores are ignored. One edit is allowed for every three
/// characters, and one in a shorter word.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A long word is not a typing error, and its distance is slow to compute.
    if word.chars().nth(SHOWN_MAX).is_some() {
        return None;
    }
    let word = normalized(word);
    let edits_max = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &normalized(candidate));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            *distance <= edits_max && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn normalized(word: &str) -> String {
    word.chars()
        .filter(|character| !matches!(character, ' ' | '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_position_key_and_remedy() {
        let problem = Problem {
            position: Some(Position {
                line: 17,
                column: 5,
            }),
            key: "webhooks[0].formt".into(),
            allowed: Some("name, format".into()),
            suggestion: Some("format".into()),
            ..Problem::of_file(Path::new("config.yaml"), "unknown key")
        };
        assert_eq!(
            problem.to_string(),
            "config.yaml:17:5: webhooks[0].formt: unknown key; did you mean \"format\"? \
             allowed: name, format"
        );
    }

    /// Only passing errors make the exit status one after which systemd restarts the daemon.
    #[test]
    fn further_errors_are_passing_if_all_of_them_are() {
        let file = Path::new("config.yaml");
        let passing = Problem {
            is_passing: true,
            ..Problem::of_file(file, "does not answer")
        };
        let real = Problem::of_file(file, "is wrong");
        for (last, expected) in [(passing.clone(), true), (real, false)] {
            let mut errors = vec![passing.clone(); LISTED_MAX + 1];
            errors.push(last);
            let problems = Problems {
                errors: arranged(errors, file),
                warnings: Vec::new(),
            };
            assert_eq!(problems.errors.len(), LISTED_MAX + 1);
            assert_eq!(
                problems.errors[LISTED_MAX].message,
                "further problems not listed: 2"
            );
            assert_eq!(problems.are_passing(), expected);
        }
    }

    #[test]
    fn similar_words_are_suggested_and_others_are_not() {
        let keys = ["format", "event", "events", "poll_interval", "url"];
        for (word, expected) in [
            ("formt", Some("format")),
            ("Event", Some("event")),
            ("pollInterval", Some("poll_interval")),
            ("ur", Some("url")),
            ("colour", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
    }

    #[test]
    fn quoted_texts_are_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[2J\n"), "\"a\\u{1b}[2J\\n\"");
        assert!(shown(&"x".repeat(10_000)).chars().count() < 70);
    }
}
