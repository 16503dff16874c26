//! Prints callbacks as text or as JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use crate::config::Format;
use crate::document;
use crate::receiver::{Received, Signature};

/// The colours and the time zone of the output.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    pub color: bool,
    /// The time zone of printed times.
    pub zone: TimeZone,
}

impl Style {
    /// Makes a style without colours and with times in UTC.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self {
            color: false,
            zone: TimeZone::UTC,
        }
    }

    /// Makes a style with local times, and with colours if standard output is a terminal.
    ///
    /// `no_color` switches the colours off.
    pub(crate) fn for_stdout(no_color: bool) -> Self {
        Self {
            color: io::stdout().is_terminal() && !no_color,
            zone: TimeZone::system(),
        }
    }

    /// Colours a text with this SGR code (ECMA-48), if colours are on.
    ///
    /// Text from a peer or a file must be escaped by [`safe`] first.
    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The maximum number of characters shown of the payload's first line.
const FIRST_LINE_MAX: usize = 100;

/// Prints one callback as text. `note` is added to the first line.
pub(crate) fn print_callback(
    out: &mut (impl Write + ?Sized),
    received: &Received,
    note: Option<&str>,
    style: &Style,
) -> io::Result<()> {
    let time = received.at.to_zoned_datetime(style.zone.clone());
    let mut head = vec![if received.label.is_empty() {
        style.paint("1", &safe(&format!("POST {}", received.target)))
    } else {
        style.paint("1", &safe(&received.label))
    }];
    head.extend(note.map(str::to_owned));
    if !received.origin.is_empty() {
        head.push(safe(&received.origin));
    }
    if let Some(attempt) = received.attempt {
        head.push(format!("attempt {attempt}"));
    }
    head.push(
        received
            .format
            .map_or("no known format", Format::as_str)
            .to_owned(),
    );
    head.push(verdict(&received.signature, style));
    let not_signed = not_signed(received);
    head.extend(not_signed.map(str::to_owned));
    let mut text = format!("{}  {}\n", time.strftime("%H:%M:%S%.3f"), head.join(", "));

    let payload = format!(
        "{}  {}",
        size(received.payload.len()),
        safe(&first_line(&received.payload))
    );
    let mut rows: Vec<(String, String)> = Vec::new();
    if !received.id.is_empty() {
        rows.push(("id".to_owned(), safe(&received.id)));
    }
    for (name, value) in &received.parameters {
        rows.push((safe(name), safe(value)));
    }
    rows.push(("payload".to_owned(), payload));
    if let Some(problem) = &received.problem {
        rows.push(("problem".to_owned(), style.paint("31", &safe(problem))));
    }
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    for (name, value) in rows {
        // Writing to a string does not fail.
        let _infallible = writeln!(text, "  {name:width$}  {value}");
    }
    text.push('\n');
    out.write_all(text.as_bytes())
}

/// Prints one callback as one line of JSON.
pub(crate) fn print_callback_json(out: &mut impl Write, received: &Received) -> io::Result<()> {
    let line = serde_json::to_string(&Line {
        at: received.at.to_string(),
        id: &received.id,
        event: &received.event,
        label: &received.label,
        origin: &received.origin,
        attempt: received.attempt,
        timestamp: received.timestamp.map(|time| time.to_string()),
        format: received.format.map(Format::as_str),
        signature: received.signature.as_str(),
        reason: match &received.signature {
            Signature::Wrong(reason) => Some(reason),
            _ => None,
        },
        not_signed: not_signed(received),
        problem: received.problem.as_deref(),
        parameters: Pairs(&received.parameters),
        payload_bytes: received.payload.len(),
        payload: &document::text(&received.payload),
    })?;
    let mut escaped = safe_json(&line);
    escaped.push('\n');
    out.write_all(escaped.as_bytes())
}

/// Escapes the characters in JSON that a terminal might interpret.
///
/// JSON allows them in strings, and the encoder does not escape all of them.
pub(crate) fn safe_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // Line breaks separate the lines of the output. The encoder has escaped those inside
        // strings.
        if c != '\n' && is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _infallible = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// A callback in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    at: String,
    id: &'a str,
    event: &'a str,
    label: &'a str,
    origin: &'a str,
    attempt: Option<u32>,
    timestamp: Option<String>,
    format: Option<&'static str>,
    signature: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a String>,
    /// The parts that the verified signature does not cover, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_signed: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    parameters: Pairs<'a>,
    payload_bytes: usize,
    payload: &'a str,
}

/// Parameters as a JSON object, in the order of the request.
pub(crate) struct Pairs<'a>(pub &'a [(String, String)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Escapes the characters that a terminal might interpret.
pub(crate) fn safe(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => result.extend(c.escape_default()),
            c if is_unsafe(c) => result.extend(c.escape_unicode()),
            c => result.push(c),
        }
    }
    result
}

/// Escapes the characters that a terminal might interpret, except the ends of lines.
pub(crate) fn safe_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(safe).collect();
    lines.join("\n")
}

/// Whether a character controls the terminal, breaks lines, changes the text direction or is a
/// byte order mark.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn verdict(signature: &Signature, style: &Style) -> String {
    match signature {
        Signature::Verified => style.paint("32", "signature verified"),
        Signature::Missing => style.paint("31", "signature missing"),
        Signature::Wrong(reason) => {
            style.paint("31", &format!("signature wrong: {}", safe(reason)))
        }
        Signature::NotChecked => "signature not checked".to_owned(),
    }
}

/// Describes the parts that a verified signature does not cover, if there are any.
fn not_signed(received: &Received) -> Option<&'static str> {
    let is_verified = received.signature == Signature::Verified;
    is_verified.then(|| received.not_signed()).flatten()
}

fn size(bytes: usize) -> String {
    bytesize::ByteSize::b(bytes as u64).to_string()
}

/// Returns the first line of a document. A long line is cut.
fn first_line(payload: &[u8]) -> String {
    // No encoding needs more than eight bytes for a character.
    let start = payload.get(..8 * FIRST_LINE_MAX).unwrap_or(payload);
    let text = document::text(start);
    let line = text
        .trim_start_matches('\u{feff}')
        .lines()
        .next()
        .unwrap_or_default();
    let mut shown: String = line.chars().take(FIRST_LINE_MAX).collect();
    if line.chars().nth(FIRST_LINE_MAX).is_some() {
        shown.push('…');
    }
    shown
}
