//! A full scan in progress.
//!
//! Constraint: a full scan does not hold up hinted projects. It runs in pieces, and the engine
//! observes hinted projects between pieces. It skips projects whose metadata proves them unchanged.
//! Scans on a timer (without file events) use at most a quarter of a core.
//!
//! The watch thread sends projects while it walks the tree
//! ([`Hint::ProjectsFound`](crate::hint::Hint::ProjectsFound)). Without a walk, the engine lists
//! them. Recorded projects that were not found come last.

use crate::domain::event::Origin;
use crate::domain::project::ProjectKey;
use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;

/// The number of projects in a piece. Hinted projects wait for a piece, a millisecond or two. With
/// 256 an edit among 100,000 projects took 19 ms to its callback instead of 2.
const PIECE: usize = 32;

#[derive(Debug)]
pub(super) struct FullScan {
    pub reason: RescanReason,
    /// The origin of events that the scan finds.
    pub origin: Origin,
    pub began: Moment,
    /// The known projects, and the number of them that are compared.
    keys: Vec<ProjectKey>,
    n_compared: usize,
    /// Whether all projects are known.
    is_complete: bool,
    next_piece: Moment,
}

impl FullScan {
    /// A scan of these projects, and of those that are still to be found.
    pub(super) fn new(
        reason: RescanReason,
        origin: Origin,
        began: Moment,
        keys: Vec<ProjectKey>,
    ) -> Self {
        Self {
            reason,
            origin,
            began,
            keys,
            n_compared: 0,
            is_complete: false,
            next_piece: began,
        }
    }

    /// The time of the next piece; none while the scan waits for more projects.
    pub(super) fn next(&self) -> Option<Moment> {
        let has_work = self.n_compared < self.keys.len() || self.is_complete;
        has_work.then_some(self.next_piece)
    }

    /// Whether all projects are known.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_complete && self.n_compared >= self.keys.len()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn add(&mut self, mut keys: Vec<ProjectKey>) {
        if !self.is_complete {
            self.keys.append(&mut keys);
        }
    }

    /// Adds the recorded projects that were not found. From now on all projects are known.
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

    /// The projects of the next piece, if it is due.
    pub(super) fn piece(&self, now: Moment) -> Vec<ProjectKey> {
        if now < self.next_piece {
            return Vec::new();
        }
        let rest = self.keys.iter().skip(self.n_compared);
        rest.take(PIECE).cloned().collect()
    }

    /// Notes that a piece of `n` projects is compared, which took from `began` until `now`.
    pub(super) fn compared(&mut self, n: usize, began: Moment, now: Moment) {
        self.n_compared = self.n_compared.saturating_add(n);
        if self.reason == RescanReason::Poll {
            self.next_piece = now.saturating_add(now.saturating_sub(began).saturating_mul(3));
        }
    }
}
