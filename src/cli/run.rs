//! `run`: runs the daemon in the foreground.

use std::ffi::c_int;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use signal_hook::consts::{SIGHUP, SIGUSR1};

use super::{CONFIGURATION, DONE, FAILED, HELD, runtime};
use crate::admin::waiting::{Wait, WaitingServer};
use crate::config::{self, Config, SystemEnvironment};
use crate::daemon::{self, Daemon, DaemonError, Rereading, Sending, reread};
use crate::domain::lease::ASK_AGAIN;
use crate::error::chain;
use crate::logging::{LogWriter, Logging};
use crate::os::{self, HeldSignals};
use crate::store::OpenError;

/// How long stopping waits for tasks that cannot be cancelled, such as resolving a name.
const TASKS_MAX: Duration = Duration::from_secs(1);

/// Runs the daemon whenever no other process does, until a signal.
async fn work(
    mut config: Arc<Config>,
    rereading: Rereading<'_>,
    signals: &mut (impl Stream<Item = c_int> + Unpin),
) -> Result<(), DaemonError> {
    while let Some(daemon) = start(&mut config, rereading, signals).await? {
        let present = daemon.config();
        match daemon.run(signals).await {
            // Another process took over. Wait for the next turn.
            Err(DaemonError::Superseded) => config = present,
            ended => return ended,
        }
    }
    Ok(())
}

/// Starts the daemon. Only sends while another process watches, and waits without the database.
///
/// Returns `None` after a signal to stop.
async fn start<'a>(
    config: &mut Arc<Config>,
    rereading: Rereading<'a>,
    signals: &mut (impl Stream<Item = c_int> + Unpin),
) -> Result<Option<Daemon<'a>>, DaemonError> {
    let mut sending = None;
    let started = wait(config, rereading, signals, &mut sending).await;
    if let Some(sending) = sending {
        sending.stop().await;
    }
    started
}

async fn wait<'a>(
    config: &mut Arc<Config>,
    rereading: Rereading<'a>,
    signals: &mut (impl Stream<Item = c_int> + Unpin),
    sending: &mut Option<Sending>,
) -> Result<Option<Daemon<'a>>, DaemonError> {
    let mut reported = None;
    let mut server = WaitingServer::new();
    loop {
        let mut waits = "sending; roles does not contain watch".to_owned();
        let mut is_reachable = sending.as_ref().is_none_or(Sending::is_reachable);
        if !is_reachable {
            waits = "sending; the database does not answer".to_owned();
        }
        if config.roles.watch {
            let error = match daemon::open_store(Arc::clone(config)).await {
                Err(DaemonError::Open(error)) if is_passing(&error) => error,
                Err(error) => return Err(error),
                Ok(store) => {
                    server.stop().await;
                    let started = Daemon::start(Arc::clone(config), store, rereading).await;
                    return started.map(Some);
                }
            };
            waits = format!("waiting: {}", chain(&error));
            is_reachable = matches!(error, OpenError::Leased { .. });
        }
        if sending.is_none() {
            match Sending::start(config).await {
                Ok(started) => *sending = started,
                Err(DaemonError::Open(error)) if is_passing(&error) => {
                    waits = format!("waiting: {}", chain(&error));
                    is_reachable = false;
                }
                Err(error) => return Err(error),
            }
        }
        let wait = Wait {
            reason: waits.clone(),
            is_reachable,
            is_ready: is_reachable && sending.is_some() && !config.roles.watch,
            metrics: sending.as_ref().map(Sending::metrics),
        };
        server.waits(wait, config.admin.as_ref()).await;
        if reported.as_ref() != Some(&waits) {
            tracing::warn!("{waits}");
            // Otherwise `systemctl start` would wait too.
            os::notify_ready(&waits);
            reported = Some(waits);
        }
        os::notify_watchdog();
        let again = tokio::time::sleep(ASK_AGAIN);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => break,
                error = failure(sending) => return Err(error),
                signal = signals.next() => match signal {
                    Some(SIGHUP) => reread(config, sending.as_mut(), rereading),
                    // There is nothing to rescan yet.
                    Some(SIGUSR1) => {}
                    Some(_) | None => return Ok(None),
                },
            }
        }
    }
}

/// Whether a start may succeed later without a change by an operator.
fn is_passing(error: &OpenError) -> bool {
    matches!(
        error,
        OpenError::Leased { .. } | OpenError::Unreachable { .. }
    )
}

/// Waits for the failure of a queue.
async fn failure(sending: &mut Option<Sending>) -> DaemonError {
    match sending {
        Some(sending) => sending.run().await,
        None => std::future::pending().await,
    }
}

/// Runs the daemon until a signal ends it.
///
/// `held` is released once signal handlers are set. All output goes through the log's queue,
/// because a reader that stalls must not keep the process alive.
pub(super) fn run(
    file: Option<&Path>,
    level: Option<tracing::Level>,
    held: &HeldSignals,
) -> anyhow::Result<u8> {
    let writer = Arc::new(LogWriter::start(None)?);
    let found = config::find(file).and_then(|found| {
        let loaded = config::load(&found.file, &SystemEnvironment)?;
        Ok((loaded, found.ignored))
    });
    let (mut loaded, ignored) = match found {
        Ok(loaded) => loaded,
        Err(problems) => {
            writer.print_last(problems);
            return Ok(CONFIGURATION);
        }
    };
    let log = &mut loaded.config.log;
    log.level = level.unwrap_or(log.level);
    let logging = Logging::start(*log, Arc::clone(&writer))?;
    for warning in ignored.iter().chain(&loaded.warnings) {
        tracing::warn!("{warning}");
    }
    let rereading = Rereading {
        environment: &SystemEnvironment,
        logging: &logging,
        level_is_fixed: level.is_some(),
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let signals = os::signals().map_err(|source| DaemonError::System {
            what: "signal handlers",
            source,
        })?;
        held.release();
        let config = Arc::new(loaded.config);
        if io::stderr().is_terminal() {
            // Without the terminal nobody could see the daemon, and it would keep the state
            // directory locked.
            work(config, rereading, &mut os::ended_by_hangup(signals)).await
        } else {
            work(config, rereading, &mut { signals }).await
        }
    });
    runtime.shutdown_timeout(TASKS_MAX);
    Ok(match ended {
        Ok(()) => DONE,
        Err(DaemonError::Open(error @ OpenError::Held { .. })) => {
            tracing::error!("{}", chain(&error));
            HELD
        }
        Err(
            error @ (DaemonError::HeldRemovals { .. }
            | DaemonError::OtherRecord { .. }
            | DaemonError::Open(OpenError::Left { .. } | OpenError::Arriving { .. })),
        ) => {
            tracing::error!("{}", chain(&error));
            CONFIGURATION
        }
        Err(error) => {
            writer.print_last(super::failure(&error.into()));
            FAILED
        }
    })
}
