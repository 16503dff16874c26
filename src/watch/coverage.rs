//! How well changes are noticed: which directories are not watched, and why.
//!
//! Constraint: coverage is never assumed. Every directory that matters is watched, or counted here.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::limits;

/// How many directories without a watch are named.
const NAMED: usize = 100;

/// How well changes are noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Coverage {
    /// How many directories are watched.
    pub watches: usize,
    /// How many directories could not be watched.
    pub uncovered: usize,
    /// The first of the directories without a watch. Nothing below one of them is watched.
    pub directories: Vec<Uncovered>,
    /// Whether scans on a timer have to find changes.
    pub polls: bool,
    /// Why, and what to do about it.
    pub note: Option<String>,
}

/// A directory without a watch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Uncovered {
    pub path: String,
    pub reason: String,
}

/// The coverage, written by the watch thread and read by others.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedCoverage(Arc<Mutex<Coverage>>);

impl SharedCoverage {
    pub(super) fn get(&self) -> Coverage {
        self.lock().clone()
    }

    /// Publishes the coverage, and logs its note if that is new.
    pub(super) fn set(&self, coverage: Coverage) {
        let mut known = self.lock();
        if let Some(note) = &coverage.note
            && known.note.as_ref() != Some(note)
        {
            let consequence = if coverage.polls {
                "file events are incomplete, scanning on a timer (repository.poll_interval)"
            } else {
                "changes in unwatched directories go unnoticed until the next full scan"
            };
            warn!("{consequence}: {note}");
        }
        *known = coverage;
    }

    fn lock(&self) -> MutexGuard<'_, Coverage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why one directory has no watch.
#[derive(Debug)]
pub(super) enum Gap {
    /// It cannot be opened, read or watched.
    Failed(io::Error),
    /// It is the directory at another path too, which has the watch.
    SameAs(String),
}

impl Gap {
    /// Whether a report tells when the reason is gone, as it does for permissions.
    fn ends_by_report(&self) -> bool {
        matches!(self, Self::Failed(error) if error.kind() == io::ErrorKind::PermissionDenied)
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

/// The directories without a watch, and the reasons.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Why a backend is wanted and not available.
    pub(super) no_backend: Option<String>,
    /// Why scans on a timer are needed although the backend works.
    pub(super) note: Option<String>,
    /// The limit of watches when it was reached; 0 if it is not known.
    pub(super) limit: Option<usize>,
    /// How many directories are not watched because of the limit, and the first of them.
    n_beyond_limit: usize,
    beyond_limit: Vec<String>,
    /// Directories that cannot be watched for another reason.
    unwatchable: BTreeMap<String, Gap>,
    /// How often that list changed.
    n_changes: usize,
    /// The directories that left that list since they were last taken.
    ended: Vec<String>,
}

impl Gaps {
    /// Whether a limit is reached that may be raised.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some() || self.no_backend.is_some()
    }

    pub(super) fn beyond_limit(&mut self, path: &str) {
        if self.limit.is_none() {
            self.limit = Some(limits::max_watches().map_or(0, |(_, limit)| limit));
        }
        self.n_beyond_limit += 1;
        if self.beyond_limit.len() < NAMED {
            self.beyond_limit.push(path.to_owned());
        }
    }

    pub(super) fn cannot_watch(&mut self, path: &str, gap: Gap) {
        let reason = gap.to_string();
        let before = self.unwatchable.insert(path.to_owned(), gap);
        if before.is_none_or(|before| before.to_string() != reason) {
            self.n_changes = self.n_changes.wrapping_add(1);
        }
    }

    /// Whether this directory, or one below it, has no watch.
    pub(super) fn is_unwatchable(&self, path: &str) -> bool {
        let mut from = self.unwatchable.range(path.to_owned()..);
        from.any(|(known, _)| is_at_or_below(known, path))
    }

    /// Whether this very directory has no watch.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.unwatchable.contains_key(path)
    }

    /// The directories that have to be tried again, because no report tells when.
    pub(super) fn to_retry(&self) -> Vec<String> {
        let retried = self.unwatchable.iter();
        retried
            .filter(|(_, gap)| !gap.ends_by_report())
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Whether there are directories to try again.
    pub(super) fn has_to_retry(&self) -> bool {
        !self.unwatchable.values().all(Gap::ends_by_report)
    }

    pub(super) fn watched(&mut self, path: &str) {
        if self.unwatchable.remove(path).is_some() {
            self.n_changes = self.n_changes.wrapping_add(1);
            self.ended.push(path.to_owned());
        }
    }

    /// A directory is gone, with all below it.
    pub(super) fn gone(&mut self, path: &str) {
        let gone = self.unwatchable.keys();
        let gone: Vec<String> = gone
            .filter(|known| is_at_or_below(known, path))
            .cloned()
            .collect();
        for path in gone {
            self.watched(&path);
        }
    }

    /// Takes the directories that are watched now, or gone, and were not watched.
    pub(super) fn take_ended(&mut self) -> Vec<String> {
        let ended = std::mem::take(&mut self.ended);
        let is_over = |path: &String| !self.unwatchable.contains_key(path);
        ended.into_iter().filter(is_over).collect()
    }

    /// The numbers that the coverage depends on between two walks.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.n_beyond_limit, self.n_changes)
    }

    pub(super) fn coverage(&self, watches: usize) -> Coverage {
        let (polls, note) = if let Some(note) = &self.no_backend {
            (true, Some(note.clone()))
        } else if self.limit.is_some() {
            let note = limits::watch_limit(watches, self.n_beyond_limit);
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
            uncovered: self.n_beyond_limit.saturating_add(self.unwatchable.len()),
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

/// Whether a path is this one or below it.
fn is_at_or_below(path: &str, above: &str) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| above.is_empty() || rest.is_empty() || rest.starts_with('/'))
}
