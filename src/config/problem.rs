//! What is wrong with a configuration.
//!
//! Constraint: a problem never shows a secret. Messages quote names, keys, paths and settings that
//! are public; the values of headers and secrets are not passed to this module at all.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The most errors, and the most warnings, that are listed; more help nobody.
pub const LISTED_MAX: usize = 100;

/// The longest text of the user's that a message repeats, in characters.
const SHOWN_MAX: usize = 60;

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// One thing that is wrong, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The configuration file, as it was named.
    pub file: PathBuf,
    /// Where in it; absent where the file as a whole is meant.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// The path of the key, such as `webhooks[2].retry.schedule[0]`; empty for the whole file.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// The near miss that was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Problem {
    /// A problem of the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            position: None,
            key: String::new(),
            message: one_line(&message.into()),
            allowed: None,
            suggestion: None,
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

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// What makes it invalid; never empty, at most 100 and one that says how many more there are.
    pub errors: Vec<Problem>,
    /// What is allowed and yet probably not meant.
    pub warnings: Vec<Problem>,
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

/// Puts problems into the order of the file and cuts the list where nobody reads on.
pub(super) fn arranged(mut problems: Vec<Problem>, file: &Path) -> Vec<Problem> {
    problems.sort_by_key(|problem| problem.position);
    if problems.len() > LISTED_MAX {
        let more = problems.len() - LISTED_MAX;
        problems.truncate(LISTED_MAX);
        problems.push(Problem::of_file(file, format!("and {more} more")));
    }
    problems
}

/// A text of the user's, quoted for a message: control characters escaped, so that a terminal
/// does not obey them, and cut where it is long.
pub(super) fn shown(text: &str) -> String {
    let mut quoted = String::from('"');
    quoted.push_str(&shortened(text));
    quoted.push('"');
    quoted
}

/// [`shown`] without the quotes.
pub(super) fn shortened(text: &str) -> String {
    let end = text.char_indices().nth(SHOWN_MAX);
    let mut short = one_line(end.map_or(text, |(end, _)| text.get(..end).unwrap_or(text)));
    if end.is_some() {
        short.push('…');
    }
    short
}

/// The text with its control characters escaped: a path may hold them too, and neither a line of
/// the listing nor a terminal may be broken by one.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escape = character.is_control().then(|| character.escape_default());
            let plain = (!character.is_control()).then_some(character);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// The candidate that `word` was probably meant to be.
///
/// Case and the choice between space, hyphen and underscore do not count; beyond them one slip in
/// three characters is forgiven.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A long word is no slip of the pen, and the distance costs the product of the lengths.
    if word.chars().nth(SHOWN_MAX).is_some() {
        return None;
    }
    let word = normalised(word);
    let slips_max = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &normalised(candidate));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            *distance <= slips_max && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn normalised(word: &str) -> String {
    word.chars()
        .filter(|character| !matches!(character, ' ' | '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_place_key_and_remedy() {
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

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
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
    fn what_is_shown_is_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[2J\n"), "\"a\\u{1b}[2J\\n\"");
        assert!(shown(&"x".repeat(10_000)).chars().count() < 70);
    }
}
