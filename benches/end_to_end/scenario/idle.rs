//! What it costs when nothing happens.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Found, Size};
use crate::place::{Place, Who};

/// At rest with 1,000 projects on record, and what its file takes.
pub fn idle(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const PROJECTS: usize = 1_000;
    let rest = Duration::from_secs(if bench.size == Size::Quick { 5 } else { 30 });
    let place = Place::new(PROJECTS)?;
    // What is younger than two seconds when it is read is read again, which is no rest either.
    std::thread::sleep(Duration::from_secs(3));
    place.start(Who::Ours, &bench.address())?.kill()?;
    let program = place.start(Who::Ours, &bench.address())?;
    // What follows on a start is no rest.
    std::thread::sleep(Duration::from_secs(3));
    let before = program.wake_ups()?;
    std::thread::sleep(rest);
    let wake_ups = program.wake_ups()?.saturating_sub(before);
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let per_second = wake_ups as f64 / rest.as_secs_f64();
    found(json!({
        "scenario": "idle", "who": Who::Ours.name(), "projects": PROJECTS,
        "wake_ups_per_second": per_second, "memory_kb": program.memory()?,
        "threads": program.threads()?,
        "binary_bytes": std::fs::metadata(Place::binary())?.len(),
    }))
}
