//! `scan`: prints the events that `run` would infer now.
//!
//! Constraint: the command records nothing. It uses the same observer, inference and check of the
//! root as the daemon. It treats a missing file as removed, without waiting for
//! `repository.settle`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use super::output::{BOLD, FAINT, Progress, Style, YELLOW, counted, print_json, safe};
use super::view::{self, location};
use super::{DONE, recorded};
use crate::config::{Config, Repository};
use crate::domain::event::InferredEvent;
use crate::domain::infer::Removals;
use crate::domain::moves::{self, Comparison, Conclusion};
use crate::domain::parameters::parameters;
use crate::domain::project::{ContentHash, FileState, Problem, ProjectKey, Recorded};
use crate::domain::route::{Subscription, route};
use crate::domain::shared_ids::Hold;
use crate::domain::wave::{Census, Input, State};
use crate::engine::held_removals::wave_times;
use crate::engine::mounts::MountGuard;
use crate::engine::phase::Start;
use crate::engine::root::RootGuard;
use crate::observe::{Contents, Observer, Reported};
use crate::repository::Root;
use crate::store::{Listings, MetaKey};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScanView {
    /// Whether nothing is recorded yet.
    first_start: bool,
    /// Whether `run` would record the existing files without events.
    adopts: bool,
    /// Notes to print before the changes.
    notes: Vec<String>,
    /// The number of compared projects.
    projects: usize,
    changes: Vec<ChangeView>,
    incomplete: Vec<Problem>,
}

/// The change of one project.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeView {
    organization: String,
    project: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_from: Option<String>,
    /// The description of a change that causes no event.
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

/// Scans the repository and prints the events that `run` would infer.
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

    let missing = MountGuard::new(meta(MetaKey::Mounts)?).missing(&repository.path);

    let observed = observe(config, listings.as_ref(), &mut guard, missing, now)?;
    let (mut comparisons, incomplete) = observed;
    let known = |comparison: &&Comparison| !comparison.recorded.is_empty();
    let n_recorded = comparisons.iter().filter(known).count();
    let found = comparisons.iter().filter(known);
    let n_found = found
        .filter(|comparison| !comparison.observed.files.is_empty())
        .count();
    let mut notes = notes(start, config, listings.is_some());
    // If the root's identity differs from the record, it is trusted only with the recorded projects.
    let is_trusted = !guard.needs_survey() || guard.surveyed(n_found, n_recorded);
    if !is_trusted && !start.adopts {
        notes.extend(guard.distrust());
        comparisons.clear();
    }
    let subscriptions: Vec<Subscription> = config
        .webhooks
        .iter()
        .filter(|webhook| webhook.enabled)
        .map(|webhook| webhook.subscription.clone())
        .collect();
    let conclusions = infer(&comparisons, config);
    if !start.adopts {
        notes.extend(held_note(&comparisons, &conclusions, repository));
    }
    let mut changes = Vec::new();
    for (comparison, change) in comparisons.iter().zip(conclusions) {
        let heard = match &listings {
            Some(listings) => listings.listeners(&comparison.key)?,
            None => BTreeSet::new(),
        };
        let routes = Routes {
            subscriptions: &subscriptions,
            heard,
        };
        changes.extend(view(comparison, change, start, config, &routes));
    }
    Ok(ScanView {
        first_start: start.is_first,
        adopts: start.adopts,
        notes,
        projects: comparisons.len(),
        changes,
        incomplete,
    })
}

/// Infers the events of all projects.
fn infer(comparisons: &[Comparison], config: &Config) -> Vec<Conclusion> {
    let layout = &config.repository.layout;
    let relocate = |file: &FileState, to: &ProjectKey| layout.relocate(&file.path, to);
    let mut changes = moves::infer_all(comparisons, &relocate);
    for (comparison, change) in comparisons.iter().zip(&mut changes) {
        if change.hold.is_none() {
            continue;
        }
        // The daemon imports it in its next step, after the delete in the other organization.
        let mut next = comparison.clone();
        next.recorded = change.inference.record.clone();
        for later in moves::infer_all(&[next], &relocate) {
            change.inference.events.extend(later.inference.events);
            change.inference.record = later.inference.record;
        }
    }
    changes
}

/// Observes every project that is on disk or recorded. Also returns the invalid files.
fn observe(
    config: &Config,
    listings: Option<&Listings>,
    guard: &mut RootGuard,
    missing: BTreeMap<String, String>,
    now: Timestamp,
) -> anyhow::Result<(Vec<Comparison>, Vec<Problem>)> {
    let repository = &config.repository;
    let path = repository.path.display();
    let root = Root::open(&repository.path)
        .with_context(|| format!("cannot open the repository {path}"))?;
    guard.watched(Some(root.identity()));
    let mut observer = Observer::new(repository.layout.clone(), repository.max_file_size);
    observer.hide(missing);
    let discovered = observer.discover(&root);
    let recorded = listings.map_or(Ok(Vec::new()), |listings| listings.keys())?;
    let mut keys: Vec<ProjectKey> = discovered.keys.into_iter().chain(recorded).collect();
    keys.sort();
    keys.dedup();

    let mut incomplete = discovered.problems;
    let mut comparisons = Vec::with_capacity(keys.len());
    let mut progress = Progress::new(keys.len() as u64);
    for key in keys {
        let recorded =
            listings.map_or(Ok(Recorded::default()), |listings| listings.recorded(&key))?;
        // A first scan reads the whole repository, so it keeps no contents.
        let mut contents = Contents::none();
        let observed = observer
            .observe(
                &root,
                &key,
                &recorded,
                &Reported::default(),
                &mut contents,
                now,
            )
            .observed;
        incomplete.extend(observed.problems().cloned());
        comparisons.push(Comparison {
            key,
            recorded,
            observed,
            removals: Removals::Confirmed,
        });
        progress.add(1);
    }
    anyhow::ensure!(
        root.is_in_place(),
        "the repository {path} was replaced during the scan; scan again"
    );
    Ok((comparisons, incomplete))
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
            "repository.layout changed: `run` records the existing files without events".to_owned(),
        ),
        (true, _, true) => notes.push(
            "first start: `run` records the existing files without events (on_first_start: adopt)"
                .to_owned(),
        ),
        (true, _, false) => notes.push(
            "first start: `run` reports the existing files (on_first_start: report)".to_owned(),
        ),
        (false, _, _) => {}
    }
    notes
}

/// Returns a note if `run` would hold the removals.
fn held_note(
    comparisons: &[Comparison],
    conclusions: &[Conclusion],
    repository: &Repository,
) -> Option<String> {
    // A project that arrived in another organization did not vanish.
    let left: BTreeSet<&ProjectKey> = conclusions
        .iter()
        .filter_map(|conclusion| match &conclusion.hold {
            Some(Hold::Removal(from)) => Some(from),
            Some(Hold::Unclear(_)) | None => None,
        })
        .collect();
    let is_gone = |(comparison, conclusion): &(&Comparison, &Conclusion)| {
        let mut events = conclusion.inference.events.iter();
        comparison.observed.definition_is_gone()
            && !left.contains(&conclusion.key)
            && events.any(|event| event.kind.is_delete())
    };
    let n_gone = comparisons.iter().zip(conclusions).filter(is_gone).count();
    let is_defined = |comparison: &&Comparison| comparison.recorded.definition.is_some();
    let n_recorded = comparisons.iter().filter(is_defined).count();
    let census = Census {
        n_vanished: n_gone,
        n_gone,
        n_gone_in_all: n_gone,
        n_recorded,
        n_before: n_recorded,
        may_return: false,
    };
    let times = wave_times(repository);
    let vanished = State::of_vanished(n_gone);
    match vanished.after(Input::Ended(census), Duration::ZERO, times) {
        State::HeldForOperator => Some(format!(
            "all {n_gone} projects are gone: `run` holds their deletes until one of them is back, or \
             until `project-webhooks accept`"
        )),
        State::Held { .. } => Some(format!(
            "{n_gone} of {n_recorded} projects are gone: `run` holds their deletes for {} \
             (repository.mass_delete_after)",
            humantime::format_duration(times.hold)
        )),
        State::Calm | State::Chain { .. } | State::Wave { .. } => None,
    }
}

/// The webhooks that receive the events of a project.
struct Routes<'a> {
    subscriptions: &'a [Subscription],
    /// The webhooks that an earlier event of the project was routed to.
    heard: BTreeSet<String>,
}

/// Describes a change. Returns `None` if nothing changed.
fn view(
    comparison: &Comparison,
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
    let silent = if start.adopts {
        Some(format!("adopted: {}", inventory(&inference.record)))
    } else if change.moved_from.is_some() {
        Some("moved: no event".to_owned())
    } else if inference.events.is_empty() {
        Some(difference(&comparison.recorded, &inference.record))
    } else {
        None
    };
    let events = inference
        .events
        .iter()
        .filter(|_| !start.adopts)
        .map(|inferred| {
            let (after, before) = (&inference.record, &comparison.recorded);
            let definition = after.definition.as_ref().or(before.definition.as_ref());
            event(key, inferred, definition, config, routes)
        })
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
    definition: Option<&FileState>,
    config: &Config,
    routes: &Routes<'_>,
) -> EventView {
    let (subject, naming) = (&inferred.subject, &config.naming);
    let parameters = parameters(inferred.kind, key, subject, definition, naming);
    EventView {
        event: inferred.kind.as_str(),
        label: inferred.kind.label(),
        path: inferred.subject.path.clone(),
        because: inferred.because.clone(),
        parameters: view::parameters(&parameters),
        webhooks: route(routes.subscriptions, inferred.kind, key, &routes.heard)
            .map(str::to_owned)
            .collect(),
    }
}

/// The paths of a record with their content hashes. A changed time alone is not a change.
fn contents(recorded: &Recorded) -> BTreeMap<&str, ContentHash> {
    recorded
        .files()
        .map(|file| (file.path.as_str(), file.hash))
        .collect()
}

/// Counts the files in a record by role, in words.
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

/// Describes a change that causes no event.
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
        parts.push(format!("{} removed", counted(n_gone as u64, "file")));
    }
    format!("{}: no event", parts.join(", "))
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
