//! `status`: is it running, and how is it doing?
//!
//! Constraint: it answers whether a daemon runs or not. What only a running one knows comes from
//! its control socket, everything else from the record; a daemon that cannot be asked is said to be
//! so, and the rest is shown.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::DONE;
use super::output::{
    BOLD, Cell, FAINT, GREEN, RED, Style, Table, YELLOW, between, counted, duration, print_json,
    safe, time,
};
use super::view::print_pairs;
use crate::admin::{self, Report};
use crate::config::Config;
use crate::engine::status::Trouble;
use crate::store::{Listings, OpenError, RecordedProblem, WebhookState};
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
    webhooks: Vec<WebhookView>,
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

/// Whether a webhook takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Standing {
    /// It does.
    On,
    /// It was switched off, by its receiver or by an operator.
    Off,
    /// The configuration says `enabled: false`.
    Disabled,
    /// It is not in the configuration; what waits for it is kept.
    Parked,
}

impl Standing {
    const fn as_str(self) -> &'static str {
        match self {
            Standing::On => "on",
            Standing::Off => "off",
            Standing::Disabled => "disabled",
            Standing::Parked => "parked",
        }
    }

    pub(super) fn cell(self) -> Cell {
        let code = match self {
            Standing::On => GREEN,
            Standing::Off => RED,
            Standing::Disabled | Standing::Parked => YELLOW,
        };
        Cell::painted(code, self.as_str())
    }
}

/// A webhook, configured or parked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WebhookView {
    pub(super) name: String,
    pub(super) standing: Standing,
    pub(super) off: Option<OffView>,
    pub(super) pending: u64,
    oldest_pending: Option<Timestamp>,
    next_attempt: Option<Timestamp>,
    pub(super) dead: u64,
    pub(super) delivered: u64,
    cancelled: u64,
    last_delivered: Option<Timestamp>,
    last_error: Option<ErrorView>,
}

#[derive(Serialize)]
pub(super) struct OffView {
    cause: &'static str,
    reason: String,
    since: Timestamp,
}

#[derive(Serialize)]
struct ErrorView {
    at: Timestamp,
    error: String,
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
    let listings = match Listings::open(&config.state_dir) {
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
        }),
        unknown,
        repository: config.repository.path.display().to_string(),
        state_dir: config.state_dir.display().to_string(),
        has_state: listings.is_some(),
        incomplete: problems.into_iter().map(ProblemView::of).collect(),
        webhooks: webhooks(config, listings)?,
    })
}

/// The webhooks of the configuration in its order, then those that are only in the record.
pub(super) fn webhooks(
    config: &Config,
    listings: Option<&Listings>,
) -> anyhow::Result<Vec<WebhookView>> {
    let states = listings.map_or(Ok(Vec::new()), Listings::webhook_states)?;
    let mut by_name: BTreeMap<String, WebhookState> = states
        .into_iter()
        .map(|state| (state.name.clone(), state))
        .collect();
    let mut views = Vec::new();
    for webhook in &config.webhooks {
        let state = by_name.remove(webhook.name());
        let standing = match &state {
            _ if !webhook.enabled => Standing::Disabled,
            Some(state) if state.off.is_some() => Standing::Off,
            _ => Standing::On,
        };
        views.push(WebhookView::of(webhook.name(), standing, state));
    }
    for (name, state) in by_name {
        let n_kept = [
            state.n_pending,
            state.n_dead,
            state.n_delivered,
            state.n_cancelled,
        ];
        // Of one that was removed long ago nothing is left to know.
        if n_kept.iter().any(|n| *n > 0) {
            views.push(WebhookView::of(&name, Standing::Parked, Some(state)));
        }
    }
    Ok(views)
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

impl WebhookView {
    fn of(name: &str, standing: Standing, state: Option<WebhookState>) -> Self {
        let state = state.unwrap_or_else(|| WebhookState {
            name: name.to_owned(),
            off: None,
            n_pending: 0,
            n_delivered: 0,
            n_dead: 0,
            n_cancelled: 0,
            oldest_pending: None,
            next_attempt: None,
            last_error: None,
            last_delivered: None,
        });
        Self {
            name: name.to_owned(),
            standing,
            off: state.off.map(|off| OffView {
                cause: off.cause.as_str(),
                reason: off.reason,
                since: off.at,
            }),
            pending: state.n_pending,
            oldest_pending: state.oldest_pending,
            // What is off, disabled or parked waits for an operator.
            next_attempt: state.next_attempt.filter(|_| standing == Standing::On),
            dead: state.n_dead,
            delivered: state.n_delivered,
            cancelled: state.n_cancelled,
            last_delivered: state.last_delivered,
            last_error: state.last_error.map(|(at, error)| ErrorView { at, error }),
        }
    }

    /// What a table has no room for.
    pub(super) fn print_notes(&self, out: &mut dyn Write, style: &Style) -> io::Result<()> {
        let name = safe(&self.name);
        if let Some(off) = &self.off {
            let hint = match off.cause {
                "gone" => "changing its configuration or `webhooks enable` switches it on",
                _ => "`webhooks enable` switches it on",
            };
            writeln!(
                out,
                "  {name}: {} since {}: {}; {hint}",
                style.paint(RED, "off"),
                time(off.since, style),
                safe(&off.reason)
            )?;
        }
        if self.standing == Standing::Parked && self.pending > 0 {
            writeln!(
                out,
                "  {name}: not in the configuration any more; {} until it is back, or cancelled",
                counted_waits(self.pending)
            )?;
        }
        if let Some(error) = &self.last_error {
            let is_old = self.last_delivered.is_some_and(|at| at > error.at);
            let line = format!(
                "last error {}: {}",
                time(error.at, style),
                safe(&error.error)
            );
            let line = if is_old {
                style.paint(FAINT, &format!("{line} (delivered since)"))
            } else {
                line
            };
            writeln!(out, "  {name}: {line}")?;
        }
        Ok(())
    }
}

fn counted_waits(n: u64) -> String {
    let verb = if n == 1 { "waits" } else { "wait" };
    format!("{} {verb}", counted(n, "delivery"))
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
    print_webhooks(&view.webhooks, now, style, out)
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
    let n = counted(problems.len() as u64, "file");
    let verb = if problems.len() == 1 { "does" } else { "do" };
    let or_more = if problems.len() >= PROBLEMS_MAX {
        " or more"
    } else {
        ""
    };
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

/// Prints webhooks as a table, and below it what it has no room for.
pub(super) fn print_webhooks(
    webhooks: &[WebhookView],
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut table = Table::new([
        "webhook",
        "state",
        "pending",
        "oldest",
        "dead",
        "delivered",
        "next attempt",
    ]);
    for webhook in webhooks {
        let dead = webhook.dead.to_string();
        table.row([
            webhook.name.as_str().into(),
            webhook.standing.cell(),
            webhook.pending.to_string().into(),
            webhook
                .oldest_pending
                .map_or_else(String::new, |at| duration(between(at, now)))
                .into(),
            if webhook.dead > 0 {
                Cell::painted(RED, dead)
            } else {
                dead.into()
            },
            webhook.delivered.to_string().into(),
            webhook
                .next_attempt
                .map_or_else(String::new, |at| {
                    if at <= now {
                        "now".to_owned()
                    } else {
                        format!("in {}", duration(between(now, at)))
                    }
                })
                .into(),
        ]);
    }
    table.print(out, style, "")?;
    for webhook in webhooks {
        webhook.print_notes(out, style)?;
    }
    Ok(())
}
