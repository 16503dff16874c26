//! Parsers for argument values that several commands share.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};

use crate::config::LOG_LEVELS;
use crate::domain::delivery::State;
use crate::domain::event::EventKind;
use crate::operator::select::parse_event;

/// A parser for an argument whose value is one of several words.
///
/// The help, the manual page and the completions list the words. `read` may also accept other
/// texts, such as a label in any case.
#[derive(Clone)]
pub(super) struct OneOf<T> {
    words: Vec<&'static str>,
    /// The text that follows the list of words in the error message.
    or: &'static str,
    read: fn(&str) -> Option<T>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, Error> {
        let read = self.read;
        let expected = format!("one of {}{}", self.words.join(", "), self.or);
        let words = self.words.clone();
        StringValueParser::new()
            .try_map(move |text| {
                read(&text).ok_or_else(|| match nearest(&text, &words) {
                    Some(word) => format!("did you mean {word}? Expected {expected}"),
                    None => format!("must be {expected}"),
                })
            })
            .parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().map(PossibleValue::new)))
    }
}

/// Finds the word that the user most likely meant.
///
/// If only one word contains the text, returns this word. Otherwise, returns the most similar
/// word, or `None` if no word is similar enough.
fn nearest(text: &str, words: &[&'static str]) -> Option<&'static str> {
    let text = text.trim().to_lowercase().replace([' ', '_'], "-");
    let containing: Vec<_> = words.iter().filter(|word| word.contains(&text)).collect();
    match containing[..] {
        [word] if !text.is_empty() => return Some(word),
        _ => {}
    }
    let similar = words
        .iter()
        .map(|word| (strsim::jaro_winkler(&text, word), *word))
        .max_by(|one, other| one.0.total_cmp(&other.0))?;
    (similar.0 > 0.85).then_some(similar.1)
}

/// `--state`: the state of a delivery.
pub(super) fn state() -> OneOf<State> {
    OneOf {
        words: State::ALL.map(State::as_str).to_vec(),
        or: "",
        read: State::from_word,
    }
}

/// `--event`: an event by its name or its label.
pub(super) fn event() -> OneOf<EventKind> {
    OneOf {
        words: EventKind::ALL.map(EventKind::as_str).to_vec(),
        or: ", or a label",
        read: parse_event,
    }
}

/// `--log-level`: the least severe level to log.
pub(super) fn log_level() -> OneOf<tracing::Level> {
    OneOf {
        words: LOG_LEVELS.map(|(word, _)| word).to_vec(),
        or: "",
        read: |text| text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_of_an_event_gets_a_suggestion() {
        let words = EventKind::ALL.map(EventKind::as_str);
        for (text, expected) in [
            ("snapshot_restore", Some("snapshot-restore")),
            ("Restore", Some("snapshot-restore")),
            ("project-publsh", Some("project-publish")),
            ("move", Some("project-move")),
            ("test", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, &words), expected, "{text}");
        }
    }
}
