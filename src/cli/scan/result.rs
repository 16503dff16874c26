//! Describes and prints the result of a scan.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::Serialize;

use crate::cli::output::{BOLD, FAINT, Style, YELLOW, counted, safe};
use crate::config::Config;
use crate::domain::event::InferredEvent;
use crate::domain::moves::{Comparison, Conclusion};
use crate::domain::parameters::parameters;
use crate::domain::project::{ContentHash, FileState, Problem, ProjectKey, Recorded, Role};
use crate::domain::route::{Properties, Subscription, route};
use crate::engine::phase::Start;
use crate::error::location;
use crate::operator::view;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScanView {
    /// The name of the repository, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repository: Option<String>,
    /// Whether nothing is recorded yet.
    pub(super) first_start: bool,
    /// Whether `run` would record the existing files without events.
    pub(super) adopts: bool,
    pub(super) notes: Vec<String>,
    /// The number of compared projects that have a definition now or had one before.
    pub(super) projects: usize,
    pub(super) changes: Vec<ChangeView>,
    pub(super) incomplete: Vec<Problem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChangeView {
    pub(super) organization: String,
    pub(super) project: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) moved_from: Option<String>,
    /// The description of a change that causes no event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) silent: Option<String>,
    pub(super) events: Vec<EventView>,
}

#[derive(Serialize)]
pub(super) struct EventView {
    pub(super) event: &'static str,
    pub(super) label: &'static str,
    pub(super) path: String,
    pub(super) because: String,
    pub(super) parameters: serde_json::Value,
    pub(super) webhooks: Vec<String>,
}

/// The facts that decide which webhooks receive the events of a project.
pub(super) struct Routes<'a> {
    pub(super) subscriptions: &'a [Subscription],
    /// The webhooks that an earlier event of the project was routed to.
    pub(super) heard: BTreeSet<String>,
}

/// Describes a change. Returns `None` if nothing changed.
///
/// `former` is the record before the change. If the project moved, its paths in `former` are
/// already changed to the new ones, so that moved files do not count as removed.
pub(super) fn view(
    comparison: &Comparison,
    former: &Recorded,
    change: Conclusion,
    start: Start,
    config: &Config,
    routes: &Routes<'_>,
) -> Option<ChangeView> {
    let key = &comparison.key;
    let inference = change.inference;
    let is_changed = contents(&comparison.recorded) != contents(&inference.record);
    if !is_changed && inference.events.is_empty() {
        return None;
    }
    let events: Vec<EventView> = inference
        .events
        .iter()
        .filter(|_| !start.adopts)
        .filter_map(|inferred| {
            let (after, before) = (&inference.record, &comparison.recorded);
            let definition = after.definition.as_ref().or(before.definition.as_ref());
            // An opt-in event is recorded only if a webhook may receive it.
            let mut subscriptions = routes.subscriptions.iter();
            let is_recorded = !inferred.kind.is_opt_in()
                || subscriptions.any(|one| one.may_receive(inferred.kind, key));
            is_recorded.then(|| event(key, inferred, definition, config, routes))
        })
        .collect();
    let silent = if start.adopts {
        Some(adopted(&inference.record))
    } else if events.is_empty() {
        let is_moved = change.moved_from.is_some();
        Some(difference(is_moved, former, &inference.record))
    } else {
        None
    };
    Some(ChangeView {
        organization: key.organization_name().to_owned(),
        project: key.project.clone(),
        moved_from: change.moved_from.map(|from| from.path()),
        silent,
        events,
    })
}

fn event(
    key: &ProjectKey,
    inferred: &InferredEvent,
    definition: Option<&FileState>,
    config: &Config,
    routes: &Routes<'_>,
) -> EventView {
    let parameters = parameters(inferred, key, definition, &config.naming);
    let properties = Properties {
        kind: inferred.kind,
        key,
        parameters: &parameters,
    };
    EventView {
        event: inferred.kind.as_str(),
        label: inferred.kind.label(),
        path: inferred.subject.path.clone(),
        because: inferred.because.clone(),
        parameters: view::parameters(&parameters),
        webhooks: route(routes.subscriptions, properties, &routes.heard)
            .map(str::to_owned)
            .collect(),
    }
}

/// Returns the paths and content hashes of a record, which decide whether a project changed.
fn contents(recorded: &Recorded) -> BTreeMap<&str, ContentHash> {
    recorded
        .files()
        .filter(|file| file.role != Role::Deleted)
        .map(|file| (file.path.as_str(), file.hash))
        .collect()
}

/// Describes a record that is adopted without events: counts its files by role.
fn adopted(recorded: &Recorded) -> String {
    let mut parts = Vec::new();
    if recorded.definition.is_some() {
        parts.push("1 definition".to_owned());
    }
    for (files, noun) in [
        (&recorded.snapshots, "snapshot"),
        (&recorded.published, "published copy"),
    ] {
        if !files.is_empty() {
            parts.push(counted(files.len() as u64, noun));
        }
    }
    if parts.is_empty() {
        return "no files in the layout: removed from the record without events".to_owned();
    }
    format!("adopted: {}", parts.join(", "))
}

/// Describes a change that causes no event.
fn difference(is_moved: bool, before: &Recorded, after: &Recorded) -> String {
    let is_saved = before.definition.as_ref().map(|file| file.hash)
        != after.definition.as_ref().map(|file| file.hash);
    let kept = contents(after);
    let before = contents(before);
    let n_gone = before
        .keys()
        .filter(|path| !kept.contains_key(*path))
        .count();
    let mut parts = Vec::new();
    if is_moved {
        parts.push("moved".to_owned());
    }
    if is_saved {
        parts.push("an ordinary save".to_owned());
    }
    if n_gone > 0 {
        parts.push(format!("{} removed", counted(n_gone as u64, "file")));
    }
    format!("{}: no event", parts.join(", "))
}

pub(super) fn print(view: &ScanView, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    if let Some(name) = &view.repository {
        writeln!(
            out,
            "{}",
            style.paint(BOLD, &format!("repository {}", safe(name)))
        )?;
    }
    for note in &view.notes {
        writeln!(out, "{}: {}", style.paint(YELLOW, "note"), safe(note))?;
    }
    let mut n_events = 0_u64;
    for change in &view.changes {
        let key = format!("{}/{}", change.organization, change.project);
        write!(out, "{}", style.paint(BOLD, &safe(&key)))?;
        if let Some(from) = &change.moved_from {
            write!(out, " (was {})", safe(from))?;
        }
        writeln!(out)?;
        if let Some(silent) = &change.silent {
            writeln!(out, "  {}", style.paint(FAINT, silent))?;
        }
        for event in &change.events {
            n_events = n_events.saturating_add(1);
            let to = if event.webhooks.is_empty() {
                "no webhook".to_owned()
            } else {
                event.webhooks.join(", ")
            };
            writeln!(out, "  {} -> {}", event.label, safe(&to))?;
            let why = format!("{}: {}", safe(&event.path), safe(&event.because));
            writeln!(out, "    {}", style.paint(FAINT, &why))?;
        }
    }
    if !view.incomplete.is_empty() {
        let n = counted(view.incomplete.len() as u64, "file");
        let heading = format!("{n} ignored");
        writeln!(out, "{}", style.paint(YELLOW, &heading))?;
        for problem in &view.incomplete {
            let place = location(&problem.path, problem.line, problem.column);
            writeln!(out, "  {}: {}", safe(&place), safe(&problem.reason))?;
        }
    }
    let compared = counted(view.projects as u64, "project");
    let changed = counted(view.changes.len() as u64, "change");
    let events = counted(n_events, "event");
    writeln!(
        out,
        "{compared} compared: {changed}, {events}. Nothing was recorded."
    )
}
