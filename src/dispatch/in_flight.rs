//! The attempts of one webhook that are in flight.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::attempt::{self, Ended};
use super::handle::Moves;
use super::{Shared, Target, ended_of, next_of};
use crate::domain::project::ProjectKey;
use crate::store::{Claim, Hold};

/// The maximum number of payload bytes that one webhook sends at the same time.
///
/// A larger payload is sent alone. Each webhook has its own limit, so that no webhook waits for
/// another.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The attempts in flight of one webhook, and the renames of projects since they began.
#[derive(Default)]
pub(super) struct InFlight {
    attempts: JoinSet<Ended>,
    /// The total size of the payloads in flight, in bytes.
    n_bytes: usize,
    renames: Renames,
}

/// The commits with renames since the oldest attempt in flight began.
#[derive(Default)]
struct Renames {
    /// The renames of each commit, the oldest first.
    kept: VecDeque<Moves>,
    /// The number of older commits that were dropped.
    n_dropped: usize,
    /// How many attempts in flight began after each number of commits with renames.
    attempts: BTreeMap<usize, usize>,
}

impl Renames {
    /// Adds an attempt. Returns the number of earlier commits with renames.
    fn begin(&mut self) -> usize {
        let n_moves = self.n_dropped.saturating_add(self.kept.len());
        *self.attempts.entry(n_moves).or_default() += 1;
        n_moves
    }

    /// Removes an attempt that began after `n_moves` commits with renames.
    fn end(&mut self, n_moves: usize) {
        if let Some(n_attempts) = self.attempts.get_mut(&n_moves) {
            *n_attempts = n_attempts.saturating_sub(1);
            if *n_attempts == 0 {
                self.attempts.remove(&n_moves);
            }
        }
    }

    /// Drops the renames that are older than the oldest attempt.
    fn drop_old(&mut self) {
        let oldest = self.attempts.keys().next().copied();
        let n_old = oldest.map_or(self.kept.len(), |oldest| {
            oldest.saturating_sub(self.n_dropped).min(self.kept.len())
        });
        self.kept.drain(..n_old);
        self.n_dropped = self.n_dropped.saturating_add(n_old);
    }

    /// Returns the current key of a project.
    ///
    /// The project had the key `key` after `n_moves` commits with renames.
    fn current_key(&self, key: &ProjectKey, n_moves: usize) -> ProjectKey {
        let later = self
            .kept
            .iter()
            .skip(n_moves.saturating_sub(self.n_dropped));
        later.fold(key.clone(), |key, moves| {
            moves.get(&key).cloned().unwrap_or(key)
        })
    }
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Whether a payload must wait for attempts in flight to end, to limit memory.
    pub(super) fn is_full(&self, n_bytes: usize) -> bool {
        !self.is_empty() && self.n_bytes.saturating_add(n_bytes) > BYTES_MAX
    }

    /// Begins an attempt.
    pub(super) fn send(
        &mut self,
        shared: &Arc<Shared>,
        target: Arc<Target>,
        claim: Claim,
        hold: Hold,
        is_probe: bool,
    ) {
        if self.is_empty() {
            self.n_bytes = 0;
        }
        self.n_bytes = self.n_bytes.saturating_add(claim.payload.len());
        let (shared, n_moves) = (Arc::clone(shared), self.renames.begin());
        let claim = (claim, hold);
        self.attempts
            .spawn(attempt::send(shared, target, claim, is_probe, n_moves));
    }

    /// Waits for the end of an attempt. Returns `None` if no attempt is in flight.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        let ended = next_of(&mut self.attempts).await;
        self.without(ended)
    }

    /// Returns an attempt that has ended already, if any.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let ended = ended_of(&mut self.attempts);
        self.without(ended)
    }

    fn without(&mut self, ended: Option<Ended>) -> Option<Ended> {
        if let Some(ended) = &ended {
            self.n_bytes = self.n_bytes.saturating_sub(ended.n_bytes());
            self.renames.end(ended.n_moves());
        }
        ended
    }

    /// Drops the renames that are older than the oldest attempt in flight.
    pub(super) fn drop_old_moves(&mut self) {
        self.renames.drop_old();
    }

    /// Adds the renames of one commit.
    pub(super) fn follow(&mut self, moves: Moves) {
        self.renames.kept.push_back(moves);
    }

    /// Returns the current key of an attempt's project, after all later renames.
    pub(super) fn current_key(&self, ended: &Ended) -> ProjectKey {
        self.renames.current_key(ended.project(), ended.n_moves())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_are_dropped_although_attempts_never_pause() {
        let key = |name: String| ProjectKey::new("sales", name);
        let mut renames = Renames::default();
        let mut oldest = (renames.begin(), key("p0".to_owned()));
        for n in 0..1000 {
            let (from, to) = (key(format!("p{n}")), key(format!("p{}", n + 1)));
            renames
                .kept
                .push_back(Arc::new([(from, to.clone())].into()));
            // An attempt begins before the oldest one ends.
            let next = (renames.begin(), to.clone());
            assert_eq!(renames.current_key(&oldest.1, oldest.0), to);
            renames.end(oldest.0);
            renames.drop_old();
            assert!(renames.kept.is_empty(), "{n}");
            oldest = next;
        }
        renames.end(oldest.0);
        assert!(renames.attempts.is_empty());
    }
}
