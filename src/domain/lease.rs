//! The lease on a repository: of several processes, one observes it and the others wait.
//!
//! Constraint: a process cannot be sure that it still has the lease, because it may have been
//! stopped or cut off since the database answered. So the lease only avoids needless take-overs.
//! The *epoch* protects the record: each grant has a higher epoch, and the database rejects commits
//! with an older epoch.
//!
//! | state | the process |
//! |---|---|
//! | [`LeaseState::Waiting`] | asks for the lease. It observes and commits nothing. |
//! | [`LeaseState::Held`] | observes and commits. It renews the lease at intervals. |
//! | [`LeaseState::Over`] | commits nothing more. To observe again, it needs a new lease. |
//!
//! The database measures the length of the lease with its own clock, from each grant and renewal.
//! An expired lease can still be renewed if no other process acquired it meanwhile.

use std::time::Duration;

/// The time between two requests of a waiting process.
///
/// It is the same while the database is unavailable.
pub const ASK_AGAIN: Duration = Duration::from_millis(400);

/// The state of the lease in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The process does not have the lease.
    Waiting,
    /// The database granted the lease, and has not reported a later grant.
    Held {
        /// The number of the grant.
        epoch: i64,
    },
    /// Another process took over, or this process released the lease or is stopping.
    Over,
}

/// An answer of the database, or the stop of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The database grants the lease.
    Granted {
        /// The number of the grant.
        epoch: i64,
    },
    /// Another process has the lease.
    Refused,
    /// The lease is renewed.
    Renewed,
    /// The database has granted the lease to another process since.
    Stale,
    /// The database did not answer. It may have handled the request.
    Unanswered,
    /// The process is stopping.
    Stop,
}

/// A request to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Ask for the lease. The database grants it if it was released or has expired.
    Acquire,
    /// Renew the lease of this epoch.
    Renew {
        /// The number of the grant.
        epoch: i64,
    },
    /// Release the lease, so that another process can acquire it immediately.
    GiveBack {
        /// The number of the grant.
        epoch: i64,
    },
}

/// A request, and the time to wait before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The request.
    pub request: Request,
    /// How long the process waits before it sends the request.
    pub after: Duration,
}

impl LeaseState {
    /// Handles an input. Returns the new state, and the next request if there is one.
    #[must_use]
    pub fn handle(self, input: Input, length: Duration) -> (Self, Option<Next>) {
        let next = |request, after| Some(Next { request, after });
        match (self, input) {
            (Self::Waiting, Input::Granted { epoch }) | (Self::Held { epoch }, Input::Renewed) => (
                Self::Held { epoch },
                next(Request::Renew { epoch }, length / 3),
            ),
            // The next renewal is sooner, because the lease may expire before another third of its
            // length has passed.
            (Self::Held { epoch }, Input::Unanswered) => {
                (self, next(Request::Renew { epoch }, length / 10))
            }
            (Self::Held { .. }, Input::Stale) | (Self::Waiting, Input::Stop) => (Self::Over, None),
            // A grant may arrive after the stop. If it were not released, other processes would
            // have to wait until it expires.
            (Self::Held { epoch }, Input::Stop) | (Self::Over, Input::Granted { epoch }) => (
                Self::Over,
                next(Request::GiveBack { epoch }, Duration::ZERO),
            ),
            (Self::Waiting, Input::Refused | Input::Unanswered) => {
                (self, next(Request::Acquire, ASK_AGAIN))
            }
            // These inputs are late answers or a repeated stop. They change nothing.
            (Self::Waiting, Input::Renewed | Input::Stale)
            | (Self::Held { .. }, Input::Granted { .. } | Input::Refused)
            | (Self::Over, _) => (self, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);

    fn next(request: Request, seconds: u64) -> Option<Next> {
        let after = Duration::from_secs(seconds);
        Some(Next { request, after })
    }

    #[test]
    fn each_state_answers_each_input() {
        use Input::*;
        let held = LeaseState::Held { epoch: 7 };
        let renew = Request::Renew { epoch: 7 };
        let again = Some(Next {
            request: Request::Acquire,
            after: ASK_AGAIN,
        });
        for (state, input, expected) in [
            (
                LeaseState::Waiting,
                Granted { epoch: 7 },
                (held, next(renew, 10)),
            ),
            (LeaseState::Waiting, Refused, (LeaseState::Waiting, again)),
            (
                LeaseState::Waiting,
                Unanswered,
                (LeaseState::Waiting, again),
            ),
            (LeaseState::Waiting, Stop, (LeaseState::Over, None)),
            (held, Renewed, (held, next(renew, 10))),
            (held, Unanswered, (held, next(renew, 3))),
            (held, Stale, (LeaseState::Over, None)),
            (
                held,
                Stop,
                (LeaseState::Over, next(Request::GiveBack { epoch: 7 }, 0)),
            ),
            (held, Refused, (held, None)),
            (
                LeaseState::Over,
                Granted { epoch: 8 },
                (LeaseState::Over, next(Request::GiveBack { epoch: 8 }, 0)),
            ),
            (LeaseState::Over, Renewed, (LeaseState::Over, None)),
        ] {
            assert_eq!(state.handle(input, LENGTH), expected, "{state:?} {input:?}");
        }
    }
}
