//! `run`: runs the daemon in the foreground.

use std::ffi::c_int;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use signal_hook::consts::{SIGHUP, SIGUSR1};
use tokio::sync::watch;

use super::{CONFIGURATION, DONE, FAILED, HELD, runtime};
use crate::admin::waiting::Wait;
use crate::config::{self, Config, SystemEnvironment};
use crate::daemon::{
    self, Daemon, DaemonError, Health, Leaving, Noted, Rereading, Sending, Signals, reread,
};
use crate::domain::lease::ASK_AGAIN;
use crate::error::chain;
use crate::logging::{LogWriter, Logging};
use crate::os::{self, HeldSignals};
use crate::store::{OpenError, Store, Waiting};

/// The reason that a process without the role `watch` reports while it sends.
const SENDING: &str = "sending only: the setting roles does not contain watch";

/// The reason of a process without the role `watch`, while the database does not answer.
const SENDING_LATER: &str = "sending nothing new: the database does not answer";

/// The reason of a process without the role `watch`, if its only repository is now in a list.
///
/// The list is the setting `repositories` of another process. New deliveries are recorded for the
/// list, so this process does not get them.
const SENDING_NOTHING: &str = "sending nothing new: in this database, the repository belongs to a list (`repositories`). \
                               Give this process the same list";

/// The reason of a process without the role `watch`, if no process ever had the lease.
const SENDING_UNKNOWN: &str = "sending nothing: with this database, no process has ever watched a repository with \
                               the `repository.name` of this process. Give this process the `repository.name` and \
                               the `store` of the process that watches, or start that process";

/// How long a process waits after a refusal ([`Cause::Refused`]) until it tries to watch again.
///
/// An attempt to watch may hold the lease until it is refused. The wait gives other processes time
/// to get the lease.
const REFUSED_AGAIN: Duration = Duration::from_secs(2);

/// How long the process waits at its end for tasks that it cannot cancel, such as a name lookup.
const TASKS_MAX: Duration = Duration::from_secs(1);

/// The admin server while the process does not watch.
type WaitingServer = Health<Arc<watch::Sender<Wait>>>;

/// Runs the daemon until a signal or an error. While it may not watch, waits and only sends.
async fn work(
    mut config: Arc<Config>,
    rereading: Rereading<'_>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) -> Result<(), DaemonError> {
    let mut is_start = true;
    let mut leaving = Vec::new();
    loop {
        let mut sending = None;
        let mut server = WaitingServer::new(Arc::default());
        let started = wait(
            &mut config,
            is_start,
            rereading,
            signals,
            &mut sending,
            &mut leaving,
            &mut server,
        );
        let started = started.await;
        // If the daemon started, `wait` has stopped the server before.
        server.stop().await;
        let Ok(Some(daemon)) = started else {
            let stopped = match sending {
                Some(sending) => sending.stop(signals).await,
                None => Ok(()),
            };
            return started.map(drop).and(stopped);
        };
        let present = daemon.config();
        match run_beside(daemon, sending, signals, &mut leaving).await {
            // Another process took over. Wait until this process can take over again.
            Err(DaemonError::Superseded) => (config, is_start) = (present, false),
            ended => return ended,
        }
    }
}

/// Runs the daemon. Lets the requests finish that `sending` began while another process watched.
async fn run_beside(
    daemon: Daemon<'_>,
    sending: Option<Sending>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    leaving: &mut Vec<Leaving>,
) -> Result<(), DaemonError> {
    let running = daemon.run(signals, leaving);
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

/// Why the process does not watch now.
struct Waits {
    reason: String,
    cause: Cause,
}

/// The kind of the reason in [`Waits`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// `roles` does not contain `watch`.
    Role,
    /// `roles` does not contain `watch`, and the repository is recorded in a list (`repositories`).
    Listed,
    /// `roles` does not contain `watch`, and no process ever had the lease on the repository.
    Unknown,
    /// Another process watches.
    Leased,
    /// The former record of a repository still has pending deliveries or a lease.
    NotYet,
    /// Another process may take over first.
    Yields,
    /// The database cannot be used now.
    Unreachable,
    /// The state and the configuration do not fit together. An operator must change one of them.
    Refused,
}

impl Waits {
    /// The reason of a process without the role `watch`.
    fn as_sender(sending: Option<&Sending>) -> Self {
        let (reason, cause) = match sending {
            Some(sending) if !sending.is_reachable() => (SENDING_LATER, Cause::Unreachable),
            Some(sending) if sending.is_listed() => (SENDING_NOTHING, Cause::Listed),
            Some(sending) if sending.is_unknown() => (SENDING_UNKNOWN, Cause::Unknown),
            _ => (SENDING, Cause::Role),
        };
        let reason = reason.to_owned();
        Self { reason, cause }
    }

    /// Returns why a process waits after it failed to watch or to send.
    ///
    /// Returns the error itself if the process must end. A refusal ends it only at its start.
    /// Later, the process waits and continues to send until an operator changes the configuration
    /// or the state.
    fn after(error: DaemonError, is_start: bool) -> Result<Self, DaemonError> {
        let cause = match &error {
            DaemonError::Open(OpenError::Leased { .. }) => Cause::Leased,
            DaemonError::Open(OpenError::NotYet { .. }) => Cause::NotYet,
            DaemonError::Open(OpenError::Yields { .. }) => Cause::Yields,
            error if error.is_passing() => Cause::Unreachable,
            refused if refused.is_refusal() && !is_start => Cause::Refused,
            _ => return Err(error),
        };
        let reason = match &error {
            DaemonError::Open(error) => chain(error),
            error => chain(error),
        };
        let reason = format!("waiting: {reason}");
        Ok(Self { reason, cause })
    }

    fn is_reachable(&self) -> bool {
        self.cause != Cause::Unreachable
    }

    /// The reason without names of hosts, databases and processes, for clients without the token.
    fn public(&self, config: &Config) -> &'static str {
        let is_list = !config.repositories.is_empty();
        match (self.cause, config.roles.watch) {
            (Cause::Unreachable, true) => "waiting: the database cannot be used now",
            (Cause::Unreachable, false) => SENDING_LATER,
            (Cause::Role, _) => SENDING,
            (Cause::Listed, _) => SENDING_NOTHING,
            (Cause::Unknown, _) => SENDING_UNKNOWN,
            (Cause::Leased, _) if is_list => "waiting: another process watches the repositories",
            (Cause::Leased, _) => "waiting: another process watches the repository",
            (Cause::NotYet, _) => "waiting: the former record of a repository is in use",
            (Cause::Yields, _) => "waiting: another process may take over first",
            (Cause::Refused, _) => "waiting: the configuration does not fit the state",
        }
    }

    /// Logs the reason and reports it to systemd.
    fn report(&self) {
        match self.cause {
            Cause::Refused => tracing::error!("{}", self.reason),
            _ => tracing::warn!("{}", self.reason),
        }
        // A process that waits reports itself as ready, because `systemctl start` would otherwise
        // time out.
        os::notify_ready(&self.reason);
    }

    /// The time before the process tries again.
    fn pause(&self) -> Duration {
        match self.cause {
            Cause::Refused => REFUSED_AGAIN,
            _ => ASK_AGAIN,
        }
    }
}

/// Starts the daemon once this process may watch. Until then, only sends.
///
/// [`Cause`] lists the reasons to wait. Without the role `watch`, waits forever. Returns `None`
/// after a signal to stop. `is_start` is false if this process has watched before. `leaving` has
/// the former engines of this process that have not ended.
async fn wait<'a>(
    config: &mut Arc<Config>,
    is_start: bool,
    rereading: Rereading<'a>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    sending: &mut Option<Sending>,
    leaving: &mut Vec<Leaving>,
    server: &mut WaitingServer,
) -> Result<Option<Daemon<'a>>, DaemonError> {
    let mut reported = None;
    let mut waiting = None;
    loop {
        let mut waits = Waits::as_sender(sending.as_ref());
        if config.roles.watch {
            match open(config, &waiting, is_start, signals).await {
                None => return Ok(None),
                Some(Ok((store, noted))) => {
                    server.stop().await;
                    let config = Arc::clone(config);
                    let leaving = std::mem::take(leaving);
                    return Daemon::start(config, store, noted, rereading, leaving)
                        .await
                        .map(Some);
                }
                Some(Err(error)) => waits = Waits::after(error, is_start && waiting.is_none())?,
            }
            if waits.is_reachable() && waiting.is_none() {
                waiting = Waiting::of(config)?;
            }
        }
        if sending.is_none() {
            match signals.unless_stopped(Sending::start(config)).await {
                None => return Ok(None),
                Some(Ok(started)) => {
                    *sending = started;
                    if !config.roles.watch {
                        waits = Waits::as_sender(sending.as_ref());
                    }
                }
                Some(Err(error)) => waits = Waits::after(error, true)?,
            }
        }
        let wait = Wait {
            reason: waits.reason.clone(),
            public_reason: waits.public(config),
            is_reachable: waits.is_reachable(),
            is_ready: waits.cause == Cause::Role && sending.is_some(),
            metrics: sending.as_ref().map(Sending::metrics),
        };
        server.admin.send_replace(wait);
        server.keep(config.admin.as_ref()).await;
        if reported.as_ref() != Some(&waits.reason) {
            waits.report();
            reported = Some(waits.reason.clone());
        }
        os::notify_watchdog();
        let paused = pause(waits.pause(), config, rereading, signals, sending, server);
        let Some(()) = paused.await? else {
            return Ok(None);
        };
    }
}

/// Handles signals for this long, or until a reload. Returns `None` after a signal to stop.
///
/// # Errors
///
/// A queue or a job of the store panicked.
async fn pause(
    length: Duration,
    config: &mut Arc<Config>,
    rereading: Rereading<'_>,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
    sending: &mut Option<Sending>,
    server: &mut WaitingServer,
) -> Result<Option<()>, DaemonError> {
    let again = tokio::time::sleep(length);
    tokio::pin!(again);
    loop {
        tokio::select! {
            () = &mut again => return Ok(Some(())),
            error = failure(sending) => return Err(error),
            signal = signals.next() => match signal {
                SIGHUP => {
                    let read = reread(config, sending.as_mut(), server, rereading);
                    return Ok(signals.unless_stopped(read).await);
                }
                // A process that does not watch has nothing to rescan.
                SIGUSR1 => {}
                _ => return Ok(None),
            },
        }
    }
}

/// Opens and checks the state. Returns `None` after a signal to stop.
///
/// A process that waits for the lease first asks whether it still has to wait.
async fn open(
    config: &Arc<Config>,
    waiting: &Option<Waiting>,
    is_start: bool,
    signals: &mut Signals<impl Stream<Item = c_int> + Unpin>,
) -> Option<Result<(Store, Noted), DaemonError>> {
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
    let is_take_over = waiting.is_some() || !is_start;
    let prepare = daemon::prepare(config, &store, is_take_over);
    let error = match signals.unless_stopped(prepare).await {
        Some(Ok(noted)) => return Some(Ok((store, noted))),
        Some(Err(error)) => Some(Err(error)),
        None => None,
    };
    // An open store keeps the lease. Without this call, this process would wait for itself.
    daemon::close_store(store, signals).await;
    error
}

/// Waits until a queue or a job of the store panics. Without queues, waits forever.
async fn failure(sending: &mut Option<Sending>) -> DaemonError {
    match sending {
        Some(sending) => sending.run().await,
        None => std::future::pending().await,
    }
}

/// Runs the daemon until a signal ends it.
///
/// Releases `held` once signal handlers are set. All output goes through the log's queue, so that a
/// reader that stalls does not prevent the process from ending.
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
            let status = super::status_of_problems(&problems);
            writer.print_last(super::safe_lines(&problems.to_string()));
            return Ok(status);
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
            // End when the terminal closes. Otherwise, a forgotten daemon would keep the state
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
