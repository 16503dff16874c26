//! The attempts of one webhook that are in flight.

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

/// The attempts of one webhook that are in flight, and the renames of projects since they began.
#[derive(Default)]
pub(super) struct InFlight {
    attempts: JoinSet<Ended>,
    /// The total size of their payloads, in bytes.
    n_bytes: usize,
    /// The renames since the last time that no attempt was in flight.
    moves: Vec<Moves>,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Whether a payload of `n_bytes` bytes must wait for those in flight, to limit memory.
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
        let (shared, n_moves) = (Arc::clone(shared), self.moves.len());
        let claim = (claim, hold);
        self.attempts
            .spawn(attempt::send(shared, target, claim, is_probe, n_moves));
    }

    /// Waits for the end of an attempt. Returns `None` if none is in flight.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        let ended = next_of(&mut self.attempts).await;
        self.without(ended)
    }

    /// Returns an attempt that has ended already.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let ended = ended_of(&mut self.attempts);
        self.without(ended)
    }

    fn without(&mut self, ended: Option<Ended>) -> Option<Ended> {
        if let Some(ended) = &ended {
            self.n_bytes = self.n_bytes.saturating_sub(ended.n_bytes());
        }
        ended
    }

    /// Drops the renames if no attempt is in flight.
    pub(super) fn drop_old_moves(&mut self) {
        if self.is_empty() {
            self.moves.clear();
        }
    }

    /// Adds the renames of one commit.
    pub(super) fn follow(&mut self, moves: Moves) {
        self.moves.push(moves);
    }

    /// Returns the current key of an attempt's project, which may have been renamed since.
    pub(super) fn current_key(&self, ended: &Ended) -> ProjectKey {
        let later = self.moves.get(ended.n_moves()..).unwrap_or_default();
        later.iter().fold(ended.project().clone(), |key, moves| {
            moves.get(&key).cloned().unwrap_or(key)
        })
    }
}
