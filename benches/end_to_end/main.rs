//! Measures the real binary from the change of a file to the call, beside a floor in the same run.
//!
//! `cargo bench --bench end_to_end -- [--quick] [SCENARIO...]`; scenarios: edits, burst, fresh, kill,
//! stopped, start, idle. It prints a JSON line for each measurement on standard output, and
//! fails if a call was lost, early or unasked, or doubled where no process was killed.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod floor;
mod program;
mod receiver;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use serde_json::{Value, json};

use program::Program;
use receiver::Receiver;
use tree::Change;

/// Measures project-webhooks from the change of a file to the call.
#[derive(Parser)]
struct Arguments {
    /// Smaller sizes.
    #[arg(long)]
    quick: bool,
    /// Which scenarios; all without any.
    scenarios: Vec<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Runs the floor instead: root, address, journal, each or batch.
    #[arg(long, hide = true, num_args = 4)]
    floor: Vec<String>,
}

/// How many calls may come again after a kill: those in flight, and the answers that wait to be
/// recorded or are being recorded, 64 each (docs/reliability.md).
const IN_FLIGHT_MAX: u64 = 16 + 2 * 64;
const SCENARIOS: [&str; 7] = [
    "edits", "burst", "fresh", "kill", "stopped", "start", "idle",
];
const PUBLISHED: &str = "published/project.xml";
const AT_ONCE: Duration = Duration::ZERO;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let [root, address, journal, sync] = arguments.floor.as_slice() {
        return floor::run(Path::new(root), address, Path::new(journal), sync == "each");
    }
    if let Some(unknown) = arguments
        .scenarios
        .iter()
        .find(|name| !SCENARIOS.contains(&name.as_str()))
    {
        anyhow::bail!("no scenario {unknown}; there are: {}", SCENARIOS.join(", "));
    }
    let wanted = |name: &str| {
        arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|one| one == name)
    };
    let receiver = Receiver::start()?;
    let mut results = Results::default();
    if wanted("edits") {
        for who in ["floor-each", "project-webhooks"] {
            results.add(changes(
                &receiver,
                "edits",
                who,
                100,
                Duration::from_millis(200),
                PUBLISHED,
            )?);
        }
    }
    if wanted("burst") {
        for size in if arguments.quick {
            vec![1_000]
        } else {
            vec![1_000, 10_000]
        } {
            for who in ["floor-each", "floor-batch", "project-webhooks"] {
                results.add(changes(&receiver, "burst", who, size, AT_ONCE, PUBLISHED)?);
            }
        }
    }
    if wanted("fresh") {
        results.add(changes(
            &receiver,
            "fresh",
            "project-webhooks",
            1_000,
            AT_ONCE,
            "project.xml",
        )?);
    }
    if wanted("kill") {
        results.add(kill(&receiver)?);
    }
    if wanted("stopped") {
        results.add(stopped(&receiver)?);
    }
    if wanted("start") {
        for projects in if arguments.quick {
            vec![1_000]
        } else {
            vec![1_000, 10_000]
        } {
            for result in start(projects)? {
                results.add(result);
            }
        }
    }
    if wanted("idle") {
        results.add(idle()?);
    }
    anyhow::ensure!(
        !results.failed,
        "calls were lost, early, doubled or unasked: see the lines above"
    );
    Ok(())
}

/// What was measured, and whether all of it was right.
#[derive(Default)]
struct Results {
    failed: bool,
}

impl Results {
    fn add(&mut self, result: Value) {
        let wrong = |key| result.get(key).and_then(Value::as_u64).unwrap_or(0) > 0;
        self.failed |= ["lost", "early", "doubled", "unasked"]
            .into_iter()
            .any(wrong);
        println!("{result}");
    }
}

/// A tree with its state beside it, removed when dropped.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(projects: usize) -> anyhow::Result<Self> {
        let place = Self {
            directory: tempfile::tempdir()?,
        };
        // The organizations are there in every scenario.
        for index in 0..100 {
            if let Some(organization) = tree::project(&place.root(), index).parent() {
                std::fs::create_dir_all(organization)?;
            }
        }
        tree::prepare(&place.root(), projects)?;
        Ok(place)
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    fn stage(&self) -> PathBuf {
        self.directory.path().join("stage")
    }

    /// Starts the daemon or a floor on this tree.
    fn start(&self, who: &str, address: &str) -> anyhow::Result<Program> {
        let log = self.directory.path().join("log");
        if let Some(sync) = who.strip_prefix("floor-") {
            let journal = self.directory.path().join("journal");
            let mut command = Command::new(std::env::current_exe()?);
            command
                .arg("--floor")
                .arg(self.root())
                .arg(address)
                .arg(journal)
                .arg(sync);
            return Program::start(&mut command, &log);
        }
        let config = self.directory.path().join("config.yaml");
        std::fs::write(
            &config,
            format!(
                "repository: {{ path: {:?} }}\nstate_dir: {:?}\nwebhooks:\n  - name: bench\n    \
                 events: [project-publish, project-import-any]\n    url: http://{address}/\n    \
                 format: xml\n    concurrency: 16\n",
                self.root(),
                self.directory.path().join("state"),
            ),
        )?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
        command.arg("--config").arg(config).arg("run");
        Program::start(&mut command, &log)
    }
}

/// Edits at a rate, or a burst of them, or of new projects.
fn changes(
    receiver: &Receiver,
    scenario: &str,
    who: &str,
    count: usize,
    pause: Duration,
    file: &str,
) -> anyhow::Result<Value> {
    let place = Place::new(if file == PUBLISHED { count } else { 0 })?;
    let program = place.start(who, &receiver.address.to_string())?;
    let _ = receiver.take();
    let made = tree::replace(&place.root(), &place.stage(), file, count, pause)?;
    receiver.settle(count, Duration::from_secs(1), Duration::from_secs(60));
    let mut result = judge(receiver, &made, 0)?;
    add(
        &mut result,
        &[
            ("scenario", json!(scenario)),
            ("who", json!(who)),
            ("peak_kb", json!(program.peak_memory()?)),
        ],
    );
    Ok(result)
}

/// kill -9 after a third of a burst's calls; what was in flight then may come twice.
fn kill(receiver: &Receiver) -> anyhow::Result<Value> {
    let place = Place::new(1_000)?;
    let address = receiver.address.to_string();
    let mut program = place.start("project-webhooks", &address)?;
    let _ = receiver.take();
    let made = tree::replace(&place.root(), &place.stage(), PUBLISHED, 1_000, AT_ONCE)?;
    receiver.settle(300, AT_ONCE, Duration::from_secs(30));
    let at_kill = receiver.count();
    program.kill()?;
    let _again = place.start("project-webhooks", &address)?;
    receiver.settle(1_000, Duration::from_secs(2), Duration::from_secs(60));
    let mut result = judge(receiver, &made, IN_FLIGHT_MAX)?;
    add(
        &mut result,
        &[
            ("scenario", json!("kill")),
            ("who", json!("project-webhooks")),
            ("calls_at_kill", json!(at_kill)),
        ],
    );
    Ok(result)
}

/// Changes that are made while nothing runs.
fn stopped(receiver: &Receiver) -> anyhow::Result<Value> {
    let place = Place::new(400)?;
    let address = receiver.address.to_string();
    place.start("project-webhooks", &address)?.kill()?;
    let _ = receiver.take();
    let made = tree::replace(&place.root(), &place.stage(), PUBLISHED, 200, AT_ONCE)?;
    let _again = place.start("project-webhooks", &address)?;
    receiver.settle(200, Duration::from_secs(2), Duration::from_secs(60));
    let mut result = judge(receiver, &made, 0)?;
    add(
        &mut result,
        &[
            ("scenario", json!("stopped")),
            ("who", json!("project-webhooks")),
        ],
    );
    Ok(result)
}

/// The first start, and a restart with nothing changed.
fn start(projects: usize) -> anyhow::Result<Vec<Value>> {
    let place = Place::new(projects)?;
    let mut results = Vec::new();
    for scenario in ["first-start", "restart"] {
        let mut program = place.start("project-webhooks", "127.0.0.1:9")?;
        results.push(json!({
            "scenario": scenario, "who": "project-webhooks", "projects": projects,
            "start_s": program.start.as_secs_f64(), "peak_kb": program.peak_memory()?,
        }));
        program.kill()?;
    }
    Ok(results)
}

/// At rest with 1,000 projects on record, and what its file takes.
fn idle() -> anyhow::Result<Value> {
    const REST: Duration = Duration::from_secs(30);
    let place = Place::new(1_000)?;
    // What is younger than two seconds when it is read is read again, which is no rest either.
    std::thread::sleep(Duration::from_secs(3));
    place.start("project-webhooks", "127.0.0.1:9")?.kill()?;
    let program = place.start("project-webhooks", "127.0.0.1:9")?;
    // What follows on a start is no rest.
    std::thread::sleep(Duration::from_secs(3));
    let before = program.wake_ups()?;
    std::thread::sleep(REST);
    let wake_ups = program.wake_ups()?.saturating_sub(before);
    let binary = std::fs::metadata(env!("CARGO_BIN_EXE_project-webhooks"))?;
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let per_second = wake_ups as f64 / REST.as_secs_f64();
    Ok(json!({
        "scenario": "idle", "who": "project-webhooks", "projects": 1_000,
        "wake_ups_per_second": per_second, "memory_kb": program.memory()?,
        "binary_bytes": binary.len(),
    }))
}

/// Compares what was changed with what was called. Up to `allowed` doubled calls are `repeated`.
fn judge(receiver: &Receiver, made: &[Change], allowed: u64) -> anyhow::Result<Value> {
    let mut called: HashMap<String, Vec<Instant>> = HashMap::new();
    for (at, body) in receiver.take() {
        let text = String::from_utf8_lossy(&body);
        let token = text
            .split_once("name=\"")
            .and_then(|(_, rest)| rest.split_once(';'));
        let (token, _) = token.with_context(|| format!("a call without a token: {text}"))?;
        called.entry(token.to_owned()).or_default().push(at);
    }
    let (mut lost, mut early, mut doubled) = (0_u64, 0_u64, 0_u64);
    let mut latencies = Vec::new();
    let mut last = None;
    for change in made {
        let Some(calls) = called.remove(&change.token) else {
            lost += 1;
            continue;
        };
        doubled += calls.len().saturating_sub(1) as u64;
        early += calls.iter().filter(|at| **at < change.complete).count() as u64;
        if let Some(first) = calls.first() {
            latencies.push(first.saturating_duration_since(change.complete));
            last = last.max(Some(*first));
        }
    }
    latencies.sort();
    let quantile = |part: usize| {
        let at = (latencies.len() * part / 100).min(latencies.len().saturating_sub(1));
        latencies.get(at).map(|latency| latency.as_secs_f64() * 1e3)
    };
    let span = made
        .first()
        .zip(last)
        .map(|(first, last)| last.saturating_duration_since(first.complete));
    Ok(json!({
        "changes": made.len(), "lost": lost, "early": early,
        "doubled": if doubled > allowed { doubled } else { 0 }, "repeated": doubled,
        // Calls about files that did not change.
        "unasked": called.len(),
        "p50_ms": quantile(50), "p99_ms": quantile(99), "max_ms": quantile(100),
        "per_second": span.map(|span| latencies.len() as f64 / span.as_secs_f64()),
    }))
}

fn add(result: &mut Value, entries: &[(&str, Value)]) {
    if let Some(object) = result.as_object_mut() {
        for (key, value) in entries {
            object.insert((*key).to_owned(), value.clone());
        }
    }
}
