//! Runs full scans: finds projects, compares them in pieces, and records the end.
//!
//! Usually the watch thread walks the tree and sends the projects that it finds
//! ([`Hint::ProjectsFound`](crate::hint::Hint::ProjectsFound)). Otherwise the scanner lists the
//! projects itself.

use tracing::{debug, info};

use super::full_scan::FullScan;
use super::phase::Phase;
use super::worker::Worker;
use crate::domain::project::{Problem, ProjectKey};
use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;
use crate::observe::is_unchanged;
use crate::repository::{Root, RootIdentity};

/// The full scan in progress, and the requested scan.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    scan: Option<FullScan>,
    /// The reason for a requested scan that has not begun yet.
    retry: Option<RescanReason>,
    /// The time when the last finished scan began.
    last_began: Option<Moment>,
}

impl Scanner {
    pub(super) fn is_scanning(&self) -> bool {
        self.scan.is_some()
    }

    /// Whether the current scan uses a walk of the watch thread.
    pub(super) fn is_walking(&self) -> bool {
        self.scan.as_ref().is_some_and(|scan| scan.has_walked)
    }

    pub(super) fn last_began(&self) -> Option<Moment> {
        self.last_began
    }

    /// The time of the next piece of the current scan.
    pub(super) fn next(&self) -> Option<Moment> {
        self.scan.as_ref()?.next()
    }

    /// Stops the current scan, because a new walk starts another scan.
    pub(super) fn stop(&mut self) {
        self.scan = None;
        self.retry = None;
    }

    /// Requests a scan. It begins as soon as inference is not paused.
    pub(super) fn request(&mut self, reason: RescanReason) {
        self.retry = Some(reason);
    }

    pub(super) fn is_requested(&self) -> bool {
        self.retry.is_some()
    }

    pub(super) fn begin_requested(&mut self, worker: &mut Worker) {
        if !worker.timers.is_paused()
            && let Some(reason) = self.retry.take()
        {
            self.begin(worker, reason);
        }
    }

    /// Begins a scan of the projects that are on disk now.
    pub(super) fn begin(&mut self, worker: &mut Worker, reason: RescanReason) {
        let began = worker.clock.moment();
        worker.copies.clear();
        worker.count_before_scan();
        let discovered = match Root::open(&worker.config.repository.path) {
            Ok(root) => worker.observer.discover(&root),
            // The next check of the root reports the reason.
            Err(_) => {
                worker.doubt_root(&[]);
                return self.request(reason);
            }
        };
        let origin = worker.phase.origin();
        let scan = FullScan::new(reason, origin, began, Some(discovered.keys));
        self.complete(worker, scan, discovered.problems);
        if let Some(scan) = &mut self.scan {
            scan.compared(0, began, worker.clock.moment());
        }
    }

    /// Begins a scan of the projects that the watch thread will find in its walk.
    pub(super) fn begin_walk(
        &mut self,
        worker: &mut Worker,
        root: RootIdentity,
        reason: RescanReason,
    ) {
        worker.root.watched(Some(root));
        // The root may be another directory, with other mounts below it. The kernel reports no
        // change of its list for a new `repository.path`, or for a root that was renamed.
        worker.mounts.doubt();
        worker.copies.clear();
        worker.count_before_scan();
        let (origin, now) = (worker.phase.origin(), worker.clock.moment());
        self.scan = Some(FullScan::new(reason, origin, now, None));
    }

    pub(super) fn found(&mut self, keys: Vec<ProjectKey>) {
        if let Some(scan) = &mut self.scan {
            scan.add(keys);
        }
    }

    /// Handles the end of a walk. If the walk had no root, ends the scan.
    pub(super) fn end_walk(
        &mut self,
        worker: &mut Worker,
        root: Option<RootIdentity>,
        reason: RescanReason,
        problems: Vec<Problem>,
    ) {
        worker.root.watched(root);
        let scan = self.scan.take();
        if root.is_none() {
            return;
        }
        match scan.filter(|scan| !scan.is_complete()) {
            Some(scan) => self.complete(worker, scan, problems),
            None => self.begin(worker, reason),
        }
    }

    /// Adds the recorded projects to a scan.
    ///
    /// Ends the scan if the root may not be compared with the record, or if the store fails. After
    /// a failure of the store, requests another scan.
    fn complete(&mut self, worker: &mut Worker, mut scan: FullScan, problems: Vec<Problem>) {
        self.scan = None;
        let store = worker.recorder.store();
        let found = store.keys().and_then(|keys| Ok((keys, store.n_defined()?)));
        let (mut recorded, n_projects) = match found {
            Ok(found) => found,
            Err(error) => {
                worker.store_failed(&error);
                return self.request(scan.reason);
            }
        };
        worker.status.set_projects(n_projects);
        if !worker.may_compare(&recorded, scan.n_found(&recorded)) {
            return;
        }
        worker.record_unusable(problems);
        // The record lacks projects that have only invalid files. Compare these too.
        recorded.extend(worker.invalid_files.keys_in(None));
        recorded.sort_unstable();
        recorded.dedup();
        scan.complete(recorded);
        debug!(
            reason = scan.reason.as_str(),
            compared = scan.len(),
            "full scan started"
        );
        worker.status.count_rescan(scan.reason);
        self.scan = Some(scan);
    }

    /// Compares the metadata of the next projects with the record. Makes changed projects due.
    pub(super) fn compare_piece(&mut self, worker: &mut Worker) {
        let began = worker.clock.moment();
        let Some(scan) = &mut self.scan else { return };
        let keys = scan.piece(began);
        if keys.is_empty() {
            return;
        }
        let root = match worker.root.open() {
            Ok(Some(root)) => root,
            Ok(None) | Err(_) => return worker.doubt_root(&[]),
        };
        let marks = match worker.recorder.store().marks(keys.clone()) {
            Ok(marks) => marks,
            Err(error) => return worker.store_failed(&error),
        };
        let layout = &worker.config.repository.layout;
        let hint = format!("full scan ({})", scan.reason.as_str());
        for (key, marks) in keys.iter().zip(marks) {
            // Report progress, so that a slow file system does not look like a hang.
            worker.status.beat(worker.clock.moment());
            let is_same = !marks.is_empty()
                && is_unchanged(layout, &root, key, &marks, worker.observer.inodes())
                // Observe a project whose removal is held, because it may be back.
                && !worker.agenda.holds(key)
                // A recorded invalid file may be valid now.
                && worker.invalid_files.of(&Some(key.clone())).is_empty();
            if !is_same {
                worker.copies.doubt(key);
                worker.agenda.check(key, began, scan.origin, &hint);
            }
        }
        scan.compared(keys.len(), began, worker.clock.moment());
    }

    /// Ends the scan if all its projects were compared and recorded.
    pub(super) fn end(&mut self, worker: &mut Worker) {
        let now = worker.clock.moment();
        let is_recorded = worker.agenda.next().is_none_or(|next| next > now);
        if worker.timers.is_paused() || !is_recorded {
            return;
        }
        let Some(scan) = self.scan.take_if(|scan| scan.is_done()) else {
            return;
        };
        worker
            .timers
            .scanned(now, &worker.config.repository, scan.has_walked);
        if !worker.record_scan() {
            return self.begin(worker, scan.reason);
        }
        self.last_began = Some(scan.began);
        worker.agenda.scanned(now);
        let duration = now.saturating_sub(scan.began);
        debug!(
            reason = scan.reason.as_str(),
            compared = scan.len(),
            duration_ms = duration.as_millis(),
            "full scan finished"
        );
        if worker.phase.is_starting() {
            info!(
                projects = worker.status.snapshot().projects,
                duration_ms = duration.as_millis(),
                "ready: watching {}",
                worker.config.repository.path.display()
            );
            worker.status.set_ready();
        }
        worker.phase = Phase::Running;
    }
}
