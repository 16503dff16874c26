//! Lists the directories that are not watched, with the reasons.
//!
//! Constraint: coverage is never assumed. If a directory of the layout cannot be watched, it or a
//! directory above it is counted here. If no directory can be watched, a note says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tracing::warn;

use super::limits;

/// The maximum number of listed directories.
const NAMED: usize = 100;

/// Which directories are watched, and how changes in the others are found.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub(crate) struct Coverage {
    /// The number of watched directories.
    pub watches: usize,
    /// The number of directories that cannot be watched.
    pub uncovered: usize,
    /// The first unwatched directories, at most 100. Directories below them are not watched either.
    pub directories: Vec<Uncovered>,
    /// Whether the daemon scans on a timer to find changes.
    pub polls: bool,
    /// Why the coverage is incomplete, and how to fix that.
    pub note: Option<String>,
}

/// A directory without a watch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Uncovered {
    pub path: String,
    pub reason: String,
}

/// The coverage, which the watch thread writes and other threads read.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedCoverage(Arc<Mutex<Coverage>>);

impl SharedCoverage {
    pub(super) fn get(&self) -> Coverage {
        self.lock().clone()
    }

    /// Publishes the coverage. Logs its note if the words changed, not only numbers.
    ///
    /// At the limit of watches, each directory that is made or removed changes the numbers.
    pub(super) fn set(&self, coverage: Coverage) {
        let words = |note: &str| note.replace(|c: char| c.is_ascii_digit(), "");
        let mut known = self.lock();
        if let Some(note) = &coverage.note
            && known.note.as_deref().map(words) != Some(words(note))
        {
            let consequence = if coverage.polls {
                "file events are incomplete or off, scanning on a timer (repository.poll_interval)"
            } else {
                "some directories cannot be read, so changes in them are not noticed"
            };
            warn!("{consequence}: {note}");
        }
        *known = coverage;
    }

    fn lock(&self) -> MutexGuard<'_, Coverage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason why a directory, or some of its subdirectories, cannot be watched.
#[derive(Debug)]
pub(super) enum Gap {
    /// Opening, reading or watching the directory failed.
    Failed(io::Error),
    /// The same directory is watched at this other path.
    SameAs(String),
}

impl Gap {
    /// Whether the kernel reports the end of the gap. It reports changed permissions.
    fn ends_by_report(&self) -> bool {
        matches!(self, Self::Failed(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether the directory is encrypted and its key seemed to be missing.
    pub(super) fn lacks_key(&self) -> bool {
        matches!(self, Self::Failed(error) if Errno::from_io_error(error) == Some(Errno::NOKEY))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(formatter),
            Self::SameAs(path) => write!(formatter, "the same directory as {path:?}"),
        }
    }
}

/// The directories that cannot be watched completely, with the reasons.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Why the configured backend is not available.
    ///
    /// `None` if it is available, or if the mode is `poll`.
    pub(super) no_backend: Option<String>,
    /// Another reason for full scans on a timer: the mode `poll`, or the mounts.
    pub(super) note: Option<String>,
    /// The value of the limit of watches when it was reached. 0 if unknown, `None` if not reached.
    pub(super) limit: Option<usize>,
    /// All directories that are not watched because of the limit.
    ///
    /// A mere count would be wrong after a directory was removed or reported again. The paths need
    /// no more memory than the backend would need to watch these directories.
    beyond_limit: BTreeSet<String>,
    /// The directories that cannot be watched or listed for another reason, by path.
    unwatchable: BTreeMap<String, Gap>,
    /// Counts the changes of `beyond_limit` and `unwatchable`.
    ///
    /// A path was added, removed or moved between them, or the text of its reason changed.
    n_changes: usize,
    /// The directories removed from `unwatchable` since the last [`Gaps::take_ended`].
    ended: Vec<String>,
}

impl Gaps {
    /// Whether watches are missing, probably because of a limit of the system.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some() || self.no_backend.is_some()
    }

    pub(super) fn beyond_limit(&mut self, path: &str) {
        if self.limit.is_none() {
            self.limit = Some(limits::max_watches().map_or(0, |(_, limit)| limit));
        }
        if self.unwatchable.remove(path).is_some() {
            self.ended.push(path.to_owned());
        }
        if self.beyond_limit.insert(path.to_owned()) {
            self.n_changes = self.n_changes.wrapping_add(1);
        }
    }

    pub(super) fn cannot_watch(&mut self, path: &str, gap: Gap) {
        self.beyond_limit.remove(path);
        let reason = gap.to_string();
        let before = self.unwatchable.insert(path.to_owned(), gap);
        if before.is_none_or(|before| before.to_string() != reason) {
            self.n_changes = self.n_changes.wrapping_add(1);
        }
    }

    /// Whether `unwatchable` has this directory or a directory below it.
    pub(super) fn is_unwatchable(&self, path: &str) -> bool {
        self.at_or_below(path).next().is_some()
    }

    /// Returns the directories of `unwatchable` at this path and below it.
    fn at_or_below(&self, path: &str) -> impl Iterator<Item = &String> {
        let itself = self
            .unwatchable
            .get_key_value(path)
            .filter(|_| !path.is_empty());
        let below = self.unwatchable.range(below(path));
        itself.into_iter().chain(below).map(|(known, _)| known)
    }

    /// Whether `unwatchable` has this directory itself.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.unwatchable.contains_key(path)
    }

    /// Returns the reason for this directory in `unwatchable`, if any.
    pub(super) fn reason(&self, path: &str) -> Option<&Gap> {
        self.unwatchable.get(path)
    }

    /// Returns the directories to retry. No report shows when they can be watched.
    pub(super) fn to_retry(&self) -> Vec<String> {
        let retried = self.unwatchable.iter();
        retried
            .filter(|(_, gap)| !gap.ends_by_report())
            .map(|(path, _)| path.clone())
            .collect()
    }

    pub(super) fn has_to_retry(&self) -> bool {
        !self.unwatchable.values().all(Gap::ends_by_report)
    }

    pub(super) fn watched(&mut self, path: &str) {
        if self.beyond_limit.remove(path) {
            self.n_changes = self.n_changes.wrapping_add(1);
        }
        if self.unwatchable.remove(path).is_some() {
            self.n_changes = self.n_changes.wrapping_add(1);
            self.ended.push(path.to_owned());
        }
    }

    /// Removes a path, and the paths below it, from `beyond_limit` and `unwatchable`.
    pub(super) fn gone(&mut self, path: &str) {
        let beyond = self.beyond_limit.range(below(path));
        let beyond = self.beyond_limit.get(path).into_iter().chain(beyond);
        let gone: Vec<String> = self.at_or_below(path).chain(beyond).cloned().collect();
        for path in gone {
            self.watched(&path);
        }
    }

    /// Returns the directories that left `unwatchable` since the last call.
    ///
    /// Leaves out directories that are back in it.
    pub(super) fn take_ended(&mut self) -> Vec<String> {
        let ended = std::mem::take(&mut self.ended);
        let is_over = |path: &String| !self.unwatchable.contains_key(path);
        ended.into_iter().filter(is_over).collect()
    }

    /// Returns a counter that increases when the directories change.
    ///
    /// It starts at 0 again when a walk of the whole tree begins, because the gaps are reset.
    pub(super) fn n_changes(&self) -> usize {
        self.n_changes
    }

    pub(super) fn coverage(&self, watches: usize) -> Coverage {
        let (polls, note) = if let Some(note) = &self.no_backend {
            (true, Some(note.clone()))
        } else if self.limit.is_some() {
            let note = limits::watch_limit(watches, self.beyond_limit.len());
            (true, Some(note))
        } else if let Some(note) = &self.note {
            (true, Some(note.clone()))
        } else {
            let first = self.unwatchable.first_key_value();
            let note =
                first.map(|(path, gap)| limits::unwatchable(self.unwatchable.len(), path, gap));
            (self.has_to_retry(), note)
        };
        let unwatchable = self.unwatchable.iter();
        let unwatchable = unwatchable.map(|(path, gap)| (path, gap.to_string()));
        let beyond = self.beyond_limit.iter();
        let beyond = beyond.map(|path| (path, "the limit of watches is reached".to_owned()));
        let named = unwatchable.chain(beyond).take(NAMED);
        Coverage {
            watches,
            uncovered: self
                .beyond_limit
                .len()
                .saturating_add(self.unwatchable.len()),
            directories: named
                .map(|(path, reason)| Uncovered {
                    path: path.clone(),
                    reason,
                })
                .collect(),
            polls,
            note,
        }
    }
}

/// Returns the range of the paths below a path. Each path is below the empty path.
fn below(path: &str) -> (Bound<String>, Bound<String>) {
    // The character after the slash is the zero.
    match path {
        "" => (Bound::Unbounded, Bound::Unbounded),
        path => (
            Bound::Included(format!("{path}/")),
            Bound::Excluded(format!("{path}0")),
        ),
    }
}
