//! What a kill, and a time without the program, cost.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Found, labelled};
use crate::judge::{Judged, summary};
use crate::place::{Place, Who};
use crate::tree::{Edits, PUBLISHED};

/// How many calls may come again after a kill: those in flight, and the answers that wait to be
/// recorded or are being recorded, 64 each (docs/reliability.md).
const IN_FLIGHT_MAX: usize = 16 + 2 * 64;

fn at_once(count: usize) -> Edits {
    Edits {
        file: PUBLISHED,
        projects: 0..count,
        round: 0,
        pause: Duration::ZERO,
    }
}

/// kill -9 after a third of a burst's calls; what was in flight then may come twice.
pub fn kill(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const CHANGES: usize = 1_000;
    let place = Place::new(CHANGES)?;
    let mut program = place.start(Who::Ours, &bench.address())?;
    let _ = bench.receiver.take();
    let made = place.edit(&at_once(CHANGES))?;
    let limit = Duration::from_secs(60);
    bench
        .receiver
        .settle(CHANGES * 3 / 10, Duration::ZERO, limit)?;
    let at_kill = bench.receiver.count();
    program.kill()?;
    let _again = place.start(Who::Ours, &bench.address())?;
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

/// Half of the projects are changed while nothing runs.
pub fn stopped(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const CHANGES: usize = 200;
    let place = Place::new(2 * CHANGES)?;
    place.start(Who::Ours, &bench.address())?.kill()?;
    let _ = bench.receiver.take();
    let made = place.edit(&at_once(CHANGES))?;
    let _again = place.start(Who::Ours, &bench.address())?;
    let limit = Duration::from_secs(60);
    bench
        .receiver
        .settle(CHANGES, Duration::from_secs(2), limit)?;
    let judged = Judged::of(bench.receiver.take(), &made, &[])?;
    let more = json!({ "scenario": "stopped", "who": Who::Ours.name(), "size": CHANGES });
    found(labelled(summary(&[judged], 0), more))?;
    Ok(())
}
