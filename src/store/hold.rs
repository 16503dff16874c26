//! The period in which the claims of a process are certain to exclude other processes.
//!
//! Constraint: a lease may end while a sender waits for the webhook's `rate` or resolves a host
//! name. And a stopped process does not notice that time passes. So a sender checks the hold
//! immediately before the first byte of each request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The period in which the claims of a process are certain to exclude other processes.
///
/// All clones belong to one lease. The default is always valid, for a store without other
/// processes.
#[derive(Clone, Debug, Default)]
pub struct Hold(Option<Arc<Mutex<Option<Instant>>>>);

impl Hold {
    /// Makes the hold of a lease that was requested at this time and has this length.
    ///
    /// The lease begins later, when the request arrives at the database. So the hold ends before
    /// the lease.
    pub(super) fn of_lease(requested: Instant, length: Duration) -> Self {
        Self(Some(Arc::new(Mutex::new(requested.checked_add(length)))))
    }

    /// Extends the hold after the database confirmed a renewal requested at this time.
    pub(super) fn renewed(&self, requested: Instant, length: Duration) {
        if let Some(mut until) = self.lock()
            && let Some(before) = *until
        {
            *until = requested.checked_add(length).map(|new| new.max(before));
        }
    }

    /// Ends the hold forever, because another process removed the lease.
    pub(super) fn end(&self) {
        if let Some(mut until) = self.lock() {
            *until = None;
        }
    }

    /// Whether the claims are certain to exclude other processes now.
    pub fn is_valid(&self) -> bool {
        let Some(until) = self.lock() else {
            return true;
        };
        until.is_some_and(|until| Instant::now() < until)
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<Instant>>> {
        let until = self.0.as_ref()?;
        Some(until.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_hold_lasts_from_the_request_and_never_comes_back() {
        assert!(Hold::default().is_valid());
        let now = Instant::now();
        let long_ago = now.checked_sub(2 * LENGTH).unwrap_or(now);
        let hold = Hold::of_lease(now, LENGTH);
        // The answer to an earlier request arrives late.
        hold.renewed(long_ago, LENGTH);
        assert!(hold.is_valid());
        let other = hold.clone();
        other.end();
        hold.renewed(now, LENGTH);
        assert!(!hold.is_valid());
    }
}
