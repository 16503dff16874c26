//! How well changes are noticed: which directories are not watched, and why.
//!
//! Constraint: coverage is never assumed. Every directory that matters is watched, or counted here.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::limits;

/// How well changes are noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Coverage {
    /// How many directories are watched.
    pub watches: usize,
    /// How many directories could not be watched.
    pub uncovered: usize,
    /// Whether scans on a timer have to find changes.
    pub polls: bool,
    /// Why, and what to do about it.
    pub note: Option<String>,
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

/// The directories without a watch, and the reasons.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Why a backend is wanted and not available.
    pub(super) no_backend: Option<String>,
    /// Why scans on a timer are needed although the backend works.
    pub(super) note: Option<String>,
    /// The limit of watches when it was reached; 0 if it is not known.
    pub(super) limit: Option<usize>,
    /// How many directories are not watched because of the limit.
    pub(super) n_beyond_limit: usize,
    /// How often the limit was checked since then.
    pub(super) n_limit_checks: usize,
    /// Directories that cannot be watched for another reason, as a rule a permission.
    unwatchable: BTreeMap<String, io::Error>,
}

impl Gaps {
    /// Whether a limit is reached that may be raised.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some() || self.no_backend.is_some()
    }

    pub(super) fn limit_reached(&mut self) {
        if self.limit.is_none() {
            self.limit = Some(limits::max_watches().map_or(0, |(_, limit)| limit));
        }
        self.n_beyond_limit += 1;
    }

    pub(super) fn cannot_watch(&mut self, path: &str, error: io::Error) {
        self.unwatchable.insert(path.to_owned(), error);
    }

    pub(super) fn is_unwatchable(&self, path: &str) -> bool {
        self.unwatchable.contains_key(path)
    }

    pub(super) fn watched(&mut self, path: &str) {
        self.unwatchable.remove(path);
    }

    /// A directory is gone, with all below it.
    pub(super) fn gone(&mut self, path: &str) {
        self.unwatchable.retain(|known, _| {
            let rest = known.strip_prefix(path);
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
    }

    /// The numbers that the coverage depends on between two walks.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.n_beyond_limit, self.unwatchable.len())
    }

    pub(super) fn coverage(&self, watches: usize) -> Coverage {
        // A change of permissions is reported. Other reasons go away unnoticed.
        let is_permission = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
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
                first.map(|(path, error)| limits::unwatchable(self.unwatchable.len(), path, error));
            (!self.unwatchable.values().all(is_permission), note)
        };
        Coverage {
            watches,
            uncovered: self.n_beyond_limit.saturating_add(self.unwatchable.len()),
            polls,
            note,
        }
    }
}
