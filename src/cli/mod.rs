//! The commands: they print, and decide nothing.

pub mod check;
pub mod listen;
mod run;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// Done.
const DONE: u8 = 0;
/// Failed.
const FAILED: u8 = 1;
/// Another instance holds the state directory (sysexits.h, EX_TEMPFAIL).
const HELD: u8 = 75;
/// The configuration is wrong (sysexits.h, EX_CONFIG).
const CONFIGURATION: u8 = 78;

/// Watches a repository of project.xml files and delivers webhooks for what happens to them.
#[derive(Debug, Parser)]
#[command(name = "project-webhooks", version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration [default: ./config.yaml, then /etc/project-webhooks/config.yaml]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The least severe level that is logged, in place of the configuration's log.level
    #[arg(long, global = true, value_name = "L")]
    log_level: Option<tracing::Level>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run,
    /// Validate the configuration, offline; print each webhook and where its events go
    Check {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Receive callbacks on this machine, print them and verify their signatures
    Listen(listen::ListenArguments),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // clap prints usage errors itself and exits with 2.
    let arguments = Arguments::parse();
    match dispatch(&arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "project-webhooks: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn dispatch(arguments: &Arguments) -> anyhow::Result<u8> {
    let config = arguments.config.as_deref();
    match &arguments.command {
        Command::Run => run::run(config, arguments.log_level),
        Command::Check { json } => {
            Ok(check::check(config, *json, &mut std::io::stdout().lock())?.exit_status())
        }
        Command::Listen(listen) => {
            let clock = Clock::start();
            runtime()?.block_on(listen::run(
                listen,
                move || clock.now(),
                &listen::Style::for_stdout(std::env::var_os("NO_COLOR").is_some()),
                CancellationToken::new(),
                &mut std::io::stdout(),
                &mut std::io::stderr(),
            ))?;
            Ok(DONE)
        }
    }
}

/// A runtime for a command that waits for the network.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}
