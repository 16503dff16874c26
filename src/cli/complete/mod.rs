//! `complete`: the names, projects and ids that completion scripts offer.
//!
//! The scripts of `completions` call this hidden command with the typed line. It does not ask the
//! daemon. It reads names from the configuration, and projects and ids from the recorded state.
//!
//! Constraint: a shell must not hang, show an error or execute a part of a name. So the command
//! offers no candidates after a failure, and it ends at a deadline. It leaves out names with
//! characters that a terminal would interpret.

mod line;
mod names;
pub(super) mod scripts;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;

use self::line::{Line, escaped};
use super::output::safe;
use super::{Arguments, DONE};

/// The maximum number of candidates: more than fit on a terminal.
const CANDIDATES_MAX: usize = 100;

/// The time after which the command ends, because a person is waiting.
const DEADLINE: Duration = Duration::from_secs(1);

/// The number of waits that [`DEADLINE`] is divided into.
///
/// So a stall of the whole machine uses up only one of the waits, not the whole deadline.
const WAITS: u32 = 20;

/// Print the candidates for the last word of a command line, for completion scripts.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CompleteArguments {
    /// The shell whose quoting the output needs
    shell: Shell,
    /// The command line up to the cursor
    line: OsString,
    /// The text that bash replaces, which may be only the end of the last word
    replaced: Option<OsString>,
}

/// The kind of value that an argument names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Webhook,
    Repository,
    Project,
    Event,
    Delivery,
}

impl Kind {
    /// Returns the kind of an argument. `None` if the program has no candidates for it.
    fn of(command: &str, argument: &Arg) -> Option<Self> {
        match (command, argument.get_id().as_str()) {
            (_, "webhook" | "to") => Some(Kind::Webhook),
            ("enable" | "disable" | "test", "name") => Some(Kind::Webhook),
            (_, "repository") => Some(Kind::Repository),
            (_, "project") => Some(Kind::Project),
            ("events", "id") => Some(Kind::Event),
            ("deliveries", "id") | (_, "ids") => Some(Kind::Delivery),
            _ => None,
        }
    }
}

/// The argument at the cursor.
#[derive(Debug, PartialEq, Eq)]
struct Position {
    kind: Kind,
    /// The value of `--config`.
    config: Option<PathBuf>,
    /// The typed beginning of the value.
    typed: String,
    /// The subcommands whose names begin with the typed text, if the argument is positional.
    commands: Vec<String>,
}

/// Prints the candidates, each on a line.
pub(super) fn run(arguments: &CompleteArguments, out: &mut dyn Write) -> anyhow::Result<u8> {
    let line = Line::split(&arguments.line.to_string_lossy());
    let mut command = Arguments::command();
    command.build();
    let Some(position) = position(&command, &line) else {
        return Ok(DONE);
    };
    let replaced = arguments
        .replaced
        .as_ref()
        .map(|text| text.to_string_lossy());
    // bash replaces only the part after the last word break, such as `@` or `:`.
    let kept = replaced.map_or(String::new(), |text| line.kept(&text));
    let kept = kept.strip_prefix(&line.option_prefix()).unwrap_or_default();
    let mut text = String::new();
    let found = within_deadline(position.kind, position.config, position.typed);
    // zsh and fish add the subcommands themselves. bash offers only this output.
    let commands = match arguments.shell {
        Shell::Bash if !found.is_empty() => position.commands,
        _ => Vec::new(),
    };
    let candidates = commands.iter().chain(&found);
    for name in candidates.filter(|name| safe(name) == **name) {
        let rest = name.strip_prefix(kept).unwrap_or(name);
        let shown = match arguments.shell {
            Shell::Bash => escaped(rest, line.open_quote()),
            // zsh and fish quote candidates themselves.
            _ => Some(rest.to_owned()),
        };
        if let Some(shown) = shown {
            text.push_str(&shown);
            text.push('\n');
        }
    }
    // Write everything in one call, so that the shell gets all candidates or none.
    out.write_all(text.as_bytes())?;
    Ok(DONE)
}

/// Reads the names that begin with `typed`. Returns no names after the deadline.
fn within_deadline(kind: Kind, config: Option<PathBuf>, typed: String) -> Vec<String> {
    let (sender, names) = mpsc::sync_channel(1);
    // Nobody joins the thread. It ends with the process.
    std::thread::spawn(move || sender.send(names::read(kind, config.as_deref(), &typed)));
    let mut waits = (0..WAITS).map(|_| names.recv_timeout(DEADLINE / WAITS));
    waits.find_map(Result::ok).unwrap_or_default()
}

/// Finds the argument that the last word of a line belongs to.
fn position(command: &Command, line: &Line) -> Option<Position> {
    let (typed, words) = line.words().split_last()?;
    let mut walk = Walk {
        command,
        parent: "",
        option: None,
        n_positionals: 0,
        only_positionals: false,
        config: None,
    };
    for word in words {
        walk.step(word);
    }
    let (argument, typed) = walk.argument(typed)?;
    // `events` and `deliveries` both have a subcommand `show`.
    let name = match walk.command.get_name() {
        "show" => walk.parent,
        name => name,
    };
    let kind = Kind::of(name, argument)?;
    let is_command = |name: &str| argument.is_positional() && name.starts_with(&typed);
    let commands = walk.command.get_subcommands();
    let commands = commands.filter(|sub| !sub.is_hide_set() && is_command(sub.get_name()));
    Some(Position {
        kind,
        commands: commands.map(|sub| sub.get_name().to_owned()).collect(),
        config: walk.config,
        typed,
    })
}

/// The state of a walk over the words before the cursor.
struct Walk<'a> {
    command: &'a Command,
    /// The name of the parent command.
    parent: &'a str,
    /// The option whose value is the next word.
    option: Option<&'a Arg>,
    n_positionals: usize,
    /// Whether the word `--` was read.
    only_positionals: bool,
    config: Option<PathBuf>,
}

impl<'a> Walk<'a> {
    fn step(&mut self, word: &str) {
        if let Some(option) = self.option.take() {
            self.value(option, word);
        } else if self.only_positionals {
            self.n_positionals = self.n_positionals.saturating_add(1);
        } else if word == "--" {
            self.only_positionals = true;
        } else if let Some((option, value)) = self.option(word) {
            match value {
                Some(value) => self.value(option, &value),
                None => self.option = Some(option),
            }
        } else if word.len() > 1 && word.starts_with('-') {
            // A flag has no value.
        } else if let Some(sub) = self.command.find_subcommand(word) {
            self.parent = self.command.get_name();
            self.command = sub;
        } else {
            self.n_positionals = self.n_positionals.saturating_add(1);
        }
    }

    fn value(&mut self, option: &Arg, value: &str) {
        if option.get_id() == "config" {
            self.config = Some(from_home(value));
        }
    }

    /// Returns the option that a word names, if the option takes a value.
    ///
    /// Also returns the value if the word contains it.
    fn option(&self, word: &str) -> Option<(&'a Arg, Option<String>)> {
        let takes = |argument: &&Arg| argument.get_action().takes_values();
        let mut options = self.command.get_opts().filter(takes);
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            return Some((options.find(|one| one.get_long() == Some(name))?, value));
        }
        let short = word.strip_prefix('-')?.chars().next()?;
        let value = word.get(1_usize.saturating_add(short.len_utf8())..)?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let value = (!value.is_empty()).then(|| value.to_owned());
        Some((options.find(|one| one.get_short() == Some(short))?, value))
    }

    /// Returns the argument of the last word, with the typed part of its value.
    fn argument(&self, typed: &str) -> Option<(&'a Arg, String)> {
        if let Some(option) = self.option {
            return Some((option, typed.to_owned()));
        }
        if !self.only_positionals && typed.starts_with('-') {
            let (option, value) = self.option(typed)?;
            return Some((option, value?));
        }
        let mut positionals = self.command.get_positionals();
        let last = self.command.get_positionals().last();
        let repeats = |argument: &&Arg| argument.get_num_args().is_some_and(|n| n.max_values() > 1);
        let argument = positionals.nth(self.n_positionals).or(last.filter(repeats));
        Some((argument?, typed.to_owned()))
    }
}

/// Converts a word to a path. Expands a leading `~/`, as a shell would.
fn from_home(value: &str) -> PathBuf {
    match (value.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(below), Some(home)) => Path::new(&home).join(below),
        _ => PathBuf::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<(Kind, String)> {
        let mut command = Arguments::command();
        command.build();
        let position = position(&command, &Line::split(line))?;
        Some((position.kind, position.typed))
    }

    #[test]
    fn the_cursor_is_in_an_argument() {
        for (line, kind, typed) in [
            ("webhooks enable ", Kind::Webhook, ""),
            ("webhooks test --json cat", Kind::Webhook, "cat"),
            (
                "webhooks test --event project-publish cat",
                Kind::Webhook,
                "cat",
            ),
            ("-c x.yaml webhooks disable 'my ", Kind::Webhook, "my "),
            ("--config=x webhooks disable -- -a", Kind::Webhook, "-a"),
            ("deliveries --webhook ", Kind::Webhook, ""),
            ("deliveries redeliver --webhook=c", Kind::Webhook, "c"),
            ("events replay --to ", Kind::Webhook, ""),
            (
                "events replay --to x --project sales/",
                Kind::Project,
                "sales/",
            ),
            ("events --project s", Kind::Project, "s"),
            ("deliveries --repository m", Kind::Repository, "m"),
            ("events show ", Kind::Event, ""),
            ("deliveries show 1", Kind::Delivery, "1"),
            ("deliveries cancel 1 2 3", Kind::Delivery, "3"),
        ] {
            let line = format!("project-webhooks {line}");
            assert_eq!(found(&line), Some((kind, typed.to_owned())), "{line}");
        }
        for line in [
            "",
            "web",
            "webhooks ",
            "webhooks enable x ",
            "webhooks enable -",
            "webhooks test --event ",
            "deliveries show 1 ",
            "deliveries --since ",
            "--config ",
            "unknown ",
        ] {
            let line = format!("project-webhooks {line}");
            assert_eq!(found(&line), None, "{line}");
        }
        assert_eq!(found("sudo ls"), None);
    }

    #[test]
    fn the_configuration_is_the_named_one() {
        let mut command = Arguments::command();
        command.build();
        for line in [
            "project-webhooks -c a.yaml webhooks enable ",
            "project-webhooks -ca.yaml webhooks enable ",
            "sudo project-webhooks webhooks --config a.yaml enable ",
            "./project-webhooks webhooks enable --config='a.yaml' ",
        ] {
            let position = position(&command, &Line::split(line)).expect("a position");
            assert_eq!(position.config, Some(PathBuf::from("a.yaml")), "{line}");
        }
    }

    #[test]
    fn every_argument_that_names_something_recorded_has_a_kind() {
        let mut command = Arguments::command();
        command.build();
        let mut waiting = vec![&command];
        let mut n = 0;
        while let Some(one) = waiting.pop() {
            waiting.extend(one.get_subcommands().filter(|sub| sub.get_name() != "help"));
            for argument in one.get_arguments() {
                let names = argument.get_value_names().unwrap_or_default();
                let is_recorded = names
                    .iter()
                    .any(|name| ["NAME", "PROJECT", "ID", "IDS"].contains(&name.as_str()));
                // The kind of `show` depends on its parent command, which this loop does not know.
                if is_recorded && one.get_name() != "show" {
                    n += 1;
                    let name = one.get_name();
                    assert!(Kind::of(name, argument).is_some(), "{name} {argument}");
                }
            }
        }
        assert!(n > 15, "{n}");
    }
}
