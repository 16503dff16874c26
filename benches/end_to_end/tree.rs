//! The files of the repository and their changes.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

/// The published copy, below the directory of its project.
pub const PUBLISHED: &str = "published/project.xml";
/// The definition, below the directory of its project.
pub const DEFINITION: &str = "project.xml";

/// One change of a file.
pub struct Change {
    /// The token in the file, which finds the call of this change.
    pub token: String,
    /// The time just before the rename of the file.
    pub complete: Instant,
}

/// The files to replace.
pub struct Edits {
    /// The file below each project's directory.
    pub file: &'static str,
    /// The projects, by number.
    pub projects: Range<usize>,
    /// The number of the round, part of the tokens.
    pub round: usize,
    /// The time to wait before each change.
    pub pause: Duration,
}

/// A project.xml of about a kilobyte that carries the token.
fn document(token: &str) -> String {
    let filler = ".".repeat(900);
    format!("<?xml version=\"1.0\"?>\n<schema name=\"{token};\"><!--{filler}--></schema>\n")
}

/// The token of a file's content.
pub fn token(body: &[u8]) -> anyhow::Result<String> {
    let text = String::from_utf8_lossy(body);
    let token = text
        .split_once("name=\"")
        .and_then(|(_, rest)| rest.split_once(';'))
        .map(|(token, _)| token.to_owned());
    token.with_context(|| format!("a call without a token: {text}"))
}

/// The directory of a project.
pub fn project(root: &Path, index: usize) -> PathBuf {
    root.join(format!("organization{:03}", index % 100))
        .join(format!("project{index:06}"))
}

/// The number of directories of a repository with so many projects.
pub fn directories(projects: usize) -> usize {
    1 + 100 + 3 * projects
}

/// Creates a hundred organizations, and projects of three directories and five files each.
pub fn prepare(root: &Path, projects: usize) -> anyhow::Result<()> {
    // Every scenario has all organizations, so that only the number of projects differs.
    for index in 0..100 {
        if let Some(organization) = project(root, index).parent() {
            fs::create_dir_all(organization)?;
        }
    }
    // Threads work on organizations of their own: a directory has one writer at a time.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    (0..projects)
                        .filter(|index| index % 100 % threads == thread)
                        .try_for_each(|index| make(root, index))
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(made) => made?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

fn make(root: &Path, index: usize) -> anyhow::Result<()> {
    crate::interrupt::check()?;
    let directory = project(root, index);
    for below in ["", "published", "snapshots"] {
        fs::create_dir(directory.join(below))?;
    }
    let files = [
        DEFINITION,
        PUBLISHED,
        "snapshots/1.xml",
        "snapshots/2.xml",
        "snapshots/3.xml",
    ];
    for (number, file) in files.iter().enumerate() {
        let content = document(&format!("old{index}of{number}"));
        fs::write(directory.join(file), content)?;
    }
    Ok(())
}

/// Replaces files by renames from `stage`, which is on the same file system.
///
/// It writes all content before the first rename, and creates a missing directory right before its
/// file.
pub fn replace(root: &Path, stage: &Path, edits: &Edits) -> anyhow::Result<Vec<Change>> {
    fs::create_dir_all(stage)?;
    let token = |index: usize| format!("tk{}x{index:06}", edits.round);
    for index in edits.projects.clone() {
        fs::write(stage.join(token(index)), document(&token(index)))?;
    }
    let mut changes = Vec::with_capacity(edits.projects.len());
    for index in edits.projects.clone() {
        crate::interrupt::check()?;
        std::thread::sleep(edits.pause);
        let target = project(root, index).join(edits.file);
        let directory = target.parent().context("a file without a directory")?;
        if !directory.is_dir() {
            fs::create_dir_all(directory)?;
        }
        let complete = Instant::now();
        fs::rename(stage.join(token(index)), target)?;
        changes.push(Change {
            token: token(index),
            complete,
        });
    }
    Ok(changes)
}

/// Removes projects with their files.
pub fn remove(root: &Path, projects: Range<usize>) -> anyhow::Result<()> {
    for index in projects {
        fs::remove_dir_all(project(root, index))?;
    }
    Ok(())
}
