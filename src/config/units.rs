//! Parses durations, sizes and rates, and formats durations and rates.
//!
//! Constraint: all functions are pure. Texts are written as in the configuration. The table of
//! settings has the bounds of durations and sizes.

use std::time::Duration;

use super::problem::shown;
use super::reader::Fault;
use crate::domain::pace::Rate;

/// The maximum number of requests in a rate.
const RATE_MAX: u32 = 100_000;

/// Reads a duration such as `1s`, `5m`, `2h 30m`, `7d` or `0`.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    let text = text.trim();
    if !text.is_empty() && text.chars().all(|character| character.is_ascii_digit()) {
        return match text.trim_start_matches('0') {
            "" => Ok(Duration::ZERO),
            _ => Err(Fault::not_allowed(format!("{} has no unit", shown(text)))
                .suggest((text.len() < 10).then(|| format!("{text}s")))),
        };
    }
    humantime::parse_duration(text)
        .map_err(|_| Fault::not_allowed(format!("{} is not a duration", shown(text))))
}

/// Formats a duration as in the configuration: `1h 30m`, `7d`.
pub(crate) fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .split(' ')
        .map(|part| {
            let digits = part.trim_end_matches(char::is_alphabetic);
            let unit = match part.trim_start_matches(|character: char| character.is_ascii_digit()) {
                "year" | "years" => "y",
                "month" | "months" => "M",
                "day" | "days" => "d",
                unit => unit,
            };
            format!("{digits}{unit}")
        })
        .collect::<Vec<String>>()
        .join(" ")
}

/// Reads a size such as `64MiB`, `500 kB` or `1048576`, in bytes.
pub(super) fn size(text: &str) -> Result<u64, Fault> {
    text.trim()
        .parse::<bytesize::ByteSize>()
        .map(|size| size.0)
        .map_err(|_| Fault::not_allowed(format!("{} is not a size", shown(text))))
}

/// Reads a rate such as `10/s`, `600/m` or `1000/h`.
pub(super) fn rate(text: &str) -> Result<Rate, Fault> {
    let fault = || Fault::not_allowed(format!("{} is not a rate", shown(text)));
    let (n, unit) = text.trim().split_once('/').ok_or_else(fault)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(fault()),
    };
    if !n.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(fault());
    }
    let n = n.parse().map_err(|_| fault())?;
    if !(1..=RATE_MAX).contains(&n) {
        return Err(fault());
    }
    let per = Duration::from_secs(seconds);
    Ok(Rate { n, per })
}

/// Formats a rate as in the configuration: `10/s`.
pub(crate) fn rate_text(rate: Rate) -> String {
    let unit = match rate.per.as_secs() {
        1 => "s",
        60 => "m",
        _ => "h",
    };
    format!("{}/{unit}", rate.n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("0", 0), ("0s", 0), ("1s", 1), ("5m", 300), ("7d", 604_800)] {
            assert_eq!(
                duration(text).ok(),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in ["", "5", "soon", "-1s", "1 parsec", "99999999999999999999y"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_can_be_written() {
        for (seconds, expected) in [
            (0, "0s"),
            (5400, "1h 30m"),
            (86_400, "1d"),
            (30 * 86_400, "30d"),
            (31_557_600, "1y"),
        ] {
            let exact = Duration::from_secs(seconds);
            assert_eq!(duration_text(exact), expected);
            assert_eq!(duration(expected).ok(), Some(exact));
        }
    }

    #[test]
    fn rates() {
        for (text, n, seconds) in [("10/s", 10, 1), ("600/m", 600, 60), ("1/h", 1, 3600)] {
            let per = Duration::from_secs(seconds);
            assert_eq!(rate(text).ok(), Some(Rate { n, per }), "{text}");
        }
        for text in [
            "", "10", "/s", "0/s", "-1/s", "1.5/s", "10/d", "100001/s", "10 / s",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("12", 12), ("64MiB", 64 << 20), ("2 kB", 2000)] {
            assert_eq!(size(text).ok(), Some(bytes), "{text}");
        }
        for text in ["", "big", "-1", "1 XiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
