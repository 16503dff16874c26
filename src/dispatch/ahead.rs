//! What is claimed and waits for room.
//!
//! Constraint: a delivery is claimed once. The store is asked while requests go out, so its answer
//! may be older than what was recorded meanwhile: whatever left its lane since the question is not
//! taken from the answer, and an answer from before an operator's command is not taken at all.
//! Claims are made some ahead, so that a burst costs the store a few questions and not one for each.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::QueueHandle;
use crate::clock::Reading;
use crate::domain::project::ProjectKey;
use crate::store::{Claim, Claims, Store, StoreError, Unreadable};

/// How many deliveries are claimed beyond those that can go out now, so that the store is not asked
/// for each one. It is asked again when half of them are gone.
const AHEAD: usize = 64;
/// How large the payloads of those may be together for more to be claimed ahead, in bytes.
const AHEAD_BYTES: usize = 1024 * 1024;
/// How long a claim made ahead holds: an operator may have cancelled it meanwhile.
const AHEAD_FOR: Duration = Duration::from_millis(500);

/// A claim that waits for room.
struct Waiting {
    claim: Claim,
    /// Since when, by the clock that is never set.
    since: Duration,
}

/// The claims of one webhook that wait for room, and the lanes that are not to be claimed.
pub(super) struct Ahead {
    handle: Arc<QueueHandle>,
    waiting: VecDeque<Waiting>,
    /// The lanes that are not to be claimed: their delivery waits here, is in flight, or is not
    /// recorded.
    lanes: HashSet<ProjectKey>,
    /// The question to the store, at most one.
    question: JoinSet<Result<Claims, StoreError>>,
    /// How many claims were asked for, and when.
    n_asked: usize,
    asked_at: Duration,
    /// The lanes that were freed since the question.
    freed: HashSet<ProjectKey>,
    /// Whether the answer to the question is not to be taken.
    is_outdated: bool,
    /// Whether more may be due than the last answer said.
    may_be_more: bool,
}

impl Ahead {
    pub(super) fn new(handle: Arc<QueueHandle>) -> Self {
        Self {
            handle,
            waiting: VecDeque::new(),
            lanes: HashSet::new(),
            question: JoinSet::new(),
            n_asked: 0,
            asked_at: Duration::ZERO,
            freed: HashSet::new(),
            is_outdated: false,
            may_be_more: true,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes committed deliveries, where the store would give the same: the lane is free, and the
    /// delivery is newer than all that were claimed.
    pub(super) fn accept(&mut self, committed: Vec<Claim>, moment: Duration) {
        for claim in committed {
            if self.handle.is_news(claim.delivery) && !self.lanes.contains(&claim.event.key) {
                self.take_in(claim, moment);
            }
        }
    }

    fn take_in(&mut self, claim: Claim, since: Duration) {
        self.handle.claimed(claim.delivery);
        self.lanes.insert(claim.event.key.clone());
        self.waiting.push_back(Waiting { claim, since });
    }

    /// Takes the oldest, to be sent.
    pub(super) fn take(&mut self) -> Option<Claim> {
        self.waiting.pop_front().map(|one| one.claim)
    }

    /// More may be due than was known.
    pub(super) fn look_again(&mut self) {
        self.may_be_more = true;
    }

    /// A lane may be claimed again.
    pub(super) fn free(&mut self, lane: ProjectKey) {
        self.lanes.remove(&lane);
        self.may_be_more = true;
        if self.is_asking() {
            self.freed.insert(lane);
        }
    }

    /// Gives back what waits, and what is being claimed.
    pub(super) fn drop_all(&mut self) {
        self.is_outdated = self.is_asking();
        self.may_be_more = true;
        while let Some(one) = self.waiting.pop_front() {
            self.free(one.claim.event.key);
        }
    }

    /// Gives back what has waited for long.
    pub(super) fn drop_old(&mut self, moment: Duration) {
        while let Some(one) = self.waiting.front()
            && moment.saturating_sub(one.since) > AHEAD_FOR
        {
            if let Some(old) = self.waiting.pop_front() {
                self.free(old.claim.event.key);
            }
        }
    }

    /// Whether the store is being asked.
    pub(super) fn is_asking(&self) -> bool {
        !self.question.is_empty()
    }

    /// Asks the store for what is due, where there is room for more than waits here and more may be
    /// due, unless it is being asked already.
    pub(super) fn ask(
        &mut self,
        store: &Store,
        webhook: &str,
        at: Reading,
        room: usize,
        may_be_ahead: bool,
    ) {
        let ahead = if may_be_ahead { AHEAD } else { 0 };
        let n_waiting = self.waiting.len();
        let sizes = self.waiting.iter().map(|one| one.claim.payload.len());
        let is_enough = n_waiting >= room
            && (n_waiting >= room.saturating_add(ahead / 2) || sizes.sum::<usize>() >= AHEAD_BYTES);
        if is_enough || !self.may_be_more || self.is_asking() {
            return;
        }
        self.asked_at = at.moment();
        self.n_asked = room.saturating_add(ahead).saturating_sub(n_waiting);
        self.may_be_more = false;
        self.is_outdated = false;
        self.freed.clear();
        let (store, webhook) = (store.clone(), webhook.to_owned());
        let (now, n_asked, busy) = (at.now(), self.n_asked, self.lanes.clone());
        self.question
            .spawn(async move { store.claim_due(&webhook, now, n_asked, busy).await });
    }

    /// The answer to the question. Never returns where none was asked.
    pub(super) async fn answer(&mut self) -> Result<Claims, StoreError> {
        match self.question.join_next().await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => std::future::pending().await,
        }
    }

    /// Takes what the store answered. Returns what cannot be read, and when more is due.
    pub(super) fn take_answer(&mut self, claims: Claims) -> (Vec<Unreadable>, Option<Timestamp>) {
        if std::mem::take(&mut self.is_outdated) {
            self.may_be_more = true;
            return (Vec::new(), None);
        }
        let n_found = claims.ready.len().saturating_add(claims.unreadable.len());
        if n_found >= self.n_asked {
            self.may_be_more = true;
        }
        let freed = std::mem::take(&mut self.freed);
        let is_current = |key: &ProjectKey, lanes: &HashSet<ProjectKey>| {
            !lanes.contains(key) && !freed.contains(key)
        };
        for claim in claims.ready {
            if is_current(&claim.event.key, &self.lanes) {
                self.take_in(claim, self.asked_at);
            }
        }
        let unreadable = claims
            .unreadable
            .into_iter()
            .filter(|one| is_current(&one.key, &self.lanes))
            .collect();
        (unreadable, claims.next_due)
    }
}
