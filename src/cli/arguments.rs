//! Parsers for argument values that several commands share.

use std::ffi::OsStr;
use std::time::Duration;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::LOG_LEVELS;
use crate::domain::delivery::State;
use crate::domain::event::EventKind;

/// A parser that accepts one of these words.
///
/// The help, the manual page and the completions list the words. The parser may also accept
/// variants, such as a label in another case.
#[derive(Clone)]
pub(super) struct OneOf<T> {
    words: Vec<&'static str>,
    /// Text that the error message adds after the list of words.
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
        StringValueParser::new()
            .try_map(move |text| read(&text).ok_or_else(|| expected.clone()))
            .parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().map(PossibleValue::new)))
    }
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

/// The start or the end of a time range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    At(Timestamp),
    /// This long ago.
    Ago(Duration),
}

impl Since {
    /// Returns it as a time, given the current time.
    pub(super) fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Since::At(time) => time,
            Since::Ago(length) => now.saturating_sub(length).unwrap_or(Timestamp::MIN),
        }
    }
}

/// Reads `--since` or `--until`.
pub(super) fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Since::At(time));
    }
    if let Ok(length) = humantime::parse_duration(text) {
        return Ok(Since::Ago(length));
    }
    // A date, or a date and a time, is in the local time zone.
    text.parse::<jiff::civil::DateTime>()
        .ok()
        .and_then(|civil| TimeZone::system().to_timestamp(civil).ok())
        .map(Since::At)
        .ok_or_else(|| {
            "a duration such as 90s, 2h or 7d, a date such as 2026-01-31, or a time such as \
             2026-01-31T12:00:00Z"
                .to_owned()
        })
}

/// Finds an event by its name or label, in any case.
fn parse_event(text: &str) -> Option<EventKind> {
    EventKind::ALL.into_iter().find(|kind| {
        kind.as_str().eq_ignore_ascii_case(text) || kind.label().eq_ignore_ascii_case(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_a_date_or_so_long_ago() {
        let now: Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        let at = |text: &str| parse_since(text).map(|since| since.time(now).to_string());
        assert_eq!(at("2h"), Ok("2026-01-31T22:00:00Z".to_owned()));
        assert_eq!(
            at("2026-01-31T12:00:00+02:00"),
            Ok("2026-01-31T10:00:00Z".to_owned())
        );
        assert!(matches!(parse_since("2026-01-31"), Ok(Since::At(_))));
        assert!(matches!(parse_since("2026-01-31 12:30"), Ok(Since::At(_))));
        assert_eq!(
            Since::Ago(Duration::MAX).time(now),
            Timestamp::MIN,
            "before every record"
        );
        assert!(parse_since("yesterday").is_err());
        assert!(parse_since("").is_err());
    }

    #[test]
    fn events_go_by_name_and_label() {
        for kind in EventKind::ALL {
            assert_eq!(parse_event(kind.as_str()), Some(kind));
            assert_eq!(parse_event(&kind.label().to_lowercase()), Some(kind));
        }
        assert_eq!(parse_event("project"), None);
    }
}
