//! `reload`: makes the daemon read its configuration again, and waits for the result.
//!
//! Constraint: the daemon alone decides, because it has credentials and variables that this process
//! may lack. A rejected configuration changes nothing. This command finds the daemon and prints its
//! answer, so it can serve as `ExecReload=` of a unit. SIGHUP cannot, because a signal has no answer.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::{CONFIGURATION, DONE, inspected};
use crate::admin::{self, Reloaded};

/// Asks the daemon of this configuration's state directory.
///
/// `given` is `$STATE_DIRECTORY`. It finds the daemon even if the file is invalid, so that the daemon's
/// log and metrics show the rejected reload.
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
            "the daemon of the state directory {} gave no answer; see `status` and its log",
            state_dir.display()
        )
    })?;
    match (answer, problems) {
        (Some(reloaded), _) => say(&reloaded, out, errors),
        (None, Some(problems)) => Err(problems.into()),
        (None, None) => Err(anyhow!(
            "no daemon runs with the state directory {}, so there is nothing to reload (a change \
             of state_dir needs a restart)",
            state_dir.display()
        )),
    }
}

/// Prints the daemon's answer.
fn say(reloaded: &Reloaded, out: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<u8> {
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
