//! Runs a step: observes due projects, judges the observations, commits the result.
//!
//! Constraint: a step is all or nothing, except for the portions of large changes. If the root or
//! the store fails, all projects of the step become due again, and their reported files are kept.
//! While the store cannot commit, inference waits. No change is lost, because the record still
//! differs from the disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Parts;
use super::actors::{Actors, Users};
use super::copies::Copies;
use super::gather::Gatherer;
use super::held_removals::{HeldRemovals, wave_times};
use super::invalid_files::InvalidFiles;
use super::judge::{Judgement, Routes, Rules, judge};
use super::kept_ids::{KeptIdChanges, KeptIds};
use super::mounts::{Checking, MountGuard};
use super::observation::Gathered;
use super::phase::{Phase, Start};
use super::portions::Unrecorded;
use super::recorder::Recorder;
use super::reported_files::ReportedFiles;
use super::root::RootGuard;
use super::status::{Status, Trouble};
use super::timers::Timers;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::event::Origin;
use crate::domain::project::ProjectKey;
use crate::domain::settle::{Agenda, Due, Moment};
use crate::observe::Observer;
use crate::repository::Root;
use crate::store::{Batch, MetaKey, StoreError};

/// The delay before a project with unrecorded portions is observed again.
const CHANGED_DELAY: Duration = Duration::from_millis(50);

/// The parts of the engine that infer and record events.
pub(super) struct Worker {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub status: Arc<Status>,
    pub observer: Observer,
    pub agenda: Agenda,
    pub held_removals: HeldRemovals,
    pub reported: ReportedFiles,
    pub invalid_files: InvalidFiles,
    /// Paths outside any project whose entries may have become unusable or usable.
    pub doubted_unusable: BTreeSet<String>,
    pub root: RootGuard,
    pub mounts: MountGuard,
    pub phase: Phase,
    pub timers: Timers,
    pub routes: Routes,
    pub recorder: Recorder,
    /// The recorded projects whose id is not in their definition. `None` until they are needed.
    kept: Option<KeptIds>,
    pub actors: Actors,
    pub copies: Copies,
    /// Whether a full scan is needed, for instance because the hidden paths changed.
    pub compares_again: bool,
}

impl Worker {
    /// Makes the parts from the recorded state.
    pub(super) fn new(parts: Parts) -> Result<Self, StoreError> {
        let (store, repository) = (&parts.store, &parts.config.repository);
        let start = Start::judge(
            store.meta(MetaKey::FirstStart)?.as_deref(),
            store.meta(MetaKey::Layout)?.as_deref(),
            repository,
        );
        if start.layout_changed {
            warn!(
                "repository.layout changed since the last run; existing projects are recorded \
                 without events"
            );
        }
        let mut root = RootGuard::new(repository.path.clone());
        root.remember(store.meta(MetaKey::RepositoryRoot)?);
        let mounts = MountGuard::new(store.meta(MetaKey::Mounts)?);
        let invalid_files = InvalidFiles::recorded_before(store.problems()?);
        let mut agenda = Agenda::new(repository.settle);
        let now = (parts.clock.moment(), parts.clock.now());
        agenda.set_times(wave_times(repository), now.0);
        let held_removals = HeldRemovals::recorded_before(store, &mut agenda, now)?;
        parts.status.set_problems(invalid_files.count());
        let mut actors = Actors::default();
        actors.configure(&parts.config, parts.clock, &parts.status);
        Ok(Self {
            observer: observer(&parts.config, parts.clock, &parts.status),
            agenda,
            held_removals,
            reported: ReportedFiles::default(),
            invalid_files,
            doubted_unusable: BTreeSet::new(),
            root,
            mounts,
            phase: Phase::Starting {
                adopting: start.adopts,
                is_first: start.is_first,
            },
            timers: Timers::new(repository),
            routes: Routes::of(&parts.config),
            recorder: Recorder::new(
                parts.store,
                parts.queues,
                Arc::clone(&parts.status),
                parts.traces,
            ),
            kept: None,
            actors,
            copies: Copies::default(),
            compares_again: false,
            config: parts.config,
            clock: parts.clock,
            status: parts.status,
        })
    }

    /// Whether observations may be compared with the record.
    pub(super) fn may_infer(&self) -> bool {
        self.root.is_trusted() && !self.lacks_mounts_to_adopt()
    }

    /// Whether the engine is adopting and a path is hidden. Then adopting has to wait.
    ///
    /// Otherwise the projects below the hidden path would be recorded as removed, without an event,
    /// and their return would be an import.
    fn lacks_mounts_to_adopt(&self) -> bool {
        self.phase.is_adopting() && !self.mounts.hidden().is_empty()
    }

    /// Observes and judges due projects, and commits the result.
    ///
    /// If that fails, the projects become due again.
    pub(super) fn step(&mut self, due: Vec<Due>) {
        let taken: Vec<(ProjectKey, Origin)> = due
            .iter()
            .map(|due| (due.key.clone(), due.origin))
            .collect();
        let root = match self.root.open() {
            Ok(Some(root)) => root,
            Ok(None) | Err(_) => return self.doubt_root(&taken),
        };
        if !self.check_mounts(&root) {
            return self.put_back(&taken);
        }
        let now = self.clock.now();
        let mut gathered = Gathered::default();
        let mut gatherer = Gatherer {
            root: &root,
            store: self.recorder.store(),
            observer: &mut self.observer,
            agenda: &self.agenda,
            reported: &mut self.reported,
            kept: &mut self.kept,
            copies: &mut self.copies,
            clock: self.clock,
            is_adopting: self.phase.is_adopting(),
            now,
        };
        if let Err(error) = gatherer.gather(due, &mut gathered) {
            gathered.put_back_reported(&mut self.reported);
            self.put_back(&taken);
            return self.store_failed(&error);
        }
        let rules = Rules {
            config: &self.config,
            routes: &self.routes,
            invalid_files: &self.invalid_files,
            is_adopting: self.phase.is_adopting(),
            now,
        };
        let mut judgement = judge(&mut gathered, &rules);
        // If the root or a mount changed in the meantime, a missing file may still exist.
        if !root.is_in_place() || self.mounts.has_changed(&self.config.repository.path) {
            gathered.put_back_reported(&mut self.reported);
            return self.doubt_root(&taken);
        }
        if !judgement.unnamed.is_empty() {
            let users = Users {
                observer: &self.observer,
                clock: self.clock,
                now,
            };
            let config = &self.config;
            self.actors.name(&mut judgement, &root, config, &users);
        }
        let shared_now = self.recorder.store().shared_now();
        judgement.address(&self.routes, shared_now.unwrap_or(now));
        if self.agenda.is_calm() && judgement.has_vanished() {
            match self.recorder.store().n_defined() {
                Ok(n_recorded) => self.agenda.begins_with(n_recorded),
                Err(error) => {
                    gathered.put_back_reported(&mut self.reported);
                    self.put_back(&taken);
                    return self.store_failed(&error);
                }
            }
        }
        let batch = std::mem::replace(&mut judgement.batch, Batch::new(now));
        if self.commit_with_payloads(batch, &gathered.contents, &root) {
            let portions = std::mem::take(&mut judgement.portions);
            let unrecorded = self.commit_portions(portions, &gathered.contents, &root);
            self.after_commit(judgement, gathered, &taken, &unrecorded);
        } else {
            gathered.put_back_reported(&mut self.reported);
            self.put_back(&taken);
        }
        self.copies.end_step();
    }

    /// Checks the mounts below the root if they changed. Returns whether a step may follow.
    fn check_mounts(&mut self, root: &Root) -> bool {
        let repository = &self.config.repository;
        if !self.mounts.has_changed(&repository.path) {
            return true;
        }
        let checking = Checking {
            root,
            repository,
            store: self.recorder.store(),
            now: self.clock.moment(),
            on_progress: &|| self.status.beat(self.clock.moment()),
        };
        match self.mounts.check(&checking) {
            Ok(is_change) => {
                self.observer.hide(self.mounts.hidden().clone());
                self.compares_again |= is_change;
                !self.lacks_mounts_to_adopt()
            }
            Err(error) => {
                self.store_failed(&error);
                false
            }
        }
    }

    /// Checks hidden mounts again at intervals. Their projects may have come back.
    pub(super) fn survey_mounts(&mut self, now: Moment) {
        if self.mounts.hidden().is_empty() || !self.timers.is_survey_due(now) {
            return;
        }
        self.timers.surveyed(now, &self.config.repository);
        self.mounts.doubt();
        if let Ok(Some(root)) = self.root.open() {
            self.check_mounts(&root);
        }
    }

    fn after_commit(
        &mut self,
        judgement: Judgement,
        gathered: Gathered,
        taken: &[(ProjectKey, Origin)],
        unrecorded: &Unrecorded,
    ) {
        for (key, from) in &judgement.moved {
            info!(project = %key, %from, "the project moved");
        }
        self.status
            .add_projects(judgement.n_added, judgement.n_removed);
        let now = self.clock.moment();
        for (key, unresolved) in judgement.unresolved {
            self.agenda.observed(&key, now, unresolved);
        }
        for (key, moves_to) in &judgement.waits_for {
            self.agenda.confirm_after(key, moves_to);
        }
        for (key, other) in &judgement.removed_with {
            self.agenda.confirm_with(key, other, now);
        }
        for (key, from) in &judgement.held {
            self.agenda.observe_after(key, from, now);
        }
        let not_observed = taken.iter().filter(|(key, _)| !gathered.keys.contains(key));
        for (key, origin) in not_observed {
            self.agenda
                .check(key, now, *origin, "postponed: the batch was full");
        }
        for mut observation in gathered.observations {
            let key = &observation.comparison.key;
            if let Some(n_recorded) = unrecorded.get(key).copied() {
                let (hint, origin) = (&observation.hint, observation.origin);
                self.agenda
                    .hint_later(key, now, CHANGED_DELAY, origin, hint);
                observation.keep_unrecorded(n_recorded);
            }
            let (key, unresolved) = observation.unresolved_reports();
            self.reported.put_back(&key, unresolved);
        }
    }

    /// Publishes the counts of the audit source in the status.
    pub(super) fn report_actors(&mut self) {
        self.actors.report(&self.status);
    }

    /// Commits a batch. Returns whether that succeeded.
    pub(super) fn commit(&mut self, mut batch: Batch) -> bool {
        let problems = batch.problems.clone();
        let mounts = self.mounts.to_record();
        batch
            .meta
            .extend(mounts.clone().map(|text| (MetaKey::Mounts, text)));
        let kept = KeptIdChanges::of(&batch);
        self.copies.committed(&batch);
        if let Err(error) = self.recorder.commit(batch) {
            self.store_failed(&error);
            return false;
        }
        if let Some(index) = &mut self.kept {
            index.apply(kept);
        }
        if let Some(text) = mounts {
            self.mounts.remember(text);
        }
        if !problems.is_empty() {
            let now = self.clock.moment();
            for (key, problems) in problems {
                self.invalid_files.recorded(key, problems, now);
            }
            self.status.set_problems(self.invalid_files.count());
        }
        true
    }

    /// Reports a failure of the store and pauses inference.
    pub(super) fn store_failed(&mut self, error: &StoreError) {
        self.copies.clear();
        self.recorder.failed(error);
        self.timers.pause(self.clock.moment());
    }

    /// Makes the projects of a failed step due again, with the same origin.
    fn put_back(&mut self, taken: &[(ProjectKey, Origin)]) {
        let now = self.clock.moment();
        for (key, origin) in taken {
            self.agenda.check(key, now, *origin, "observed again");
        }
    }

    /// Drops a step because the root or a mount may have changed.
    ///
    /// The projects of the step are due again, and the root is checked immediately.
    pub(super) fn doubt_root(&mut self, taken: &[(ProjectKey, Origin)]) {
        self.copies.clear();
        self.put_back(taken);
        let now = self.clock.moment();
        self.timers.pulse_now(now);
        self.timers.pause(now);
    }

    /// Looks up unknown owners again. Returns whether some are known now.
    pub(super) fn retry_owners(&self) -> bool {
        self.observer.retry_owners(self.clock.now())
    }

    /// Whether a full scan may compare the root with the record. If not, reports the reason.
    ///
    /// `n_found` is the number of recorded projects that have a directory or a file.
    pub(super) fn may_compare(&mut self, recorded: &[ProjectKey], n_found: usize) -> bool {
        if self.root.needs_survey() && !self.survey_root(recorded, n_found) {
            return false;
        }
        if !self.phase.is_adopting() {
            return true;
        }
        match self.root.open() {
            Ok(Some(root)) if self.check_mounts(&root) => return true,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => self.doubt_root(&[]),
        }
        let reason = self.missing_mount();
        if reason.is_some() {
            self.status.set_trouble(Trouble::Root, reason);
        } else {
            self.compares_again = true;
        }
        false
    }

    /// Returns the reason why nothing may be inferred, although the root can be opened.
    pub(super) fn distrust(&self) -> Option<String> {
        self.root.distrust().or_else(|| self.missing_mount())
    }

    /// Returns the reason why adopting has to wait, if a path is hidden. `None` if not adopting.
    fn missing_mount(&self) -> Option<String> {
        let (path, reason) = self.mounts.hidden().first_key_value()?;
        let reason = format!("the new repository.layout waits for {path}: {reason}");
        self.phase.is_adopting().then_some(reason)
    }

    /// Surveys the root. Returns whether the root is trusted. If not, reports the reason.
    ///
    /// If `repository.layout` and `repository.path` both change, the same files may have new paths
    /// below the root. So while adopting, it is enough if half of the recorded projects have a
    /// directory or a file.
    fn survey_root(&mut self, recorded: &[ProjectKey], n_found: usize) -> bool {
        let on_progress = || self.status.beat(self.clock.moment());
        let store = self.recorder.store();
        let is_adopting = self.phase.is_adopting();
        let surveyed = if is_adopting && n_found.saturating_mul(2) >= recorded.len() {
            Ok(self.root.surveyed(n_found, recorded.len()))
        } else {
            self.root.survey(store, recorded, on_progress)
        };
        match surveyed {
            Ok(true) => {
                // After a failed survey, somebody is probably restoring the root. During a start,
                // assume that too.
                let is_restored = self.root.take_incomplete() || self.phase.is_starting();
                if is_restored && !is_adopting {
                    self.agenda.expect_returns(self.clock.moment());
                }
                return true;
            }
            Ok(false) => {
                if let Some(reason) = self.root.distrust()
                    && self.status.set_trouble(Trouble::Root, Some(reason.clone()))
                {
                    warn!("{reason}");
                }
            }
            Err(error) => self.store_failed(&error),
        }
        let now = self.clock.moment();
        self.timers.surveyed(now, &self.config.repository);
        false
    }

    /// Records the end of a full scan. Returns whether that succeeded.
    pub(super) fn record_scan(&mut self) -> bool {
        // Mounts may have appeared although no project changed. This commit records them.
        let is_checked = match self.root.open() {
            Ok(Some(root)) => self.check_mounts(&root),
            Ok(None) | Err(_) => false,
        };
        if !is_checked {
            return false;
        }
        let now = self.clock.now();
        let mut batch = Batch::new(now);
        let identity = self.root.identity_to_record();
        batch
            .meta
            .extend(identity.clone().map(|text| (MetaKey::RepositoryRoot, text)));
        if self.phase != Phase::Running {
            let layout = self.config.repository.layout.to_string();
            batch.meta.push((MetaKey::Layout, layout));
        }
        if self.phase.is_first_start() {
            batch.meta.push((MetaKey::FirstStart, now.to_string()));
        }
        // Commit even an empty batch: success clears an earlier failure of the store.
        if !self.commit(batch) {
            return false;
        }
        if identity.is_some() {
            self.root.remember(identity);
        }
        if self.status.set_trouble(Trouble::Root, None) {
            info!("the repository is back");
        }
        true
    }
}

/// Makes an observer whose reads report progress of the engine.
fn observer(config: &Config, clock: Clock, status: &Arc<Status>) -> Observer {
    let repository = &config.repository;
    let status = Arc::clone(status);
    Observer::new(repository.layout.clone(), repository.max_file_size)
        .with_progress(move || status.beat(clock.moment()))
}
