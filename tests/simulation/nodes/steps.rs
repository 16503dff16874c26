//! The steps of a run with several nodes, made from a seed.

use std::time::Duration;

use fastrand::Rng;

use super::NODES;
use crate::steps::action;
use crate::world::Action;

/// How a node fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Killed,
    Stopped,
    /// Cut off from the database.
    Cut,
    /// It gets the order to stop.
    Ended,
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The clock of a node, for the whole run.
    Skew {
        node: usize,
        /// The seconds by which it is ahead at the start.
        ahead: u64,
        /// Its speed in thousandths.
        speed: u32,
    },
    Act(Action),
    Pass(Duration),
    /// A node does what it can without waiting.
    Turn(usize),
    /// The database handles one of the requests on the way.
    Serve(usize),
    /// Everything works for this time.
    Work(Duration),
    Fail {
        node: usize,
        failure: Failure,
    },
    Repair(usize),
    /// The connections of a node break.
    Break {
        node: usize,
        /// Whether its requests arrive all the same.
        arrives: bool,
    },
    RestartDatabase,
    /// Nothing fails for some time.
    Calm,
    /// The node with the lease fails within its work.
    TakeOver {
        failure: Failure,
        /// The turns that it has after the first action.
        turns: usize,
        /// The actions before it fails, and after that.
        actions: (Action, Action),
        /// Whether the first action is undone after that, and not followed by the second one.
        undoes: bool,
        /// The time from the take-over to the repair.
        late: Duration,
    },
}

/// The steps of a seed.
pub fn of(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let clocks = (0..NODES).map(|node| Step::Skew {
        node,
        ahead: rng.u64(..10_000),
        speed: rng.u32(950..1050),
    });
    let mut steps: Vec<Step> = clocks.collect();
    for _ in 0..rng.usize(10..50) {
        steps.push(step(&mut rng));
    }
    steps
}

fn failure(rng: &mut Rng) -> Failure {
    match rng.u8(..8) {
        0..2 => Failure::Killed,
        2..5 => Failure::Stopped,
        5..7 => Failure::Cut,
        _ => Failure::Ended,
    }
}

fn step(rng: &mut Rng) -> Step {
    let node = rng.usize(..NODES);
    let milliseconds = |rng: &mut Rng, most| Duration::from_millis(rng.u64(1..most));
    match rng.u8(..40) {
        0..10 => Step::Act(action(rng)),
        10..12 => Step::Pass(milliseconds(rng, 3_000)),
        12..20 => Step::Turn(node),
        20..26 => Step::Serve(rng.usize(..8)),
        26..32 => Step::Work(milliseconds(rng, 800)),
        32 => Step::Fail {
            node,
            failure: failure(rng),
        },
        33..35 => Step::Repair(node),
        35 => Step::Break {
            node,
            arrives: rng.bool(),
        },
        36 if rng.bool() => Step::RestartDatabase,
        36 if rng.u8(..4) == 0 => Step::Calm,
        36 => Step::Act(action(rng)),
        _ => {
            let actions = (action(rng), action(rng));
            Step::TakeOver {
                failure: failure(rng),
                turns: rng.usize(..8),
                actions,
                undoes: rng.bool() && !matches!(actions.0, Action::Leave(_) | Action::Return(_)),
                late: milliseconds(rng, 300),
            }
        }
    }
}
