//! Simulates the daemon with seeded random steps, and compares it with a model after each.
//!
//! The rules, the store and the decisions of delivery are the real ones; files, clock and endpoints
//! are models. No event is lost or invented. Each is delivered in order, at least once, under one
//! id, with the observed bytes. In the end the record equals the disk, and everything is delivered.
//!
//! `PROJECT_WEBHOOKS_SEEDS=1000000 cargo test --release --test simulation -- --nocapture` runs a
//! million seeds; `PROJECT_WEBHOOKS_FIRST_SEED` sets the first one. A failing seed is run again with
//! fewer steps, and the shortest list that still fails is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]
#![allow(
    dead_code,
    reason = "the world and the model are those of tests/domain, which uses more of them"
)]

#[path = "../domain/truth.rs"]
mod truth;
#[path = "../domain/world.rs"]
mod world;

// An event as the model compares it.
mod engine;

// One run: its engine and its queues.
mod deliver;
mod infer;
mod run;

// Projects that vanish together.
mod crowd;

// The state after a kill.
mod crash;

// The expected deliveries.
mod filter;
mod hook;

// The steps of a run, made from a seed.
mod steps;

// Several nodes on one record.
mod nodes;

use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}

thread_local! {
    /// Whether a panic on this thread prints nothing.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The reason why a run fails.
fn failure(run: impl FnOnce()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                usual(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    let ended = catch_unwind(AssertUnwindSafe(run));
    IS_QUIET.set(false);
    let panic = ended.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.unwrap_or_else(|| {
        panic
            .downcast_ref::<&str>()
            .unwrap_or(&"a panic")
            .to_string()
    }))
}

/// Makes every store do without its reserve of disk space.
///
/// No step fills the disk, and taking 16 MiB of memory for each state takes longer than most runs.
fn limit_files() {
    let limit = rustix::process::Rlimit {
        current: Some(8 << 20),
        maximum: rustix::process::getrlimit(rustix::process::Resource::Fsize).maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
}

/// Drops steps as long as the rest still fails.
fn shorten<S: Clone>(mut steps: Vec<S>, fails: impl Fn(&[S]) -> bool) -> Vec<S> {
    let mut piece = steps.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + piece).min(steps.len()));
            if fails(&fewer) {
                steps = fewer;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    steps
}

/// Runs the seeds on all processors. Prints the shortest list of steps that fails.
fn run_seeds<S: Clone + Debug>(
    name: &str,
    steps_of: impl Fn(u64) -> Vec<S> + Sync,
    run: impl Fn(&[S]) + Sync,
) {
    let first = number("PROJECT_WEBHOOKS_FIRST_SEED", 0);
    let n_seeds = number("PROJECT_WEBHOOKS_SEEDS", 2_000);
    let (next, n_steps) = (AtomicU64::new(first), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + n_seeds {
                        return;
                    }
                    let steps = steps_of(seed);
                    n_steps.fetch_add(steps.len() as u64, Ordering::Relaxed);
                    if failure(|| run(&steps)).is_some() {
                        // One failure is enough.
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        let short = shorten(steps, |steps| failure(|| run(steps)).is_some());
                        let why = failure(|| run(&short)).unwrap_or_default();
                        panic!(
                            "seed {seed} fails; again: PROJECT_WEBHOOKS_SEEDS=1 \
                             PROJECT_WEBHOOKS_FIRST_SEED={seed} cargo test --test simulation\n\
                             {short:#?}\n{why}"
                        );
                    }
                    if (seed + 1).is_multiple_of(10_000) {
                        println!("{name}: {} seeds", seed + 1 - first);
                    }
                }
            });
        }
    });
    println!(
        "{name}: {n_seeds} seeds from {first}, {} steps, all promises kept",
        n_steps.into_inner()
    );
}

#[test]
fn every_seed_keeps_every_promise() {
    limit_files();
    run_seeds("simulation", steps::of, run::run);
}

/// A rule that holds removals for a shorter time is found.
#[test]
fn removals_that_are_not_held_are_found() {
    limit_files();
    for hold in [0, 59].map(std::time::Duration::from_secs) {
        let fails = |seed: u64| failure(|| run::run_holding(&steps::of(seed), hold));
        let why = (0..500).find_map(fails);
        let why = why.unwrap_or_else(|| panic!("500 seeds miss a hold of {hold:?}"));
        assert_eq!(why, "a removal counts while it should be held");
    }
}

#[test]
fn several_nodes_keep_every_promise() {
    let n_grants = AtomicU64::new(0);
    run_seeds("several nodes", nodes::of, |steps| {
        let grants = nodes::run(steps, None);
        n_grants.fetch_add(u64::try_from(grants).unwrap(), Ordering::Relaxed);
    });
    println!("several nodes: {} grants", n_grants.into_inner());
}

/// Each broken rule is found, so the simulation is sharp enough.
#[test]
fn several_nodes_find_each_broken_rule() {
    use nodes::Fault::*;
    let n_seeds = 500;
    let found = [
        EpochNotChecked,
        EpochNotRaised,
        TransactionIgnored,
        NothingCompared,
        RenewedTooLate,
        NotGivenBack,
    ]
    .map(|fault| {
        let fails = |seed: u64| {
            let steps = nodes::of(seed);
            let why = failure(|| {
                nodes::run(&steps, Some(fault));
            })?;
            Some((seed, why))
        };
        (fault, (0..n_seeds).find_map(fails))
    });
    for (fault, found) in found {
        let (seed, why) = found.unwrap_or_else(|| panic!("{n_seeds} seeds miss {fault:?}"));
        println!(
            "{fault:?}: seed {seed}: {}",
            why.lines().next().unwrap_or_default()
        );
    }
}
