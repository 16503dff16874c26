//! `run`: runs the daemon in the foreground.

use std::ffi::c_int;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use signal_hook::consts::{SIGHUP, SIGUSR1};

use super::{CONFIGURATION, DONE, FAILED, HELD, runtime};
use crate::admin::waiting::{Wait, WaitingServer};
use crate::config::{self, Config, SystemEnvironment};
use crate::daemon::{self, Daemon, DaemonError, Rereading, Sending, Signals, reread};
use crate::domain::lease::ASK_AGAIN;
use crate::error::chain;
use crate::logging::{LogWriter, Logging};
use crate::os::{self, HeldSignals};
use crate::store::{OpenError, Store, Waiting};

/// The reason of a process that never watches.
const SENDING: &str = "sending; roles does not contain watch";

/// The same while it cannot send.
const SENDING_LATER: &str = "sending; the database does not answer";

/// How long stopping waits for tasks that cannot be cancelled, such as resolving a name.
const TASKS_MAX: Duration = Duration::from_secs(1);

/// Runs the daemon whenever no other process does, until a signal.
async fn work(
    mut config: Arc<Config>,
    rereading: Rereading<'_>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) -> Result<(), DaemonError> {
    loop {
        let mut sending = None;
        let started = wait(&mut config, rereading, signals, &mut sending).await;
        let Ok(Some(daemon)) = started else {
            let stopped = match sending {
                Some(sending) => sending.stop(signals).await,
                None => Ok(()),
            };
            return started.map(drop).and(stopped);
        };
        let present = daemon.config();
        match run_beside(daemon, sending, signals).await {
            // Another process took over. Wait for the next turn.
            Err(DaemonError::Superseded) => config = present,
            ended => return ended,
        }
    }
}

/// Runs the daemon. Requests of the time before, when another process watched, end meanwhile.
async fn run_beside(
    daemon: Daemon<'_>,
    sending: Option<Sending>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) -> Result<(), DaemonError> {
    let running = daemon.run(signals);
    let Some(sending) = sending else {
        return running.await;
    };
    let store = sending.store();
    let (mut running, ending) = (pin!(running), pin!(sending.end()));
    tokio::select! {
        ended = &mut running => {
            store.abandon();
            ended
        }
        () = ending => running.await,
    }
}

/// Waits until the daemon has started. Only sends while another process watches.
///
/// Also waits while the database cannot be reached. Returns `None` after a signal to stop.
async fn wait<'a>(
    config: &mut Arc<Config>,
    rereading: Rereading<'a>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    sending: &mut Option<Sending>,
) -> Result<Option<Daemon<'a>>, DaemonError> {
    let mut reported = None;
    let mut server = WaitingServer::new();
    let mut waiting = None;
    loop {
        let mut is_reachable = sending.as_ref().is_none_or(Sending::is_reachable);
        let mut waits = match is_reachable {
            true => SENDING.to_owned(),
            false => SENDING_LATER.to_owned(),
        };
        if config.roles.watch {
            match open(config, &waiting, signals).await {
                None => return Ok(None),
                Some(Ok((store, is_noted))) => {
                    server.stop().await;
                    let config = Arc::clone(config);
                    return Daemon::start(config, store, is_noted, rereading)
                        .await
                        .map(Some);
                }
                Some(Err(error)) => {
                    if matches!(error, DaemonError::Open(OpenError::Leased { .. }))
                        && waiting.is_none()
                    {
                        waiting = Waiting::of(config)?;
                    }
                    (waits, is_reachable) = passing(error)?;
                }
            }
        }
        if sending.is_none() {
            match signals.unless_stopped(Sending::start(config)).await {
                None => return Ok(None),
                Some(Ok(started)) => *sending = started,
                Some(Err(error)) => (waits, is_reachable) = passing(error)?,
            }
        }
        let wait = Wait {
            reason: waits.clone(),
            public_reason: match (config.roles.watch, is_reachable) {
                (true, false) => "waiting: the database cannot be used now",
                (true, true) if config.repositories.is_empty() => {
                    "waiting: another process watches the repository"
                }
                (true, true) => "waiting: another process watches the repositories",
                (false, false) => SENDING_LATER,
                (false, true) => SENDING,
            },
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
                    SIGHUP => {
                        let read = reread(config, sending.as_mut(), rereading);
                        let Some(()) = signals.unless_stopped(read).await else {
                            return Ok(None);
                        };
                    }
                    // There is nothing to rescan yet.
                    SIGUSR1 => {}
                    _ => return Ok(None),
                },
            }
        }
    }
}

/// Opens the state, and checks it. Returns `None` after a signal to stop.
///
/// A process that waits for another one first asks whether it still has to wait.
async fn open(
    config: &Arc<Config>,
    waiting: &Option<Waiting>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) -> Option<Result<(Store, bool), DaemonError>> {
    if let Some(waiting) = waiting
        && let Err(error) = signals.unless_stopped(waiting.ask(config)).await?
    {
        return Some(Err(error.into()));
    }
    let opening = daemon::open_store(Arc::clone(config));
    let store = match signals.unless_stopped(opening).await? {
        Ok(store) => store,
        Err(error) => return Some(Err(error)),
    };
    let error = match signals
        .unless_stopped(daemon::prepare(config, &store))
        .await
    {
        Some(Ok(is_noted)) => return Some(Ok((store, is_noted))),
        Some(Err(error)) => Some(Err(error)),
        None => None,
    };
    // Otherwise this process would wait for its own lease.
    daemon::close_store(store, signals).await;
    error
}

/// Returns why the process waits, and whether the database answered. Returns other errors.
fn passing(error: DaemonError) -> Result<(String, bool), DaemonError> {
    if !error.is_passing() {
        return Err(error);
    }
    let (reason, is_reachable) = match &error {
        DaemonError::Open(error) => (chain(error), matches!(error, OpenError::Leased { .. })),
        error => (chain(error), false),
    };
    Ok((format!("waiting: {reason}"), is_reachable))
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
            let mut signals = Signals::new(os::ended_by_hangup(signals));
            work(config, rereading, &mut signals).await
        } else {
            work(config, rereading, &mut Signals::new(signals)).await
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
            | DaemonError::Open(
                OpenError::Left { .. }
                | OpenError::Arriving { .. }
                | OpenError::WatchedTwice { .. },
            )),
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
