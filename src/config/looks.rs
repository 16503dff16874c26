//! Looks at directories whose file system may not answer.
//!
//! Constraint: a hung file system delays a configuration by a few seconds at most. Each look has a
//! thread of its own, because nothing can end a system call that hangs. While such a
//! look has not ended, nobody looks at its path again. So reloads do not gather threads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the first look that is not answered may take. The path may be mounted meanwhile.
const FIRST: Duration = Duration::from_secs(5);

/// The same for each further one, because several paths may be on the same server.
const FURTHER: Duration = Duration::from_millis(250);

/// The paths with a look that was given up and has not ended.
static UNANSWERED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The result of a look at the path of a repository.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Directory,
    /// Anything else, such as a file.
    Other,
    /// Nothing that can be read, for this reason.
    Unreadable(String),
    /// Unknown, because the command needs no repository.
    Unknown,
}

/// A look at a path.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) found: Found,
    /// The path without symbolic links and dots. The path itself if the look is not answered.
    pub(super) canonical: PathBuf,
}

/// The looks of one configuration. Each path is looked at once.
#[derive(Debug)]
pub(super) struct Looks {
    /// Whether anything is looked at.
    is_on: bool,
    seen: BTreeMap<PathBuf, Look>,
    has_waited: bool,
}

impl Looks {
    pub(super) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            seen: BTreeMap::new(),
            has_waited: false,
        }
    }

    /// Looks at a path.
    pub(super) fn at(&mut self, path: &Path) -> Look {
        if !self.is_on {
            return Look {
                found: Found::Unknown,
                canonical: path.to_owned(),
            };
        }
        if let Some(look) = self.seen.get(path) {
            return look.clone();
        }
        let limit = if self.has_waited { FURTHER } else { FIRST };
        let look = look_within(limit, path).unwrap_or_else(|reason| {
            self.has_waited = true;
            Look {
                found: Found::Unreadable(reason),
                canonical: path.to_owned(),
            }
        });
        self.seen.insert(path.to_owned(), look.clone());
        look
    }
}

/// Looks at a path on a thread of its own. Returns the reason if there is no answer.
fn look_within(limit: Duration, path: &Path) -> Result<Look, String> {
    const SILENT: &str = "it does not answer; is its disk or network file system stuck?";
    if unanswered().contains(path) {
        return Err(SILENT.to_owned());
    }
    let (sender, answer) = sync_channel(1);
    let asked = path.to_owned();
    std::thread::Builder::new()
        .name("look".to_owned())
        .spawn(move || {
            // The configuration may have stopped waiting.
            let _ = sender.send(look(&asked));
            unanswered().remove(&asked);
        })
        .map_err(|error| format!("cannot start a thread to look at it: {error}"))?;
    if let Ok(look) = answer.recv_timeout(limit) {
        return Ok(look);
    }
    let mut unanswered = unanswered();
    // An answer before this lock would remove nothing later.
    answer.try_recv().map_err(|_| {
        unanswered.insert(path.to_owned());
        SILENT.to_owned()
    })
}

fn look(path: &Path) -> Look {
    let found = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Found::Directory,
        Ok(_) => Found::Other,
        Err(error) => Found::Unreadable(error.to_string()),
    };
    let canonical = canonical(path);
    Look { found, canonical }
}

fn unanswered() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves symbolic links and dots in a path. Its last components need not exist.
pub(super) fn canonical(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(mut whole) = ancestor.canonicalize() {
            let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
            for component in rest.components() {
                match component {
                    Component::ParentDir => {
                        whole.pop();
                    }
                    other => whole.push(other),
                }
            }
            return whole;
        }
    }
    path.to_owned()
}
