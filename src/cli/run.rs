//! `run`: the daemon, in the foreground.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{CONFIGURATION, DONE, HELD, runtime};
use crate::config::{self, Config, SystemEnvironment};
use crate::daemon::{self, DaemonError};
use crate::logging::Logging;
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
    let logging = Logging::start(*log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let ended = runtime()?.block_on(daemon::run(
        Arc::new(loaded.config),
        &SystemEnvironment,
        Some(&logging),
        level.is_some(),
    ));
    match ended {
        Ok(()) => Ok(DONE),
        Err(DaemonError::Open(error @ OpenError::Held { .. })) => {
            tracing::error!("{}", daemon::chain(&error));
            Ok(HELD)
        }
        Err(error) => Err(error.into()),
    }
}
