//! `listen`: a receiver that prints callbacks, verifies signatures and passes callbacks on.
//!
//! Constraint: a request may contain terminal escape sequences, so all text of a request is
//! escaped. The output of a callback is flushed before the next callback is handled.

mod passed_on;
pub(super) mod print;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::http::StatusCode;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::passed_on::{print_passed_on, print_passed_on_json};
pub(crate) use self::print::{Style, print_callback, print_callback_json};
use super::usage;
use crate::receiver::{PassOn, PassedOn, Received, Receiver, ReceiverOptions, WAITING_MAX};
use crate::webhook::{ForwardError, Forwarder, TrustRoots};

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

    /// Pass every callback on to this URL, unchanged, and answer as the receiver there does. Other
    /// users see the URL in the list of processes: use the environment variable if the URL has a
    /// password
    #[arg(
        long = "forward-to",
        value_name = "URL",
        env = "PROJECT_WEBHOOKS_LISTEN_FORWARD_TO",
        hide_env_values = true,
        conflicts_with = "status"
    )]
    pub forward_to: Option<SecretString>,

    /// Print one JSON object on each line
    #[arg(long)]
    pub json: bool,
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    text.parse()
        .ok()
        .filter(|status| (200..=599).contains(&StatusCode::as_u16(status)))
        .ok_or_else(|| "a status must be a number from 200 to 599".to_owned())
}

/// Listens and prints until the reader closes `out`. A signal ends the process.
///
/// With `--json`, the introduction goes to `notes`, so that `out` contains only JSON objects.
pub(super) async fn run(
    arguments: &ListenArguments,
    clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    style: &Style,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let secrets = secrets(arguments)?;
    let secret = secret_setting(arguments);
    let forwarder = match &arguments.forward_to {
        Some(url) => Some(Arc::new(forwarder(url)?)),
        None => None,
    };
    let (reports, mut passed_on) = mpsc::channel(WAITING_MAX);
    let mut options = ReceiverOptions::new(clock)
        .with_secrets(secrets)
        .with_status(arguments.status);
    options.pass_on = forwarder
        .clone()
        .map(|forwarder| PassOn { forwarder, reports });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    refuse_loop(forwarder.as_deref(), address).await?;
    let (receiver, mut received) = Receiver::bind(address, options).await?;
    let shown = forwarder.as_ref().map(|forwarder| forwarder.shown());
    refuse_loop(forwarder.as_deref(), receiver.address()).await?;
    let introduction = introduction(&receiver.url(), secret.as_deref(), shown.as_deref());
    let introduced = if arguments.json {
        // `out` may have a reader even if `notes` has none.
        let _ = write_flushed(notes, &introduction);
        Ok(())
    } else {
        write_flushed(out, &introduction)
    };
    if !still_read(introduced)? {
        return Ok(());
    }

    let mut printer = Printer {
        is_json: arguments.json,
        style,
        target: shown.unwrap_or_default(),
        out,
    };
    let mut serving = std::pin::pin!(receiver.serve(CancellationToken::new()));
    loop {
        tokio::select! {
            // A callback must be printed before its answer.
            biased;
            Some(callback) = received.recv() => {
                if !printer.callback(&callback)? {
                    return Ok(());
                }
            }
            Some(report) = passed_on.recv() => {
                if !printer.passed_on(&report)? {
                    return Ok(());
                }
            }
            () = &mut serving => return Ok(()),
        }
    }
}

/// Prints and flushes callbacks and answers.
struct Printer<'a, W> {
    is_json: bool,
    style: &'a Style,
    /// The URL that callbacks are passed on to, without its secret parts.
    target: String,
    out: &'a mut W,
}

impl<W: Write> Printer<'_, W> {
    /// Prints a callback. Returns whether the output is still open.
    fn callback(&mut self, callback: &Received) -> anyhow::Result<bool> {
        let printed = if self.is_json {
            print_callback_json(self.out, callback)
        } else {
            print_callback(self.out, callback, None, self.style)
        };
        still_read(printed.and_then(|()| self.out.flush()))
    }

    /// Prints the answer to a callback that was passed on.
    ///
    /// Returns whether the output is still open.
    fn passed_on(&mut self, report: &PassedOn) -> anyhow::Result<bool> {
        let printed = if self.is_json {
            print_passed_on_json(self.out, report, &self.target)
        } else {
            print_passed_on(self.out, report, &self.target, self.style)
        };
        still_read(printed.and_then(|()| self.out.flush()))
    }
}

/// Makes the client for `--forward-to`. The usage error for an invalid URL does not show the URL.
fn forwarder(url: &SecretString) -> anyhow::Result<Forwarder> {
    Forwarder::new(url.expose_secret(), &TrustRoots::load()).map_err(|error| match error {
        ForwardError::Url(_) => usage(&error.to_string()),
        _ => error.into(),
    })
}

/// Fails if callbacks would be passed on to this receiver itself.
async fn refuse_loop(forwarder: Option<&Forwarder>, address: SocketAddr) -> anyhow::Result<()> {
    match forwarder {
        Some(forwarder) if forwarder.leads_to(address).await => Err(usage(
            "--forward-to leads to this receiver itself, so every callback would come back; give the \
             URL of another receiver, or another --port",
        )),
        _ => Ok(()),
    }
}

/// Collects the secrets from the arguments and files. Removes line breaks at the end of files.
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
        Err(error) => Err(error).context("cannot write the output"),
    }
}

/// Returns the value of `secret` for the printed lines of config.yaml. `None` without a secret.
fn secret_setting(arguments: &ListenArguments) -> Option<String> {
    if !arguments.secrets.is_empty() {
        return Some("{ env: PROJECT_WEBHOOKS_SECRET }   # the secret of this receiver".to_owned());
    }
    let file = arguments.secret_files.first()?;
    let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
    // JSON strings are valid in YAML.
    Some(format!(
        "{{ file: {} }}",
        serde_json::json!(file.to_string_lossy())
    ))
}

/// Makes the introduction: the URL, the target of `--forward-to`, and lines for config.yaml.
///
/// The lines for config.yaml refer to the secret, but do not contain it.
fn introduction(url: &str, secret: Option<&str>, forwards_to: Option<&str>) -> String {
    let secret = secret.map_or_else(String::new, |secret| format!("    secret: {secret}\n"));
    let forwards_to = forwards_to.map_or_else(String::new, |target| {
        format!("Passing callbacks on to {}\n", print::safe(target))
    });
    format!(
        "Listening on {url}\n\
         {forwards_to}\
         To send callbacks here, config.yaml needs this webhook:\n\
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
