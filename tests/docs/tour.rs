//! The tour: its commands in order, in a directory of their own, with the real program.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process;

use project_webhooks::domain::event::EventKind;

use crate::blocks::{self, Block};
use crate::patience::Run as _;
use crate::process::{Running, is_there, program};
use crate::skip;

/// The port of the README. Another program may use it here.
const PORT: &str = "9000";

#[test]
fn the_tour_works_as_shown() {
    if !is_there("bash", "--version") {
        return skip("the_tour_works_as_shown", "no bash");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut tour = Tour {
        directory: directory.path(),
        port: free_port(),
        terminals: HashMap::new(),
        seen: HashMap::new(),
    };
    let mut ran = 0;
    for block in blocks::all() {
        match block.kind() {
            "file" => tour.save(&block),
            "terminal" => tour.open(&block),
            "tour" => tour.run(&block),
            "shown" => tour.compare_shown(&block),
            "try" => tour.try_by_hand(&block),
            _ => continue,
        }
        ran += 1;
    }
    assert_eq!(ran, 12);
    for (name, seen) in &tour.seen {
        let rest = &tour.terminals[name].printed()[*seen..];
        assert_eq!(rest, "", "{name} printed more than the tour shows");
    }
}

/// A port that nothing listens on, outside the range that outgoing connections take theirs from.
fn free_port() -> String {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    (first..32_000)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
        .to_string()
}

struct Tour<'a> {
    directory: &'a Path,
    port: String,
    terminals: HashMap<String, Running>,
    /// The length of the compared part of each terminal's output.
    seen: HashMap<String, usize>,
}

impl Tour<'_> {
    fn here(&self, text: &str) -> String {
        text.replace(PORT, &self.port)
    }

    fn shell(&self, script: &str) -> process::Command {
        let programs = program();
        let programs = programs.parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = process::Command::new("bash");
        command
            .args(["-e", "-u", "-o", "pipefail", "-c", &self.here(script)])
            .current_dir(self.directory)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("NO_COLOR", "1")
            .env("TZ", "UTC")
            .env_remove("STATE_DIRECTORY")
            .env_remove("NOTIFY_SOCKET");
        command
    }

    fn save(&self, block: &Block) {
        std::fs::write(
            self.directory.join(block.argument()),
            self.here(&block.text),
        )
        .unwrap();
    }

    fn open(&mut self, block: &Block) {
        let name = block.argument().to_owned();
        let command = commands(block).remove(0);
        assert_eq!(command.output, "", "another block shows the output");
        let running = Running::start(self.shell(&format!("exec {}", command.line)));
        if name == "run" {
            running.wait_for("ready", |text| text.contains("ready").then_some(()));
        } else {
            // Its introduction ends in an empty line, after the lines for the configuration.
            let introduction = running.wait_for("the introduction", |text| {
                let start = text.find("webhooks:\n")?;
                Some(start + text[start..].find("\n\n")? + 2)
            });
            self.seen.insert(name.clone(), introduction);
        }
        self.terminals.insert(name, running);
    }

    fn run(&mut self, block: &Block) {
        for Command {
            line: command,
            events,
            output: shown,
        } in commands(block)
        {
            let output = self.shell(&command).run().unwrap();
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}: {command}: {printed}{errors}",
                block.position()
            );
            if !shown.is_empty() {
                assert_eq!(
                    self.normal(&printed),
                    self.normal(&shown),
                    "{}: {command}",
                    block.position()
                );
            }
            self.expect_events(&events);
        }
    }

    /// Waits until the receiver has printed a verified callback of each event, in any order.
    fn expect_events(&mut self, events: &[EventKind]) {
        let Some(seen) = self.seen.get_mut("listen").filter(|_| !events.is_empty()) else {
            return;
        };
        let listen = &self.terminals["listen"];
        let start = *seen;
        let end = listen.wait_for(&format!("{events:?}"), |text| {
            let ends = text[start..].match_indices("\n\n").nth(events.len() - 1);
            ends.map(|(at, _)| start + at + 2)
        });
        let printed = &listen.printed()[start..end];
        for event in events {
            let callback = format!(
                "  {}, live, attempt 1, multipart, signature verified",
                event.label()
            );
            assert!(printed.contains(&callback), "{callback}: {printed}");
        }
        *seen = end;
    }

    /// Waits until a terminal has printed the shown number of callbacks, and compares them.
    fn compare_shown(&mut self, block: &Block) {
        let name = block.argument();
        let seen = self.seen[name];
        let expected = block.text.matches("\n\n").count() + 1;
        let terminal = &self.terminals[name];
        let end = terminal.wait_for(&block.text, |text| {
            let ends = text[seen..].match_indices("\n\n").nth(expected - 1);
            ends.map(|(at, _)| seen + at + 2)
        });
        let printed = terminal.printed()[seen..end].to_owned();
        assert_eq!(
            self.normal(&printed),
            self.normal(&block.text),
            "{}",
            block.position()
        );
        self.seen.insert(name.to_owned(), end);
    }

    fn try_by_hand(&self, block: &Block) {
        for tool in ["curl", "openssl"] {
            // The receiver would never print the callback that the page shows.
            let argument = if tool == "curl" {
                "--version"
            } else {
                "version"
            };
            assert!(is_there(tool, argument), "the tour needs {tool}");
        }
        let output = self.shell(&block.text).run().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "204\n", "{errors}");
    }

    /// The text with placeholders for times, ids, the port and the directory.
    fn normal(&self, text: &str) -> Vec<String> {
        let directory = self.directory.display().to_string();
        text.trim_end()
            .lines()
            .map(|line| {
                let line = self
                    .here(line)
                    .replace(&directory, "DIRECTORY")
                    .replace("/home/ada/tour", "DIRECTORY");
                line.split(' ')
                    .map(|word| match word.strip_prefix("evt_") {
                        Some(digits) if digits.len() == 32 => "ID",
                        Some(digits) if digits.len() == 12 => "SHORT-ID",
                        _ if word.parse::<jiff::Timestamp>().is_ok() => "TIMESTAMP",
                        _ if word.parse::<jiff::civil::Date>().is_ok() => "DATE",
                        _ if is_time_of_day(word) => "TIME",
                        _ => word,
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    }
}

fn is_time_of_day(text: &str) -> bool {
    let is_long_enough = text.len() >= "14:03:21".len();
    is_long_enough
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || matches!(c, ':' | '.'))
}

/// A command of a console block.
struct Command {
    line: String,
    /// The events in the comment after it.
    events: Vec<EventKind>,
    /// The output below it; empty if the page shows none.
    output: String,
}

/// The commands of a console block.
fn commands(block: &Block) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let (line, comment) = command.split_once("  # ").unwrap_or((command, ""));
            let labels = comment.split(", ").filter(|label| !label.is_empty());
            commands.push(Command {
                line: line.to_owned(),
                events: labels.map(event).collect(),
                output: String::new(),
            });
        } else {
            let command = commands.last_mut().expect("a command comes first");
            command.output.push_str(line);
            command.output.push('\n');
        }
    }
    commands
}

fn event(label: &str) -> EventKind {
    EventKind::ALL
        .into_iter()
        .find(|kind| kind.label() == label)
        .unwrap_or_else(|| panic!("{label} is not an event"))
}
