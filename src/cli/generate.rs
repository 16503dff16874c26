//! `man` and `schema`: manual pages and JSON Schemas.
//!
//! Constraint: arguments, settings and bodies are described from the definitions that the program
//! uses, so the descriptions agree with it. One manual page describes all commands.
//! [`super::manual`] generates the page of the configuration.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Arguments;

/// The section of a manual page.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum Section {
    /// project-webhooks(1): the commands
    #[default]
    #[value(name = "1")]
    Commands,
    /// project-webhooks-config(5): the configuration
    #[value(name = "5")]
    Configuration,
}

/// A document that a JSON Schema describes.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Document {
    /// config.yaml, for editors
    Config,
    /// The body of a callback with `format: json`, for receivers
    Callback,
}

impl Document {
    pub(super) fn schema(self) -> serde_json::Value {
        match self {
            Document::Config => crate::config::schema(),
            Document::Callback => crate::webhook::body::json_schema(),
        }
    }
}

/// The last sections of the page, which are not about arguments.
const END: &str = r#".SH EXIT STATUS
.TP
0
done
.TP
1
failed
.TP
2
invalid arguments
.TP
75
another process uses the state (EX_TEMPFAIL)
.TP
78
the configuration is invalid or does not fit the state (EX_CONFIG)
.SH SIGNALS
.TP
HUP
reload the configuration; an invalid configuration changes nothing;
if standard error is a terminal, stop as by TERM
.TP
TERM, INT
stop: requests in progress get up to 10 seconds to finish; a second signal exits at once
.TP
USR1
start a full scan now
.SH FILES
.TP
\&./config.yaml, /etc/project\-webhooks/config.yaml
the configuration: the first of these files that exists, unless \-\-config names another
.SH ENVIRONMENT
.TP
STATE_DIRECTORY
the state directory, unless the configuration sets state_dir
.TP
CREDENTIALS_DIRECTORY
the directory that { credential: NAME } reads from
.TP
NO_COLOR
no colours
.SH EXAMPLES
.TP
See the program at work, without any configuration
.B project\-webhooks demo
.TP
List the callbacks of the last day
.B project\-webhooks deliveries \-\-since 1d
.TP
Redeliver callbacks that failed for good
.B project\-webhooks deliveries redeliver \-\-webhook catalog \-\-state dead
.TP
Test whether the receiver answers
.B project\-webhooks webhooks test catalog
.SH SEE ALSO
.BR project\-webhooks\-config (5)
"#;

pub(super) fn manual_page(section: Section, out: &mut dyn Write) -> io::Result<()> {
    match section {
        Section::Commands => man(out),
        Section::Configuration => super::manual::configuration(out),
    }
}

/// Writes the manual page of the commands.
fn man(out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    render(&mut text)?;
    out.write_all(tidy(&String::from_utf8_lossy(&text)).as_bytes())
}

/// Removes repeated preambles, repeated line breaks, and empty lines.
///
/// mandoc warns about them.
fn tidy(page: &str) -> String {
    let is_preamble = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    let mut tidy = String::new();
    for line in page.lines().filter(is_preamble).take(2) {
        tidy.push_str(line);
        tidy.push('\n');
    }
    let mut last = "";
    for line in page.lines() {
        let repeats = line == ".br" && last == ".br";
        if !line.is_empty() && !is_preamble(&line) && !repeats {
            tidy.push_str(line);
            tidy.push('\n');
            last = line;
        }
    }
    tidy
}

fn render(out: &mut dyn Write) -> io::Result<()> {
    let mut command = Arguments::command();
    command.build();
    let page = Man::new(command.clone());
    // The page has no date, so that each version always generates the same page.
    writeln!(
        out,
        ".TH project\\-webhooks 1 \"\" \"project\\-webhooks {}\" \"User Commands\"",
        env!("CARGO_PKG_VERSION")
    )?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    writeln!(out, ".SH COMMANDS")?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        subcommand(sub, "", out)?;
    }
    out.write_all(END.as_bytes())?;
    page.render_version_section(out)
}

/// Writes the description of a command and of its subcommands.
fn subcommand(command: &Command, parents: &str, out: &mut dyn Write) -> io::Result<()> {
    if command.get_name() == "help" {
        return Ok(());
    }
    let mut own = command.clone();
    // The page lists global options once, for all commands.
    for global in ["config", "log_level", "help"] {
        if own.get_arguments().any(|known| known.get_id() == global) {
            own = own.mut_arg(global, |argument| argument.hide(true));
        }
    }
    let name = format!("{parents}{}", own.get_name());
    writeln!(out, ".SS {}", name.replace('-', "\\-"))?;
    let page = Man::new(own);
    let mut text = Vec::new();
    page.render_synopsis_section(&mut text)?;
    writeln!(text, ".PP")?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    // Leave out the headings: they are for a separate page, but this text is part of a section.
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b".SH ") {
            out.write_all(line)?;
        }
    }
    for sub in command.get_subcommands() {
        subcommand(sub, &format!("{name} "), out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_command_and_every_option() {
        let mut page = Vec::new();
        man(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\-", "-");
        let mut command = Arguments::command();
        command.build();
        let mut waiting: Vec<(String, &Command)> = command
            .get_subcommands()
            .map(|sub| (sub.get_name().to_owned(), sub))
            .collect();
        let mut n_commands = 0;
        while let Some((name, command)) = waiting.pop() {
            if command.get_name() == "help" || command.is_hide_set() {
                continue;
            }
            n_commands += 1;
            assert!(page.contains(&format!(".SS {name}\n")), "{name}\n{page}");
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long() {
                    assert!(page.contains(&format!("--{long}")), "{name} --{long}");
                }
            }
            waiting.extend(
                command
                    .get_subcommands()
                    .map(|sub| (format!("{name} {}", sub.get_name()), sub)),
            );
        }
        assert!(n_commands > 15, "{n_commands}");
        assert_eq!(page.matches(".SH COMMANDS").count(), 1);
    }
}
