//! `scan`: what `run` would infer now.
//!
//! Constraint: nothing is recorded, and the rules are the daemon's own: the same observer, the same
//! inference, the same doubts about a root that is not the recorded one. What is missing counts as
//! though every project had been quiet for `repository.settle`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use super::listen::print::Pairs;
use super::output::{BOLD, FAINT, Style, YELLOW, counted, print_json, safe};
use super::view::location;
use super::{DONE, recorded};
use crate::config::Config;
use crate::domain::event::InferredEvent;
use crate::domain::infer::Removals;
use crate::domain::moves::{self, Comparison, Conclusion};
use crate::domain::parameters::parameters;
use crate::domain::project::{ContentHash, FileState, Problem, ProjectKey, Recorded};
use crate::domain::route::{Subscription, route};
use crate::engine::phase::Start;
use crate::engine::root::RootGuard;
use crate::observe::Observer;
use crate::repository::Root;
use crate::store::{Listings, MetaKey};

/// A comparison is shown to go on when it takes longer than this.
const SHOWN_AFTER: u64 = 64;

/// What was found.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScanView {
    /// Nothing is recorded yet.
    first_start: bool,
    /// What is found is recorded without events.
    adopts: bool,
    /// What `run` would say first.
    notes: Vec<String>,
    /// How many projects were compared.
    projects: usize,
    changes: Vec<ChangeView>,
    incomplete: Vec<Problem>,
}

/// What changed in one project.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeView {
    organization: String,
    project: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_from: Option<String>,
    /// What changed where it is none of the seven, or is adopted without events.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent: Option<String>,
    events: Vec<EventView>,
}

#[derive(Serialize)]
struct EventView {
    event: &'static str,
    label: &'static str,
    path: String,
    because: String,
    parameters: serde_json::Value,
    webhooks: Vec<String>,
}

/// Compares everything and shows what would come of it.
pub(super) fn run(
    config: &Config,
    json: bool,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let view = scan(config, now)?;
    if json {
        print_json(out, &view)?;
    } else {
        print(&view, style, out)?;
    }
    Ok(DONE)
}

fn scan(config: &Config, now: Timestamp) -> anyhow::Result<ScanView> {
    let repository = &config.repository;
    let listings = recorded(config)?;
    let meta = |key| {
        let known = listings.as_ref().map(|known| known.meta(key));
        known.transpose().map(Option::flatten)
    };
    let start = Start::judge(
        meta(MetaKey::FirstStart)?.as_deref(),
        meta(MetaKey::Layout)?.as_deref(),
        repository,
    );
    let mut guard = RootGuard::new(repository.path.clone());
    guard.remember(meta(MetaKey::RepositoryRoot)?);

    let root = Root::open(&repository.path).with_context(|| {
        format!(
            "the repository's root {} cannot be opened; nothing is inferred without it",
            repository.path.display()
        )
    })?;
    guard.armed(Some(root.identity()));
    let mut observer = Observer::new(repository.layout.clone(), repository.max_file_size);
    let discovered = observer.discover(&root);
    let on_record = listings.as_ref().map_or(Ok(Vec::new()), Listings::keys)?;
    let n_on_record = on_record.len();
    let mut n_found = 0;
    let mut keys: Vec<ProjectKey> = discovered.keys.into_iter().chain(on_record).collect();
    keys.sort();
    keys.dedup();

    let mut incomplete = discovered.problems;
    let mut looks = Vec::with_capacity(keys.len());
    let progress = progress(keys.len() as u64);
    for key in keys {
        let recorded = listings
            .as_ref()
            .map_or(Ok(Recorded::default()), |known| known.recorded(&key))?;
        // The contents are not kept: a first look at a large repository reads all of it.
        let observed = observer.look(&root, &key, &recorded, now).observed;
        if !recorded.is_empty() && !observed.files.is_empty() {
            n_found += 1;
        }
        incomplete.extend(observed.problems().cloned());
        looks.push(Comparison {
            key,
            recorded,
            observed,
            removals: Removals::Confirmed,
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    anyhow::ensure!(
        root.is_in_place(),
        "the repository's root {} was replaced meanwhile; nothing that was seen counts",
        repository.path.display()
    );
    let mut notes = notes(start, config, listings.is_some());
    // A root that is not the recorded one comes to be trusted by what was found in it.
    let is_trusted = !guard.needs_survey() || guard.surveyed(n_found, n_on_record);
    if !is_trusted && !start.adopts {
        notes.extend(guard.distrust());
        looks.clear();
    }
    let subscriptions: Vec<Subscription> = config
        .webhooks
        .iter()
        .filter(|webhook| webhook.enabled)
        .map(|webhook| webhook.subscription.clone())
        .collect();
    let relocate =
        |file: &FileState, to: &ProjectKey| config.repository.layout.relocate(&file.path, to);
    let changes = looks
        .iter()
        .zip(moves::infer_all(&looks, &relocate))
        .filter_map(|(look, change)| view(look, change, start, config, &subscriptions))
        .collect();
    Ok(ScanView {
        first_start: start.is_first,
        adopts: start.adopts,
        notes,
        projects: looks.len(),
        changes,
        incomplete,
    })
}

/// A bar on standard error where that is a terminal and there is much to do.
pub(super) fn progress(n: u64) -> ProgressBar {
    if n < SHOWN_AFTER || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(n), ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn notes(start: Start, config: &Config, has_state: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if !has_state {
        notes.push(format!(
            "there is no state in {} yet",
            config.state_dir.display()
        ));
    }
    match (start.is_first, start.layout_changed, start.adopts) {
        (_, true, _) => notes.push(
            "repository.layout is not the one that the record was made with: what exists is \
             adopted under the new one, without events"
                .to_owned(),
        ),
        (true, _, true) => notes.push(
            "a first start: what exists is adopted, without events (on_first_start: adopt)"
                .to_owned(),
        ),
        (true, _, false) => {
            notes.push("a first start: what exists is reported (on_first_start: report)".to_owned())
        }
        (false, _, _) => {}
    }
    notes
}

/// What is shown of a change; nothing where there is none.
fn view(
    look: &Comparison,
    change: Conclusion,
    start: Start,
    config: &Config,
    subscriptions: &[Subscription],
) -> Option<ChangeView> {
    let key = &look.key;
    let inference = change.inference;
    let is_changed = contents(&look.recorded) != contents(&inference.record);
    if !is_changed && inference.events.is_empty() {
        return None;
    }
    let silent = if start.adopts {
        Some(format!("adopted: {}", inventory(&inference.record)))
    } else if change.moved_from.is_some() {
        Some("moved, which is none of the seven".to_owned())
    } else if inference.events.is_empty() {
        Some(difference(&look.recorded, &inference.record))
    } else {
        None
    };
    let events = inference
        .events
        .iter()
        .filter(|_| !start.adopts)
        .map(|inferred| event(key, inferred, config, subscriptions))
        .collect();
    Some(ChangeView {
        organization: key.organization.clone(),
        project: key.project.clone(),
        moved_from: change.moved_from.map(|from| from.to_string()),
        silent,
        events,
    })
}

fn event(
    key: &ProjectKey,
    inferred: &InferredEvent,
    config: &Config,
    subscriptions: &[Subscription],
) -> EventView {
    let pairs: Vec<(String, String)> =
        parameters(inferred.kind, key, &inferred.subject, &config.naming)
            .into_iter()
            .map(|(parameter, value)| (parameter.as_str().to_owned(), value))
            .collect();
    EventView {
        event: inferred.kind.as_str(),
        label: inferred.kind.label(),
        path: inferred.subject.path.clone(),
        because: inferred.because.clone(),
        // Strings under strings can always be written.
        parameters: serde_json::to_value(Pairs(&pairs)).unwrap_or_default(),
        webhooks: route(subscriptions, inferred.kind, key)
            .map(str::to_owned)
            .collect(),
    }
}

/// The paths with their contents; times that changed without the content mean nothing.
fn contents(recorded: &Recorded) -> BTreeMap<&str, ContentHash> {
    recorded
        .files()
        .map(|file| (file.path.as_str(), file.hash))
        .collect()
}

/// What a record consists of.
fn inventory(recorded: &Recorded) -> String {
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
        return "forgotten".to_owned();
    }
    parts.join(", ")
}

/// What differs where it is none of the seven.
fn difference(before: &Recorded, after: &Recorded) -> String {
    let is_saved = before.definition.as_ref().map(|file| file.hash)
        != after.definition.as_ref().map(|file| file.hash);
    let kept = contents(after);
    let n_gone = before
        .files()
        .filter(|file| !kept.contains_key(file.path.as_str()))
        .count();
    let mut parts = Vec::new();
    if is_saved {
        parts.push("an ordinary save".to_owned());
    }
    if n_gone > 0 {
        parts.push(format!("{} gone", counted(n_gone as u64, "file")));
    }
    format!("{}: none of the seven", parts.join(", "))
}

fn print(view: &ScanView, style: &Style, out: &mut dyn Write) -> io::Result<()> {
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
        let n = counted(view.incomplete.len() as u64, "place");
        let verb = if view.incomplete.len() == 1 {
            "does"
        } else {
            "do"
        };
        let heading = format!("{n} {verb} not count");
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
