//! What happens in a run, made from a seed.

use fastrand::Rng;

use crate::world::{Action, PLACES};

/// How an endpoint answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// 200.
    Well,
    /// No connection, or no answer in time.
    Nothing,
    /// 503 with Retry-After.
    Later,
    /// 400 to all of one project, 200 to the others.
    RefusesOne,
    /// 410.
    Gone,
}

/// When the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    No,
    /// Before the store's transaction commits, or before an answer is recorded.
    Before,
    /// After it, before anything else.
    After,
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Act {
        action: Action,
        hint_is_lost: bool,
    },
    Pass {
        milliseconds: u64,
        ticks: bool,
    },
    Round {
        limit: usize,
        crash: Crash,
    },
    Compare,
    Restart,
    Answer {
        webhook: usize,
        answers: Answers,
    },
    Deliver {
        webhook: usize,
        limit: usize,
        crash: Crash,
    },
    Enable {
        webhook: usize,
    },
    /// A reload that takes the second webhook out, or in.
    Reload {
        has_second: bool,
    },
    SetClock {
        seconds: i64,
    },
}

fn action(rng: &mut Rng) -> Action {
    use Action::*;
    let mut at = || rng.usize(..PLACES.len());
    let (one, other) = (at(), at());
    let tag = rng.bool();
    match rng.u8(..36) {
        0..3 => Import(one),
        3..5 => ImportWhole(one),
        5..7 => Save(one),
        7 => Touch(one),
        8..10 => BeginSave(one, tag),
        10..13 => FinishSave(one),
        13..16 => Publish(one, tag),
        16 => BeginPublish(one, tag),
        17 => Unpublish(one, tag),
        18..21 => Snapshot(one, tag),
        21 => BeginSnapshot(one, tag),
        22 => DropSnapshot(one, tag),
        23..25 => RestoreByCopy(one, tag),
        25..27 => RestoreByMove(one, tag),
        27 => Delete(one),
        28 => DeleteAndUnpublish(one),
        29 => Replace(one),
        30 => ReplaceWhole(one),
        31..35 => Move(one, other),
        _ => Swap(one, other),
    }
}

fn crash(rng: &mut Rng) -> Crash {
    match rng.u8(..16) {
        0 => Crash::Before,
        1 => Crash::After,
        _ => Crash::No,
    }
}

/// The steps of a seed.
pub fn of(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let n = rng.usize(20..80);
    (0..n)
        .map(|_| match rng.u8(..32) {
            0..12 => Step::Act {
                action: action(&mut rng),
                hint_is_lost: rng.u8(..10) == 0,
            },
            12..16 => Step::Pass {
                milliseconds: match rng.u8(..3) {
                    0 => rng.u64(..60),
                    1 => rng.u64(900..1100),
                    _ => rng.u64(1..6_000),
                },
                ticks: rng.u8(..5) > 0,
            },
            16..21 => Step::Round {
                limit: rng.usize(1..5),
                crash: crash(&mut rng),
            },
            21 => Step::Compare,
            22 => Step::Restart,
            23..25 => Step::Answer {
                webhook: rng.usize(..2),
                answers: match rng.u8(..8) {
                    0..3 => Answers::Well,
                    3 => Answers::Nothing,
                    4 => Answers::Later,
                    5..7 => Answers::RefusesOne,
                    _ => Answers::Gone,
                },
            },
            25..30 => Step::Deliver {
                webhook: rng.usize(..2),
                limit: rng.usize(1..5),
                crash: crash(&mut rng),
            },
            30 if rng.bool() => Step::Enable {
                webhook: rng.usize(..2),
            },
            30 => Step::Reload {
                has_second: rng.bool(),
            },
            _ => Step::SetClock {
                seconds: rng.i64(-4_000..4_000),
            },
        })
        .collect()
}
