//! `reload`: makes the daemon read its configuration again, and waits for the result.
//!
//! Constraint: the daemon alone decides. It has the credentials and variables that this process may
//! not have. This command only finds the daemon and prints its answer. So it can be the
//! `ExecReload=` of a unit, unlike SIGHUP, which has no answer.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::{CONFIGURATION, DONE, inspected};
use crate::admin::{self, Reloaded};

/// Asks the daemon of this configuration's state directory.
///
/// If the configuration is invalid, `given` (`$STATE_DIRECTORY`) finds the daemon, so that its log
/// and its metrics have the rejected reload.
pub(super) fn run(
    file: Option<&Path>,
    given: Option<PathBuf>,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> anyhow::Result<u8> {
    let (state_dir, problems) = match (inspected(file), given) {
        (Ok(config), _) => (config.state_dir, None),
        (Err(problems), Some(given)) => (given, Some(problems)),
        (Err(problems), None) => return Err(problems.into()),
    };
    let answer = admin::reload(&state_dir).with_context(|| {
        format!(
            "the daemon of the state directory {} did not answer; see `status` and its log",
            state_dir.display()
        )
    })?;
    match (answer, problems) {
        (Some(reloaded), _) => print(&reloaded, out, errors),
        (None, Some(problems)) => Err(problems.into()),
        (None, None) => Err(anyhow!(
            "no daemon runs with the state directory {} (a change of state_dir needs a restart)",
            state_dir.display()
        )),
    }
}

/// Prints the daemon's answer.
fn print(reloaded: &Reloaded, out: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<u8> {
    for warning in &reloaded.warnings {
        writeln!(errors, "warning: {warning}")?;
    }
    if reloaded.is_applied() {
        writeln!(out, "The configuration is applied.")?;
        return Ok(DONE);
    }
    for error in &reloaded.errors {
        writeln!(errors, "{error}")?;
    }
    writeln!(errors, "The configuration is rejected; nothing changed.")?;
    Ok(CONFIGURATION)
}
