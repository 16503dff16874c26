//! Starts, memory, live changes and bursts with many projects.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, Found, labelled};
use crate::judge::{Judged, median, summary};
use crate::program::Program;
use crate::repository::{Repository, Webhook, Who};
use crate::tree::{self, Edits, PUBLISHED};

/// The path of the webhook for deletions, which shows when they are all inferred.
const DELETED: &str = "/deleted";
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures everything on one repository of each size.
pub fn scale(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    for &projects in &bench.projects {
        let size = Measured {
            bench,
            repository: Repository::new(projects)?,
            projects,
            // At most half of the smallest repository.
            some: 1_000.min(projects / 2),
        };
        size.measure(found)?;
    }
    Ok(())
}

struct Measured<'a> {
    bench: &'a Bench,
    repository: Repository,
    projects: usize,
    /// The number of projects to change or remove at once.
    some: usize,
}

impl Measured<'_> {
    fn measure(&self, found: Found<'_>) -> anyhow::Result<()> {
        let mut found = |what: &str, result: Value| {
            found(labelled(
                result,
                json!({
                    "scenario": "scale", "what": what, "who": Who::Ours.name(),
                    "projects": self.projects,
                }),
            ))
        };
        age();
        let mut program = self.start()?;
        found("first-start", standing(&program)?)?;
        program.kill()?;
        let (program, restart) = self.restarts()?;
        found("restart", restart)?;
        let (resting, disturbed) = self.live(&program)?;
        found("edits", resting)?;
        found("edits-in-rescan", disturbed)?;
        let burst = self.edits(1, 0..self.some, Duration::ZERO)?;
        found(
            "burst",
            labelled(
                summary(&[burst], 0),
                json!({ "peak_kb": program.peak_memory()? }),
            ),
        )?;
        drop(program);
        let (program, restart) = self.restart_with_changes()?;
        found("restart-with-changes", restart)?;
        found("edits-after-removal", self.removal()?)?;
        drop(program);
        Ok(())
    }

    fn start(&self) -> anyhow::Result<Program> {
        let mut deleted = Webhook::at(DELETED);
        deleted.events = "[project-delete]";
        let webhooks = [Webhook::at("/"), deleted];
        self.repository.daemon(&self.bench.address(), &webhooks)
    }

    /// Restarts after a kill without changes, and starts inotifywait on the same directories.
    fn restarts(&self) -> anyhow::Result<(Program, Value)> {
        let mut ours = Vec::new();
        let mut peer = Vec::new();
        for _ in 1..self.bench.rounds.min(3) {
            ours.push(self.start()?.start.as_secs_f64());
            if Who::Inotifywait.is_there() {
                let address = self.bench.address();
                let other = self.repository.start(Who::Inotifywait, &address)?;
                peer.push(other.start.as_secs_f64());
            }
        }
        let program = self.start()?;
        ours.push(program.start.as_secs_f64());
        let mut result = standing(&program)?;
        if let Some(object) = result.as_object_mut() {
            object.insert("start_s".to_owned(), json!(median(ours.into_iter())));
            object.insert(
                "inotifywait_start_s".to_owned(),
                json!(median(peer.into_iter())),
            );
        }
        Ok((program, result))
    }

    /// Measures single changes, at rest and during a full scan.
    fn live(&self, program: &Program) -> anyhow::Result<(Value, Value)> {
        let mut resting = Vec::new();
        let mut disturbed = Vec::new();
        for round in 0..self.bench.rounds.min(3) {
            let pause = Duration::from_millis(100);
            resting.push(self.edits(10 + round, 0..20, pause)?);
            program.rescan()?;
            disturbed.push(self.edits(20 + round, 20..40, pause)?);
        }
        Ok((summary(&resting, 0), summary(&disturbed, 0)))
    }

    fn edits(
        &self,
        round: usize,
        projects: std::ops::Range<usize>,
        pause: Duration,
    ) -> anyhow::Result<Judged> {
        let edits = Edits {
            file: PUBLISHED,
            projects,
            round,
            pause,
        };
        self.bench.round(&self.repository, &edits, &[])
    }

    /// Restarts after changes while nothing ran.
    fn restart_with_changes(&self) -> anyhow::Result<(Program, Value)> {
        let _ = self.bench.receiver.take();
        let made = self.repository.edit(&Edits {
            file: PUBLISHED,
            projects: 0..self.some,
            round: 2,
            pause: Duration::ZERO,
        })?;
        age();
        let program = self.start()?;
        let receiver = &self.bench.receiver;
        receiver.settle(made.len(), Duration::from_secs(1), PATIENCE)?;
        let calls = receiver.take();
        let last = calls.iter().map(|call| call.at).max();
        let last = last.map(|at| at.saturating_duration_since(program.begin));
        let judged = Judged::of(calls, &made, &[])?;
        let more = json!({
            "start_s": program.start.as_secs_f64(),
            "last_call_s": last.map(|last| last.as_secs_f64()),
            "peak_kb": program.peak_memory()?,
        });
        // Latencies would include the time in which nothing ran.
        let mut result = summary(&[judged], 0);
        if let Some(object) = result.as_object_mut() {
            object.retain(|key, _| !key.ends_with("_ms") && key != "per_second");
        }
        Ok((program, labelled(result, more)))
    }

    /// Removes many projects and changes others right after that.
    fn removal(&self) -> anyhow::Result<Value> {
        let _ = self.bench.receiver.take();
        let root = self.repository.root();
        let begin = std::time::Instant::now();
        tree::remove(&root, self.projects - self.some..self.projects)?;
        let took = begin.elapsed();
        let made = self.repository.edit(&Edits {
            file: PUBLISHED,
            projects: 0..20,
            round: 3,
            pause: Duration::from_millis(50),
        })?;
        let receiver = &self.bench.receiver;
        let wanted = made.len() + self.some;
        receiver.settle(wanted, Duration::from_secs(1), PATIENCE)?;
        let (deleted, calls): (Vec<_>, Vec<_>) = receiver
            .take()
            .into_iter()
            .partition(|call| call.uri.path() == DELETED);
        let last = deleted.iter().map(|call| call.at).max();
        let last = last.map(|at| at.saturating_duration_since(begin).as_secs_f64());
        let judged = Judged::of(calls, &made, &[])?;
        let more = json!({
            "removed": self.some, "removing_s": took.as_secs_f64(),
            "lost_deletes": self.some.saturating_sub(deleted.len()),
            "last_delete_s": last,
        });
        Ok(labelled(summary(&[judged], 0), more))
    }
}

/// Waits, because the next start reads files again that were younger than two seconds.
fn age() {
    std::thread::sleep(Duration::from_millis(2_500));
}

/// The time and memory of a start.
fn standing(program: &Program) -> anyhow::Result<Value> {
    Ok(json!({
        "start_s": program.start.as_secs_f64(), "peak_kb": program.peak_memory()?,
        "memory_kb": program.memory()?, "bytes_read": program.bytes_read()?,
    }))
}
