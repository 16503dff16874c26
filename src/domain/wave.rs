//! Decides when projects that vanish together may be judged.
//!
//! Constraint: this module reads no clock and no store. The caller passes times and the number of
//! recorded projects.
//!
//! A project *vanishes* when its definition is gone, or another project's definition replaces it.
//! The project may appear in another directory later, as in a slow checkout or synchronisation.
//! Then it moved, and must not be deleted. So projects that vanish in short succession, each within
//! the settle time after the previous one, are judged together at the end:
//!
//! - Fewer than ten projects are a *chain*. It ends a settle time after its last project vanished,
//!   but after ten settle times at the latest.
//! - Ten or more projects are a *wave*. It ends when no project vanished, appeared or came back for
//!   the settle time, but after five minutes at the latest.
//!
//! After a start, and if only scans find changes, projects may have vanished or moved unnoticed.
//! They may be part of a slow checkout. So even a few projects are judged like a wave then.
//!
//! If at least ten projects vanished in a wave, and more than half of the projects recorded before
//! it are gone, its removals are held for `repository.mass_delete_after`. If all projects are gone,
//! and there are at least three, the cause is probably an unmounted file system or a locked
//! directory. Then the removals are held at least until one of the projects is back, or until an
//! operator accepts the removals.
//!
//! A backup may restore held projects slowly. So when a held project comes back, the hold of the
//! others lasts for another `repository.mass_delete_after`.
//!
//! A repository that was missing may be restored slowly into another directory. Then all missing
//! projects are held in the same way, even if they are few.
//!
//! A held project whose directory has another project now is certainly gone. It leaves the hold
//! and is judged like any replaced project: it is deleted first, then its successor is imported.
//!
//! [`State`] is the state machine. [`super::vanished`] has the projects.

use std::time::Duration;

use super::settle::Moment;

/// The number of vanished projects that turns a chain into a wave.
pub const WAVE: usize = 10;
/// The maximum duration of a wave.
pub const WAVE_LASTS: Duration = Duration::from_secs(300);
/// The maximum duration of a chain, in settle times.
pub(super) const CHAIN_LASTS: u32 = 10;
/// The minimum number of projects for [`State::HeldForOperator`].
const ALL: usize = 3;

/// The settings that decide how long removals wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The setting `repository.settle`.
    pub settle: Duration,
    /// The setting `repository.mass_delete_after`.
    pub hold: Duration,
}

/// The state of a group of projects that vanished and are not judged yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No project vanished.
    #[default]
    Calm,
    /// Fewer than ten projects vanished.
    Chain {
        /// The time when the first project vanished.
        began: Moment,
        /// The time when the last project vanished.
        vanished_at: Moment,
    },
    /// Ten or more projects vanished. One is enough if projects may have vanished unnoticed.
    Wave {
        /// The time when the first project vanished.
        began: Moment,
        /// The time when a project last vanished, appeared or came back.
        active_at: Moment,
    },
    /// Removals are held: of more than half of the projects, or of projects that may come back.
    Held {
        /// The end of the hold.
        until: Moment,
    },
    /// All projects vanished.
    ///
    /// This state lasts until one of them is back, or until an operator accepts the removals.
    HeldForOperator,
}

/// An input that may change the [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A project vanished.
    Vanished {
        /// The number of vanished projects in this chain or wave, including this one.
        n: usize,
    },
    /// A project that is not recorded appeared. Its definition may still be incomplete.
    Appeared,
    /// A vanished project is back, at its old path or at a new path.
    Returned,
    /// No vanished project remains in the group.
    Emptied,
    /// The time [`State::ends_at`] was reached.
    Ended(Census),
}

/// The numbers that decide whether removals are held. A group is a chain or a wave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The number of projects that vanished in this group, including projects that are back.
    ///
    /// A project that came back and vanished again is counted twice.
    pub n_vanished: usize,
    /// The number of projects in this group whose definition is gone and not replaced.
    pub n_gone: usize,
    /// The value of `n_gone` for this group and the held projects together.
    pub n_gone_in_all: usize,
    /// The number of projects with a recorded definition, including the vanished ones.
    pub n_recorded: usize,
    /// The value of `n_recorded` before the first project of this group vanished.
    pub n_before: usize,
    /// Whether the repository is being restored, so that the missing projects may come back.
    pub may_return: bool,
}

impl Census {
    fn is_all(self) -> bool {
        self.n_gone_in_all >= ALL && self.n_gone_in_all >= self.n_recorded
    }

    fn is_most(self) -> bool {
        self.n_vanished >= WAVE && self.n_gone.saturating_mul(2) > self.n_before
    }
}

impl State {
    /// Returns the time of the next decision: to hold the removals, or to judge them.
    pub fn ends_at(self, times: Times) -> Option<Moment> {
        match self {
            State::Calm | State::HeldForOperator => None,
            State::Chain { began, vanished_at } => Some(
                vanished_at
                    .saturating_add(times.settle)
                    .min(began.saturating_add(times.settle.saturating_mul(CHAIN_LASTS))),
            ),
            State::Wave { began, active_at } => Some(
                active_at
                    .saturating_add(times.settle)
                    .min(began.saturating_add(WAVE_LASTS)),
            ),
            State::Held { until } => Some(until),
        }
    }

    /// Returns the state after `n` projects vanished together at time zero.
    pub fn of_vanished(n: usize) -> Self {
        let (began, at) = (Moment::ZERO, Moment::ZERO);
        match n {
            0 => State::Calm,
            n if n < WAVE => State::Chain {
                began,
                vanished_at: at,
            },
            _ => State::Wave {
                began,
                active_at: at,
            },
        }
    }

    /// Turns a chain into a wave, so that appearing projects extend it.
    pub(super) fn as_wave(self) -> Self {
        match self {
            State::Chain { began, vanished_at } => State::Wave {
                began,
                active_at: vanished_at,
            },
            state => state,
        }
    }

    /// Of this hold and another state, returns the one that holds removals longer.
    pub(super) fn later_hold(self, other: State) -> State {
        match (self, other) {
            (State::Held { until }, State::Held { until: other }) => State::Held {
                until: until.max(other),
            },
            (State::Held { .. }, State::HeldForOperator) => other,
            _ => self,
        }
    }

    /// Returns the state with a hold of at most `repository.mass_delete_after` from now.
    ///
    /// The setting may have been longer when the hold began, or the time of day may have been set
    /// back between two runs.
    #[must_use]
    pub(super) fn with_hold_within(self, now: Moment, times: Times) -> State {
        match self {
            State::Held { until } => State::Held {
                until: until.min(now.saturating_add(times.hold)),
            },
            state => state,
        }
    }

    /// Returns the state after an input. [`State::Calm`] means that all removals may be judged.
    #[must_use]
    pub fn after(self, input: Input, now: Moment, times: Times) -> State {
        match (self, input) {
            (_, Input::Emptied) => State::Calm,
            (State::Calm, Input::Vanished { .. }) => State::Chain {
                began: now,
                vanished_at: now,
            },
            (State::Calm, _) => State::Calm,
            (State::Chain { began, .. }, Input::Vanished { n }) if n >= WAVE => State::Wave {
                began,
                active_at: now,
            },
            (State::Chain { began, .. }, Input::Vanished { .. }) => State::Chain {
                began,
                vanished_at: now,
            },
            (State::Chain { .. }, Input::Appeared | Input::Returned) => self,
            (State::Chain { .. }, Input::Ended(census)) if census.is_all() => {
                State::HeldForOperator
            }
            (State::Chain { .. } | State::Wave { .. }, Input::Ended(census))
                if census.may_return && !census.is_all() && !times.hold.is_zero() =>
            {
                State::Held {
                    until: now.saturating_add(times.hold),
                }
            }
            (State::Chain { .. }, Input::Ended(_)) => State::Calm,
            (
                State::Wave { began, .. },
                Input::Vanished { .. } | Input::Appeared | Input::Returned,
            ) => State::Wave {
                began,
                active_at: now,
            },
            (State::Wave { .. } | State::Held { .. }, Input::Ended(census)) if census.is_all() => {
                State::HeldForOperator
            }
            (State::Wave { .. }, Input::Ended(census))
                if census.is_most() && !times.hold.is_zero() =>
            {
                let ended = self.ends_at(times).unwrap_or(now);
                State::Held {
                    until: ended.saturating_add(times.hold),
                }
            }
            (State::Wave { .. } | State::Held { .. }, Input::Ended(_)) => State::Calm,
            (State::Held { .. }, Input::Vanished { .. } | Input::Appeared) => self,
            (State::Held { until }, Input::Returned) => State::Held {
                until: until.max(now.saturating_add(times.hold)),
            },
            // More vanished projects may come back slowly.
            (State::HeldForOperator, Input::Returned) => State::Held {
                until: now.saturating_add(times.hold.max(times.settle)),
            },
            (
                State::HeldForOperator,
                Input::Vanished { .. } | Input::Appeared | Input::Ended(_),
            ) => self,
        }
    }
}
