//! Decides when projects that vanish together may be judged.
//!
//! Constraint: no clock, and no reading. Times and the number of recorded projects are arguments.
//!
//! A project vanishes when its definition is gone, or when another project's is in its place. It may
//! appear in another directory later, as in a slow checkout or synchronisation, and that is a move.
//! So projects that vanish with less than the settle time between one and the next are judged
//! together, when that is over:
//!
//! - Fewer than ten are a chain. It is over a settle time after the last of them vanished.
//! - Ten or more are a wave. It is over when no project vanished or appeared for the settle time,
//!   after five minutes at the latest.
//!
//! A wave that took more than half of the recorded projects is held for a time
//! (`repository.mass_delete_after`). If all projects are gone, and they are at least three, something
//! else is probably wrong: a file system that is not mounted, or a locked directory. They are held
//! until one of them is back, or until an operator accepts the removals.
//!
//! [`State`] is the state machine, and [`super::vanished`] knows the projects.

use std::time::Duration;

use super::settle::Moment;

/// The number of projects that make a wave.
pub const WAVE: usize = 10;
/// The longest time that a wave lasts.
pub const WAVE_LASTS: Duration = Duration::from_secs(300);
/// The longest time that a chain lasts, in settle times: it has fewer than ten projects.
const CHAIN_LASTS: u32 = 10;
/// The least number of projects that are held when all are gone.
const ALL: usize = 3;

/// The settings of waves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// `repository.settle`
    pub settle: Duration,
    /// `repository.mass_delete_after`
    pub hold: Duration,
}

/// The state of the projects that vanished and are not judged yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// There are none.
    #[default]
    Calm,
    /// Fewer than ten vanished.
    Chain {
        /// The time when the first vanished.
        began: Moment,
        /// The time when the last vanished.
        vanished_at: Moment,
    },
    /// Ten or more vanished.
    Wave {
        /// The time when the first vanished.
        began: Moment,
        /// The time when the last vanished or appeared.
        active_at: Moment,
    },
    /// A wave that took more than half of the projects is over.
    Held {
        /// The time when the removals are judged.
        until: Moment,
    },
    /// All projects vanished. They wait for one of them, or for an operator.
    HeldForOperator,
}

/// A happening that may change the [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A project vanished. `n` have vanished now.
    Vanished {
        /// The number of projects that are not judged.
        n: usize,
    },
    /// A project appeared that was not on record, or its definition begins to.
    Appeared,
    /// A vanished project is back, in its place or in another one.
    Returned,
    /// None of the vanished projects is left.
    Emptied,
    /// The time of [`State::ends_at`] came.
    Ended(Census),
}

/// The numbers that decide whether removals are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Of the projects that vanished together, those whose definition is gone and not replaced.
    pub n_gone: usize,
    /// All such projects, those that are held already among them.
    pub n_gone_in_all: usize,
    /// Projects with a definition on record, those that vanished among them.
    pub n_recorded: usize,
    /// Whether all these projects were held for an operator before a restart.
    pub was_held: bool,
}

impl Census {
    fn is_all(self) -> bool {
        self.was_held || (self.n_gone_in_all >= ALL && self.n_gone_in_all >= self.n_recorded)
    }

    fn is_most(self) -> bool {
        self.n_gone.saturating_mul(2) > self.n_recorded
    }
}

impl State {
    /// The time when the removals are judged, or when it is decided whether they are held.
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

    /// The state after `n` projects vanished at once, at the start of the clock.
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

    /// The longer of two holds.
    pub(super) fn later_hold(self, other: State) -> State {
        match (self, other) {
            (State::Held { until }, State::Held { until: other }) => State::Held {
                until: until.max(other),
            },
            (State::Held { .. }, State::HeldForOperator) => other,
            _ => self,
        }
    }

    /// The state after an input. [`State::Calm`] means that all removals may be judged.
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
            (State::Held { .. }, Input::Vanished { .. } | Input::Appeared | Input::Returned) => {
                self
            }
            // One of them is back, so the others are judged like any that vanished.
            (State::HeldForOperator, Input::Returned) => State::Wave {
                began: now,
                active_at: now,
            },
            (
                State::HeldForOperator,
                Input::Vanished { .. } | Input::Appeared | Input::Ended(_),
            ) => self,
        }
    }
}
