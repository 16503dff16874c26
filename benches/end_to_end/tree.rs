//! The repository that is watched, and the changes that are made to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One change: the token that its file carries, and the moment just before the file was complete.
pub struct Change {
    /// What finds the call of this change.
    pub token: String,
    /// Just before the rename that put the file in place.
    pub complete: Instant,
}

/// A project.xml of about a kilobyte that carries the token.
fn document(token: &str) -> String {
    let filler = ".".repeat(900);
    format!("<?xml version=\"1.0\"?>\n<schema name=\"{token};\"><!--{filler}--></schema>\n")
}

/// The directory of a project.
pub fn project(root: &Path, index: usize) -> PathBuf {
    root.join(format!("organization{:03}", index % 100))
        .join(format!("project{index:06}"))
}

/// Makes projects of three directories and five files each.
pub fn prepare(root: &Path, projects: usize) -> anyhow::Result<()> {
    for index in 0..projects {
        let directory = project(root, index);
        fs::create_dir_all(directory.join("published"))?;
        fs::create_dir_all(directory.join("snapshots"))?;
        for (number, file) in [
            "project.xml",
            "published/project.xml",
            "snapshots/1.xml",
            "snapshots/2.xml",
            "snapshots/3.xml",
        ]
        .iter()
        .enumerate()
        {
            fs::write(
                directory.join(file),
                document(&format!("old{index}of{number}")),
            )?;
        }
    }
    Ok(())
}

/// Replaces `file` of the first `count` projects by renames from `stage`, which is on the same file
/// system; all content is written before the first rename. With a pause, that long between two
/// changes. A directory that is missing is made right before its file.
pub fn replace(
    root: &Path,
    stage: &Path,
    file: &str,
    count: usize,
    pause: Duration,
) -> anyhow::Result<Vec<Change>> {
    fs::create_dir_all(stage)?;
    let token = |index: usize| format!("tk{index:07}");
    for index in 0..count {
        fs::write(stage.join(token(index)), document(&token(index)))?;
    }
    let mut changes = Vec::with_capacity(count);
    for index in 0..count {
        std::thread::sleep(pause);
        let target = project(root, index).join(file);
        if let Some(directory) = target.parent() {
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
