//! Costs against the number of projects.

use serde_json::{Value, json};

use crate::report::NONE;
use crate::results::Results;
use crate::table::{Table, megabytes, milliseconds, per_second, seconds, thousands};

/// The measured numbers of projects.
pub fn sizes(results: &Results) -> Vec<u64> {
    let mut sizes: Vec<u64> = results
        .all(&[("scenario", json!("scale")), ("what", json!("restart"))])
        .filter_map(|line| line.get("projects")?.as_u64())
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The entries of a result of `scale` at this number of projects.
pub fn scale(what: &str, projects: u64) -> [(&'static str, Value); 3] {
    [
        ("scenario", json!("scale")),
        ("what", json!(what)),
        ("projects", json!(projects)),
    ]
}

/// The table of costs against the number of projects.
pub fn table(results: &Results) -> Table {
    type Row<'a> = (&'a str, &'a str, &'a str, fn(f64) -> String);
    const ROWS: [Row<'_>; 14] = [
        ("first start", "first-start", "start_s", seconds),
        ("its peak memory", "first-start", "peak_kb", megabytes),
        ("restart, nothing changed", "restart", "start_s", seconds),
        (
            "inotifywait's start there",
            "restart",
            "inotifywait_start_s",
            seconds,
        ),
        (
            "peak memory after the restart",
            "restart",
            "peak_kb",
            megabytes,
        ),
        (
            "restart with changes",
            "restart-with-changes",
            "start_s",
            seconds,
        ),
        (
            "… to the last of their calls",
            "restart-with-changes",
            "last_call_s",
            seconds,
        ),
        ("an edit, p50", "edits", "p50_ms", milliseconds),
        ("an edit, p99", "edits", "p99_ms", milliseconds),
        (
            "an edit during a full scan, p50",
            "edits-in-rescan",
            "p50_ms",
            milliseconds,
        ),
        (
            "an edit during a full scan, p99",
            "edits-in-rescan",
            "p99_ms",
            milliseconds,
        ),
        ("burst", "burst", "per_second", per_second),
        ("peak memory at the end", "burst", "peak_kb", megabytes),
        (
            "worst edit after a removal",
            "edits-after-removal",
            "max_ms",
            milliseconds,
        ),
    ];
    let sizes = sizes(results);
    let mut head = vec!["projects".to_owned()];
    head.extend(sizes.iter().copied().map(thousands));
    let rows = ROWS
        .iter()
        .map(|(title, what, key, unit)| {
            let mut row = vec![(*title).to_owned()];
            row.extend(sizes.iter().map(|size| {
                let number = results.number(&scale(what, *size), key);
                number.map_or_else(|| NONE.to_owned(), unit)
            }));
            row
        })
        .collect();
    Table { head, rows }
}
