//! `scan`: prints the events that `run` would infer now.
//!
//! Constraint: the command records nothing. It uses the daemon's observer, inference and check of
//! the root. It treats a missing file as removed immediately, without waiting for
//! `repository.settle`. If the repository does not respond for 30 s, the command fails.

mod result;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::Timestamp;

use super::output::{Progress, Style, print_json};
use super::{DONE, recorded};
use crate::config::{Config, Repository};
use crate::domain::infer::Removals;
use crate::domain::moves::{self, Comparison, Conclusion};
use crate::domain::project::{FileState, Problem, ProjectKey, Recorded};
use crate::domain::route::Subscription;
use crate::domain::shared_ids::Hold;
use crate::domain::wave::{Census, Input, State};
use crate::engine::held_removals::wave_times;
use crate::engine::mounts::MountGuard;
use crate::engine::phase::Start;
use crate::engine::root::RootGuard;
use crate::observe::{Contents, Observer, Reported};
use crate::repository::Root;
use crate::store::{Listings, MetaKey};
use result::{Routes, ScanView, print, view};

/// The maximum time without progress. Each directory, each entry and each project is progress.
const STANDSTILL: Duration = Duration::from_secs(30);

pub(super) fn run(
    config: &Config,
    json: bool,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let configs = Arc::new(config.clone()).of_each_repository();
    let mut views = Vec::new();
    for config in &configs {
        views.push(scan_apart(config, now)?);
    }
    match (json, views.as_slice()) {
        (true, [only]) if config.repositories.is_empty() => print_json(out, only)?,
        (true, all) => print_json(out, &all)?,
        (false, all) => {
            for view in all {
                print(view, style, out)?;
            }
        }
    }
    Ok(DONE)
}

/// A message from the thread of a scan.
enum Step {
    Progress,
    Done(anyhow::Result<ScanView>),
}

/// Scans on a separate thread, because a system call that hangs cannot be cancelled.
fn scan_apart(config: &Arc<Config>, now: Timestamp) -> anyhow::Result<ScanView> {
    let (sender, steps) = sync_channel(1);
    let scanned = Arc::clone(config);
    std::thread::Builder::new()
        .name("scan".to_owned())
        .spawn(move || {
            let done = scan(&scanned, now, &sender);
            // If the command has stopped waiting, nobody receives the result.
            let _ = sender.send(Step::Done(done));
        })
        .context("cannot start a thread for the scan")?;
    let path = config.repository.path.display();
    loop {
        match steps.recv_timeout(STANDSTILL) {
            Ok(Step::Progress) => {}
            Ok(Step::Done(done)) => return done,
            Err(RecvTimeoutError::Timeout) => {
                Progress::erase();
                let or_database = match config.store {
                    Some(_) => ", or is the database unreachable",
                    None => "",
                };
                return Err(anyhow!(
                    "the repository {path} does not answer; is its disk or network file system stuck\
                     {or_database}?"
                ));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow!(
                    "the scan of {path} ended unexpectedly; please report this bug"
                ));
            }
        }
    }
}

fn scan(config: &Config, now: Timestamp, steps: &SyncSender<Step>) -> anyhow::Result<ScanView> {
    let repository = &config.repository;
    let name = repository.name_in_keys();
    let listings = recorded(config)?;
    let meta = |key| {
        let known = listings
            .as_ref()
            .map(|known| known.meta_of(name.as_deref(), key));
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

    let observer = Observer::new(repository.layout.clone(), repository.max_file_size);
    let observing = steps.clone();
    let mut observer = observer.with_progress(move || drop(observing.try_send(Step::Progress)));
    observer.hide(missing);
    let observed = observe(config, listings.as_ref(), &mut guard, observer, now)?;
    let (mut comparisons, incomplete) = observed;
    let known = |comparison: &&Comparison| !comparison.recorded.is_empty();
    let n_recorded = comparisons.iter().filter(known).count();
    let found = comparisons.iter().filter(known);
    let n_found = found
        .filter(|comparison| !comparison.observed.files.is_empty())
        .count();
    let mut notes = notes(start, listings.is_some());
    // A root with another identity than the recorded one is trusted only if it has enough of the
    // recorded projects.
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
    let former = former_records(&comparisons, &conclusions, config);
    let mut projects = 0;
    let mut changes = Vec::new();
    for (comparison, change) in comparisons.iter().zip(conclusions) {
        // Show a moved project once, at its new path.
        if former.contains_key(&comparison.key) && change.inference.record.is_empty() {
            continue;
        }
        let (before, after) = (&comparison.recorded, &change.inference.record);
        // Files without a definition (project.xml) are not a project.
        projects += usize::from(before.definition.is_some() || after.definition.is_some());
        let moved_from = change.moved_from.as_ref();
        let before = moved_from.and_then(|from| former.get(from));
        // The query below may take a round trip to the database, so report progress first.
        drop(steps.try_send(Step::Progress));
        let heard = match &listings {
            Some(listings) if !change.inference.events.is_empty() => {
                listings.listeners(&comparison.key)?
            }
            _ => BTreeSet::new(),
        };
        let routes = Routes {
            subscriptions: &subscriptions,
            heard,
        };
        let before = before.unwrap_or(&comparison.recorded);
        changes.extend(view(comparison, before, change, start, config, &routes));
    }
    Ok(ScanView {
        repository: name.map(|name| name.to_string()),
        first_start: start.is_first,
        adopts: start.adopts,
        notes,
        projects,
        changes,
        incomplete,
    })
}

/// Returns the records of moved projects by their former keys. The files have their new paths.
fn former_records(
    comparisons: &[Comparison],
    conclusions: &[Conclusion],
    config: &Config,
) -> BTreeMap<ProjectKey, Recorded> {
    let layout = &config.repository.layout;
    let moved = conclusions
        .iter()
        .filter_map(|change| Some((change.moved_from.as_ref()?, &change.key)));
    let moved: BTreeMap<&ProjectKey, &ProjectKey> = moved.collect();
    let relocated = |comparison: &Comparison| {
        let to = moved.get(&comparison.key)?;
        let files = comparison.recorded.files().map(|file| FileState {
            path: layout
                .relocate(&file.path, to)
                .unwrap_or_else(|| file.path.clone()),
            ..file.clone()
        });
        Some((comparison.key.clone(), files.collect()))
    };
    comparisons.iter().filter_map(relocated).collect()
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
        // The daemon imports the project in its next step, after the delete in the other
        // organization. Infer the events of both steps.
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
    mut observer: Observer,
    now: Timestamp,
) -> anyhow::Result<(Vec<Comparison>, Vec<Problem>)> {
    let repository = &config.repository;
    let path = repository.path.display();
    let root = Root::open(&repository.path)
        .with_context(|| format!("cannot open the repository {path}"))?;
    guard.watched(Some(root.identity()));
    let discovered = observer.discover(&root);
    let name = repository.name_in_keys();
    let mut recorded = listings.map_or(Ok(Vec::new()), |listings| listings.keys())?;
    recorded.retain(|key| key.repository() == name.as_deref());
    let mut keys: Vec<ProjectKey> = discovered.keys.into_iter().chain(recorded).collect();
    keys.sort();
    keys.dedup();

    let mut incomplete = discovered.problems;
    let mut comparisons = Vec::with_capacity(keys.len());
    let mut progress = Progress::new(keys.len() as u64);
    for key in keys {
        let recorded =
            listings.map_or(Ok(Recorded::default()), |listings| listings.recorded(&key))?;
        // A first scan reads the whole repository, so do not keep file contents in memory.
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

fn notes(start: Start, has_state: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if !has_state {
        notes.push("nothing is recorded yet".to_owned());
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
    // A project that moved to another organization did not vanish.
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
            "all {n_gone} projects are gone: `run` holds their deletes at least until one of them is \
             back, or until `project-webhooks accept`"
        )),
        State::Held { .. } => Some(format!(
            "{n_gone} of {n_recorded} projects are gone: `run` holds their deletes for {} \
             (repository.mass_delete_after)",
            humantime::format_duration(times.hold)
        )),
        State::Calm | State::Chain { .. } | State::Wave { .. } => None,
    }
}
