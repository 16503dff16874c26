//! `reload`: the daemon reads its configuration again, and this waits until it works by it.
//!
//! Constraint: the daemon alone decides. It has the credentials and variables that this process
//! may not have, and what it rejects leaves it as it was. This only finds it, and says what it
//! said; so it can serve as `ExecReload=` of a unit, which SIGHUP cannot: a signal is sent and not
//! answered.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::{CONFIGURATION, DONE, inspected};
use crate::admin::{self, Reloaded};

/// Asks the daemon of this configuration's state directory. `given` is `$STATE_DIRECTORY`: where
/// the file cannot even be read without secrets, the daemon is told all the same, so that its log
/// and its figures have it.
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
            "the daemon of the state directory {} gave no answer; `status` and its log say how it is",
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

/// Prints what the daemon said.
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
