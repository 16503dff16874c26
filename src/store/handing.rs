//! Claims that are handed out while the commit of their deliveries is still being written to disk.
//!
//! Constraint: nothing may be sent of what is not durable. A claim that is handed out early comes
//! with its [`Commit`], which says when it may be sent, or that it never may: a commit that failed
//! took the delivery back, and its number may be given to another.

use tokio::sync::watch;

use super::queue::Claim;

/// How many claims come with a commit: enough for what happens one by one. In a burst the
/// dispatchers claim for themselves, which costs less for each.
pub const HANDED_MAX: usize = 16;

/// How large their payloads are together at most, in bytes; what is larger is claimed.
pub const HANDED_BYTES: usize = 1024 * 1024;

/// What a claim would find after a commit, with the webhook's name.
pub type Handed = Vec<(String, Claim)>;

/// A commit in progress, for those who wait for it.
#[derive(Clone, Debug)]
pub struct Commit(watch::Receiver<bool>);

impl Commit {
    /// Whether it is durable by now.
    pub fn is_durable(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for its end, and says whether it is durable.
    pub async fn ended(mut self) -> bool {
        self.0.wait_for(|is_durable| *is_durable).await.is_ok()
    }
}

/// What a commit in progress owes to those who wait for it. Dropped, it says that the commit failed.
pub(super) struct Promise(watch::Sender<bool>);

impl Promise {
    pub(super) fn new() -> (Self, Commit) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Commit(receiver))
    }

    /// The commit is durable.
    pub(super) fn keep(self) {
        self.0.send_replace(true);
    }
}
