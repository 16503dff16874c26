//! Losses and repetitions after a kill and a pause.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Found, labelled};
use crate::judge::{Judged, summary};
use crate::repository::{Repository, Who};
use crate::tree::{Edits, PUBLISHED};

/// The most repeated calls after a kill (docs/reliability.md).
///
/// They are the calls in flight, and the answers that are queued for the store or in its current
/// transaction, 64 each.
const IN_FLIGHT_MAX: usize = 16 + 2 * 64;

fn at_once(count: usize) -> Edits {
    Edits {
        file: PUBLISHED,
        projects: 0..count,
        round: 0,
        pause: Duration::ZERO,
    }
}

/// Kills the daemon after a third of the calls of a burst.
pub fn kill(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const CHANGES: usize = 1_000;
    let repository = Repository::new(CHANGES)?;
    let mut program = repository.start(Who::Ours, &bench.address())?;
    let _ = bench.receiver.take();
    let made = repository.edit(&at_once(CHANGES))?;
    let limit = Duration::from_secs(60);
    bench
        .receiver
        .settle(CHANGES * 3 / 10, Duration::ZERO, limit)?;
    let at_kill = bench.receiver.count();
    program.kill()?;
    let _again = repository.start(Who::Ours, &bench.address())?;
    bench
        .receiver
        .settle(CHANGES, Duration::from_secs(2), limit)?;
    let judged = Judged::of(bench.receiver.take(), &made, &[])?;
    let more = json!({
        "scenario": "kill", "who": Who::Ours.name(), "size": CHANGES, "calls_at_kill": at_kill,
    });
    found(labelled(summary(&[judged], IN_FLIGHT_MAX), more))?;
    Ok(())
}

/// Changes half of the projects while nothing runs.
pub fn stopped(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const CHANGES: usize = 200;
    let repository = Repository::new(2 * CHANGES)?;
    repository.start(Who::Ours, &bench.address())?.kill()?;
    let _ = bench.receiver.take();
    let made = repository.edit(&at_once(CHANGES))?;
    let _again = repository.start(Who::Ours, &bench.address())?;
    let limit = Duration::from_secs(60);
    bench
        .receiver
        .settle(CHANGES, Duration::from_secs(2), limit)?;
    let judged = Judged::of(bench.receiver.take(), &made, &[])?;
    let more = json!({ "scenario": "stopped", "who": Who::Ours.name(), "size": CHANGES });
    found(labelled(summary(&[judged], 0), more))?;
    Ok(())
}
