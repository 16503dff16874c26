//! Measures the real binary from the change of a file to the call, compared with a floor in the same run.
//!
//! `cargo bench --bench end_to_end -- [--quick | --full] [--resume] [--write] [SCENARIO...]`. It
//! prints tables with ratios and writes the results as JSON lines and the plots in SVG to a
//! directory; docs/benchmarks.md has more. It fails if a call was lost, early or unasked, or doubled
//! although no process was killed.
//!
//! `PROJECT_WEBHOOKS_WATCH=notify cargo bench --bench end_to_end -- --projects 20000 --output
//! target/benchmarks-notify scale` measures starts, edits and removals with another
//! `repository.watch`.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod floor;
mod growth;
mod interrupt;
mod judge;
mod plot;
mod program;
mod publish;
mod receiver;
mod report;
mod repository;
mod results;
mod scenario;
mod table;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use serde_json::{Value, json};

use receiver::Receiver;
use repository::Who;
use results::Results;
use scenario::{Bench, Size};

/// Measures project-webhooks from the change of a file to the call.
#[derive(Parser)]
struct Arguments {
    /// Measures small sizes, to show that it works.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Measures a repository of 100,000 projects too: 300,000 directories, 500,000 files.
    #[arg(long)]
    full: bool,
    /// The numbers of projects of the scenario `scale`, instead of those of the size.
    #[arg(long, value_delimiter = ',')]
    projects: Vec<usize>,
    /// The number of rounds of a comparison.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The directory of results and plots.
    #[arg(long, default_value = "target/benchmarks")]
    output: PathBuf,
    /// Keeps the results in the directory, except of scenarios that are measured again.
    #[arg(long)]
    resume: bool,
    /// Writes results and plots to docs/benchmarks, and tables to docs/benchmarks.md and README.md.
    #[arg(long)]
    write: bool,
    /// The scenarios to measure, by default all; `none` draws the results without measuring.
    scenarios: Vec<String>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Runs the floor instead: root, address, journal, `each` or `batch`, number of posts for each.
    #[arg(long, hide = true, num_args = 5)]
    floor: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let [root, address, journal, sync, copies] = arguments.floor.as_slice() {
        return floor::run(&floor::Floor {
            root: Path::new(root),
            address,
            journal: Path::new(journal),
            each: sync == "each",
            copies: copies.parse()?,
        });
    }
    interrupt::listen()?;
    let wanted = wanted(&arguments.scenarios)?;
    let size = match (arguments.quick, arguments.full) {
        (true, _) => Size::Quick,
        (_, true) => Size::Full,
        _ => Size::Usual,
    };
    let bench = Bench {
        receiver: Receiver::start()?,
        size,
        projects: match arguments.projects.as_slice() {
            [] => size.projects().to_vec(),
            given => given.to_vec(),
        },
        rounds: if arguments.quick { 2 } else { arguments.rounds },
    };
    if wanted.contains(&"scale") {
        check_watches(bench.projects.iter().copied().max().unwrap_or_default())?;
    }
    if !Who::Inotifywait.is_there() {
        eprintln!("inotifywait with curl is not measured: install inotify-tools and curl for that");
    }
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = home.join(&arguments.output);
    std::fs::create_dir_all(&directory)?;
    let resumes = arguments.resume || wanted.is_empty();
    let is_stale = |line: &Value| match results::text(line, "scenario") {
        "machine" => !wanted.is_empty(),
        "scale" => {
            let of = |projects: &usize| line.get("projects") == Some(&json!(projects));
            wanted.contains(&"scale") && bench.projects.iter().any(of)
        }
        name => wanted.contains(&name),
    };
    let mut results = Results::create(&directory.join("results.jsonl"), resumes, is_stale)?;
    if !wanted.is_empty() {
        results.add(results::machine(&std::env::temp_dir())?)?;
    }
    for (name, scenario) in scenario::ALL {
        if wanted.contains(&name) {
            eprintln!("{name}:");
            scenario(&bench, &mut |line| results.add(line))
                .with_context(|| format!("measuring {name}"))?;
        }
    }
    report::write_plots(&results, &directory)?;
    if arguments.write {
        publish::publish(&results, home, &directory)?;
    }
    println!("{}", report::terminal(&results));
    println!("Results and plots: {}", arguments.output.display());
    anyhow::ensure!(
        !results.failed,
        "calls were lost, early, doubled or unasked: see the lines above"
    );
    Ok(())
}

/// The names of the scenarios to measure.
fn wanted(asked: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let names = || scenario::ALL.iter().map(|(name, _)| *name);
    for name in asked {
        anyhow::ensure!(
            name == "none" || names().any(|one| one == name),
            "no scenario {name}; there are: {}, none",
            names().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(names()
        .filter(|name| asked.is_empty() || asked.iter().any(|one| one == name))
        .collect())
}

/// Checks the limit of watches before a long measurement would fail by it.
fn check_watches(projects: usize) -> anyhow::Result<()> {
    const LIMIT: &str = "/proc/sys/fs/inotify/max_user_watches";
    let limit: usize = std::fs::read_to_string(LIMIT)?.trim().parse()?;
    let needed = tree::directories(projects) + 1_000;
    anyhow::ensure!(
        limit >= needed,
        "{projects} projects need {needed} inotify watches and the limit is {limit}: \
         sysctl fs.inotify.max_user_watches=524288"
    );
    Ok(())
}
