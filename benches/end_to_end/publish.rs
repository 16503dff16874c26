//! The results in the documentation.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Puts what is in the directory of the results into the documentation.
pub fn publish(home: &Path, directory: &Path) -> anyhow::Result<()> {
    let target = home.join("docs/benchmarks");
    fs::create_dir_all(&target)?;
    for file in ["results.jsonl", "latency.svg", "scale.svg"] {
        if directory.join(file).exists() && directory != target {
            fs::copy(directory.join(file), target.join(file))?;
        }
    }
    for (file, block) in [("docs/benchmarks.md", "figures"), ("README.md", "headline")] {
        let path = home.join(file);
        let old = fs::read_to_string(&path)?;
        let new = fs::read_to_string(directory.join(block).with_extension("md"))?;
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
