//! `reload`: makes the daemon read its configuration again, and waits for the result.
//!
//! Constraint: only the daemon decides whether the configuration is valid, because this process
//! may lack the daemon's credentials and environment variables. So the command finds the daemon
//! and prints its answer. It waits for the result, so a unit can use the command as `ExecReload=`.
//! SIGHUP returns no result.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::output::safe_lines;
use super::{CONFIGURATION, DONE, inspected, missing_socket, unanswered};
use crate::admin::{self, Reloaded};

/// Asks the daemon of the configured state directory to reload.
///
/// If the configuration is invalid, its state directory is unknown, so `given`
/// (`$STATE_DIRECTORY`) is used. The daemon then logs and counts the rejected reload.
pub(super) fn run(
    file: Option<&Path>,
    given: Option<PathBuf>,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> anyhow::Result<u8> {
    let (state_dir, has_database, problems) = match (inspected(file), given) {
        (Ok(config), _) => (config.state_dir, config.store.is_some(), None),
        (Err(problems), Some(given)) => (given, false, Some(problems)),
        (Err(problems), None) => return Err(problems.into()),
    };
    let answer = admin::control::reload(&state_dir);
    let answer = unanswered(answer, || {
        format!(
            "the daemon that uses the state directory {} did not answer. It may still apply the \
             configuration; see `status` and the log",
            state_dir.display()
        )
    })?;
    match (answer, problems) {
        (Some(reloaded), _) => print(&reloaded, out, errors),
        (None, Some(problems)) => Err(problems.into()),
        (None, None) => Err(match missing_socket(&state_dir) {
            Some(reason) => {
                anyhow!("{reason}. SIGHUP also reloads a daemon, but ends `migrate-store`")
            }
            None if has_database => anyhow!(
                "no watching daemon uses the state directory {}. If you changed state_dir, restart \
                 the daemon. A process that waits for the lease, or only delivers, has no control \
                 socket: reload it with SIGHUP, for example `systemctl kill --signal=HUP \
                 project-webhooks`",
                state_dir.display()
            ),
            None => anyhow!(
                "no running daemon uses the state directory {}. Start the daemon; if you changed state_dir, restart the daemon instead",
                state_dir.display()
            ),
        }),
    }
}

fn print(reloaded: &Reloaded, out: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<u8> {
    for warning in &reloaded.warnings {
        writeln!(errors, "warning: {}", safe_lines(warning))?;
    }
    if reloaded.is_applied() {
        writeln!(out, "The daemon applied the configuration.")?;
        return Ok(DONE);
    }
    for error in &reloaded.errors {
        writeln!(errors, "{}", safe_lines(error))?;
    }
    writeln!(
        errors,
        "The daemon rejected the configuration and changed nothing."
    )?;
    Ok(CONFIGURATION)
}
