//! Puts the results into the documentation.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::report;
use crate::results::Results;

/// Copies the results, draws the plots, and replaces the tables of the pages.
pub fn publish(results: &Results, home: &Path, directory: &Path) -> anyhow::Result<()> {
    let target = home.join("docs/benchmarks");
    if directory != target {
        fs::copy(
            directory.join("results.jsonl"),
            target.join("results.jsonl"),
        )?;
    }
    report::write_plots(results, &target)?;
    for (file, block, new) in [
        ("docs/benchmarks.md", "figures", report::figures(results)),
        ("README.md", "headline", report::headline(results)),
    ] {
        let path = home.join(file);
        let old = fs::read_to_string(&path)?;
        let begin = format!("<!-- benchmarks: {block} -->\n");
        let (before, rest) = old
            .split_once(&begin)
            .with_context(|| format!("{file} has no line {}", begin.trim()))?;
        let end = "<!-- benchmarks: end -->\n";
        let (_, after) = rest
            .split_once(end)
            .with_context(|| format!("{file} has no line {}", end.trim()))?;
        fs::write(&path, format!("{before}{begin}{new}{end}{after}"))?;
    }
    Ok(())
}
