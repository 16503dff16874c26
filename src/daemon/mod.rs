//! The daemon: starts all parts, supervises them, reloads, and drains.
//!
//! Constraint: a rejected reload changes nothing. If a part that the daemon needs panics or ends
//! unexpectedly, the daemon exits, so that systemd restarts it. The daemon does not need the thread
//! that sends traces, nor those that read audit records or look up owners. It starts a failed admin
//! server again.
//!
//! Modules: [`mod@start`] starts the parts. [`engines`] runs the engine of each repository, and
//! [`asking`] sends requests of commands to all engines. [`supervise`] handles signals and commands
//! while the parts run. [`reload`] applies a changed configuration. [`drain`] stops the parts in
//! order. [`health`] keeps the admin server running. [`note`] records the names of repositories and
//! the fingerprints of webhooks. [`sending`] sends callbacks in a process that does not watch.
//! [`signals`] receives signals, also during long waits.

mod asking;
mod drain;
mod engines;
mod health;
mod note;
mod reload;
mod sending;
mod signals;
mod start;
mod supervise;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::engines::Engines;
pub(crate) use self::engines::Leaving;
pub(crate) use self::health::Health;
pub(crate) use self::note::Noted;
pub(crate) use self::sending::{Sending, reread};
pub(crate) use self::signals::Signals;
pub(crate) use self::start::{close_store, open_store, prepare};
use crate::admin::Request;
use crate::clock::Clock;
use crate::config::{Config, Environment, Retention};
use crate::dispatch::{Dispatcher, TargetError};
use crate::engine::STANDSTILL;
use crate::engine::status::Status;
use crate::logging::Logging;
use crate::metrics::Metrics;
use crate::store::{Notice, OpenError, Store, StoreError};

/// Why the daemon cannot start, reload or continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot use the state")]
    Store(#[from] StoreError),
    #[error("cannot use a webhook")]
    Webhook(#[from] TargetError),
    #[error(
        "{}repository.layout changed while removals are held (projects: {n}), so the daemon does not \
         begin to watch. Use the former layout, restore the projects or run `project-webhooks \
         accept`, and then change the layout",
        repository.as_ref().map(|name| format!("{name}: ")).unwrap_or_default()
    )]
    HeldRemovals {
        /// The name of the repository, if there are several.
        repository: Option<String>,
        n: usize,
    },
    #[error("another process took over the repository")]
    Superseded,
    #[error(
        "the state in {state_dir} was recorded with {}, and the configuration has {}, so the daemon \
         does not start: the two settings need different states. Set state_dir to an empty directory, \
         or use the former setting",
        if *.has_several { "repositories" } else { "repository" },
        if *.has_several { "repository" } else { "repositories" }
    )]
    OtherRecord {
        state_dir: String,
        /// Whether the state was recorded with the setting `repositories`.
        has_several: bool,
    },
    #[error(
        "the former engine of the repository {repository} has not ended; is its disk or network file \
         system stuck? Reload again once it responds, or restart the daemon"
    )]
    StillEnding { repository: String },
    #[error("cannot watch the repository {repository}")]
    Watch {
        repository: String,
        source: std::io::Error,
    },
    #[error("cannot start {what}")]
    System {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("the engine of a repository ended; see the log lines before this one")]
    EngineEnded,
    #[error("{part} ended unexpectedly; this is a bug, see the log lines before this one")]
    PartEnded { part: &'static str },
}

/// The parts that are needed to read and apply the configuration again.
#[derive(Clone, Copy)]
pub(crate) struct Rereading<'a> {
    /// The source of environment variables and credentials.
    pub(crate) environment: &'static (dyn Environment + Sync),
    /// The logging. A reload may change the level and the format.
    pub(crate) logging: &'a Logging,
    /// Whether the command line sets the log level. Then a reload does not change the level.
    pub(crate) level_is_fixed: bool,
}

pub(crate) struct Daemon<'a> {
    config: Arc<Config>,
    rereading: Rereading<'a>,
    noted: Noted,
    store: Store,
    /// The notices of the store, for example that another process changed it. `None` with SQLite.
    notices: Option<watch::Receiver<Notice>>,
    clock: Clock,
    engines: Engines,
    dispatcher: Dispatcher,
    metrics: Arc<Metrics>,
    retention: watch::Sender<Retention>,
    requests: mpsc::Receiver<Request>,
    health: Health,
    background: Background,
    /// Cancelling this token stops the queues of the webhooks.
    stop: CancellationToken,
}

impl DaemonError {
    /// Whether a retry may succeed without a change by an operator.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Open(error) => error.is_passing(),
            Self::Store(error) => error.fault().is_passing(),
            _ => false,
        }
    }

    /// Whether this error ends the process only at its start.
    ///
    /// Later, the process waits until an operator changes the state or the configuration.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::HeldRemovals { .. } | Self::Open(OpenError::WatchedTwice { .. })
        )
    }
}

impl Daemon<'_> {
    /// Returns the current configuration. A reload replaces it.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// Returns the state of the first engine. The engine updates this state while it runs.
    pub(crate) fn status(&self) -> Arc<Status> {
        self.engines.first_status()
    }
}

/// The background tasks. The queues are stopped before them.
struct Background {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Background {
    async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
