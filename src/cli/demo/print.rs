//! What the demo prints: for a person, or one JSON object a line.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::Place;
use super::score::{Arrival, Outcome};
use super::script::Action;
use crate::cli::listen::print::Pairs;
use crate::cli::output::{
    BOLD, Cell, FAINT, GREEN, RED, Style, Table, duration, print_json_line, safe,
};
use crate::receiver::Signature;

/// Prints the demo as it goes.
pub struct Printer<'a> {
    /// Whether one JSON object a line is printed.
    pub json: bool,
    /// How it looks for a person.
    pub style: &'a Style,
    /// Where it goes.
    pub out: &'a mut dyn Write,
}

/// A line of JSON.
#[derive(Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
enum Line<'a> {
    Start {
        directory: String,
        config: String,
        receiver: &'a str,
        daemon: Option<u32>,
        settle_ms: u128,
    },
    Action {
        number: usize,
        title: &'a str,
        commands: Vec<String>,
    },
    Callback {
        #[serde(flatten)]
        arrival: ArrivalLine<'a>,
    },
    Result {
        complete: bool,
        duration_ms: u128,
        events: Vec<EventLine>,
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        log: Vec<String>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArrivalLine<'a> {
    at: String,
    id: &'a str,
    event: &'a str,
    label: &'a str,
    expected: bool,
    latency_ms: Option<f64>,
    signature: &'static str,
    parameters: Pairs<'a>,
    payload_bytes: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine {
    event: &'static str,
    label: &'static str,
    expected: usize,
    arrived: usize,
    latency_ms_max: Option<f64>,
    verified: bool,
}

fn milliseconds(length: Duration) -> f64 {
    // A tenth of a millisecond is as exact as two processes' readings of one clock.
    (length.as_secs_f64() * 10_000.0).round() / 10.0
}

fn latency(length: Duration) -> String {
    if length < Duration::from_secs(1) {
        format!("{:.1} ms", milliseconds(length))
    } else {
        duration(length)
    }
}

impl Printer<'_> {
    pub(super) fn start(&mut self, place: &Place, took: Duration) -> io::Result<()> {
        if self.json {
            return self.line(&Line::Start {
                directory: place.directory().display().to_string(),
                config: place.config().display().to_string(),
                receiver: &place.url,
                daemon: place.pid,
                settle_ms: super::SETTLE.as_millis(),
            });
        }
        let heading = self
            .style
            .paint(BOLD, "Real files, a real daemon, signed callbacks");
        writeln!(self.out, "{heading}\n")?;
        let directory = safe(&place.directory().display().to_string());
        let pid = place.pid.map_or_else(String::new, |pid| format!(" {pid}"));
        let rows = [
            ("directory", directory),
            (
                "daemon",
                format!(
                    "process{pid}, watching ./repository after {}",
                    latency(took)
                ),
            ),
            (
                "receiver",
                format!("{} with seven webhooks, one for each event", place.url),
            ),
            (
                "settle",
                format!(
                    "a removal counts after {} of quiet here, to be quick; the default is 1s",
                    duration(super::SETTLE)
                ),
            ),
        ];
        for (name, text) in rows {
            writeln!(self.out, "  {name:<9}  {text}")?;
        }
        self.out.flush()
    }

    pub(super) fn action(&mut self, number: usize, action: &Action) -> io::Result<()> {
        let commands: Vec<String> = action.steps.iter().map(ToString::to_string).collect();
        if self.json {
            return self.line(&Line::Action {
                number,
                title: action.title,
                commands,
            });
        }
        let title = self.style.paint(BOLD, action.title);
        writeln!(self.out, "\n{number}. {title}")?;
        for command in commands {
            let line = self.style.paint(FAINT, &format!("$ {command}"));
            writeln!(self.out, "   {line}")?;
        }
        self.out.flush()
    }

    pub(super) fn callback(&mut self, arrival: &Arrival) -> io::Result<()> {
        let received = &arrival.received;
        if self.json {
            return self.line(&Line::Callback {
                arrival: ArrivalLine {
                    at: received.at.to_string(),
                    id: &received.id,
                    event: &received.event,
                    label: &received.label,
                    expected: arrival.expected.is_some(),
                    latency_ms: arrival.latency.map(milliseconds),
                    signature: received.signature.as_str(),
                    parameters: Pairs(&received.parameters),
                    payload_bytes: received.payload.len(),
                },
            });
        }
        let code = if arrival.expected.is_some() && received.signature == Signature::Verified {
            GREEN
        } else {
            RED
        };
        let label = self.style.paint(code, &safe(&received.label));
        let mut head = vec![label];
        if let Some(length) = arrival.latency {
            head.push(format!("after {}", latency(length)));
        }
        head.push(format!("signature {}", received.signature.as_str()));
        if arrival.expected.is_none() {
            head.push(self.style.paint(RED, "not expected here"));
        }
        writeln!(self.out, "   -> {}", head.join(", "))?;
        let mut words: Vec<String> = received
            .parameters
            .iter()
            .map(|(name, value)| format!("{}={}", safe(name), quoted(value)))
            .collect();
        let size = bytesize::ByteSize::b(received.payload.len() as u64);
        words.push(format!("payload={}", quoted(&size.to_string())));
        for line in wrapped(&words) {
            writeln!(self.out, "      {}", self.style.paint(FAINT, &line))?;
        }
        self.out.flush()
    }

    pub(super) fn result(
        &mut self,
        outcome: &Outcome,
        took: Duration,
        failure: Option<&anyhow::Error>,
        log: &[String],
    ) -> io::Result<()> {
        let complete = failure.is_none() && outcome.is_complete();
        if self.json {
            return self.line(&Line::Result {
                complete,
                duration_ms: took.as_millis(),
                events: outcome
                    .rows()
                    .map(|row| EventLine {
                        event: row.kind.as_str(),
                        label: row.kind.label(),
                        expected: row.n_expected,
                        arrived: row.n_arrived,
                        latency_ms_max: row.latency_max.map(milliseconds),
                        verified: row.n_verified == row.n_expected,
                    })
                    .collect(),
                failure: failure.map(|failure| format!("{failure:#}")),
                log: log.to_vec(),
            });
        }
        let mut table = Table::new(["event", "arrived", "latency", "signature"]);
        for row in outcome.rows() {
            let arrived = format!("{} of {}", row.n_arrived, row.n_expected);
            let is_whole = row.n_arrived == row.n_expected;
            table.row([
                row.kind.label().into(),
                Cell::painted(if is_whole { GREEN } else { RED }, arrived),
                row.latency_max.map_or_else(String::new, latency).into(),
                match (row.n_arrived, row.n_verified) {
                    (0, _) => "".into(),
                    (arrived, verified) if arrived == verified => Cell::painted(GREEN, "verified"),
                    _ => Cell::painted(RED, "not verified"),
                },
            ]);
        }
        writeln!(self.out)?;
        table.print(self.out, self.style, "")?;
        writeln!(self.out)?;
        let (n_expected, n_arrived) = outcome.counts();
        if complete {
            let done = self.style.paint(GREEN, "All callbacks came");
            writeln!(
                self.out,
                "{done}: {n_arrived} for the seven events, in {}.",
                latency(took)
            )?;
        } else {
            let failed = self.style.paint(RED, "Failed");
            let reason = failure.map_or_else(
                || format!("{n_arrived} of {n_expected} callbacks came as expected"),
                |failure| safe(&format!("{failure:#}")),
            );
            writeln!(self.out, "{failed}: {reason}.")?;
            for (kind, project) in &outcome.missing {
                writeln!(self.out, "  missing: {} of {project}", kind.label())?;
            }
            writeln!(self.out, "\nThe end of the daemon's log:")?;
            for line in log {
                writeln!(self.out, "  {}", safe(line))?;
            }
        }
        self.out.flush()
    }

    pub(super) fn try_by_hand(&mut self, place: &Place) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let base = safe(&place.directory().display().to_string());
        let config = safe(&place.config().display().to_string());
        let program = std::env::current_exe().map_or_else(
            |_| env!("CARGO_PKG_NAME").to_owned(),
            |program| safe(&program.display().to_string()),
        );
        writeln!(
            self.out,
            "\n{}\n\
             \n\
             \x20 cd {base}\n\
             \x20 mkdir -p repository/sales/mine/snapshots\n\
             \x20 cp incoming/campaigns.xml repository/sales/mine/project.xml\n\
             \x20 cp repository/sales/mine/project.xml repository/sales/mine/snapshots/one.xml\n\
             \x20 rm -r repository/sales/mine\n\
             \n\
             \x20 configuration  {config}\n\
             \x20 log            {base}/daemon.log\n\
             \x20 commands       {program} --config {config} status, events, deliveries\n\
             \n\
             Callbacks are printed as they come. Ctrl-C ends it; the directory stays.",
            self.style.paint(BOLD, "Now try it by hand:")
        )?;
        self.out.flush()
    }

    pub(super) fn kept(&mut self, place: &Place) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let base = safe(&place.directory().display().to_string());
        writeln!(self.out, "\nThe daemon has ended. To tidy up: rm -r {base}")
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        print_json_line(self.out, line)?;
        self.out.flush()
    }
}

/// The words in lines that fit a terminal of 100 columns with their indentation; a word is never
/// broken, so that it can be copied.
fn wrapped(words: &[String]) -> Vec<String> {
    const COLUMNS: usize = 94;
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count().saturating_add(word.chars().count()) < COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

/// A value as a shell would need it, to show where it begins and ends.
fn quoted(value: &str) -> String {
    let value = safe(value);
    if value.is_empty() || value.contains([' ', '=', '"']) {
        format!("\"{value}\"")
    } else {
        value
    }
}
