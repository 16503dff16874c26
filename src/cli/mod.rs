//! The commands: their arguments, output and exit status.

mod accept;
mod arguments;
mod check;
mod complete;
mod deliveries;
mod demo;
mod events;
mod follow;
mod generate;
mod init;
mod listen;
mod manual;
mod migrate_store;
mod output;
mod reload;
mod replay;
mod run;
mod scan;
mod standing;
mod status;
mod view;
mod webhooks;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::output::safe_lines;
use crate::admin::control::RequestError;
use crate::clock::Clock;
use crate::config::{self, Config, Problems, SystemEnvironment, WithoutSecrets};
use crate::os::HeldSignals;
use crate::store::{Fault, Listings, OpenError, TransferError};

/// Exit status: the command succeeded.
const DONE: u8 = 0;
/// Exit status: the command failed.
const FAILED: u8 = 1;
/// Exit status: the arguments are invalid. clap exits with the same status.
const USAGE: u8 = 2;
/// Exit status: another process uses the state (sysexits.h, EX_TEMPFAIL).
const HELD: u8 = 75;
/// Exit status: the configuration is invalid or does not fit the state (sysexits.h, EX_CONFIG).
const CONFIGURATION: u8 = 78;

/// Watches a repository of project.xml files and delivers webhooks for their changes.
#[derive(Debug, Parser)]
#[command(name = "project-webhooks", version, max_term_width = 100)]
pub struct Arguments {
    /// Read this configuration; `init` writes it [default: ./config.yaml, then
    /// /etc/project-webhooks/config.yaml]
    #[arg(long, short, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Log messages of at least this severity; overrides log.level
    #[arg(long, global = true, value_name = "L", value_parser = arguments::log_level())]
    log_level: Option<tracing::Level>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run,
    /// Show the seven events on a temporary repository, with a daemon and a receiver
    Demo {
        /// Keep the daemon running for you to try by hand; Ctrl-C ends it and keeps the directory
        #[arg(long)]
        keep: bool,
        /// Also show the four events that "*" does not include
        #[arg(long)]
        all: bool,
    },
    /// Validate the configuration without connecting to receivers or the database; print each
    /// webhook and where its events go
    Check {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write a commented configuration for the projects that a directory contains
    Init(init::InitArguments),
    /// Make the running daemon read its configuration again, and wait for the result
    Reload,
    /// Print the events that `run` would infer now, without recording them
    Scan {
        /// Print one JSON object; with the setting `repositories`, an array of one for each
        #[arg(long)]
        json: bool,
    },
    /// Show the held removals and release them
    Accept(accept::AcceptArguments),
    /// Show whether the daemon runs, what it watches, and each webhook's queue
    Status(status::StatusArguments),
    /// Show the inferred events, and why they were inferred; replay them
    Events(events::EventsArguments),
    /// List deliveries with their attempts; redeliver, cancel and purge them
    Deliveries(deliveries::DeliveriesArguments),
    /// List the webhooks; enable, disable or test one
    Webhooks(webhooks::WebhooksArguments),
    /// Move the recorded state from SQLite to PostgreSQL, or back
    MigrateStore(migrate_store::MigrateStoreArguments),
    /// Receive callbacks on this machine, print them and verify their signatures
    Listen(listen::ListenArguments),
    /// Print the JSON Schema of config.yaml, or of the body of `format: json`
    Schema {
        /// The document that the schema describes
        #[arg(value_enum)]
        document: generate::Document,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the candidates for the last word of a command line, for completion scripts
    #[command(hide = true)]
    Complete(complete::CompleteArguments),
    /// Print a manual page
    Man {
        /// The section of the manual page
        #[arg(value_enum, default_value_t)]
        section: generate::Section,
    },
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // Block SIGHUP and SIGUSR1 first, because they may arrive as soon as the process exists.
    let held = HeldSignals::hold();
    // clap prints usage errors itself and exits with 2.
    let arguments = Arguments::parse();
    match dispatch(&arguments, &held) {
        Ok(status) => ExitCode::from(status),
        // A reader such as `head` may close the pipe, which is not an error.
        Err(error) if is_output_closed(&error) => ExitCode::from(DONE),
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                let _ = usage.print();
                return ExitCode::from(USAGE);
            }
            // Each problem starts with the path of its file, so it needs no other prefix.
            let (status, said) = match error.downcast_ref::<Problems>() {
                Some(problems) => (
                    status_of_problems(problems),
                    safe_lines(&problems.to_string()),
                ),
                None => (status_of(&error), failure(&error)),
            };
            let _ = writeln!(std::io::stderr(), "{said}");
            ExitCode::from(status)
        }
    }
}

/// Returns the exit status for the problems of a configuration.
///
/// It is `FAILED` if the same configuration may be valid later, for example once a file system
/// answers. Unlike `CONFIGURATION`, this status lets systemd restart the daemon.
fn status_of_problems(problems: &Problems) -> u8 {
    match problems.are_passing() {
        true => FAILED,
        false => CONFIGURATION,
    }
}

/// Returns the exit status for the error that ended a command.
fn status_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<TransferError>() {
        Some(TransferError::Open(
            OpenError::Held { .. }
            | OpenError::Leased { .. }
            | OpenError::NotYet { .. }
            | OpenError::Delivering { .. },
        )) => HELD,
        Some(TransferError::Store(error)) if matches!(error.fault(), Fault::NotYet(_)) => HELD,
        _ => FAILED,
    }
}

/// Formats the error that ended a command.
fn failure(error: &anyhow::Error) -> String {
    safe_lines(&format!("project-webhooks: {error:#}"))
}

/// Makes a usage error for a rule that the definition of the arguments cannot express.
fn usage(message: &str) -> anyhow::Error {
    Arguments::command()
        .error(clap::error::ErrorKind::ArgumentConflict, message)
        .into()
}

/// Whether an error means that the reader of the output closed the pipe.
fn is_output_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .is_some_and(|inner| inner.is::<output::Closed>())
    })
}

fn dispatch(arguments: &Arguments, held: &HeldSignals) -> anyhow::Result<u8> {
    let config = arguments.config.as_deref();
    if !matches!(arguments.command, Command::Run) {
        held.release();
    }
    match &arguments.command {
        Command::Run => run::run(config, arguments.log_level, held),
        Command::Demo { keep, all } => runtime()?.block_on(demo::run(
            *keep,
            *all,
            arguments.log_level,
            Clock::start(),
            &style(),
            &mut stdout(),
        )),
        Command::Check { json } => Ok(check::check(config, *json, &mut stdout())?),
        Command::Init(init) => printing(|out| init::run(init, config, out)),
        Command::Reload => reload::run(
            config,
            config::given_state_dir(&SystemEnvironment),
            &mut stdout(),
            &mut std::io::stderr().lock(),
        ),
        Command::Status(status) => {
            let config = inspected(config)?;
            printing(|out| status::run(status, &config, now, &style(), out))
        }
        Command::Accept(accept) => {
            let config = inspected(config)?;
            printing(|out| accept::run(accept, &config, &style(), out))
        }
        Command::Events(events) => {
            let config = inspected(config)?;
            printing(|out| events::run(events, &config, now(), &style(), out))
        }
        Command::Scan { json } => {
            let config = inspected(config)?;
            printing(|out| scan::run(&config, *json, now(), &style(), out))
        }
        Command::Deliveries(deliveries) => {
            let config = inspected(config)?;
            printing(|out| deliveries::run(deliveries, &config, now(), &style(), out))
        }
        Command::Webhooks(webhooks) => {
            let config = if webhooks.sends() {
                config::load(&found(config)?, &SystemEnvironment)?.config
            } else {
                inspected(config)?
            };
            printing(|out| webhooks::run(webhooks, &config, Clock::start(), &style(), out))
        }
        Command::MigrateStore(arguments) => {
            let config = inspected(config)?;
            printing(|out| {
                migrate_store::run(arguments, &config, out, &mut std::io::stderr().lock())
            })
        }
        Command::Schema { document } => printing(|out| {
            output::print_json(out, &document.schema())?;
            Ok(DONE)
        }),
        Command::Completions { shell } => printing(|out| {
            complete::scripts::write(*shell, out)?;
            Ok(DONE)
        }),
        Command::Complete(complete) => printing(|out| complete::run(complete, out)),
        Command::Man { section } => printing(|out| {
            generate::manual_page(*section, out)?;
            Ok(DONE)
        }),
        Command::Listen(listen) => receive(listen),
    }
}

/// Runs the receiver until a signal ends the process, or the reader closes the output.
fn receive(arguments: &listen::ListenArguments) -> anyhow::Result<u8> {
    let clock = Clock::start();
    runtime()?.block_on(listen::run(
        arguments,
        move || clock.now(),
        &style(),
        &mut stdout(),
        &mut std::io::stderr(),
    ))?;
    Ok(DONE)
}

/// Reads the configuration for a command that sends nothing and needs no secrets.
fn inspected(file: Option<&Path>) -> Result<Config, Problems> {
    config::load(&found(file)?, &WithoutSecrets).map(|loaded| loaded.config)
}

/// Finds the configuration file. Prints a warning if `./config.yaml` is not trusted.
fn found(named: Option<&Path>) -> Result<PathBuf, Problems> {
    let found = config::find(named)?;
    if let Some(ignored) = found.ignored {
        let ignored = safe_lines(&ignored.to_string());
        let _ = writeln!(std::io::stderr(), "warning: {ignored}");
    }
    Ok(found.file)
}

/// Opens the recorded state for listing.
fn listings(config: &Config) -> Result<Listings, OpenError> {
    Listings::of(config)
}

/// Adds the consequences of a missing answer to the error.
///
/// If nothing was sent to the daemon, the error stays as it is.
fn unanswered<T>(
    answer: Result<T, RequestError>,
    consequences: impl FnOnce() -> String,
) -> anyhow::Result<T> {
    answer.map_err(|error| match error {
        RequestError::Connect { .. } => error.into(),
        RequestError::Answer(error) => anyhow::Error::from(error).context(consequences()),
    })
}

/// Explains that the state directory is in use, but the control socket is missing.
///
/// Returns `None` if no process has the lock. Without this check, a daemon without its control
/// socket would look stopped.
fn missing_socket(state_dir: &Path) -> Option<String> {
    let pid = crate::store::holder(state_dir)?;
    Some(format!(
        "process {pid} (a daemon or `migrate-store`) uses the state directory {}, but the control \
         socket is missing. A daemon opens the socket again within five seconds, or logs why it cannot",
        state_dir.display()
    ))
}

/// Opens the recorded state for listing. Returns `None` if nothing is recorded yet.
fn recorded(config: &Config) -> Result<Option<Listings>, OpenError> {
    match listings(config) {
        Ok(listings) => Ok(Some(listings)),
        Err(OpenError::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn now() -> jiff::Timestamp {
    Clock::start().now()
}

/// Runs a command with buffered output. Fails if the output cannot be written.
fn printing(command: impl FnOnce(&mut dyn Write) -> anyhow::Result<u8>) -> anyhow::Result<u8> {
    let mut out = std::io::BufWriter::new(stdout());
    let status = command(&mut out)?;
    out.flush()?;
    Ok(status)
}

/// Returns standard output. Its errors show whether the reader closed the pipe.
fn stdout() -> output::Output<std::io::StdoutLock<'static>> {
    output::Output(std::io::stdout().lock())
}

/// Returns the style of standard output.
///
/// A `NO_COLOR` that is not empty turns colours off (no-color.org).
fn style() -> output::Style {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    output::Style::for_stdout(no_color)
}

/// Makes a runtime with one worker thread.
///
/// In `run`, the calling thread handles signals and reloads. The worker thread serves the control
/// socket and the admin server. Long tasks and the queue of each webhook have their own threads.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn only_the_reader_of_the_output_ends_a_command_without_a_failure() {
        // If the daemon or the database closes a connection, the command has failed.
        let closed = || anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(!is_output_closed(
            &closed().context("the daemon did not answer")
        ));
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let printed = output::Output(writer).write_all(b"text");
        assert!(is_output_closed(&printed.unwrap_err().into()));
    }
}
