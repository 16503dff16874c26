//! `run`: runs the daemon in the foreground.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{CONFIGURATION, DONE, FAILED, HELD, failure, runtime};
use crate::config::{self, SystemEnvironment};
use crate::daemon::{Daemon, DaemonError, Rereading};
use crate::error::chain;
use crate::logging::{LogWriter, Logging};
use crate::os::{self, HeldSignals};
use crate::store::OpenError;

/// How long the end waits for tasks that cannot be cancelled, such as resolving a name.
const TASKS_MAX: Duration = Duration::from_secs(1);

/// Runs the daemon until a signal ends it.
///
/// `held` is released once there are handlers for signals. Everything that it prints goes through the log's queue, because a reader that stalls must not keep
/// the process alive.
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
        let daemon = Daemon::start(Arc::new(loaded.config), rereading).await?;
        if io::stderr().is_terminal() {
            // Nobody could see the daemon, and it would hold the state directory.
            daemon.run(os::ended_by_hangup(signals)).await
        } else {
            daemon.run(signals).await
        }
    });
    runtime.shutdown_timeout(TASKS_MAX);
    Ok(match ended {
        Ok(()) => DONE,
        Err(DaemonError::Open(error @ OpenError::Held { .. })) => {
            tracing::error!("{}", chain(&error));
            HELD
        }
        Err(error @ DaemonError::HeldRemovals { .. }) => {
            tracing::error!("{error}");
            CONFIGURATION
        }
        Err(error) => {
            writer.print_last(failure(&error.into()));
            FAILED
        }
    })
}
