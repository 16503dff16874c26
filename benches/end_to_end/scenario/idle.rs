//! The cost of an idle daemon.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Found, Size};
use crate::repository::{Repository, Who};

/// Measures an idle daemon with 1,000 recorded projects.
pub fn idle(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const PROJECTS: usize = 1_000;
    let rest = Duration::from_secs(if bench.size == Size::Quick { 5 } else { 30 });
    let repository = Repository::new(PROJECTS)?;
    // The daemon reads files again that were younger than two seconds.
    std::thread::sleep(Duration::from_secs(3));
    repository.start(Who::Ours, &bench.address())?.kill()?;
    let program = repository.start(Who::Ours, &bench.address())?;
    // Wait for the work that follows a start.
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
        "binary_bytes": std::fs::metadata(Repository::binary())?.len(),
    }))
}
