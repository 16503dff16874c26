//! The tour: its commands in order, in a directory of their own, against the real program.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use crate::blocks::{self, Block};
use crate::process::{Running, is_there, program};
use crate::skip;

/// The port of the README, which may be taken on this machine.
const PORT: &str = "9000";

#[test]
fn the_tour_goes_as_it_is_told() {
    if !is_there("bash", "--version") {
        return skip("the_tour_goes_as_it_is_told", "no bash");
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
    assert_eq!(ran, 18);
    for (name, seen) in &tour.seen {
        let rest = &tour.terminals[name].printed()[*seen..];
        assert_eq!(rest, "", "{name} printed more than the README shows");
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
    /// How much of what a terminal printed has been compared.
    seen: HashMap<String, usize>,
}

impl Tour<'_> {
    fn here(&self, text: &str) -> String {
        text.replace(PORT, &self.port)
    }

    fn shell(&self, script: &str) -> Command {
        let programs = program();
        let programs = programs.parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
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
        let (command, output) = commands(block).remove(0);
        assert_eq!(output, "", "what a terminal prints is shown elsewhere");
        let running = Running::start(self.shell(&format!("exec {command}")));
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

    fn run(&self, block: &Block) {
        for (command, shown) in commands(block) {
            let output = self.shell(&command).output().unwrap();
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "README.md:{}: {command}: {printed}{errors}",
                block.line
            );
            if !shown.is_empty() {
                assert_eq!(
                    self.normal(&printed),
                    self.normal(&shown),
                    "README.md:{}: {command}",
                    block.line
                );
            }
        }
    }

    /// Waits until a terminal has printed as many callbacks as are shown, and compares them.
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
            "README.md:{}",
            block.line
        );
        self.seen.insert(name.to_owned(), end);
    }

    fn try_by_hand(&self, block: &Block) {
        for tool in ["curl", "openssl"] {
            // What is shown after this block would never come.
            let argument = if tool == "curl" {
                "--version"
            } else {
                "version"
            };
            assert!(is_there(tool, argument), "the tour needs {tool}");
        }
        let output = self.shell(&block.text).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "204\n", "{errors}");
    }

    /// The text without what differs from run to run: times, ids, the port and the
    /// directory.
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

/// The commands of a console block, each with the output that is shown below it.
fn commands(block: &Block) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), String::new()));
        } else {
            let (_, output) = commands.last_mut().expect("a command comes first");
            output.push_str(line);
            output.push('\n');
        }
    }
    commands
}
