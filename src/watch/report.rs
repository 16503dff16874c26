//! Paths that something was reported of, as hints.
//!
//! Constraint: nothing here decides what happened. A path is read by the layout's cursor; a file
//! that has a place is opened at once, within a bound, so that its content survives its name.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::warn;

use super::{Coverage, SharedCoverage, WatchSettings};
use crate::hint::{Hint, HintSender};
use crate::layout::Cursor;
use crate::observe::Held;
use crate::repository::{Root, kind_of, stamp};

/// How many files are held open for hints that the engine has not seen yet.
const HELD_MAX: usize = 256;

/// Sends hints, and tells how well changes are noticed.
pub(super) struct Reporter {
    pub(super) hints: HintSender,
    pub(super) settings: WatchSettings,
    /// The root, open while there is work; see [`Root`].
    pub(super) root: Option<Root>,
    coverage: SharedCoverage,
    held: Arc<AtomicUsize>,
}

impl Reporter {
    pub(super) fn new(
        settings: WatchSettings,
        hints: HintSender,
        coverage: SharedCoverage,
    ) -> Self {
        Self {
            hints,
            settings,
            root: None,
            coverage,
            held: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Opens the root if it is not open.
    pub(super) fn open_root(&mut self) -> Option<&Root> {
        if self.root.is_none() {
            self.root = Root::open(&self.settings.root).ok();
        }
        self.root.as_ref()
    }

    /// Changes what is known of how well changes are noticed; a note that is new is logged.
    pub(super) fn cover(&self, change: impl FnOnce(&mut Coverage)) {
        let mut coverage = self.coverage.lock();
        let before = coverage.note.clone();
        change(&mut coverage);
        if let Some(note) = &coverage.note
            && before.as_ref() != Some(note)
        {
            let how = if coverage.polls {
                "changes are found by comparison every repository.poll_interval"
            } else {
                "some changes are found late"
            };
            warn!("{how}: {note}");
        }
    }

    /// A file that is none of a project's files lies beside them.
    pub(super) fn activity(&self, path: &str) {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let project = self
            .settings
            .layout
            .at(directory)
            .and_then(|cursor| cursor.project());
        if let Some(key) = project {
            self.hints.send_if_room(Hint::Activity { key });
        }
    }

    /// Something is to be looked at, and no file has to be held for it.
    pub(super) fn plain(&self, path: &str, cursor: &Cursor, what: &str) {
        let key = cursor
            .project()
            .or_else(|| cursor.place().map(|place| place.key));
        let what = format!("{what}: {path}");
        self.hints.send(match key {
            Some(key) => Hint::Project {
                key,
                what,
                held: None,
                unfinished: false,
            },
            None => Hint::Subtree {
                path: path.to_owned(),
                what,
            },
        });
    }

    /// A hint that names a file, with the file open if it can be.
    pub(super) fn file(&mut self, path: &str, cursor: &Cursor, what: &str) {
        let Some(place) = cursor.place() else {
            // Not a file of a project: what else appears where a directory may be.
            if cursor.project().is_some() {
                self.plain(path, cursor, what);
            }
            return;
        };
        let key = place.key.clone();
        let file = self.open_root().and_then(|root| root.open_file(path).ok());
        // A file that was just created is empty as a rule, and its close will be reported; one that
        // was linked into place is complete, and nothing else will be reported of it.
        let stat = file.as_ref().and_then(|file| rustix::fs::fstat(file).ok());
        let is_empty = stat.as_ref().is_some_and(|stat| stamp(stat).size == 0);
        let held = match (file, stat) {
            (Some(file), Some(stat)) if kind_of(&stat).is_ok() && !is_empty => {
                let mut stamp = stamp(&stat);
                if stat.st_nlink == 0 {
                    // It lost its name since it was opened, and that is what changed last.
                    stamp.changed_ns = stamp.modified_ns;
                }
                Permit::take(&self.held).map(|permit| Held {
                    path: path.to_owned(),
                    place,
                    file,
                    stamp,
                    permit,
                })
            }
            _ => None,
        };
        self.hints.send(Hint::Project {
            key,
            what: format!("{what}: {path}"),
            held,
            unfinished: is_empty && what == "created",
        });
    }
}

/// The right to hold one more file open; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    taken: Arc<AtomicUsize>,
}

impl Permit {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let permit = Self {
            taken: Arc::clone(taken),
        };
        // One too many is given back at once, by the drop.
        (taken.fetch_add(1, Ordering::AcqRel) < HELD_MAX).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
