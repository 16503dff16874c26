//! The steps of a run, made from a seed.

use fastrand::Rng;

use crate::crash::Crash;
use crate::world::{Action, N_SINGLE};

/// The answers of an endpoint.
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
    /// 500 to all but one project, 200 to that one.
    Poison,
    /// 410.
    Gone,
    /// It receives the callback, and its answer is a later step.
    Slowly,
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
        /// Whether the deliveries of the commit are sent without asking the store, and when the
        /// process is killed then.
        sends: Option<Crash>,
    },
    /// No change is reported until the next full scan.
    Overflow,
    Compare,
    Restart,
    /// An operator accepts held removals.
    Accept,
    Answer {
        webhook: usize,
        answers: Answers,
    },
    Deliver {
        webhook: usize,
        limit: usize,
        crash: Crash,
    },
    /// Slow answers arrive, in time or too late.
    ReceiveSlowAnswers {
        webhook: usize,
        in_time: bool,
        crash: Crash,
    },
    /// An operator enables a webhook.
    Enable {
        webhook: usize,
    },
    /// An operator redelivers dead deliveries.
    Redeliver {
        webhook: usize,
    },
    /// Old deliveries and events are removed.
    Collect {
        /// Whether all that are finished are old.
        is_all_old: bool,
        crash: Crash,
    },
    /// A project leaves the repository, and returns when its delete is recorded.
    OutAndBack {
        at: usize,
    },
    /// All projects change, and an endpoint fails all of them but one, while time passes.
    Poison {
        webhook: usize,
    },
    /// A reload removes or adds the second webhook.
    Configure {
        has_second: bool,
    },
    /// A reload changes a webhook's settings.
    Change {
        webhook: usize,
    },
    SetClock {
        seconds: i64,
    },
    /// Many projects are imported, and then vanish together.
    Wave {
        /// Whether nobody accepts their removals, and the time of the hold passes.
        is_left: bool,
    },
    /// They come back.
    ComeBack,
}

pub fn action(rng: &mut Rng) -> Action {
    use Action::*;
    let mut at = || rng.usize(..N_SINGLE);
    let (one, other) = (at(), at());
    let tag = rng.bool();
    match rng.u8(..40) {
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
        35 => Swap(one, other),
        36..38 => Leave(one),
        _ => Return(one),
    }
}

fn crash(rng: &mut Rng) -> Crash {
    match rng.u8(..16) {
        0 => Crash::Before,
        1 => Crash::During { part: rng.u8(..) },
        2 => Crash::After,
        _ => Crash::No,
    }
}

/// More likely than elsewhere: the answer comes right after the commit.
fn crash_while_sent(rng: &mut Rng) -> Crash {
    match rng.u8(..6) {
        0 => Crash::Before,
        1 => Crash::During { part: rng.u8(..) },
        2 => Crash::After,
        _ => Crash::No,
    }
}

fn answers(rng: &mut Rng) -> Answers {
    match rng.u8(..11) {
        0..3 => Answers::Well,
        3 => Answers::Nothing,
        4 => Answers::Later,
        5..7 => Answers::RefusesOne,
        7 => Answers::Slowly,
        8 => Answers::Gone,
        _ => Answers::Poison,
    }
}

/// The steps of a seed.
pub fn of(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let n = rng.usize(20..80);
    (0..n).map(|_| step(&mut rng)).collect()
}

fn step(rng: &mut Rng) -> Step {
    let webhook = rng.usize(..2);
    match rng.u8(..42) {
        41 if rng.u8(..4) == 0 => Step::Wave {
            is_left: rng.u8(..4) == 0,
        },
        0..12 | 41 => Step::Act {
            action: action(rng),
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
            crash: crash(rng),
            sends: rng.bool().then(|| crash_while_sent(rng)),
        },
        21 => Step::Compare,
        22 if rng.bool() => Step::Overflow,
        22 if rng.u8(..3) == 0 => Step::Accept,
        22 => Step::Restart,
        23..25 => Step::Answer {
            webhook,
            answers: answers(rng),
        },
        25..30 => Step::Deliver {
            webhook,
            limit: rng.usize(1..5),
            crash: crash(rng),
        },
        30..32 => Step::ReceiveSlowAnswers {
            webhook,
            in_time: rng.bool(),
            crash: crash(rng),
        },
        32 if rng.bool() => Step::Enable { webhook },
        32 => Step::Redeliver { webhook },
        33 => Step::Configure {
            has_second: rng.bool(),
        },
        34 => Step::Change { webhook },
        35..37 => Step::Collect {
            is_all_old: rng.bool(),
            crash: crash(rng),
        },
        37..39 => Step::OutAndBack {
            at: rng.usize(..N_SINGLE),
        },
        39 if rng.u8(..3) == 0 => Step::ComeBack,
        39 => Step::Poison { webhook },
        _ => Step::SetClock {
            seconds: rng.i64(-4_000..4_000),
        },
    }
}
