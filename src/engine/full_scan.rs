//! The state of a full scan in progress.
//!
//! Constraint: a full scan hardly delays hinted projects. It compares projects in pieces, and the
//! engine observes hinted projects between two pieces. It does not read projects whose metadata
//! proves that they are unchanged. If a scan replaces change reports, listing and comparing take at
//! most a quarter of a core.
//!
//! Usually the watch thread walks the tree and sends the projects that it finds
//! ([`Hint::ProjectsFound`](crate::hint::Hint::ProjectsFound)). Otherwise the engine lists the
//! projects itself. Recorded projects that were not found on disk are compared last.

use std::collections::BTreeSet;

use crate::domain::event::Origin;
use crate::domain::project::ProjectKey;
use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;

/// The maximum number of projects in a piece of a full scan.
///
/// A hinted project waits for the current piece, which takes one or two milliseconds. With pieces
/// of 256 and 100,000 projects, the callback of an edit came after 19 ms instead of 2 ms.
const PIECE: usize = 32;

#[derive(Debug)]
pub(super) struct FullScan {
    pub reason: RescanReason,
    /// The origin of the events that the scan causes.
    pub origin: Origin,
    pub began: Moment,
    /// Whether the watch thread walks the tree for this scan.
    ///
    /// Then it also sets missing watches. Otherwise the engine lists the projects.
    pub has_walked: bool,
    /// The projects known so far. The scan has compared the first `n_compared` of them.
    keys: Vec<ProjectKey>,
    n_compared: usize,
    /// Whether all projects are known.
    is_complete: bool,
    next_piece: Moment,
}

impl FullScan {
    /// Starts a scan of the found projects. `found` is `None` if a walk will find them.
    pub(super) fn new(
        reason: RescanReason,
        origin: Origin,
        began: Moment,
        found: Option<Vec<ProjectKey>>,
    ) -> Self {
        Self {
            reason,
            origin,
            began,
            has_walked: found.is_none(),
            keys: found.unwrap_or_default(),
            n_compared: 0,
            is_complete: false,
            next_piece: began,
        }
    }

    /// Returns the time of the next piece or of the end.
    ///
    /// `None` while the walk must find more projects.
    pub(super) fn next(&self) -> Option<Moment> {
        let has_work = self.n_compared < self.keys.len() || self.is_complete;
        has_work.then_some(self.next_piece)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_complete && self.n_compared >= self.keys.len()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Counts the recorded projects that were found.
    pub(super) fn n_found(&self, recorded: &[ProjectKey]) -> usize {
        let found: BTreeSet<&ProjectKey> = self.keys.iter().collect();
        recorded.iter().filter(|key| found.contains(key)).count()
    }

    pub(super) fn add(&mut self, mut keys: Vec<ProjectKey>) {
        if !self.is_complete {
            self.keys.append(&mut keys);
        }
    }

    /// Adds the recorded projects that were not found on disk. Now all projects are known.
    pub(super) fn complete(&mut self, recorded: Vec<ProjectKey>) {
        let mut found: Vec<&ProjectKey> = self.keys.iter().collect();
        found.sort_unstable();
        let only_recorded: Vec<ProjectKey> = recorded
            .into_iter()
            .filter(|key| found.binary_search(&key).is_err())
            .collect();
        self.keys.extend(only_recorded);
        self.is_complete = true;
    }

    /// Returns the projects of the next piece, if it is due.
    pub(super) fn piece(&self, now: Moment) -> Vec<ProjectKey> {
        if now < self.next_piece {
            return Vec::new();
        }
        let rest = self.keys.iter().skip(self.n_compared);
        rest.take(PIECE).cloned().collect()
    }

    /// Records that the next `n` projects were compared, from `began` until `now`.
    pub(super) fn compared(&mut self, n: usize, began: Moment, now: Moment) {
        self.n_compared = self.n_compared.saturating_add(n);
        if self.reason == RescanReason::Poll {
            self.next_piece = now.saturating_add(now.saturating_sub(began).saturating_mul(3));
        }
    }
}
