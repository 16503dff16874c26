//! The handles of the queues, for other tasks such as the engine.
//!
//! Constraint: passing a committed delivery to a queue never blocks and never fails. If a handle is
//! full, it drops the delivery, and the queue later claims the delivery from the store. The handle
//! also drops a delivery if the [`Epoch`] of its commit has ended. Then an operator may have
//! cancelled the delivery, or a receiver may have paused its webhook.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::project::ProjectKey;
use crate::store::{Claim, NewDeliveries, READY_BYTES, READY_MAX};

/// The maximum number of commits with renames in a handle.
///
/// A handle can reach this number while its queue does not run. It then drops the oldest renames.
/// If the rename of a failed project is dropped, the queue no longer knows that the project failed.
const MOVES_MAX: usize = 1024;

/// The renames of one commit: the new key for each old key.
pub(super) type Moves = Arc<HashMap<ProjectKey, ProjectKey>>;

/// The handle of a webhook's queue, for other tasks. It outlives the queue.
#[derive(Debug, Default)]
pub(super) struct QueueHandle {
    wakes: Notify,
    /// Whether an operator changed deliveries or webhooks since the queue last checked.
    is_changed_by_operator: AtomicBool,
    /// Whether another process paused the queue since the queue last checked.
    is_paused_by_other: AtomicBool,
    /// Newly committed deliveries that the queue has not taken yet.
    committed: Mutex<Vec<Claim>>,
    /// Renames that the queue has not taken yet, the oldest first.
    moves: Mutex<VecDeque<Moves>>,
    /// The current epoch, which all handles share.
    epoch: Arc<AtomicU64>,
    /// The newest delivery that any queue of this webhook has claimed.
    newest_claimed: AtomicI64,
}

impl QueueHandle {
    /// Waits until something wakes the queue.
    pub(super) async fn woken(&self) {
        self.wakes.notified().await;
    }

    /// Passes a committed delivery to the queue.
    ///
    /// Drops the delivery if the handle is full or the epoch has ended.
    fn pass(&self, claim: Claim, epoch: Epoch) {
        let mut committed = self.lock();
        if self.epoch.load(Ordering::Acquire) != epoch.0 {
            return;
        }
        let bytes: usize = committed.iter().map(|claim| claim.payload.len()).sum();
        if committed.len() < READY_MAX && bytes.saturating_add(claim.payload.len()) <= READY_BYTES {
            committed.push(claim);
        }
    }

    /// Takes the committed deliveries, the oldest first.
    pub(super) fn take_committed(&self) -> Vec<Claim> {
        std::mem::take(&mut *self.lock())
    }

    fn pass_moves(&self, moves: &Moves) {
        let mut waiting = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOVES_MAX {
            waiting.pop_front();
        }
        waiting.push_back(Arc::clone(moves));
    }

    /// Takes the renames, the oldest first.
    pub(super) fn take_moves(&self) -> VecDeque<Moves> {
        std::mem::take(&mut *self.moves.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Drops the committed deliveries in this handle, and those of all commits in progress.
    ///
    /// The queues later claim them from the store, if they may be sent.
    pub(super) fn drop_committed(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        drop(self.take_committed());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Claim>> {
        self.committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a delivery is newer than all claimed deliveries.
    ///
    /// The queue may already have claimed an older delivery from the store and sent it.
    pub(super) fn is_new(&self, delivery: i64) -> bool {
        delivery > self.newest_claimed.load(Ordering::Acquire)
    }

    /// Records that the queue has claimed a delivery.
    pub(super) fn note_claimed(&self, delivery: i64) {
        self.newest_claimed.fetch_max(delivery, Ordering::AcqRel);
    }

    /// Whether an operator changed deliveries or webhooks since the last call.
    pub(super) fn take_changed_by_operator(&self) -> bool {
        self.is_changed_by_operator.swap(false, Ordering::AcqRel)
    }

    /// Whether another process paused the queue since the last call.
    pub(super) fn take_paused_by_other(&self) -> bool {
        self.is_paused_by_other.swap(false, Ordering::AcqRel)
    }

    #[cfg(test)]
    pub(super) fn n_committed(&self) -> usize {
        self.lock().len()
    }
}

/// A period of time. A delivery is passed to its queue only in the epoch in which its commit began.
///
/// An epoch ends when an operator may have changed deliveries or webhooks, when a receiver pauses
/// its webhook, or when a queue starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(u64);

/// The handles of all queues, one for each webhook.
#[derive(Debug, Default)]
pub(crate) struct QueueHandles {
    epoch: Arc<AtomicU64>,
    handles: Mutex<HashMap<String, Arc<QueueHandle>>>,
}

impl QueueHandles {
    pub(super) fn of(&self, webhook: &str) -> Arc<QueueHandle> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = handles.entry(webhook.to_owned()).or_insert_with(|| {
            Arc::new(QueueHandle {
                epoch: Arc::clone(&self.epoch),
                ..QueueHandle::default()
            })
        });
        Arc::clone(handle)
    }

    /// Returns the current epoch. The engine calls this before a commit.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Passes the renames of a commit to the queues.
    pub(crate) fn moved(&self, moves: &[(ProjectKey, ProjectKey)]) {
        if moves.is_empty() {
            return;
        }
        let moves: Moves = Arc::new(moves.iter().cloned().collect());
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.values() {
            handle.pass_moves(&moves);
        }
    }

    /// Passes deliveries to their queues, and wakes the queues.
    ///
    /// `epoch` is the epoch before the deliveries were committed.
    pub(crate) fn deliver(&self, deliveries: NewDeliveries, epoch: Epoch) {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for (webhook, claim) in deliveries.ready {
            if let Some(handle) = handles.get(&webhook) {
                handle.pass(claim, epoch);
            }
        }
        for webhook in &deliveries.webhooks {
            if let Some(handle) = handles.get(webhook) {
                handle.wakes.notify_one();
            }
        }
    }

    /// Wakes all queues because there may be more deliveries to claim.
    pub(crate) fn wake_for_more(&self) {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.values() {
            handle.wakes.notify_one();
        }
    }

    /// Makes the queues of some webhooks drop their claimed but unsent deliveries.
    ///
    /// The reason is that another process may now be the only sender, or may have the claims.
    pub(crate) fn pause(&self, is_paused: impl Fn(&str) -> bool) {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, handle) in handles.iter().filter(|(webhook, _)| is_paused(webhook)) {
            handle.is_paused_by_other.store(true, Ordering::Release);
            handle.wakes.notify_one();
        }
    }

    /// Wakes all queues after an operator changed deliveries or webhooks in the store.
    ///
    /// If an endpoint is down, its queue sends the next probe now.
    pub(crate) fn wake_all(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.values() {
            handle.is_changed_by_operator.store(true, Ordering::Release);
            handle.wakes.notify_one();
        }
    }
}
