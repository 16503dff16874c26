//! `status`: is it running, and how is it doing?
//!
//! Constraint: it answers whether a daemon runs or not. What only a running one knows comes from
//! its control socket, everything else from the record; a daemon that cannot be asked is said to be
//! so, and the rest is shown.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::DONE;
use super::output::{BOLD, GREEN, RED, Style, YELLOW, counted, duration, print_json, safe, time};
use super::standing::{self, WebhookStanding};
use super::view::print_pairs;
use crate::admin::{self, Report};
use crate::config::Config;
use crate::engine::status::Trouble;
use crate::metrics::Counts;
use crate::store::{Listings, OpenError, RecordedProblem};
use crate::watch::Coverage;

/// How many files that do not count are listed.
const PROBLEMS_MAX: usize = 1_000;

/// Everything that is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    running: bool,
    #[serde(flatten)]
    daemon: Option<DaemonView>,
    /// Why a daemon could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    repository: String,
    state_dir: String,
    /// Whether anything was recorded yet.
    has_state: bool,
    projects: usize,
    incomplete: Vec<ProblemView>,
    webhooks: Vec<WebhookStanding>,
}

/// What only a running daemon knows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DaemonView {
    pid: u32,
    version: String,
    uptime_seconds: u64,
    alive: bool,
    ready: bool,
    troubles: BTreeMap<Trouble, String>,
    coverage: Coverage,
    since_start: Counts,
}

#[derive(Serialize)]
struct ProblemView {
    organization: Option<String>,
    project: Option<String>,
    path: String,
    reason: String,
    line: Option<u64>,
    column: Option<u64>,
    since: Timestamp,
}

/// Shows how the daemon and its webhooks are doing. The status is 0 also when it is stopped.
pub(super) fn run(
    config: &Config,
    json: bool,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let (report, unknown) = match admin::ask(&config.state_dir) {
        Ok(report) => (report, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let listings = match super::listings(config) {
        Ok(listings) => Some(listings),
        Err(OpenError::Absent { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let view = gather(config, report, unknown, listings.as_ref())?;
    if json {
        print_json(out, &view)?;
    } else {
        print(&view, now, style, out)?;
    }
    Ok(DONE)
}

fn gather(
    config: &Config,
    report: Option<Report>,
    unknown: Option<String>,
    listings: Option<&Listings>,
) -> anyhow::Result<StatusView> {
    let problems = listings.map_or(Ok(Vec::new()), |known| known.problems(PROBLEMS_MAX))?;
    let n_recorded = listings.map_or(Ok(0), |known| known.keys().map(|keys| keys.len()))?;
    Ok(StatusView {
        running: report.is_some(),
        projects: n_recorded,
        daemon: report.map(|report| DaemonView {
            pid: report.pid,
            version: report.version,
            uptime_seconds: report.uptime_s,
            alive: report.alive,
            ready: report.engine.ready,
            troubles: report.engine.troubles,
            coverage: report.engine.coverage,
            since_start: report.counts,
        }),
        unknown,
        repository: config.repository.path.display().to_string(),
        state_dir: config.state_dir.display().to_string(),
        has_state: listings.is_some(),
        incomplete: problems.into_iter().map(ProblemView::of).collect(),
        webhooks: standing::webhooks(config, listings)?,
    })
}

impl ProblemView {
    fn of(recorded: RecordedProblem) -> Self {
        let (organization, project) = recorded
            .key
            .map(|key| (key.organization, key.project))
            .unzip();
        Self {
            organization,
            project,
            path: recorded.problem.path,
            reason: recorded.problem.reason,
            line: recorded.problem.line,
            column: recorded.problem.column,
            since: recorded.since,
        }
    }
}

fn print(view: &StatusView, now: Timestamp, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    print_daemon(view, style, out)?;
    let mut pairs = vec![
        (
            "repository",
            format!(
                "{}, {} on record",
                view.repository,
                counted(view.projects as u64, "project")
            ),
        ),
        ("state", view.state_dir.clone()),
    ];
    if let Some(daemon) = &view.daemon {
        let coverage = &daemon.coverage;
        let watched = counted(coverage.watches as u64, "directory");
        pairs.push((
            "watching",
            match (coverage.uncovered, coverage.polls) {
                (0, false) => watched,
                (0, true) => "by comparison on a timer".to_owned(),
                (uncovered, _) => {
                    format!("{watched}; {uncovered} not, compared on a timer instead")
                }
            },
        ));
    }
    if let Some(daemon) = &view.daemon {
        pairs.push(("since start", since_start(&daemon.since_start)));
    }
    if !view.has_state {
        pairs.push((
            "note",
            "nothing was recorded yet: the daemon never ran".to_owned(),
        ));
    }
    print_pairs(out, style, "", &pairs)?;
    if let Some(daemon) = &view.daemon {
        if let Some(note) = &daemon.coverage.note {
            writeln!(out, "{}  {}", style.paint(YELLOW, "note"), safe(note))?;
        }
        for trouble in daemon.troubles.values() {
            writeln!(out, "{}  {}", style.paint(RED, "trouble"), safe(trouble))?;
        }
    }
    print_problems(&view.incomplete, style, out)?;
    writeln!(out)?;
    if view.webhooks.is_empty() {
        return writeln!(out, "No webhooks are configured.");
    }
    standing::print_webhooks(&view.webhooks, now, style, out)
}

/// What was counted since the start, in a line.
fn since_start(counts: &Counts) -> String {
    let sum = |by: &BTreeMap<String, u64>| by.values().sum::<u64>();
    let of = |outcome: &str| -> u64 {
        let attempts = counts.attempts.values();
        attempts.filter_map(|by| by.get(outcome)).sum()
    };
    let mut line = format!(
        "{}; {} delivered, {} failed, {} dead; everything compared {}; configuration read again {}, \
         {} rejected",
        counted(sum(&counts.events), "event"),
        of("delivered"),
        of("failed"),
        of("dead"),
        counted(sum(&counts.rescans), "time"),
        counted(sum(&counts.reloads), "time"),
        counts.reloads.get("rejected").copied().unwrap_or(0),
    );
    if let Some(seconds) = counts.event_latency_seconds {
        line.push_str(&format!(
            "; from a change to its callback {:.1} ms on average",
            seconds * 1000.0
        ));
    }
    line
}

fn print_daemon(view: &StatusView, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    let Some(daemon) = &view.daemon else {
        let state = match &view.unknown {
            Some(reason) => format!(
                "{}: a daemon cannot be asked ({}); what follows is from the record",
                style.paint(YELLOW, "unknown"),
                safe(reason)
            ),
            None => format!(
                "{}: no daemon holds the state directory; what follows is from the record",
                style.paint(YELLOW, "stopped")
            ),
        };
        return writeln!(out, "{state}");
    };
    let uptime = duration(Duration::from_secs(daemon.uptime_seconds.max(1)));
    let (code, state) = if !daemon.alive {
        (RED, "stuck: the loop does not turn")
    } else if !daemon.troubles.is_empty() {
        (YELLOW, "running, with trouble")
    } else if !daemon.ready {
        (YELLOW, "starting: the first comparison is not done")
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

fn print_problems(problems: &[ProblemView], style: &Style, out: &mut dyn Write) -> io::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let or_more = if problems.len() >= PROBLEMS_MAX {
        " or more"
    } else {
        ""
    };
    // Each project below a directory that cannot be read has that as its problem.
    let mut said = HashSet::new();
    let problems: Vec<&ProblemView> = problems
        .iter()
        .filter(|problem| said.insert((&problem.path, &problem.reason, problem.line)))
        .collect();
    let n = counted(problems.len() as u64, "file");
    let verb = if problems.len() == 1 { "does" } else { "do" };
    let heading = style.paint(BOLD, &format!("{n}{or_more} {verb} not count"));
    writeln!(out, "\n{heading}")?;
    for problem in problems {
        let place = match (problem.line, problem.column) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}", problem.path),
            (Some(line), None) => format!("{}:{line}", problem.path),
            _ => problem.path.clone(),
        };
        writeln!(
            out,
            "  {}: {} (since {})",
            safe(&place),
            safe(&problem.reason),
            time(problem.since, style)
        )?;
    }
    Ok(())
}
