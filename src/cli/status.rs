//! `status`: shows the state of the daemon and its webhooks.
//!
//! Constraint: the command works with or without a running daemon. It asks the daemon over the
//! control socket, and reads the recorded state from the database. If only one of them answers,
//! the command shows this answer, and the reason why the other is missing.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;

use super::follow;
use super::output::{
    BOLD, GREEN, RED, Style, YELLOW, between, counted, duration, print_json, safe, time,
};
use super::view::print_pairs;
use super::{DONE, FAILED, failure, missing_socket, recorded, standing};
use crate::admin;
use crate::config::Config;
use crate::domain::state_size::{Fill, StateSize};
use crate::engine::status::{ActorReport, Trouble};
use crate::engine::statuses::EndingReport;
use crate::error::location;
use crate::report::{Counts, FleetReport, INCOMPLETE_MAX, ProblemReport, Report, Settings};
use crate::watch::Coverage;

/// Show whether the daemon runs, what it watches, and each webhook's queue.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct StatusArguments {
    /// Print one JSON object; with --watch, one per line
    #[arg(long)]
    json: bool,
    /// Repeat until interrupted
    #[arg(long, short)]
    watch: bool,
    /// Exit with 1 unless the daemon is watching and the recorded state can be read, for health checks
    #[arg(long, conflicts_with = "watch")]
    exit_code: bool,
}

/// Shows the state of the daemon and its webhooks, with `--watch` repeatedly.
///
/// Without `--exit-code`, the exit status is 0 even if no daemon runs.
pub(super) fn run(
    arguments: &StatusArguments,
    config: &Config,
    now: impl Fn() -> Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let show = |out: &mut dyn Write, is_line: bool, now| {
        let report = gather(config)?;
        match (arguments.json, is_line) {
            (true, true) => follow::print_line(out, &report)?,
            (true, false) => print_json(out, &report)?,
            (false, _) => print(&report, now, style, out)?,
        }
        anyhow::Ok(report)
    };
    if arguments.watch {
        return follow::watch(arguments.json, out, |out| match show(out, true, now()) {
            // The next round may succeed.
            Err(error) if !arguments.json => Ok(writeln!(out, "{}", failure(&error))?),
            shown => shown.map(|_| ()),
        });
    }
    let report = show(out, false, now())?;
    let is_watching = report
        .daemon
        .is_some_and(|daemon| daemon.engine.is_watching());
    let is_healthy = is_watching && report.state_error.is_none();
    Ok(if is_healthy || !arguments.exit_code {
        DONE
    } else {
        FAILED
    })
}

/// Gathers the report from the daemon, if it answers, and from the store.
fn gather(config: &Config) -> anyhow::Result<Report> {
    let (daemon, unknown) = match admin::control::ask(&config.state_dir) {
        Ok(Some(daemon)) => (Some(daemon), None),
        Ok(None) => (None, missing_socket(&config.state_dir)),
        Err(error) => (None, Some(error.to_string())),
    };
    let (file, directory) = (Settings::of(config), &config.state_dir);
    let daemon = daemon.ok_or(unknown);
    let with_state = |daemon| {
        let listings = recorded(config)?;
        let states = listings
            .as_ref()
            .map_or(Ok(Vec::new()), |listings| listings.webhook_states())?;
        let listings = listings.as_ref();
        anyhow::Ok(Report::gather(&file, directory, daemon, states, listings)?)
    };
    match with_state(daemon.clone()) {
        Err(error) if daemon.is_ok() => {
            let mut report = Report::gather(&file, directory, daemon, Vec::new(), None)?;
            report.state_error = Some(format!("{error:#}"));
            // The counts of webhooks are in the state, so they are unknown.
            report.webhooks.clear();
            Ok(report)
        }
        report => report,
    }
}

fn print(report: &Report, now: Timestamp, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    print_daemon(report, style, out)?;
    let projects = counted(report.projects() as u64, "project");
    let mut pairs = vec![(
        "repository",
        format!("{}, {projects} recorded", report.repository),
    )];
    for one in report.repositories() {
        let projects = counted(one.engine.projects as u64, "project");
        let note = match (one.alive, one.engine.is_watching()) {
            (false, _) => "; its engine does not respond",
            (true, false) => "; not watching",
            (true, true) => "",
        };
        pairs.push((
            "",
            format!("{}: {}, {projects} recorded{note}", one.name, one.path),
        ));
    }
    let ending = report.daemon.iter().flat_map(|daemon| &daemon.ending);
    pairs.extend(ending.map(|one| ("", ending_line(one, style))));
    let unwatched = report.unwatched.iter();
    pairs.extend(unwatched.map(|one| ("", one.text())));
    pairs.push(("state", state(report)));
    if let Some(daemon) = &report.daemon {
        let coverage = &daemon.engine.coverage;
        let watched = counted(coverage.watches as u64, "directory");
        let watching = match (coverage.uncovered, coverage.polls) {
            (0, false) => watched,
            (0, true) => "scans on a timer".to_owned(),
            (uncovered, true) => format!(
                "{watched}; {uncovered} more not watched, so the daemon also scans on a timer"
            ),
            (uncovered, false) => format!("{watched}; {uncovered} more cannot be read"),
        };
        pairs.push(("watching", watching));
        let actor = daemon.engine.actor.as_ref();
        pairs.extend(actor.map(|actor| ("who did it", who_did_it(actor))));
        pairs.push(("since start", since_start(&daemon.since_start)));
    }
    if let Some(fleet) = &report.fleet {
        pairs.push(("lease", lease(fleet, style)));
        pairs.push(("standbys", standbys(fleet, now)));
        pairs.push(("senders", senders(fleet, now)));
    }
    if let Some(error) = &report.state_error {
        pairs.push(("note", format!("cannot read the recorded state: {error}")));
    } else if !report.has_state {
        let note = "nothing is recorded yet: no daemon has used this state".to_owned();
        pairs.push(("note", note));
    }
    print_pairs(out, style, "", &pairs)?;
    if let Some(daemon) = &report.daemon {
        if let Some(note) = &daemon.engine.coverage.note {
            writeln!(out, "{}  {}", style.paint(YELLOW, "note"), safe(note))?;
        }
        for (trouble, text) in &daemon.engine.troubles {
            write!(out, "{}  {}", style.paint(RED, "trouble"), safe(text))?;
            let held = daemon.engine.held_removals.as_ref();
            if *trouble == Trouble::Removals
                && let Some(until) = held.and_then(|held| held.until)
            {
                write!(out, " (until {})", time(until, style))?;
            }
            writeln!(out)?;
        }
    }
    if let Some(daemon) = &report.daemon {
        print_state_size(daemon.state_size, style, out)?;
        print_uncovered(&daemon.engine.coverage, style, out)?;
    }
    print_incomplete(&report.incomplete, style, out)?;
    writeln!(out)?;
    if report.state_error.is_none() {
        standing::print_webhooks(&report.webhooks, now, style, out)?;
    }
    if report.is_file_changed {
        standing::print_file_changed(out)?;
    }
    Ok(())
}

/// Describes in one line an engine that was asked to stop and has not ended.
fn ending_line(ending: &EndingReport, style: &Style) -> String {
    format!(
        "{}: {}, asked to stop at {}, but its engine has not ended; is its disk or network file \
         system stuck?",
        ending.name,
        ending.path,
        time(ending.since, style)
    )
}

/// Describes the lease and its holder in one line.
fn lease(fleet: &FleetReport, style: &Style) -> String {
    let Some(holder) = &fleet.holder else {
        return format!("nobody ever had it; {}", safe(&fleet.watched()));
    };
    let expired = if holder.is_valid {
        ""
    } else {
        "; expired or released"
    };
    format!(
        "process {} on {} since {}, epoch {}{expired}; {}",
        holder.pid,
        safe(&holder.host),
        time(holder.since, style),
        holder.epoch,
        safe(&fleet.watched())
    )
}

/// Lists the processes that wait for the lease, and those that no longer ask for it.
fn standbys(fleet: &FleetReport, now: Timestamp) -> String {
    let standbys = fleet.standbys.iter().map(|standby| {
        let seen = duration(between(standby.last_seen, now));
        let lost = if standby.is_waiting {
            ""
        } else {
            ", no longer waiting"
        };
        let host = safe(&standby.host);
        format!("process {} on {host}, seen {seen} ago{lost}", standby.pid)
    });
    match standbys.collect::<Vec<_>>().join("; ") {
        none if none.is_empty() => "none".to_owned(),
        all => all,
    }
}

/// Lists the processes that deliver, and those that no longer renew their lease.
fn senders(fleet: &FleetReport, now: Timestamp) -> String {
    let senders = fleet.senders.iter().map(|sender| {
        let seen = duration(between(sender.last_seen, now));
        let lost = if sender.is_alive {
            ""
        } else {
            ", lease expired"
        };
        let (host, lanes) = (safe(&sender.host), counted(sender.lanes, "lane"));
        format!(
            "process {} on {host} with {lanes}, seen {seen} ago{lost}",
            sender.pid
        )
    });
    match senders.collect::<Vec<_>>().join("; ") {
        none if none.is_empty() => "none".to_owned(),
        all => all,
    }
}

/// Describes the place of the state, with the size of the state if a daemon has measured it.
fn state(report: &Report) -> String {
    let directory = &report.state_dir;
    let size = report.daemon.as_ref().map(|daemon| daemon.state_size);
    let size = size.filter(|size| size.used > 0);
    if report.fleet.is_some() {
        let used = size.map_or_else(String::new, |size| {
            format!(", where the whole database takes {}", ByteSize(size.used))
        });
        return format!("in PostgreSQL{used}; {directory} is only for the control socket");
    }
    let Some(size) = size else {
        return directory.clone();
    };
    let (used, log) = (ByteSize(size.used), ByteSize(size.log));
    match size.limit.map(ByteSize) {
        Some(limit) => format!("{directory}, {used} of {limit}, and a write-ahead log of {log}"),
        None => format!("{directory}; the database takes {used}"),
    }
}

/// Prints warnings about the size of the state.
fn print_state_size(size: StateSize, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    let warning = style.paint(YELLOW, "warning");
    if size.fill() != Fill::Low {
        let state = match size.fill() {
            Fill::Over => "exceeds its limit, so the oldest deliveries are removed",
            _ => "is near its limit, where the oldest deliveries are removed",
        };
        writeln!(
            out,
            "{warning}  the state {state}; raise retention.max_state_size, use a larger disk, or fix \
             webhooks with many pending deliveries"
        )?;
    }
    if size.is_log_held() {
        writeln!(
            out,
            "{warning}  a process has been reading the database in one transaction, so the \
             write-ahead log grows; close that process (`fuser -v` with the path of state.db lists \
             the processes)"
        )?;
    }
    Ok(())
}

/// Describes the audit source in one line.
fn who_did_it(actor: &ActorReport) -> String {
    if let Some(failure) = &actor.failure {
        return format!("no audit records: {failure}");
    }
    format!(
        "{} audit records with the key {}; {} by a known user, {} without a record; records lost {}",
        actor.records,
        actor.key,
        counted(actor.named, "live event"),
        actor.missed,
        counted(actor.losses, "time"),
    )
}

/// Describes the counts since the start of the daemon in one line.
fn since_start(counts: &Counts) -> String {
    let sum = |by: &BTreeMap<String, u64>| by.values().sum::<u64>();
    let of = |outcome: &str| -> u64 {
        let attempts = counts.attempts.attempts.values();
        attempts.filter_map(|by| by.get(outcome)).sum()
    };
    let mut line = format!(
        "{}; {} delivered, {} failed, {} dead; {}; {}, {} rejected",
        counted(sum(&counts.events), "event"),
        of("delivered"),
        of("failed"),
        of("dead"),
        counted(sum(&counts.rescans), "full scan"),
        counted(sum(&counts.reloads), "reload"),
        counts.reloads.get("rejected").copied().unwrap_or(0),
    );
    if counts.dropped_log_lines > 0 {
        let dropped = counted(counts.dropped_log_lines, "log line");
        line.push_str(&format!("; {dropped} dropped"));
    }
    if let Some(seconds) = counts.attempts.event_latency_seconds {
        line.push_str(&format!(
            "; {:.1} ms on average from a change to its callback",
            seconds * 1000.0
        ));
    }
    line
}

fn print_daemon(report: &Report, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    let Some(daemon) = &report.daemon else {
        let state = match &report.unknown {
            Some(reason) => format!(
                "{}: the daemon does not answer ({}); showing the recorded state",
                style.paint(YELLOW, "unknown"),
                safe(reason)
            ),
            None => of_this_machine(report, style),
        };
        return writeln!(out, "{state}");
    };
    let uptime = duration(Duration::from_secs(daemon.uptime_seconds.max(1)));
    let (code, state) = if !daemon.alive {
        (RED, "stuck: the engine does not respond")
    } else if !daemon.engine.troubles.is_empty() {
        (YELLOW, "running, with problems")
    } else if !daemon.engine.ready {
        (YELLOW, "starting: the first full scan is running")
    } else {
        (GREEN, "running")
    };
    writeln!(
        out,
        "{}: process {}, version {}, for {uptime}",
        style.paint(code, state),
        daemon.pid,
        safe(&daemon.version)
    )
}

/// Describes the state of a process on this machine when no daemon answers.
fn of_this_machine(report: &Report, style: &Style) -> String {
    let fleet = report.fleet.as_ref();
    let (code, state, reason) = match (
        fleet.and_then(FleetReport::here),
        fleet.and_then(FleetReport::sending_here),
    ) {
        (Some(standby), _) => (
            YELLOW,
            "standby",
            format!(
                "process {} on this machine waits for the lease",
                standby.pid
            ),
        ),
        (None, Some(sender)) if fleet.is_some_and(|fleet| fleet.holder.is_none()) => (
            RED,
            "sending",
            format!(
                "process {} on this machine sends nothing, because no process has ever watched its \
                 repository in this database (is repository.name right?)",
                sender.pid
            ),
        ),
        (None, Some(sender)) => (
            GREEN,
            "sending",
            format!(
                "process {} on this machine sends and does not watch",
                sender.pid
            ),
        ),
        (None, None) => (
            YELLOW,
            "stopped",
            "no running daemon uses the state directory".to_owned(),
        ),
    };
    format!(
        "{}: {reason}; showing the recorded state",
        style.paint(code, state)
    )
}

fn print_uncovered(coverage: &Coverage, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    if coverage.directories.is_empty() {
        return Ok(());
    }
    let n = counted(coverage.uncovered as u64, "directory");
    let first = match coverage.directories.len() {
        named if named < coverage.uncovered => format!(", the first {named}"),
        _ => String::new(),
    };
    let heading = style.paint(BOLD, &format!("{n} not watched{first}"));
    writeln!(out, "\n{heading}")?;
    for directory in &coverage.directories {
        let path = match directory.path.as_str() {
            "" => "the root",
            path => path,
        };
        let (path, reason) = (safe(path), safe(&directory.reason));
        writeln!(out, "  {path}: {reason}")?;
    }
    Ok(())
}

fn print_incomplete(
    problems: &[ProblemReport],
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let or_more = if problems.len() >= INCOMPLETE_MAX {
        " or more"
    } else {
        ""
    };
    // All projects below an unreadable directory have the same problem. Print the problem once.
    let mut printed = HashSet::new();
    let problems: Vec<&ProblemReport> = problems
        .iter()
        .filter(|problem| printed.insert((&problem.path, &problem.reason, problem.line)))
        .collect();
    let n = counted(problems.len() as u64, "file");
    let heading = style.paint(BOLD, &format!("{n}{or_more} ignored"));
    writeln!(out, "\n{heading}")?;
    for problem in problems {
        let place = location(&problem.path, problem.line, problem.column);
        let (reason, since) = (safe(&problem.reason), time(problem.since, style));
        writeln!(out, "  {}: {reason} (since {since})", safe(&place))?;
    }
    Ok(())
}
