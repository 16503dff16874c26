//! Tables of the results, for a terminal and in Markdown for the documentation.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::growth::{self, scale, sizes};
use crate::plot;
use crate::results::{Results, text};
use crate::table::{Table, integer, megabytes, milliseconds, per_second, seconds, thousands};

/// A result compared with that of a peer, with the goal.
struct Comparison {
    what: String,
    ours: String,
    beside: String,
    ratio: Option<f64>,
    goal: &'static str,
    /// Whether the README has it.
    is_headline: bool,
}

/// The number of a result to compare.
struct Measure<'a> {
    what: &'a str,
    key: &'a str,
    unit: fn(f64) -> String,
    goal: &'static str,
    is_headline: bool,
}

const LATENCY: &str = "The percentage of the edits whose call arrived within a time";

/// The cell of a table without a value.
pub const NONE: &str = "–";

/// Writes the plots into a directory.
pub fn write_plots(results: &Results, directory: &Path) -> anyhow::Result<()> {
    for (name, plot) in [
        ("latency", plot::latency(results)?),
        ("scale", plot::scale(results)?),
    ] {
        if let Some(plot) = plot {
            fs::write(directory.join(name).with_extension("svg"), plot)?;
        }
    }
    Ok(())
}

/// All tables for a terminal.
pub fn terminal(results: &Results) -> String {
    let mut said = String::new();
    for table in [comparisons(&compare(results)), growth::table(results)] {
        said.push_str(&table.aligned());
        said.push('\n');
    }
    said
}

/// All tables and plots, in Markdown.
pub fn figures(results: &Results) -> String {
    let wanted = [("scenario", json!("machine"))];
    let machine = results.all(&wanted).last();
    let said = machine.map_or_else(String::new, |machine| {
        format!(
            "Measured on {}: {} cores, Linux {}, {}. Medians of rounds.\n\n",
            text(machine, "date"),
            machine.get("cores").unwrap_or(&Value::Null),
            text(machine, "kernel"),
            text(machine, "file_system"),
        )
    });
    format!(
        "{said}{}\n{}\nBy the number of projects, of three directories and five files each:\n\n\
         {}\n{}",
        comparisons(&compare(results)).markdown(),
        image(LATENCY, "benchmarks/latency.svg"),
        growth::table(results).markdown(),
        image(
            "Throughput, latency, memory and time of a start against the number of projects",
            "benchmarks/scale.svg"
        ),
    )
}

fn image(alternative: &str, path: &str) -> String {
    format!("![{alternative}]({path})\n")
}

/// The comparisons for the README, in Markdown.
pub fn headline(results: &Results) -> String {
    let all: Vec<Comparison> = compare(results)
        .into_iter()
        .filter(|one| one.is_headline)
        .collect();
    let plot = image(LATENCY, "docs/benchmarks/latency.svg");
    format!("{}\n{plot}", comparisons(&all).markdown())
}

fn compare(results: &Results) -> Vec<Comparison> {
    let mut found = Vec::new();
    changes(results, &mut found);
    webhooks(results, &mut found);
    faults(results, &mut found);
    large(results, &mut found);
    found
}

/// Compares one number of the daemon with that of a peer, if both are measured.
fn beside(
    results: &Results,
    scenario: &[(&str, Value)],
    measure: &Measure<'_>,
    peer: (&str, &str),
) -> Option<Comparison> {
    let of = |name: &str| {
        let mut wanted = scenario.to_vec();
        wanted.push(("who", json!(name)));
        results.number(&wanted, measure.key)
    };
    let ours = of("project-webhooks")?;
    let theirs = of(peer.0)?;
    Some(Comparison {
        what: measure.what.to_owned(),
        ours: (measure.unit)(ours),
        beside: format!("{} {}", peer.1, (measure.unit)(theirs)),
        ratio: Some(ours / theirs),
        goal: measure.goal,
        is_headline: measure.is_headline,
    })
}

const EACH: (&str, &str) = ("floor-each", "`floor-each`");
const BATCH: (&str, &str) = ("floor-batch", "`floor-batch`");
const INOTIFYWAIT: (&str, &str) = ("inotifywait", "inotifywait with curl");

fn changes(results: &Results, found: &mut Vec<Comparison>) {
    let edits = [("scenario", json!("edits"))];
    for (what, key, goal, who, is_headline) in [
        ("an edit, p50", "p50_ms", "at most 1.6 ×", EACH, true),
        ("an edit, p99", "p99_ms", "at most 3 ×", EACH, true),
        ("an edit, p50", "p50_ms", "", INOTIFYWAIT, true),
    ] {
        let measure = Measure {
            what,
            key,
            unit: milliseconds,
            goal,
            is_headline,
        };
        found.extend(beside(results, &edits, &measure, who));
    }
    for (size, what, who, goal, is_headline) in [
        (1_000, "burst of 1,000", EACH, "", false),
        (1_000, "burst of 1,000", BATCH, "", false),
        (1_000, "burst of 1,000", INOTIFYWAIT, "", false),
        (10_000, "burst of 10,000", EACH, "", false),
        (10_000, "burst of 10,000", BATCH, "5,000/s or 0.3 ×", true),
    ] {
        let burst = [("scenario", json!("burst")), ("size", json!(size))];
        let measure = Measure {
            what,
            key: "per_second",
            unit: per_second,
            goal,
            is_headline,
        };
        found.extend(beside(results, &burst, &measure, who));
    }
    let fresh = results.number(&[("scenario", json!("fresh"))], "per_second");
    found.extend(fresh.map(|rate| alone("1,000 new projects in a burst", per_second(rate), "")));
    let slow = [("scenario", json!("slow"))];
    let limit = results.number(&slow, "limit_per_second");
    if let (Some(rate), Some(limit)) = (results.number(&slow, "per_second"), limit) {
        found.push(Comparison {
            what: "a receiver that takes 50 ms".to_owned(),
            ours: per_second(rate),
            beside: format!("16 at a time are at most {}", per_second(limit)),
            ratio: Some(rate / limit),
            goal: "",
            is_headline: false,
        });
    }
}

fn webhooks(results: &Results, found: &mut Vec<Comparison>) {
    let many = [("scenario", json!("many"))];
    for (what, key) in [
        ("100 webhooks on one edit, p50 of the calls", "p50_ms"),
        ("100 webhooks on one edit, p99 of the calls", "p99_ms"),
    ] {
        let measure = Measure {
            what,
            key,
            unit: milliseconds,
            goal: "",
            is_headline: false,
        };
        found.extend(beside(results, &many, &measure, EACH));
    }
    let with = |hung: u64| {
        let wanted = [("scenario", json!("hung")), ("hung", json!(hung))];
        results.number(&wanted, "p99_ms")
    };
    if let (Some(without), Some(with)) = (with(0), with(1)) {
        found.push(Comparison {
            what: "99 webhooks while another one hangs, p99 of the 99".to_owned(),
            ours: milliseconds(with),
            beside: format!("without the other one {}", milliseconds(without)),
            ratio: Some(with / without),
            goal: "at most 1.5 ×",
            is_headline: true,
        });
    }
}

fn faults(results: &Results, found: &mut Vec<Comparison>) {
    let kill = [("scenario", json!("kill"))];
    if let (Some(lost), Some(repeated)) = (
        results.number(&kill, "lost"),
        results.number(&kill, "repeated"),
    ) {
        let said = format!("{lost} lost, {repeated} sent again");
        found.push(alone("kill -9 in a burst of 1,000", said, "none lost"));
    }
    if let Some(lost) = results.number(&[("scenario", json!("stopped"))], "lost") {
        let said = format!("{lost} lost");
        found.push(alone("200 changed while stopped", said, "none lost"));
    }
    let idle = [("scenario", json!("idle"))];
    if let (Some(wake_ups), Some(memory)) = (
        results.number(&idle, "wake_ups_per_second"),
        results.number(&idle, "memory_kb"),
    ) {
        let said = format!("{wake_ups:.1} wake-ups a second, {}", megabytes(memory));
        found.push(alone("at rest, 1,000 projects", said, ""));
    }
}

/// Compares starts and removals in large repositories.
fn large(results: &Results, found: &mut Vec<Comparison>) {
    let sizes = sizes(results);
    let largest = sizes.last().copied().unwrap_or_default();
    for (projects, goal) in [(20_000, "at most 1.5 ×"), (100_000, "6 s, 150 MB")] {
        let number = |key: &str| results.number(&scale("restart", projects), key);
        if let (Some(start), Some(memory)) = (number("start_s"), number("peak_kb")) {
            let peer = number("inotifywait_start_s");
            found.push(Comparison {
                what: format!("restart with {} known projects", thousands(projects)),
                ours: format!("{}, {}", seconds(start), megabytes(memory)),
                beside: peer.map_or_else(
                    || NONE.to_owned(),
                    |peer| format!("inotifywait's start {}", seconds(peer)),
                ),
                ratio: peer.map(|peer| start / peer),
                goal,
                is_headline: projects == largest,
            });
        }
    }
    let number = |what: &str, key: &str| results.number(&scale(what, largest), key);
    let count = thousands(largest);
    let removed = number("edits-after-removal", "removed");
    if let (Some(worst), Some(removed)) = (number("edits-after-removal", "max_ms"), removed) {
        found.push(Comparison {
            what: format!(
                "{} of {count} projects removed, worst edit after that",
                integer(removed)
            ),
            ours: milliseconds(worst),
            beside: number("edits", "p50_ms").map_or_else(
                || NONE.to_owned(),
                |rest| format!("p50 at rest {}", milliseconds(rest)),
            ),
            ratio: None,
            goal: "at most 1 s",
            is_headline: true,
        });
    }
}

fn alone(what: &str, ours: String, goal: &'static str) -> Comparison {
    Comparison {
        what: what.to_owned(),
        ours,
        beside: NONE.to_owned(),
        ratio: None,
        goal,
        is_headline: false,
    }
}

fn comparisons(all: &[Comparison]) -> Table {
    Table {
        head: ["", "project-webhooks", "compared with", "ratio", "goal"]
            .map(str::to_owned)
            .to_vec(),
        rows: all
            .iter()
            .map(|one| {
                vec![
                    one.what.clone(),
                    one.ours.clone(),
                    one.beside.clone(),
                    one.ratio
                        .map_or_else(|| NONE.to_owned(), |ratio| format!("{ratio:.2} ×")),
                    if one.goal.is_empty() { NONE } else { one.goal }.to_owned(),
                ]
            })
            .collect(),
    }
}
