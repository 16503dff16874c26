//! Repeats a listing (`--follow`) or a report (`--watch`) until the command is interrupted.
//!
//! Constraint: each round reads the state again, and no transaction stays open between rounds. So
//! a command that runs for a long time delays neither the daemon nor the database.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

use super::output::{Style, Table, safe_json};
use crate::operator::follow::{COMPARED, Follower};

/// The time between two rounds.
const INTERVAL: Duration = Duration::from_millis(500);

fn pause() {
    std::thread::sleep(INTERVAL);
}

/// Prints one JSON value as a line.
pub(super) fn print_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string(value)?;
    writeln!(out, "{}", safe_json(&json))
}

/// Prints a report repeatedly. On a terminal, a text is drawn over the previous text.
pub(super) fn watch(
    is_json: bool,
    out: &mut dyn Write,
    mut report: impl FnMut(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<u8> {
    let is_drawn = !is_json && io::stdout().is_terminal();
    let mut is_first = true;
    loop {
        let mut text = Vec::new();
        report(&mut text)?;
        if is_drawn {
            let height = rustix::termios::tcgetwinsize(io::stdout());
            let height = height.map_or(0, |size| usize::from(size.ws_row));
            // A terminal without a size, such as a serial line, reports 0.
            let height = if height == 0 { 24 } else { height };
            out.write_all(&frame(&text, height, is_first))?;
        } else {
            out.write_all(&text)?;
        }
        out.flush()?;
        is_first = false;
        pause();
    }
}

/// Makes the escape sequences that draw a text over the previous text.
///
/// After the first text, clears only the rest of each line and the space below the text, so the
/// screen does not flicker. Lines that are too long are cut instead of wrapped. A text that is
/// higher than the screen is cut too.
fn frame(text: &[u8], height: usize, is_first: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    if is_first {
        frame.extend(b"\x1b[2J");
    }
    // Draw the whole frame in one step, from the top, without wrapping.
    frame.extend(b"\x1b[?2026h\x1b[?7l\x1b[H");
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    for (number, line) in text.split(|byte| *byte == b'\n').take(height).enumerate() {
        if number > 0 {
            frame.extend(b"\r\n");
        }
        frame.extend(line);
        frame.extend(b"\x1b[K");
    }
    frame.extend(b"\x1b[J\x1b[?7h\x1b[?2026l");
    frame
}

/// A listing that continues with new items.
pub(super) struct Followed<'a, T, V> {
    /// Reads at most this number of the newest items, the newest first.
    pub(super) read: &'a dyn Fn(usize) -> anyhow::Result<Vec<T>>,
    /// The position of an item in the order of recording, and its revision.
    pub(super) position: fn(&T) -> (i64, u64),
    pub(super) is_shown: &'a dyn Fn(&T) -> bool,
    pub(super) view: fn(&T) -> V,
    pub(super) table: &'a dyn Fn(&[T]) -> Table,
}

impl<T, V: Serialize> Followed<'_, T, V> {
    /// Prints the items of a listing, the newest last. Then prints new and changed items.
    pub(super) fn print(
        &self,
        first: impl FnOnce() -> anyhow::Result<Vec<T>>,
        is_json: bool,
        style: &Style,
        out: &mut dyn Write,
    ) -> anyhow::Result<u8> {
        let mut follower = Follower::new(self.position, &(self.read)(COMPARED)?);
        // `first` may return items that the read above did not find. They are printed now, so they
        // are not new in the next round.
        let mut items = first()?;
        follower.add(&items);
        let mut printed = (self.table)(&[]);
        loop {
            items.reverse();
            if is_json {
                for item in &items {
                    print_line(out, &(self.view)(item))?;
                }
            } else {
                printed.append((self.table)(&items));
                printed.print_new(out, style)?;
            }
            out.flush()?;
            pause();
            items = follower.next(self.read)?;
            items.retain(|item| (self.is_shown)(item));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_clears_only_what_it_does_not_draw_and_fits_the_screen() {
        let drawn = String::from_utf8(frame(b"one\ntwo\nthree\n", 2, false)).unwrap();
        assert_eq!(
            drawn,
            "\u{1b}[?2026h\u{1b}[?7l\u{1b}[Hone\u{1b}[K\r\ntwo\u{1b}[K\u{1b}[J\u{1b}[?7h\u{1b}[?2026l"
        );
        let first = String::from_utf8(frame(b"one\n", 2, true)).unwrap();
        assert!(first.starts_with("\u{1b}[2J"));
    }
}
