//! `demo`: shows the seven events, or all events, on a temporary repository.
//!
//! Constraint: nothing is simulated. The demo runs the same daemon as `run`, on real files. The
//! callbacks arrive over HTTP and are signed. The demo removes its files, unless `--keep` is
//! given.

mod print;
mod script;

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::{FusedFuture, FutureExt};
use futures_util::{StreamExt, stream};
use secrecy::{ExposeSecret, SecretString};
use signal_hook::consts::SIGTERM;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::print::Printer;
use super::listen::print_callback;
use super::output::Style;
use super::{DONE, FAILED};
use crate::clock::Clock;
use crate::config::{self, SystemEnvironment};
use crate::daemon::{self, Daemon, Rereading, Signals};
use crate::engine::status::Status;
use crate::logging::{LogWriter, Logging};
use crate::os;
use crate::receiver::{Received, Receiver, ReceiverOptions};

const CONFIGURATION: &str = include_str!("demo/config.yaml");
/// More webhooks, for the events that `"*"` does not include.
const MORE_WEBHOOKS: &str = include_str!("demo/more.yaml");
/// The file with the daemon's log, in the demo's directory.
const LOG: &str = "daemon.log";
/// The time limit for the daemon's start, and for the callbacks of each action.
///
/// It is long enough for a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The number of log lines to print after a failure.
const LOG_LINES: usize = 20;

/// Runs the demo. The exit status is 1 if a callback is missing, unexpected or not signed.
///
/// `all` also shows the events that a webhook must name, because `"*"` does not include them.
pub(super) async fn run(
    keep: bool,
    all: bool,
    level: Option<tracing::Level>,
    clock: Clock,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let signals = os::signals().context("cannot handle signals")?;
    // The secret is the text of two UUIDs. Each UUID has 122 random bits.
    let halves = [Uuid::new_v4(), Uuid::new_v4()];
    let secret = SecretString::from(halves.map(|half| half.simple().to_string()).concat());
    let options = ReceiverOptions::new(move || clock.now()).with_secrets(vec![secret.clone()]);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (receiver, received) = Receiver::bind(loopback, options).await?;
    let mut directory = Directory::make(receiver.url(), &secret, all)
        .context("cannot make a temporary directory; is $TMPDIR writable?")?;

    let mut config = config::load(&directory.path.join("config.yaml"), &SystemEnvironment)?.config;
    config.log.level = level.unwrap_or(config.log.level);
    let log = LogWriter::start(Some(File::create(directory.path.join(LOG))?))?;
    let logging = Logging::start(config.log, Arc::new(log))?;
    let rereading = Rereading {
        environment: &SystemEnvironment,
        logging: &logging,
        level_is_fixed: level.is_some(),
    };
    let began = clock.moment();
    let config = Arc::new(config);
    let store = daemon::open_store(Arc::clone(&config)).await?;
    let noted = daemon::prepare(&config, &store, false).await?;
    let daemon = Daemon::start(config, store, noted, rereading, Vec::new()).await?;
    let mut play = Play {
        received,
        status: daemon.status(),
        clock,
        began,
        printer: Printer {
            style,
            out,
            actions: script::actions(all),
            arrived: Vec::new(),
            missing: Vec::new(),
            n_unexpected: 0,
        },
    };
    let stop = CancellationToken::new();
    // The daemon stops on a signal, when the terminal closes, and when the demo has ended.
    let signals = os::ended_by_hangup(signals);
    let finished = Box::pin(stream::once(stop.clone().cancelled_owned()).map(|()| SIGTERM));
    let mut signals = Signals::new(stream::select(signals, finished));
    let mut leaving = Vec::new();
    let mut running = pin!(daemon.run(&mut signals, &mut leaving).fuse());
    let ended = tokio::select! {
        () = receiver.serve(CancellationToken::new()) => Err(anyhow!("the receiver stopped")),
        ended = &mut running => ended.map_err(anyhow::Error::from).and_then(|()| play.interrupted(keep)),
        played = play.run(&directory, keep) => played,
    };
    stop.cancel();
    let stopped = match running.is_terminated() {
        true => Ok(()),
        false => running.await.map_err(anyhow::Error::from),
    };

    if keep {
        directory.keep();
    }
    if let Err(error) = ended.and(stopped) {
        // If the reader, such as `head`, closed the pipe, do not report a failure.
        if super::is_output_closed(&error) {
            return Err(error);
        }
        logging.flush();
        play.printer.failure(&error, &directory.log_tail())?;
        return Ok(FAILED);
    }
    if keep {
        play.printer.kept(&directory)?;
    }
    Ok(DONE)
}

/// A run of the demo's actions, with the daemon and the receiver.
struct Play<'a> {
    received: mpsc::Receiver<Received>,
    status: Arc<Status>,
    clock: Clock,
    began: Duration,
    printer: Printer<'a>,
}

impl Play<'_> {
    /// Runs all actions. Before the next action, waits for the callbacks of the previous one.
    async fn run(&mut self, directory: &Directory, keep: bool) -> anyhow::Result<()> {
        let since = |began| self.clock.moment().saturating_sub(began);
        let mut status = self.status.subscribe();
        tokio::time::timeout(PATIENCE, status.wait_for(|known| known.ready))
            .await
            .with_context(|| format!("the daemon is not ready after {PATIENCE:?}"))??;
        self.printer.start(directory, since(self.began))?;
        for (number, action) in (1..).zip(self.printer.actions.clone()) {
            self.printer.action(number, &action)?;
            for command in action.commands {
                script::run(command, &directory.path)
                    .with_context(|| format!("cannot run: {command}"))?;
            }
            let done = self.clock.now();
            let mut waiting = action.callbacks.to_vec();
            let mut deadline = pin!(tokio::time::sleep(PATIENCE));
            while !waiting.is_empty() {
                tokio::select! {
                    Some(received) = self.received.recv() => {
                        self.printer.callback(&received, &mut waiting, done)?;
                    }
                    () = &mut deadline => break,
                }
            }
            self.printer.missing.extend(waiting);
        }
        anyhow::ensure!(
            self.printer.is_complete(),
            "some callbacks are missing, unexpected or without a valid signature"
        );
        self.printer.success(since(self.began))?;
        if keep {
            self.printer.try_by_hand(directory)?;
            while let Some(received) = self.received.recv().await {
                let Printer { style, out, .. } = &mut self.printer;
                print_callback(out, &received, None, style)?;
                out.flush()?;
            }
        }
        Ok(())
    }

    /// Returns the result after a signal. With `--keep`, a signal is the normal end, but only after
    /// all expected callbacks have arrived.
    fn interrupted(&self, keep: bool) -> anyhow::Result<()> {
        anyhow::ensure!(keep && self.printer.is_complete(), "interrupted");
        Ok(())
    }
}

/// The demo's directory. Dropping this value removes the files, unless `keep` was called.
struct Directory {
    path: PathBuf,
    temporary: Option<TempDir>,
    url: String,
}

impl Directory {
    fn make(url: String, secret: &SecretString, all: bool) -> io::Result<Self> {
        let temporary = tempfile::Builder::new()
            .prefix("project-webhooks-demo-")
            .tempdir()?;
        let path = temporary.path().to_owned();
        script::prepare(&path)?;
        let more = if all { MORE_WEBHOOKS } else { "" };
        let configuration = [CONFIGURATION, more].concat().replace("@URL@", &url);
        fs::write(path.join("config.yaml"), configuration)?;
        fs::write(path.join("secret"), secret.expose_secret())?;
        fs::set_permissions(path.join("secret"), fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            path,
            temporary: Some(temporary),
            url,
        })
    }

    fn log_tail(&self) -> Vec<String> {
        let text = fs::read(self.path.join(LOG)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let first = text.lines().count().saturating_sub(LOG_LINES);
        text.lines().skip(first).map(str::to_owned).collect()
    }

    fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _path = temporary.keep();
        }
    }
}
