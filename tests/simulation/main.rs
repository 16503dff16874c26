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

// The state after a kill.
mod crash;

// The expected deliveries.
mod filter;
mod hook;

// The steps of a run, made from a seed.
mod steps;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use steps::Step;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}

fn failure(steps: &[Step]) -> Option<String> {
    let ran = catch_unwind(AssertUnwindSafe(|| run::run(steps)));
    let panic = ran.err()?;
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
fn shorten(mut steps: Vec<Step>) -> Vec<Step> {
    let mut piece = steps.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + piece).min(steps.len()));
            if failure(&fewer).is_some() {
                steps = fewer;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    steps
}

#[test]
fn every_seed_keeps_every_promise() {
    limit_files();
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
                    let steps = steps::of(seed);
                    n_steps.fetch_add(steps.len() as u64, Ordering::Relaxed);
                    if failure(&steps).is_some() {
                        // One failure is enough.
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        std::panic::set_hook(Box::new(|_| {}));
                        let short = shorten(steps);
                        let why = failure(&short).unwrap_or_default();
                        let _ = std::panic::take_hook();
                        panic!(
                            "seed {seed} fails; again: PROJECT_WEBHOOKS_SEEDS=1 \
                             PROJECT_WEBHOOKS_FIRST_SEED={seed} cargo test --test simulation\n\
                             {short:#?}\n{why}"
                        );
                    }
                    if (seed + 1).is_multiple_of(10_000) {
                        println!("simulation: {} seeds", seed + 1 - first);
                    }
                }
            });
        }
    });
    println!(
        "simulation: {n_seeds} seeds from {first}, {} steps, all promises kept",
        n_steps.into_inner()
    );
}
