//! Output that the commands share: tables, JSON, times.
//!
//! Constraint: names on disk, answers and log lines may contain escape sequences, which never reach
//! the terminal. Text goes through [`safe`], JSON through [`print_json`].

use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

pub use super::listen::print::{Style, safe, safe_json};

/// Red, for failures.
pub const RED: &str = "31";
/// Green, for success.
pub const GREEN: &str = "32";
/// Yellow, for warnings.
pub const YELLOW: &str = "33";
/// Bold.
pub const BOLD: &str = "1";
/// Faint, for details.
pub const FAINT: &str = "2";

/// Prints one JSON value over several lines.
///
/// # Errors
///
/// `out` cannot be written.
pub fn print_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", safe_json(&json))
}

/// Prints one JSON value on one line.
///
/// # Errors
///
/// `out` cannot be written.
pub fn print_json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string(value)?;
    writeln!(out, "{}", safe_json(&json))
}

/// A time in the reader's zone, to the second.
pub fn time(at: Timestamp, style: &Style) -> String {
    at.to_zoned_datetime(style.zone.clone())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// A duration in its two largest units.
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    if seconds == 0 {
        return format!("{} ms", length.as_millis());
    }
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in units {
        // The second unit is the next smaller one: nobody needs "1d 3s".
        let count = rest / size;
        rest %= size;
        if count > 0 || !parts.is_empty() {
            parts.push((count, name));
        }
    }
    parts
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count}{name}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The time from `from` to `to`; none if the clock was set back in between.
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A number with its noun: `1 file`, `2 files`.
pub fn counted(n: u64, noun: &str) -> String {
    let (stem, plural) = noun
        .strip_suffix('y')
        .map_or((noun, "s"), |stem| (stem, "ies"));
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {stem}{plural}")
    }
}

/// A cell of a table.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    code: Option<&'static str>,
}

impl Cell {
    /// A cell in colour.
    pub fn painted(code: &'static str, text: impl AsRef<str>) -> Self {
        Self {
            text: safe(text.as_ref()),
            code: Some(code),
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: safe(text.as_ref()),
            code: None,
        }
    }
}

/// Rows in columns as wide as their widest cell.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        let headings = headings.map(|heading| Cell::painted(FAINT, heading));
        Self {
            rows: vec![headings.into()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// Prints it, each line after `indent`.
    ///
    /// # Errors
    ///
    /// `out` cannot be written.
    pub fn print(&self, out: &mut dyn Write, style: &Style, indent: &str) -> io::Result<()> {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..n_columns)
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.text.chars().count())
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        for row in &self.rows {
            let mut line = indent.to_owned();
            // The last cell of a line has no padding.
            let used = row.iter().rposition(|cell| !cell.text.is_empty());
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let is_last = used.is_none_or(|used| index >= used);
                let shown = match cell.code {
                    Some(code) if !cell.text.is_empty() => style.paint(code, &cell.text),
                    _ => cell.text.clone(),
                };
                line.push_str(&shown);
                if is_last {
                    break;
                }
                let padding = width.saturating_sub(cell.text.chars().count());
                line.extend(std::iter::repeat_n(' ', padding.saturating_add(2)));
            }
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_cells_are_safe() {
        let mut table = Table::new(["name", "state"]);
        table.row(["a\u{1b}[2J".into(), Cell::painted(GREEN, "on")]);
        table.row(["größer".into(), "".into()]);
        let mut out = Vec::new();
        table.print(&mut out, &Style::plain(), "  ").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  name        state\n  a\\u{1b}[2J  on\n  größer\n"
        );
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let table = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1s"),
            (61_000, "1m 1s"),
            (3_600_000, "1h"),
            (3_601_000, "1h"),
            (90_061_000, "1d 1h"),
        ];
        for (ms, expected) in table {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn json_has_nothing_that_a_terminal_acts_on() {
        let mut out = Vec::new();
        print_json_line(&mut out, &["a\u{9b}2J\u{202e}", "b\n"]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[\"a\\u009b2J\\u202e\",\"b\\n\"]\n"
        );
    }

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!(counted(1, "delivery"), "1 delivery");
        assert_eq!(counted(2, "delivery"), "2 deliveries");
        assert_eq!(counted(0, "file"), "0 files");
    }
}
