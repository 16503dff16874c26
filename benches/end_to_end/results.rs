//! The results: JSON lines in a file, one for each measurement.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// The measurements of a run, and of earlier runs that it resumes.
pub struct Results {
    lines: Vec<Value>,
    file: File,
    /// Whether calls were lost, early, doubled or unasked.
    pub failed: bool,
}

impl Results {
    /// Creates the file. A run that resumes keeps the lines of the last one that are not stale.
    pub fn create(
        path: &Path,
        resumes: bool,
        is_stale: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Self> {
        let mut lines = Vec::new();
        if resumes && path.exists() {
            for line in std::fs::read_to_string(path)?.lines() {
                let line: Value = serde_json::from_str(line).with_context(|| {
                    format!("{} does not have the results of a run", path.display())
                })?;
                lines.extend(Some(line).filter(|line| !is_stale(line)));
            }
        }
        let mut results = Self {
            lines: Vec::new(),
            file: File::create(path)?,
            failed: false,
        };
        for line in lines {
            results.keep(line)?;
        }
        Ok(results)
    }

    /// Adds a measurement.
    pub fn add(&mut self, line: Value) -> anyhow::Result<()> {
        let wrong = |key| line.get(key).and_then(Value::as_u64).unwrap_or(0) > 0;
        self.failed |= ["lost", "early", "doubled", "unasked", "lost_deletes"]
            .into_iter()
            .any(wrong);
        let mut shown = line.clone();
        if let Some(object) = shown.as_object_mut() {
            object.remove("curve_ms");
        }
        eprintln!("{shown}");
        self.keep(line)
    }

    fn keep(&mut self, line: Value) -> anyhow::Result<()> {
        writeln!(self.file, "{line}")?;
        self.lines.push(line);
        Ok(())
    }

    /// The measurements with these entries.
    pub fn all<'a>(&'a self, wanted: &'a [(&'a str, Value)]) -> impl Iterator<Item = &'a Value> {
        self.lines.iter().filter(move |line| {
            wanted
                .iter()
                .all(|(key, value)| line.get(key) == Some(value))
        })
    }

    /// A number of the last measurement with these entries.
    pub fn number(&self, wanted: &[(&str, Value)], key: &str) -> Option<f64> {
        let line = self.all(wanted).last()?;
        line.get(key)?.as_f64()
    }
}

/// A text of a measurement; empty if it has none.
pub fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The machine of the run.
pub fn machine(directory: &Path) -> anyhow::Result<Value> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release: Vec<&str> = kernel.trim().split(['.', '-']).take(2).collect();
    let file_system = match rustix::fs::statfs(directory)?.f_type {
        0xEF53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683E => "Btrfs",
        0x0102_1994 => "tmpfs",
        _ => "another file system",
    };
    Ok(json!({
        "scenario": "machine",
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": release.join("."), "file_system": file_system,
        "date": jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
    }))
}
