//! The plots: how latencies are distributed, and what more projects cost.

use serde_json::{Value, json};

use crate::growth::{scale as at, sizes};
use crate::results::{Results, text};
use crate::svg::{Panel, Series, draw};
use crate::table::thousands;

/// From an edit to its call: which part of the edits took how long.
pub fn latency(results: &Results) -> Option<String> {
    const NAMES: [(&str, &str, usize); 3] = [
        ("floor-each", "floor: one sync, one POST", 1),
        ("project-webhooks", "project-webhooks", 0),
        ("inotifywait", "inotifywait with curl", 2),
    ];
    let edits = [("scenario", json!("edits"))];
    let mut series = Vec::new();
    for (who, name, color) in NAMES {
        let Some(line) = results.all(&edits).find(|line| text(line, "who") == who) else {
            continue;
        };
        let curve = line.get("curve_ms").and_then(Value::as_array)?;
        let points = (0_u32..)
            .zip(curve.iter().filter_map(Value::as_f64))
            .map(|(percent, latency)| (latency, f64::from(percent)));
        series.push(Series {
            name: name.to_owned(),
            color,
            points: points.collect(),
            has_dots: false,
        });
    }
    let all = || {
        series
            .iter()
            .flat_map(|one| &one.points)
            .map(|point| point.0)
    };
    let (low, high) = (all().reduce(f64::min)?, all().reduce(f64::max)?);
    let marks = [
        0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0,
        2_000.0, 5_000.0, 10_000.0,
    ];
    let first = marks.iter().rposition(|mark| *mark <= low).unwrap_or(0);
    let last = marks
        .iter()
        .position(|mark| *mark >= high)
        .unwrap_or(marks.len() - 1);
    let panel = Panel {
        title: "From the rename of a file to its call".to_owned(),
        x_label: "milliseconds (logarithmic)".to_owned(),
        y_label: "percent of edits".to_owned(),
        x_ticks: marks
            .get(first..=last)?
            .iter()
            .map(|mark| (*mark, format!("{mark}")))
            .collect(),
        y_max: Some(100.0),
        series,
    };
    Some(draw(&[panel], 1, 1.6))
}

/// Throughput, latency, memory and starts against the number of projects.
pub fn scale(results: &Results) -> Option<String> {
    let sizes = sizes(results);
    if sizes.len() < 2 {
        return None;
    }
    let chart = |title: &str, y_label: &str, lines: &[Line<'_>]| Panel {
        title: title.to_owned(),
        x_label: "projects (logarithmic)".to_owned(),
        y_label: y_label.to_owned(),
        x_ticks: sizes
            .iter()
            .map(|size| (decimal(*size), thousands(*size)))
            .collect(),
        y_max: None,
        series: lines
            .iter()
            .map(|line| Series {
                name: line.name.to_owned(),
                color: line.color,
                points: sizes
                    .iter()
                    .filter_map(|size| {
                        let value = results.number(&at(line.what, *size), line.key)?;
                        Some((decimal(*size), (line.unit)(value, decimal(*size))))
                    })
                    .collect(),
                has_dots: true,
            })
            .filter(|series| !series.points.is_empty())
            .collect(),
    };
    let panels = [
        chart(
            "Throughput of a burst",
            "calls a second",
            &[Line::new("calls", "burst", "per_second", 0, plain)],
        ),
        chart(
            "From an edit to its call",
            "milliseconds",
            &[
                Line::new(
                    "p99 while all is compared",
                    "edits-in-rescan",
                    "p99_ms",
                    2,
                    plain,
                ),
                Line::new("p99", "edits", "p99_ms", 3, plain),
                Line::new("p50", "edits", "p50_ms", 0, plain),
            ],
        ),
        chart(
            "Memory, the most that was resident",
            "megabytes",
            &[
                Line::new("in the first start", "first-start", "peak_kb", 2, megabytes),
                Line::new("in a restart", "restart", "peak_kb", 0, megabytes),
            ],
        ),
        chart(
            "Time of a start",
            "microseconds for each project",
            &[
                Line::new("first start", "first-start", "start_s", 2, each),
                Line::new("restart", "restart", "start_s", 0, each),
                Line::new("inotifywait", "restart", "inotifywait_start_s", 1, each),
            ],
        ),
    ];
    Some(draw(&panels, 2, 1.0))
}

/// One line of a chart: which number of which measurement.
struct Line<'a> {
    name: &'a str,
    what: &'a str,
    key: &'a str,
    color: usize,
    /// Of the value and the number of projects.
    unit: fn(f64, f64) -> f64,
}

impl<'a> Line<'a> {
    const fn new(
        name: &'a str,
        what: &'a str,
        key: &'a str,
        color: usize,
        unit: fn(f64, f64) -> f64,
    ) -> Self {
        Self {
            name,
            what,
            key,
            color,
            unit,
        }
    }
}

fn plain(value: f64, _: f64) -> f64 {
    value
}

fn megabytes(kilobytes: f64, _: f64) -> f64 {
    kilobytes * 1024.0 / 1e6
}

fn each(seconds: f64, projects: f64) -> f64 {
    seconds * 1e6 / projects
}

#[allow(clippy::cast_precision_loss, reason = "a number of projects")]
fn decimal(number: u64) -> f64 {
    number as f64
}
