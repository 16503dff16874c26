//! Counts the demo's callbacks, and prints them.

use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;

use super::Directory;
use super::script::{Action, Expected};
use crate::cli::listen::print_callback;
use crate::cli::output::{BOLD, Cell, FAINT, GREEN, RED, Style, Table, between, safe};
use crate::domain::event::EventKind;
use crate::receiver::{Received, Signature};

/// Prints the demo, and counts the callbacks.
pub(super) struct Printer<'a> {
    pub(super) style: &'a Style,
    pub(super) out: &'a mut dyn Write,
    pub(super) actions: Vec<Action>,
    /// The expected callbacks that arrived.
    ///
    /// The fields are the event, the latency in milliseconds, and whether the signature is valid.
    pub(super) arrived: Vec<(EventKind, f64, bool)>,
    pub(super) missing: Vec<Expected>,
    pub(super) n_unexpected: usize,
}

fn milliseconds(length: Duration) -> f64 {
    length.as_secs_f64() * 1_000.0
}

impl Printer<'_> {
    /// Returns the events of all expected callbacks.
    fn expected(&self) -> Vec<EventKind> {
        let callbacks = self.actions.iter().flat_map(|action| action.callbacks);
        callbacks.map(|(kind, _)| *kind).collect()
    }

    /// Returns the number of events in words.
    fn how_many(&self) -> &'static str {
        if self.expected().iter().any(|kind| kind.is_opt_in()) {
            "eleven"
        } else {
            "seven"
        }
    }

    /// Whether exactly the expected callbacks arrived, all with valid signatures.
    pub(super) fn is_complete(&self) -> bool {
        self.n_unexpected == 0
            && self.arrived.len() == self.expected().len()
            && self.arrived.iter().all(|(.., is_verified)| *is_verified)
    }

    pub(super) fn start(&mut self, directory: &Directory, took: Duration) -> io::Result<()> {
        let heading = "Real files, a real daemon, signed callbacks";
        writeln!(
            self.out,
            "{}\n\n  \
             directory  {}\n  \
             daemon     process {}, watching ./repository after {:.1} ms\n  \
             receiver   {} with {} webhooks, one for each event\n  \
             settle     a removal is reported after 200 ms without changes; the default is 1s\n",
            self.style.paint(BOLD, heading),
            safe(&directory.path.display().to_string()),
            std::process::id(),
            milliseconds(took),
            directory.url,
            self.how_many(),
        )?;
        self.out.flush()
    }

    pub(super) fn action(&mut self, number: usize, action: &Action) -> io::Result<()> {
        let title = self.style.paint(BOLD, action.title);
        writeln!(self.out, "{number}. {title}")?;
        for command in action.commands {
            let line = self.style.paint(FAINT, &format!("$ {command}"));
            writeln!(self.out, "   {line}")?;
        }
        writeln!(self.out)?;
        self.out.flush()
    }

    /// Prints and counts a callback. Removes it from `waiting` if it was expected.
    ///
    /// `done` is the time when the last command of the action ended.
    pub(super) fn callback(
        &mut self,
        received: &Received,
        waiting: &mut Vec<Expected>,
        done: Timestamp,
    ) -> io::Result<()> {
        let found = waiting.iter().position(|(kind, project)| {
            kind.as_str() == received.event && received.parameter("projectName") == Some(project)
        });
        let note = match found.map(|index| waiting.remove(index)) {
            Some((kind, _)) => {
                let latency = milliseconds(between(done, received.at));
                let is_verified = received.signature == Signature::Verified;
                self.arrived.push((kind, latency, is_verified));
                format!("after {latency:.1} ms")
            }
            None => {
                self.n_unexpected += 1;
                self.style.paint(RED, "not expected here")
            }
        };
        print_callback(&mut self.out, received, Some(&note), self.style)?;
        self.out.flush()
    }

    pub(super) fn success(&mut self, took: Duration) -> io::Result<()> {
        self.table()?;
        let done = self.style.paint(GREEN, "All callbacks arrived");
        let (n, took) = (self.arrived.len(), milliseconds(took));
        writeln!(
            self.out,
            "\n{done}: {n} for the {} events, in {took:.1} ms.",
            self.how_many()
        )?;
        self.out.flush()
    }

    pub(super) fn failure(&mut self, reason: &anyhow::Error, log: &[String]) -> io::Result<()> {
        self.table()?;
        let failed = self.style.paint(RED, "Failed");
        writeln!(self.out, "\n{failed}: {}.", safe(&format!("{reason:#}")))?;
        for (kind, project) in &self.missing {
            writeln!(self.out, "  missing: {} of {project}", kind.label())?;
        }
        writeln!(self.out, "\nThe end of the daemon's log:")?;
        for line in log {
            writeln!(self.out, "  {}", safe(line))?;
        }
        self.out.flush()
    }

    fn table(&mut self) -> io::Result<()> {
        let mut table = Table::new(["event", "arrived", "latency", "signature"]);
        let mut kinds = Vec::new();
        let expected = self.expected();
        for kind in &expected {
            let kind = *kind;
            if kinds.contains(&kind) {
                continue;
            }
            kinds.push(kind);
            let arrived = || self.arrived.iter().filter(|(known, ..)| *known == kind);
            let (n_arrived, n) = (
                arrived().count(),
                expected.iter().filter(|k| **k == kind).count(),
            );
            let code = if n_arrived == n { GREEN } else { RED };
            let latency = arrived().map(|(_, latency, _)| *latency).reduce(f64::max);
            let signature = match arrived().all(|(.., is_verified)| *is_verified) {
                _ if n_arrived == 0 => Cell::default(),
                true => Cell::painted(GREEN, "verified"),
                false => Cell::painted(RED, "not verified"),
            };
            table.row([
                kind.label().into(),
                Cell::painted(code, format!("{n_arrived} of {n}")),
                latency
                    .map_or_else(String::new, |latency| format!("{latency:.1} ms"))
                    .into(),
                signature,
            ]);
        }
        table.print(self.out, self.style, "")
    }

    pub(super) fn try_by_hand(&mut self, directory: &Directory) -> io::Result<()> {
        writeln!(
            self.out,
            "\n{}\n\n\
             \x20 cd {}\n\
             \x20 mkdir -p repository/sales/mine/snapshots\n\
             \x20 cp incoming/campaigns.xml repository/sales/mine/project.xml\n\
             \x20 cp repository/sales/mine/project.xml repository/sales/mine/snapshots/one.xml\n\
             \x20 rm -r repository/sales/mine\n\
             \x20 project-webhooks status      # also events, deliveries\n\
             \n\
             The log is daemon.log. Ctrl-C ends the demo and keeps the directory.\n",
            self.style.paint(BOLD, "Now try it by hand:"),
            safe(&directory.path.display().to_string())
        )?;
        self.out.flush()
    }

    pub(super) fn kept(&mut self, directory: &Directory) -> io::Result<()> {
        let path = safe(&directory.path.display().to_string());
        writeln!(
            self.out,
            "The daemon has stopped. To clean up: rm -r {path}"
        )
    }
}
