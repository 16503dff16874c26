//! The repository that is watched, and the changes that are made to it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

/// The published copy, below the directory of its project.
pub const PUBLISHED: &str = "published/project.xml";
/// The definition, below the directory of its project.
pub const DEFINITION: &str = "project.xml";

/// One change: the token that its file carries, and the moment just before the file was complete.
pub struct Change {
    /// What finds the call of this change.
    pub token: String,
    /// Just before the rename that put the file in place.
    pub complete: Instant,
}

/// What is replaced.
pub struct Edits {
    /// The file below each project's directory.
    pub file: &'static str,
    /// The projects, by number.
    pub projects: Range<usize>,
    /// Tells the changes of one round from those of another.
    pub round: usize,
    /// How long to wait before each change.
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

/// How many directories a repository of so many projects has.
pub fn directories(projects: usize) -> usize {
    1 + 100 + 3 * projects
}

/// Makes a hundred organizations, and projects of three directories and five files each.
pub fn prepare(root: &Path, projects: usize) -> anyhow::Result<()> {
    // They are there in every scenario, so that what is measured is projects.
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

/// Replaces files by renames from `stage`, which is on the same file system; all content is written
/// before the first rename. A directory that is missing is made right before its file.
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

/// Removes projects with all that is in them.
pub fn remove(root: &Path, projects: Range<usize>) -> anyhow::Result<()> {
    for index in projects {
        fs::remove_dir_all(project(root, index))?;
    }
    Ok(())
}
