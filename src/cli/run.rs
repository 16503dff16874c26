//! `run`: runs the daemon in the foreground.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{CONFIGURATION, DONE, HELD, runtime};
use crate::config::{self, Config, SystemEnvironment};
use crate::daemon::{Daemon, DaemonError, Rereading};
use crate::error::chain;
use crate::logging::Logging;
use crate::os;
use crate::store::OpenError;

/// Runs the daemon until a signal ends it.
pub(super) fn run(file: Option<&Path>, level: Option<tracing::Level>) -> anyhow::Result<u8> {
    let file = Config::file_or_default(file);
    let mut loaded = match config::load(&file, &SystemEnvironment) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let mut out = std::io::stderr().lock();
            writeln!(out, "{problems}")?;
            return Ok(CONFIGURATION);
        }
    };
    let log = &mut loaded.config.log;
    log.level = level.unwrap_or(log.level);
    let logging = Logging::start(*log, None)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let rereading = Rereading {
        environment: &SystemEnvironment,
        logging: &logging,
        level_is_fixed: level.is_some(),
    };
    let ended = runtime()?.block_on(async {
        let signals = os::signals().map_err(|source| DaemonError::System {
            what: "signal handlers",
            source,
        })?;
        Daemon::start(Arc::new(loaded.config), rereading)
            .await?
            .run(signals)
            .await
    });
    match ended {
        Ok(()) => Ok(DONE),
        Err(DaemonError::Open(error @ OpenError::Held { .. })) => {
            tracing::error!("{}", chain(&error));
            Ok(HELD)
        }
        Err(error @ DaemonError::HeldRemovals { .. }) => {
            tracing::error!("{error}");
            Ok(CONFIGURATION)
        }
        Err(error) => Err(error.into()),
    }
}
