//! Formats tables, listings, JSON, times and progress for all commands.
//!
//! Constraint: file names, answers and log lines may contain terminal escape sequences. So all
//! output is escaped: text by [`safe`] or [`safe_lines`], and JSON by [`safe_json`].

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::DONE;
pub(super) use super::listen::print::{Style, safe, safe_json, safe_lines};

/// The SGR code for red, the colour of failures.
pub(super) const RED: &str = "31";
/// The SGR code for green, the colour of success.
pub(super) const GREEN: &str = "32";
/// The SGR code for yellow, the colour of warnings.
pub(super) const YELLOW: &str = "33";
pub(super) const BOLD: &str = "1";
/// The SGR code for faint, the style of details.
pub(super) const FAINT: &str = "2";

/// The output of a command. A write fails with [`Closed`] if the reader closed the pipe.
#[derive(Debug)]
pub(super) struct Output<W>(pub(super) W);

/// The reader of the output, such as `head`, closed the pipe.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output closed the pipe")]
pub(super) struct Closed;

/// Marks the error of a closed output pipe with [`Closed`], so that it is no failure.
///
/// A lost connection to the daemon has the same kind of error. It is a failure, and not marked.
fn marked<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(error.kind(), Closed),
        _ => error,
    })
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        marked(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        marked(self.0.flush())
    }
}

/// Prints one JSON value on several lines.
pub(super) fn print_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", safe_json(&json))
}

/// Formats a time in the local time zone, to the second.
pub(super) fn time(at: Timestamp, style: &Style) -> String {
    at.to_zoned_datetime(style.zone.clone())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// Formats a duration in its largest unit and the next one, such as `1d 2h`.
pub(super) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    if seconds == 0 {
        return format!("{} ms", length.as_millis());
    }
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in units {
        // Only adjacent units are combined: "1d 2h", but never "1d 3s".
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

/// Returns the time from `from` to `to`, or zero if the clock was set back in between.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Formats a number with its noun: `1 file`, `2 files`.
pub(super) fn counted(n: u64, noun: &str) -> String {
    let (stem, plural) = noun
        .strip_suffix('y')
        .map_or((noun, "s"), |stem| (stem, "ies"));
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {stem}{plural}")
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    code: Option<&'static str>,
}

impl Cell {
    /// Makes a cell with the colour or style of an SGR code.
    pub(super) fn painted(code: &'static str, text: impl AsRef<str>) -> Self {
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

/// Rows of cells. Each column is as wide as its widest cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
    /// The widths of the columns in the rows that are already printed.
    widths: Vec<usize>,
}

impl Table {
    pub(super) fn new<const N: usize>(headings: [&str; N]) -> Self {
        let headings = headings.map(|heading| Cell::painted(FAINT, heading));
        Self {
            rows: vec![headings.into()],
            widths: Vec::new(),
        }
    }

    /// Adds the rows of a table with the same headings, but not its headings.
    pub(super) fn append(&mut self, other: Self) {
        self.rows.extend(other.rows.into_iter().skip(1));
    }

    /// Prints the rows that were not printed yet. Columns are at least as wide as before.
    pub(super) fn print_new(&mut self, out: &mut dyn Write, style: &Style) -> io::Result<()> {
        self.print(out, style, "")?;
        self.widths = self.column_widths();
        self.rows.clear();
        Ok(())
    }

    fn column_widths(&self) -> Vec<usize> {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        (0..n_columns.max(self.widths.len()))
            .map(|column| {
                let before = self.widths.get(column).copied().unwrap_or_default();
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.text.chars().count())
                    .fold(before, usize::max)
            })
            .collect()
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// Prints the table. Each line starts with `indent`.
    pub(super) fn print(&self, out: &mut dyn Write, style: &Style, indent: &str) -> io::Result<()> {
        let widths = self.column_widths();
        for row in &self.rows {
            let mut line = indent.to_owned();
            // The last cell of a line needs no padding.
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

/// The options of every listing.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Listing {
    /// Show only the last N items; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Print a JSON array; with --follow, one JSON object a line
    #[arg(long)]
    json: bool,
    /// Continue with new items until interrupted
    #[arg(long, short)]
    follow: bool,
}

impl Listing {
    pub(super) fn limit(&self) -> usize {
        match self.limit {
            0 => usize::MAX,
            limit => limit,
        }
    }

    pub(super) fn follows(&self) -> bool {
        self.follow
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// The number of items to read: one more than the limit, which shows whether there are more.
    pub(super) fn n_read(&self) -> usize {
        self.limit().saturating_add(1)
    }

    /// Prints items in reverse order, so that the newest item is last, as in a log.
    ///
    /// `items` is sorted newest first and has up to [`Self::n_read`] items.
    pub(super) fn print<T, V: Serialize>(
        &self,
        mut items: Vec<T>,
        (noun, filters): (&str, &str),
        view: fn(&T) -> V,
        table: impl FnOnce(&[T]) -> Table,
        style: &Style,
        out: &mut dyn Write,
    ) -> anyhow::Result<u8> {
        let is_cut = items.len() > self.limit();
        items.truncate(self.limit());
        items.reverse();
        if self.json {
            let views: Vec<V> = items.iter().map(view).collect();
            print_json(out, &views)?;
        } else if items.is_empty() {
            writeln!(out, "No {noun}.")?;
        } else {
            table(&items).print(out, style, "")?;
            if is_cut {
                let n = self.limit;
                writeln!(
                    out,
                    "\nThese are the last {n}. Use --limit 0 to show all, or filter by {filters}."
                )?;
            }
        }
        Ok(DONE)
    }
}

/// A progress line on standard error, for work with many steps.
///
/// It is printed only on a terminal.
pub(super) struct Progress {
    done: u64,
    total: u64,
    is_shown: bool,
}

impl Progress {
    /// The number of steps between two updates. Work of up to this many steps prints no line.
    const EVERY: u64 = 64;

    pub(super) fn new(total: u64) -> Self {
        Self {
            done: 0,
            total,
            is_shown: total > Self::EVERY && io::stderr().is_terminal(),
        }
    }

    /// Erases the line.
    ///
    /// `drop` does this too. But if the thread that owns the value hangs, `drop` does not run.
    pub(super) fn erase() {
        if io::stderr().is_terminal() {
            // This sequence erases the line (ECMA-48).
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }

    pub(super) fn add(&mut self, n: u64) {
        let before = self.done / Self::EVERY;
        self.done = self.done.saturating_add(n);
        if self.is_shown && self.done / Self::EVERY > before {
            let _ = write!(io::stderr(), "\r{} of {}", self.done, self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            Self::erase();
        }
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
    fn json_has_no_escape_sequences() {
        let mut out = Vec::new();
        print_json(&mut out, &"a\u{9b}2J\u{202e}\n").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"a\\u009b2J\\u202e\\n\"\n"
        );
    }

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!(counted(1, "delivery"), "1 delivery");
        assert_eq!(counted(2, "delivery"), "2 deliveries");
        assert_eq!(counted(0, "file"), "0 files");
    }
}
