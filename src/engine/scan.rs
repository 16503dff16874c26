//! The comparison of everything.
//!
//! Constraint: it disturbs nobody. It is taken in pieces, and what was hinted meanwhile is looked at
//! between two of them; a project whose metadata proves it unchanged costs no look; and where
//! comparisons are made again and again, because changes are not reported, they take a quarter of a
//! core at most.
//!
//! The projects come from a walk of the watch thread, while it goes on ([`Hint::ProjectsFound`]), or from
//! one here. Those on record that the walk did not find are compared last.
//!
//! [`Hint::ProjectsFound`]: crate::hint::Hint::ProjectsFound

use std::sync::atomic::Ordering;

use tracing::{debug, info, warn};

use super::status::Trouble;
use super::{BATCH, Loop};
use crate::domain::event::Origin;
use crate::domain::project::{Problem, ProjectKey, Recorded};
use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;
use crate::observe::is_unchanged;
use crate::repository::{Root, RootIdentity};

/// How many projects are compared at once: what is hinted meanwhile waits for them, a millisecond or
/// two. With 256 an edit among 100,000 projects took 19 ms to its callback instead of 2.
const PIECE: usize = 32;

/// The comparison of everything, in progress.
#[derive(Debug)]
pub(super) struct Scan {
    reason: RescanReason,
    origin: Origin,
    /// The projects that are known so far, and how many of them were compared.
    keys: Vec<ProjectKey>,
    n_compared: usize,
    /// Whether all projects are known.
    is_complete: bool,
    began: Moment,
    /// When the next piece may be compared.
    next_piece: Moment,
}

impl Scan {
    /// When there is something to do for it without being told.
    pub(super) fn next(&self) -> Option<Moment> {
        let has_work = self.n_compared < self.keys.len() || self.is_complete;
        has_work.then_some(self.next_piece)
    }
}

impl Loop {
    /// Begins with the projects to be found here.
    pub(super) fn begin_scan(&mut self, reason: RescanReason) {
        let began = self.clock.moment();
        let discovered = match Root::open(&self.config.repository.path) {
            Ok(root) => self.observer.discover(&root),
            // The next check of the root says what is wrong.
            Err(_) => return,
        };
        self.scan = Some(self.new_scan(reason, began, discovered.keys));
        self.complete_scan(discovered.problems);
        self.spread(began);
    }

    /// Begins with the projects that the watch thread is going to find.
    pub(super) fn begin_scan_of_walk(&mut self, root: RootIdentity, reason: RescanReason) {
        self.root.armed(Some(root));
        let now = self.clock.moment();
        self.scan = Some(self.new_scan(reason, now, Vec::new()));
    }

    /// The watch thread's walk found projects.
    pub(super) fn found(&mut self, mut keys: Vec<ProjectKey>) {
        if let Some(scan) = &mut self.scan
            && !scan.is_complete
        {
            scan.keys.append(&mut keys);
        }
    }

    /// The watch thread's walk is over.
    pub(super) fn armed(
        &mut self,
        root: Option<RootIdentity>,
        reason: RescanReason,
        problems: Vec<Problem>,
    ) {
        self.root.armed(root);
        self.status.set_coverage(self.watch.coverage());
        if root.is_none() {
            self.scan = None;
        } else if self.scan.as_ref().is_some_and(|scan| !scan.is_complete) {
            self.complete_scan(problems);
        } else {
            self.begin_scan(reason);
        }
    }

    fn new_scan(&self, reason: RescanReason, began: Moment, keys: Vec<ProjectKey>) -> Scan {
        Scan {
            reason,
            origin: if self.starting {
                Origin::CatchUp
            } else {
                Origin::Live
            },
            keys,
            n_compared: 0,
            is_complete: false,
            began,
            next_piece: began,
        }
    }

    /// All projects that are there are known: adds those that are only on record.
    fn complete_scan(&mut self, problems: Vec<Problem>) {
        let recorded = match self.store.keys() {
            Ok(recorded) => recorded,
            Err(error) => {
                self.scan = None;
                self.store_failed(&error);
                self.hints_lost.store(true, Ordering::Release);
                return;
            }
        };
        self.status.set_projects(recorded.len());
        if self.root.needs_survey() && !self.adopting && !self.survey(&recorded) {
            let now = self.clock.moment();
            self.next_survey = now.saturating_add(self.config.repository.poll_interval);
            self.scan = None;
            return;
        }
        self.note_problems(None, problems);
        let Some(scan) = &mut self.scan else { return };
        let mut found: Vec<&ProjectKey> = scan.keys.iter().collect();
        found.sort_unstable();
        let only_on_record: Vec<ProjectKey> = recorded
            .into_iter()
            .filter(|key| found.binary_search(&key).is_err())
            .collect();
        drop(found);
        scan.keys.extend(only_on_record);
        scan.is_complete = true;
        let reason = scan.reason;
        debug!(
            reason = reason.as_str(),
            projects = scan.keys.len(),
            "comparing everything"
        );
        self.status.count_rescan(reason);
    }

    /// Finds out whether the root may be compared with the record.
    fn survey(&mut self, on_record: &[ProjectKey]) -> bool {
        let Ok(Some(root)) = self.root.open() else {
            return false;
        };
        let mut found = 0_usize;
        for keys in on_record.chunks(BATCH) {
            let recorded = match self.store.recorded_many(keys) {
                Ok(recorded) => recorded,
                Err(error) => {
                    self.store_failed(&error);
                    return false;
                }
            };
            let has_a_file =
                |files: &Recorded| files.files().any(|file| root.open_file(&file.path).is_ok());
            found = found.saturating_add(recorded.iter().filter(|files| has_a_file(files)).count());
            if found.saturating_mul(2) >= on_record.len() {
                break;
            }
        }
        if self.root.surveyed(found, on_record.len()) {
            return true;
        }
        if let Some(reason) = self.root.distrust()
            && self.status.set_trouble(Trouble::Root, Some(reason.clone()))
        {
            warn!("{reason}");
        }
        false
    }

    /// Compares the next projects of the scan; those that differ become due.
    pub(super) fn feed_scan(&mut self) {
        let now = self.clock.moment();
        let Some(scan) = &self.scan else { return };
        if now < scan.next_piece {
            return;
        }
        let keys: Vec<ProjectKey> = scan
            .keys
            .iter()
            .skip(scan.n_compared)
            .take(PIECE)
            .cloned()
            .collect();
        if keys.is_empty() {
            return;
        }
        let (origin, what) = (scan.origin, format!("compared ({})", scan.reason.as_str()));
        let root = match self.root.open() {
            Ok(Some(root)) => root,
            Ok(None) | Err(_) => return self.root_is_in_doubt(&[]),
        };
        let marks = match self.store.marks(keys.clone()) {
            Ok(marks) => marks,
            Err(error) => return self.store_failed(&error),
        };
        let layout = &self.config.repository.layout;
        for (key, marks) in keys.iter().zip(marks) {
            let is_at_rest = !marks.is_empty()
                && is_unchanged(layout, &root, key, &marks)
                // What is on record as a problem may be none any more.
                && !self.problems.contains_key(&Some(key.clone()));
            if !is_at_rest {
                self.settle.check(key, now, origin, &what);
            }
        }
        if let Some(scan) = &mut self.scan {
            scan.n_compared = scan.n_compared.saturating_add(keys.len());
        }
        self.spread(now);
    }

    /// After a piece that began then, leaves the core to others where comparisons never end.
    fn spread(&mut self, began: Moment) {
        let now = self.clock.moment();
        if let Some(scan) = &mut self.scan
            && scan.reason == RescanReason::Poll
        {
            scan.next_piece = now.saturating_add(now.saturating_sub(began).saturating_mul(3));
        }
    }

    /// Ends the scan when all of it is recorded.
    pub(super) fn end_scan(&mut self) {
        let now = self.clock.moment();
        let done = self
            .scan
            .as_ref()
            .is_some_and(|scan| scan.is_complete && scan.n_compared >= scan.keys.len())
            && self.settle.next().is_none_or(|next| next > now)
            && self.paused_until.is_none();
        if !done {
            return;
        }
        let Some(scan) = self.scan.take() else { return };
        let lasted = now.saturating_sub(scan.began);
        let n_projects = scan.keys.len();
        let repository = &self.config.repository;
        self.next_rescan = now.saturating_add(repository.rescan);
        self.next_poll = now.saturating_add(repository.poll_interval);
        if !self.record_scan() {
            self.begin_scan(scan.reason);
            return;
        }
        debug!(
            reason = scan.reason.as_str(),
            projects = n_projects,
            duration_ms = lasted.as_millis(),
            "everything is compared"
        );
        if self.starting {
            self.starting = false;
            info!(
                projects = n_projects,
                duration_ms = lasted.as_millis(),
                "ready: watching {}",
                self.config.repository.path.display()
            );
            self.status.set_ready();
        }
        self.adopting = false;
    }
}
