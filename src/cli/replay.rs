//! `events replay`: queues recorded events for a webhook, again or for the first time.
//!
//! Constraint: like `deliveries redeliver`, the command prints how many events match, and asks for
//! confirmation on a terminal.

use std::io::Write;

use jiff::Timestamp;

use super::deliveries::{Confirmed, confirmed, wake};
use super::output::{Progress, counted, print_json, safe};
use super::webhooks::configured;
use super::{DONE, FAILED, usage};
use crate::config::Config;
use crate::operator::change;
use crate::operator::select::{Since, parse_since, place};
use crate::operator::view::Replayed;
use crate::store::Operations;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReplayArguments {
    /// Queue the events for this webhook: those it subscribes to, and those that already have a delivery to it
    #[arg(long, value_name = "NAME")]
    to: String,
    /// Only events recorded at this time or later: a date, a time, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only events recorded before this time: a date, a time, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    until: Option<Since>,
    /// Only events of the repository with this name; needs the setting `repositories`
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Only events of ORGANIZATION/PROJECT, or of PROJECT in any organization
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// Print how many events match, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print one JSON object, and do not ask for confirmation
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    arguments: &ReplayArguments,
    config: &Config,
    now: Timestamp,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let webhook = configured(&arguments.to, config)?;
    let name = safe(webhook.name());
    let time = |since: Option<Since>| since.map(|since| since.time(now));
    let (since, until) = (time(arguments.since), time(arguments.until));
    let (repository, project) = (
        arguments.repository.as_deref(),
        arguments.project.as_deref(),
    );
    let place = place(repository, project, config).map_err(|error| usage(&error.to_string()))?;
    let mut replay = change::replay(webhook, place, since, until)
        .ok_or_else(|| usage("--since must be earlier than --until"))?;
    let mut operations = Operations::of(config)?;
    let matched = operations.count_replay(&replay)?;
    let mut result = Replayed {
        webhook: webhook.name().to_owned(),
        matched,
        replayed: 0,
        dry_run: arguments.dry_run,
        daemon_told: false,
    };
    let meant = counted(matched, "event");
    if matched == 0 || arguments.dry_run {
        if arguments.json {
            print_json(out, &result)?;
        } else if matched == 0 {
            writeln!(out, "No matching events to replay to {name}.")?;
        } else {
            writeln!(out, "{meant} would be replayed to {name}.")?;
        }
        return Ok(DONE);
    }
    if !arguments.json {
        let question = format!("Replay {meant} to {name}");
        match confirmed(&question, arguments.yes, out)? {
            Confirmed::No => {
                writeln!(out, "Nothing was changed.")?;
                return Ok(FAILED);
            }
            Confirmed::Seen => replay.expected = Some(matched),
            Confirmed::Unasked => {}
        }
    }
    let mut progress = Progress::new(matched);
    operations.on_progress(Box::new(move |n| progress.add(n)));
    result.replayed = operations.replay(&replay, now)?;
    drop(operations);
    let notified = wake(config);
    result.daemon_told = notified.is_done();
    if arguments.json {
        print_json(out, &result)?;
        return Ok(DONE);
    }
    let n = counted(result.replayed, "event");
    writeln!(out, "{n} replayed to {name}; {}.", notified.words())?;
    if !webhook.enabled {
        writeln!(
            out,
            "The configuration has enabled: false for this webhook, so nothing is sent to it."
        )?;
    }
    Ok(DONE)
}
