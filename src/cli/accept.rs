//! `accept`: shows the held removals and releases them.
//!
//! Constraint: the command releases only the removals that it listed. If the held removals have
//! changed when the operator confirms, the daemon rejects the request.

use std::io::Write;

use anyhow::anyhow;
use serde::Serialize;

use super::deliveries::{Confirmed, confirmed, is_asked};
use super::output::{BOLD, Style, counted, print_json, safe};
use super::{DONE, FAILED, missing_socket, unanswered, usage};
use crate::admin;
use crate::config::Config;
use crate::engine::held_removals::Accepted;

/// The arguments of the command `accept`.
#[derive(Debug, clap::Args)]
pub(super) struct AcceptArguments {
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print one JSON object; needs --yes
    #[arg(long, requires = "yes")]
    json: bool,
}

/// The result as JSON, for `--json`.
#[derive(Serialize)]
struct AcceptedView<'a> {
    reason: Option<&'a str>,
    projects: Vec<String>,
    released: usize,
    /// The repositories whose engine does not respond. Their held removals are unknown.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stuck: &'a [String],
}

/// Explains why no daemon on this host can release removals, and what to do.
fn no_daemon(config: &Config) -> anyhow::Error {
    let state_dir = config.state_dir.display();
    match missing_socket(&config.state_dir) {
        Some(reason) => anyhow!("{reason}. Then run `accept` again"),
        None if config.store.is_some() => anyhow!(
            "no watching daemon uses the state directory {state_dir}. Run `accept` on the host \
             that has the lease (see `status`); held removals stay held"
        ),
        None => anyhow!(
            "no running daemon uses the state directory {state_dir}. Start the daemon; held \
             removals stay held"
        ),
    }
}

/// Shows the held removals, asks for confirmation, and releases the removals.
pub(super) fn run(
    arguments: &AcceptArguments,
    config: &Config,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let state_dir = config.state_dir.display();
    let no_answer = || {
        format!(
            "the daemon of the state directory {state_dir} did not answer; see `status` and the log"
        )
    };
    let no_daemon = || no_daemon(config);
    let held = admin::control::list_held(&config.state_dir);
    let held = unanswered(held, no_answer)?.ok_or_else(no_daemon)?;
    let projects: Vec<String> = held.projects.iter().map(ToString::to_string).collect();
    let mut view = AcceptedView {
        reason: held.reason.as_deref(),
        projects,
        released: 0,
        stuck: &held.stuck,
    };
    let Some(reason) = view.reason else {
        if arguments.json {
            print_json(out, &view)?;
        } else if view.stuck.is_empty() {
            writeln!(out, "No removals are held.")?;
        }
        return responded(view.stuck, out);
    };
    let n = counted(view.projects.len() as u64, "project");
    if !arguments.json {
        writeln!(out, "{}", style.paint(BOLD, &safe(reason)))?;
        for project in &view.projects {
            writeln!(out, "  {}", safe(project))?;
        }
        if !arguments.yes && !is_asked() {
            out.flush()?;
            return Err(usage(
                "cannot ask for confirmation without a terminal; add --yes to accept these \
                 removals",
            ));
        }
        let question = format!("Send the deletes of {n}");
        if confirmed(&question, arguments.yes, out)? == Confirmed::No {
            writeln!(out, "Nothing was changed.")?;
            return Ok(FAILED);
        }
    }
    let accepted = admin::control::accept(&config.state_dir, &held.token);
    let accepted = unanswered(accepted, || {
        format!(
            "{}. The request is withdrawn, unless the daemon had already begun to release the \
             removals; run `accept` again to list those that are still held",
            no_answer()
        )
    })?
    .ok_or_else(no_daemon)?;
    let refusals;
    (view.released, refusals) = released(accepted)?;
    if arguments.json {
        print_json(out, &view)?;
    } else if view.released > 0 {
        let released = counted(view.released as u64, "project");
        writeln!(
            out,
            "Released the removals of {released}. Projects that are still missing are now reported \
             as deleted."
        )?;
    }
    if !refusals.is_empty() {
        out.flush()?;
        let refusals = refusals.join("; ");
        return Err(anyhow!(
            "some removals are still held ({refusals}); run `accept` again"
        ));
    }
    responded(view.stuck, out)
}

/// Returns the number of released removals, and the reasons why others were not released.
fn released(accepted: Accepted) -> anyhow::Result<(usize, Vec<String>)> {
    match accepted {
        Accepted::Released(released) => Ok((released, Vec::new())),
        Accepted::Partly { released, reasons } => Ok((released, reasons)),
        Accepted::Changed => Err(anyhow!(
            "the held removals have changed meanwhile, so none were released; run `accept` again"
        )),
        Accepted::Failed(reason) => Err(anyhow!(
            "cannot record the decision, so nothing was changed: {reason}"
        )),
    }
}

/// Fails if the engine of a repository did not respond, because that engine may hold removals.
fn responded(stuck: &[String], out: &mut dyn Write) -> anyhow::Result<u8> {
    if stuck.is_empty() {
        return Ok(DONE);
    }
    out.flush()?;
    Err(anyhow!(
        "no answer from the engine of {}, so removals may still be held there. If a disk or \
         network file system is stuck, run `accept` again once that file system responds",
        stuck.join(", ")
    ))
}
