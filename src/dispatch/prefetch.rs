//! Claims deliveries from the store before the queue sends them.
//!
//! Constraint: a queue has at most one claim of a project at a time. It must not send a delivery
//! because of an outdated answer. An answer may be outdated, because results are recorded while the
//! store answers a claim. A delivery is *released* when its result is recorded or its claim is
//! dropped. The queue ignores deliveries that were released since the claim began, and all
//! deliveries of their projects. It compares the ids of deliveries as well as the keys of projects,
//! because a project may be renamed while its delivery is being sent. If an operator changed
//! deliveries in the meantime, the queue drops the whole answer.
//!
//! The queue claims more deliveries than it can send at the same time, so that a burst needs few
//! claims.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::handle::QueueHandle;
use super::next_of;
use crate::clock::Reading;
use crate::domain::project::ProjectKey;
use crate::store::{Alone, Asking, Claim, Claims, Hold, Store, StoreError, Unreadable};

/// The number of additional deliveries that are claimed before they can be sent.
///
/// The queue claims again when half of these additional deliveries have been sent.
const PREFETCH: usize = 64;

/// Replaces [`PREFETCH`] if other processes could send these deliveries instead.
const PREFETCH_SHARED: usize = 8;

/// The queue stops claiming in advance when the prefetched payloads have this many bytes.
const PREFETCH_BYTES: usize = 1024 * 1024;

/// How long a prefetched claim is valid.
///
/// It is short, because an operator may cancel the delivery in the meantime.
const VALID_FOR: Duration = Duration::from_millis(500);

/// Which deliveries the queue claims.
pub(super) enum Wanted {
    /// Claim the deliveries that can be sent now, and some more in advance.
    Ahead,
    /// Claim only the deliveries that can be sent now. Further claims might expire.
    Now,
    /// Claim at most `n_fresh` deliveries of projects that are not in `avoiding`.
    ///
    /// If there is no such delivery and `or_any` is true, claim one delivery of any project.
    Probe {
        avoiding: HashSet<ProjectKey>,
        n_fresh: usize,
        or_any: bool,
    },
}

/// A claimed delivery, with the monotonic time until which the claim is valid.
struct Prefetched {
    claim: Claim,
    hold: Hold,
    until: Duration,
}

/// A set of claimed deliveries, with their projects.
///
/// The projects are needed because a queue sends only one delivery of a project at a time. The
/// deliveries are needed because a project may have been renamed.
#[derive(Default)]
struct Claimed {
    projects: HashSet<ProjectKey>,
    /// The deliveries, each with the current key of its project.
    deliveries: HashMap<i64, ProjectKey>,
}

impl Claimed {
    fn has(&self, project: &ProjectKey, delivery: i64) -> bool {
        self.projects.contains(project) || self.deliveries.contains_key(&delivery)
    }

    fn insert(&mut self, project: ProjectKey, delivery: i64) {
        self.projects.insert(project.clone());
        self.deliveries.insert(delivery, project);
    }

    /// Removes a delivery. Returns the current key of its project.
    fn remove(&mut self, delivery: i64) -> Option<ProjectKey> {
        let project = self.deliveries.remove(&delivery)?;
        // After renames, another delivery may have a project with the same key.
        if !self.deliveries.values().any(|other| *other == project) {
            self.projects.remove(&project);
        }
        Some(project)
    }

    /// Replaces the old keys of renamed projects.
    fn follow(&mut self, moves: &HashMap<ProjectKey, ProjectKey>) {
        for project in self.deliveries.values_mut() {
            if let Some(new) = moves.get(project) {
                project.clone_from(new);
            }
        }
        self.projects = self.deliveries.values().cloned().collect();
    }
}

/// The claimed deliveries of one webhook.
pub(super) struct Prefetch {
    handle: Arc<QueueHandle>,
    claims: VecDeque<Prefetched>,
    /// The deliveries that are prefetched, being sent, or waiting to be recorded.
    busy: Claimed,
    /// The claim in progress, at most one.
    question: JoinSet<Result<Claims, StoreError>>,
    /// If the claim in progress returns at least this many deliveries, more may be due.
    n_asked: usize,
    /// Whether [`Self::tell`] made the last claim, which then claims no delivery.
    is_telling: bool,
    /// Whether the last claim that [`Self::ask`] started leaves out failed projects.
    leaves_out_failed: bool,
    /// The deliveries that were released after the claim in progress began.
    released: Claimed,
    /// Whether to drop the answer of the claim in progress.
    is_outdated: bool,
    /// Whether there may be more due deliveries than the last claim returned.
    may_be_more: bool,
    /// Whether other processes may send deliveries to the same webhook.
    is_shared: bool,
    /// Whether the store may still have claims that this queue does not use.
    ///
    /// Such claims prevent other processes from sending these deliveries. They were made by an
    /// earlier queue, were dropped, or were in an answer that was lost.
    has_others: bool,
    /// The value of [`Asking::alone`] in the last claim.
    told: Alone,
}

impl Prefetch {
    pub(super) fn new(handle: Arc<QueueHandle>, is_shared: bool) -> Self {
        Self {
            handle,
            claims: VecDeque::new(),
            busy: Claimed::default(),
            question: JoinSet::new(),
            n_asked: 0,
            is_telling: false,
            leaves_out_failed: false,
            released: Claimed::default(),
            is_outdated: false,
            may_be_more: true,
            is_shared,
            has_others: is_shared,
            told: Alone::No,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Adds the committed deliveries that a claim would also return.
    ///
    /// Ignores deliveries that the queue may have claimed before, and deliveries of busy projects.
    pub(super) fn accept_committed(&mut self, committed: Vec<Claim>, at: Duration) {
        for claim in committed {
            let is_busy = self.busy.has(&claim.key, claim.delivery);
            if self.handle.is_new(claim.delivery) && !is_busy {
                self.push(claim, Hold::default(), at.saturating_add(VALID_FOR));
            }
        }
    }

    fn push(&mut self, claim: Claim, hold: Hold, until: Duration) {
        self.handle.note_claimed(claim.delivery);
        self.busy.insert(claim.key.clone(), claim.delivery);
        self.claims.push_back(Prefetched { claim, hold, until });
    }

    /// Returns the size of the oldest claim's payload, in bytes.
    pub(super) fn next_size(&self) -> Option<usize> {
        self.claims.front().map(|one| one.claim.payload.len())
    }

    /// Removes the oldest claim and returns it.
    pub(super) fn pop(&mut self) -> Option<(Claim, Hold)> {
        self.claims.pop_front().map(|one| (one.claim, one.hold))
    }

    /// Records that more deliveries may be due.
    pub(super) fn expect_more(&mut self) {
        self.may_be_more = true;
    }

    /// Records that a delivery and its project are no longer busy.
    pub(super) fn release(&mut self, project: ProjectKey, delivery: i64) {
        let project = self.busy.remove(delivery).unwrap_or(project);
        self.may_be_more = true;
        if self.is_asking() {
            self.released.insert(project, delivery);
        }
    }

    /// Replaces the old keys of renamed projects.
    ///
    /// Drops all prefetched claims, because their keys may be old.
    pub(super) fn follow(&mut self, moves: &HashMap<ProjectKey, ProjectKey>) {
        self.clear();
        self.busy.follow(moves);
    }

    /// Drops all prefetched claims, and the answer of the claim in progress.
    pub(super) fn clear(&mut self) {
        self.is_outdated = self.is_asking();
        self.may_be_more = true;
        while let Some((claim, _)) = self.pop() {
            self.drop_claim(claim.key, claim.delivery);
        }
    }

    /// Drops the claim of a delivery without sending the delivery.
    pub(super) fn drop_claim(&mut self, project: ProjectKey, delivery: i64) {
        self.has_others = self.is_shared;
        self.release(project, delivery);
    }

    /// Informs the store about this sender, with a claim of no deliveries.
    ///
    /// The claim tells the store whether this sender must be the only one, and which of its claims
    /// to keep. Does nothing if the store knows both or is not shared, or while another claim is in
    /// progress.
    pub(super) fn tell(&mut self, store: &Store, webhook: &str, at: Reading, alone: Alone) {
        let is_known = !self.has_others && self.told == alone;
        if !self.is_shared || is_known || self.is_asking() {
            return;
        }
        self.n_asked = 1;
        self.is_telling = true;
        self.is_outdated = false;
        self.released = Claimed::default();
        let asking = self.asking(at, 0, alone);
        let (store, webhook) = (store.clone(), webhook.to_owned());
        self.question
            .spawn(async move { store.claim(&webhook, asking).await });
    }

    /// Releases the webhook for other senders: drops all claims, also those in the store.
    pub(super) async fn leave(
        &mut self,
        store: &Store,
        webhook: &str,
        at: Reading,
    ) -> Result<(), StoreError> {
        if self.is_asking() {
            // The claim below also releases the deliveries in this answer.
            let _ = self.answer().await;
        }
        self.claims.clear();
        self.busy = Claimed::default();
        self.has_others = true;
        self.tell(store, webhook, at, Alone::No);
        self.answer().await.map(drop)
    }

    pub(super) fn asking(&mut self, at: Reading, limit: usize, alone: Alone) -> Asking {
        self.told = alone;
        Asking {
            now: at.now(),
            limit,
            excluding: self.busy.projects.clone(),
            alone,
            keeping: std::mem::take(&mut self.has_others)
                .then(|| self.busy.deliveries.keys().copied().collect()),
        }
    }

    /// Drops prefetched claims that are no longer valid.
    pub(super) fn drop_expired(&mut self, now: Duration) {
        while let Some(oldest) = self.claims.front()
            && (now > oldest.until || !oldest.hold.is_valid())
            && let Some((claim, _)) = self.pop()
        {
            self.drop_claim(claim.key, claim.delivery);
        }
    }

    pub(super) fn leaves_out_failed(&self) -> bool {
        self.leaves_out_failed
    }

    pub(super) fn is_telling(&self) -> bool {
        self.is_telling
    }

    /// Whether a claim is in progress.
    pub(super) fn is_asking(&self) -> bool {
        !self.question.is_empty()
    }

    /// Starts to claim due deliveries, if more may be due and too few are prefetched.
    ///
    /// Does nothing while a claim is in progress. `room` is the number of deliveries that can be
    /// sent now.
    pub(super) fn ask(
        &mut self,
        store: &Store,
        webhook: &str,
        at: Reading,
        room: usize,
        wanted: Wanted,
        alone: Alone,
    ) {
        let ahead = match wanted {
            Wanted::Ahead if self.is_shared => PREFETCH_SHARED,
            Wanted::Ahead => PREFETCH,
            Wanted::Now | Wanted::Probe { .. } => 0,
        };
        let n_claims = self.claims.len();
        let sizes = self.claims.iter().map(|one| one.claim.payload.len());
        let is_enough = n_claims >= room
            && (n_claims >= room.saturating_add(ahead / 2)
                || sizes.sum::<usize>() >= PREFETCH_BYTES);
        if is_enough || !self.may_be_more || self.is_asking() {
            return;
        }
        self.n_asked = room.saturating_add(ahead).saturating_sub(n_claims);
        self.leaves_out_failed = matches!(wanted, Wanted::Probe { or_any: false, .. });
        self.is_telling = false;
        self.may_be_more = false;
        self.is_outdated = false;
        self.released = Claimed::default();
        let (store, webhook) = (store.clone(), webhook.to_owned());
        let n_asked = self.n_asked;
        let asking = self.asking(at, n_asked, alone);
        self.question.spawn(async move {
            let Wanted::Probe {
                avoiding,
                n_fresh,
                or_any,
            } = wanted
            else {
                return store.claim(&webhook, asking).await;
            };
            let busy = asking.excluding.clone();
            let avoiding = Asking {
                limit: n_fresh.min(n_asked),
                excluding: avoiding.into_iter().chain(busy.iter().cloned()).collect(),
                ..asking
            };
            let any = Asking {
                limit: 1,
                excluding: busy,
                keeping: None,
                ..avoiding
            };
            let claims = store.claim(&webhook, avoiding).await?;
            let is_empty = claims.ready.is_empty() && claims.unreadable.is_empty();
            if is_empty && or_any {
                return store.claim(&webhook, any).await;
            }
            Ok(claims)
        });
    }

    /// Waits for the answer of the claim in progress. Without such a claim, waits forever.
    pub(super) async fn answer(&mut self) -> Result<Claims, StoreError> {
        let answer = match next_of(&mut self.question).await {
            Some(answer) => answer,
            None => std::future::pending().await,
        };
        if answer.is_err() {
            self.has_others = self.is_shared;
        }
        answer
    }

    /// Adds the claims of an answer that arrived at `moment`.
    ///
    /// Their validity begins at `moment`, not at the start of the claim. Otherwise claims from a
    /// slow store would expire before they are used.
    ///
    /// Returns the unreadable deliveries, and the due time of the next delivery.
    pub(super) fn accept(
        &mut self,
        answer: Claims,
        moment: Duration,
    ) -> (Vec<Unreadable>, Option<Timestamp>) {
        if std::mem::take(&mut self.is_outdated) {
            self.has_others |= self.is_shared && !answer.ready.is_empty();
            self.may_be_more = true;
            return (Vec::new(), None);
        }
        let n_found = answer.ready.len().saturating_add(answer.unreadable.len());
        if n_found >= self.n_asked {
            self.may_be_more = true;
        }
        let until = moment.saturating_add(VALID_FOR);
        let released = std::mem::take(&mut self.released);
        for claim in answer.ready {
            let is_claimed = |claimed: &Claimed| claimed.has(&claim.key, claim.delivery);
            if !is_claimed(&self.busy) && !is_claimed(&released) {
                self.push(claim, answer.hold.clone(), until);
            } else if !self.busy.deliveries.contains_key(&claim.delivery) {
                self.has_others = self.is_shared;
            }
        }
        let unreadable = answer
            .unreadable
            .into_iter()
            .filter(|one| {
                let is_claimed = |claimed: &Claimed| claimed.has(&one.key, one.delivery);
                !is_claimed(&self.busy) && !is_claimed(&released)
            })
            .collect();
        (unreadable, answer.next_due)
    }
}
