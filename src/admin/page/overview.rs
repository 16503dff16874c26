//! The overview (the state of the daemon with its problems), and the view of the ignored files.

use std::sync::Arc;

use axum::extract::State;
use bytesize::ByteSize;
use maud::{Markup, html};

use super::charts;
use super::parts::{
    counted, deliveries, duration, number, pairs, segment, state, time, time_or_none,
};
use super::shell::{Failure, Page, Section, page};
use crate::admin::reads::{self, Counts};
use crate::admin::routes::Server;
use crate::domain::state_size::Fill;
use crate::engine::status::Trouble;
use crate::metrics::Minute;
use crate::report::{
    DaemonReport, FleetReport, INCOMPLETE_MAX, ProblemReport, Report, SHOWN_MAX, Standing,
};

pub(super) async fn view(State(server): State<Arc<Server>>) -> Result<Page, Failure> {
    let sources = &server.admin.sources;
    let hour = sources.metrics.last_hour(sources.clock.moment());
    let report = reads::report(&server, Counts::UpTo(SHOWN_MAX)).await?;
    Ok(page(Section::Overview, "Overview", &all(&report, &hour)))
}

pub(super) fn all(report: &Report, hour: &[Minute]) -> Markup {
    html! {
        div #overview data-live {
            (troubles(report))
            @if let Some(daemon) = &report.daemon { (facts(report, daemon)) }
            (charts::all(hour))
            (queues(report))
        }
    }
}

/// A problem, and what to do about it.
struct Advice {
    problem: String,
    advice: Markup,
}

fn troubles(report: &Report) -> Markup {
    let found = advices(report);
    html! {
        section aria-label="State" {
            @if found.is_empty() {
                p { span.state.good { "running" } " No trouble." }
            } @else {
                ul.troubles {
                    @for one in &found {
                        li { strong.bad.text { (one.problem) } br; (one.advice) }
                    }
                }
            }
        }
    }
}

fn advices(report: &Report) -> Vec<Advice> {
    let mut found = Vec::new();
    if let Some(daemon) = &report.daemon {
        found.extend(of_daemon(daemon));
    }
    if report.is_file_changed {
        found.push(Advice {
            problem: "The configuration file differs from the settings in use.".to_owned(),
            advice: html! { "Run " code { "project-webhooks check" } ", then reload the daemon." },
        });
    }
    if !report.incomplete.is_empty() {
        let n = counted(report.incomplete.len() as u64, "file");
        let or_more = match report.incomplete.len() >= INCOMPLETE_MAX {
            true => " or more",
            false => "",
        };
        found.push(Advice {
            problem: format!("{n}{or_more} ignored: incomplete, invalid or unreadable."),
            advice: html! { "See the " a href="/files" { "ignored files" } ". Each is read again \
            once it is fixed." },
        });
    }
    for webhook in &report.webhooks {
        let name = &webhook.name;
        if let (Standing::Off, Some(off)) = (webhook.standing, &webhook.off) {
            found.push(Advice {
                problem: format!("Webhook {name} is off: {}", off.reason),
                advice: html! { "Once the receiver is ready, switch the webhook on under " a href="/webhooks" { "Webhooks" } "." },
            });
        }
        if webhook.dead > 0 {
            let dead = format!("/deliveries?webhook={}&state=dead", segment(name));
            found.push(Advice {
                problem: format!("{} to {name} failed for good.", dead_deliveries(webhook.dead)),
                advice: html! { "Fix the cause, then redeliver the " a href=(dead) { "dead deliveries" } "." },
            });
        }
    }
    found
}

fn dead_deliveries(n: u64) -> String {
    if n > SHOWN_MAX {
        format!("{} deliveries", number(n))
    } else {
        deliveries(n)
    }
}

fn of_daemon(daemon: &DaemonReport) -> Vec<Advice> {
    let mut found = Vec::new();
    for (trouble, text) in &daemon.engine.troubles {
        let advice = match trouble {
            Trouble::Root => {
                html! { "Mount or restore the repository, or fix its permissions. The daemon then continues by itself." }
            }
            Trouble::Store => {
                html! { "The daemon continues by itself once the state can be read and written." }
            }
            Trouble::Removals => {
                let held = daemon.engine.held_removals.as_ref();
                html! {
                    "If the projects are missing by mistake, restore them."
                    @if let Some(until) = held.and_then(|held| held.until) {
                        " They are held until " (time(until)) "."
                    }
                }
            }
            Trouble::Repositories => {
                html! { "Until then, nobody watches these repositories." }
            }
            Trouble::Engine | Trouble::Watch => {
                html! { "See the log. If this does not end, restart the daemon." }
            }
        };
        let problem = text.clone();
        found.push(Advice { problem, advice });
    }
    if !daemon.engine.ready && daemon.engine.troubles.is_empty() {
        found.push(Advice {
            problem: "Starting: the first full scan is running.".to_owned(),
            advice: html! { "Nothing to do." },
        });
    }
    if let Some(note) = &daemon.engine.coverage.note {
        found.push(Advice {
            problem: note.clone(),
            advice: html! {
                @if daemon.engine.coverage.polls { "The daemon also scans for changes on a timer (" code { "repository.poll_interval" } ")." }
                @else { "Changes there are found once the directories can be read." }
            },
        });
    }
    if daemon.state_size.fill() != Fill::Low {
        found.push(Advice {
            problem: match daemon.state_size.fill() {
                Fill::Over => "The state exceeds its limit, so the oldest deliveries are removed.",
                _ => "The state is near its limit, at which the oldest deliveries are removed.",
            }
            .to_owned(),
            advice: html! { "Raise " code { "retention.max_state_size" } ", or fix webhooks with many pending deliveries." },
        });
    }
    found
}

fn facts(report: &Report, daemon: &DaemonReport) -> Markup {
    let size = daemon.state_size;
    let coverage = &daemon.engine.coverage;
    let latency = daemon.since_start.attempts.event_latency_seconds;
    let latency = latency.map_or_else(
        || "–".to_owned(),
        |seconds| format!("{:.1} ms", seconds * 1_000.0),
    );
    let mut facts = vec![
        (
            "Repository",
            html! {
                @if daemon.repositories.is_empty() { (report.repository) }
                @else { ul { @for one in &daemon.repositories {
                    li { (one.name) ": " (one.path) ", " (counted(one.engine.projects as u64, "project"))
                        @if !one.engine.is_watching() { ", not watching" } }
                }
                @for one in &report.unwatched {
                    li { (one.text()) }
                } } }
            },
        ),
        ("Projects", html! { (report.projects()) }),
        (
            "Watched directories",
            html! {
                (coverage.watches)
                @if coverage.uncovered > 0 { ", " (coverage.uncovered) " not watched" }
                @if coverage.polls { ", with scans on a timer" }
            },
        ),
        (
            "State",
            html! {
                (ByteSize(size.used))
                @match size.limit {
                    Some(limit) => { " of " (ByteSize(limit)) " in " (report.state_dir) }
                    None => " in the database"
                }
            },
        ),
        (
            "Change to callback",
            html! { (latency) " on average since the start" },
        ),
        (
            "Process",
            html! {
                (daemon.pid) ", version " (daemon.version) ", for "
                (duration(daemon.uptime_seconds.saturating_mul(1_000)))
            },
        ),
    ];
    if let Some(fleet) = &report.fleet {
        facts.push(("Lease", lease(fleet)));
        facts.push(("Standbys", standbys(fleet)));
        facts.push(("Senders", senders(fleet)));
    }
    pairs(&facts)
}

fn lease(fleet: &FleetReport) -> Markup {
    html! {
        @match &fleet.holder {
            Some(holder) => {
                "Process " (holder.pid) " on " (holder.host) " since " (time(holder.since))
                ", epoch " (holder.epoch)
                @if !holder.is_valid { ", expired or released" }
            }
            None => "–",
        }
    }
}

fn standbys(fleet: &FleetReport) -> Markup {
    html! {
        @if fleet.standbys.is_empty() { "none" }
        @for (number, standby) in fleet.standbys.iter().enumerate() {
            @if number > 0 { "; " }
            "process " (standby.pid) " on " (standby.host) ", last seen " (time(standby.last_seen))
            @if !standby.is_waiting { ", no longer waiting" }
        }
    }
}

fn senders(fleet: &FleetReport) -> Markup {
    html! {
        @if fleet.senders.is_empty() { "none" }
        @for (number, sender) in fleet.senders.iter().enumerate() {
            @if number > 0 { "; " }
            "process " (sender.pid) " on " (sender.host) " with " (sender.lanes)
            @if sender.lanes == 1 { " lane" } @else { " lanes" }
            ", last seen " (time(sender.last_seen))
            @if !sender.is_alive { ", lease expired" }
        }
    }
}

fn queues(report: &Report) -> Markup {
    html! {
        h2 { "Webhooks" }
        div.wide tabindex="0" role="region" aria-label="Queues of the webhooks" {
            table {
                thead { tr {
                    th scope="col" { "Webhook" } th scope="col" { "State" }
                    th scope="col" { "Pending" } th scope="col" { "Oldest" }
                    th scope="col" { "Next attempt" } th scope="col" { "Delivered" }
                    th scope="col" { "Dead" } th scope="col" { "Last error" }
                } }
                tbody {
                    @for webhook in &report.webhooks {
                        tr {
                            td { a href={ "/deliveries?webhook=" (segment(&webhook.name)) } { (webhook.name) } }
                            td { (state(webhook.standing.as_str())) }
                            td { (number(webhook.pending)) }
                            td { (time_or_none(webhook.oldest_pending)) }
                            td { (time_or_none(webhook.next_attempt)) }
                            td { (number(webhook.delivered)) }
                            td { (number(webhook.dead)) }
                            td.text { @if let Some(error) = &webhook.last_error { (error.error) } }
                        }
                    }
                }
            }
        }
    }
}

/// Shows the ignored files.
pub(super) async fn files(State(server): State<Arc<Server>>) -> Result<Page, Failure> {
    let report = reads::report(&server, Counts::UpTo(0)).await?;
    let content = html! { div #files data-live { (ignored(&report.incomplete)) } };
    Ok(page(Section::Files, "Ignored files", &content))
}

pub(super) fn ignored(files: &[ProblemReport]) -> Markup {
    html! {
        @if files.is_empty() {
            p { "No file is ignored." }
        } @else {
            p { "These files are incomplete, invalid or unreadable. Each is read again once it is \
                fixed." }
            div.wide tabindex="0" role="region" aria-label="Ignored files" {
                table {
                    thead { tr {
                        th scope="col" { "File" } th scope="col" { "Line" }
                        th scope="col" { "Column" } th scope="col" { "Reason" }
                        th scope="col" { "Since" }
                    } }
                    tbody {
                        @for file in files {
                            tr {
                                td.text { code { (file.path) } }
                                td { @if let Some(line) = file.line { (line) } }
                                td { @if let Some(column) = file.column { (column) } }
                                td.text { (file.reason) }
                                td { (time(file.since)) }
                            }
                        }
                    }
                }
            }
            @if files.len() >= INCOMPLETE_MAX { p { "These are the first files; there may be more." } }
        }
    }
}
