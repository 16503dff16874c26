//! `listen`: a receiver that prints callbacks and verifies signatures.
//!
//! Constraint: a request may contain terminal escape sequences, so the output escapes all of its
//! text. The output of a callback is flushed before the next callback is handled.

pub(super) mod print;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use axum::http::StatusCode;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

pub(crate) use self::print::{Style, print_callback, print_callback_json};
use crate::receiver::{Received, Receiver, ReceiverOptions};

pub(super) const DEFAULT_PORT: u16 = 9000;

/// Receive callbacks on this machine, print them and verify their signatures.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ListenArguments {
    /// Listen on this port of 127.0.0.1; 0 takes a free port
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PORT)]
    pub port: u16,

    /// Verify signatures with this secret: `whsec_` and base64, or raw text; repeat the option
    /// during a rotation. Other users see it in the list of processes: use --secret-file
    #[arg(
        long = "secret",
        value_name = "S",
        env = "PROJECT_WEBHOOKS_LISTEN_SECRET",
        hide_env_values = true
    )]
    pub secrets: Vec<SecretString>,

    /// Read the secret from this file, so that no list of processes shows it; repeat the option
    /// during a rotation
    #[arg(long = "secret-file", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub secret_files: Vec<PathBuf>,

    /// Answer every request with this status
    #[arg(long, value_name = "CODE", default_value = "204", value_parser = parse_status)]
    pub status: StatusCode,

    /// Print one JSON object on each line
    #[arg(long)]
    pub json: bool,
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    text.parse()
        .ok()
        .filter(|status| (200..=599).contains(&StatusCode::as_u16(status)))
        .ok_or_else(|| "a status is a number from 200 to 599".to_owned())
}

/// Listens and prints until `shutdown` is cancelled, or `out` is closed.
///
/// With `--json`, the introduction goes to `notes`, so that `out` contains only JSON objects.
///
/// # Errors
///
/// The port is in use, a secret is invalid, or `out` cannot be written.
pub(super) async fn run(
    arguments: &ListenArguments,
    clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    style: &Style,
    shutdown: CancellationToken,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let secrets = secrets(arguments)?;
    let has_secret = !secrets.is_empty();
    let options = ReceiverOptions::new(clock)
        .with_secrets(secrets)
        .with_status(arguments.status);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    let (receiver, mut received) = Receiver::bind(address, options).await?;
    let introduction = introduction(&receiver.url(), has_secret);
    let introduced = if arguments.json {
        write_flushed(notes, &introduction)
    } else {
        write_flushed(out, &introduction)
    };
    if !still_read(introduced)? {
        return Ok(());
    }

    let mut print = |callback: &Received| {
        let printed = if arguments.json {
            print_callback_json(out, callback)
        } else {
            print_callback(out, callback, None, style)
        };
        still_read(printed.and_then(|()| out.flush()))
    };
    let mut serving = std::pin::pin!(receiver.serve(shutdown));
    loop {
        tokio::select! {
            () = &mut serving => break,
            Some(callback) = received.recv() => {
                if !print(&callback)? {
                    return Ok(());
                }
            }
        }
    }
    // The receiver may have answered more callbacks while it stopped.
    while let Ok(callback) = received.try_recv() {
        if !print(&callback)? {
            break;
        }
    }
    Ok(())
}

/// The secrets of the arguments and of the files, without the files' final line breaks.
fn secrets(arguments: &ListenArguments) -> anyhow::Result<Vec<SecretString>> {
    let mut secrets = arguments.secrets.clone();
    for path in &arguments.secret_files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the secret file {}", path.display()))?;
        secrets.push(SecretString::from(text.trim_end_matches(['\r', '\n'])));
    }
    Ok(secrets)
}

fn write_flushed(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether the output is still open. A closed pipe, as with `listen | head`, is not an error.
fn still_read(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot print a callback"),
    }
}

/// The receiver's URL, and the lines to add to config.yaml. They do not contain the secret.
fn introduction(url: &str, with_secret: bool) -> String {
    let secret = if with_secret {
        "    secret: { env: PROJECT_WEBHOOKS_SECRET }   # the secret of this receiver\n"
    } else {
        ""
    };
    format!(
        "Listening on {url}\n\
         To send callbacks here, add this to config.yaml:\n\
         \n\
         webhooks:\n\
         \x20 - name: listen\n\
         \x20   event: \"*\"\n\
         \x20   url: {url}\n\
         {secret}\
         \n"
    )
}

#[cfg(test)]
mod tests;
