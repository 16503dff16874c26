//! Files that stay open after a report named them, so that their content outlives their names.
//!
//! Constraint: a flood of reports does not use up the descriptors of the process.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::project::Stamp;
use crate::layout::ProjectFile;
use crate::repository::{Root, kind_of, stamp};

/// How many files are held at once.
const HELD_MAX: usize = 256;

/// A file that was opened when a report named it.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its path below the root at that time.
    pub path: String,
    /// The place of that path in the layout.
    pub place: ProjectFile,
    /// The open file.
    pub file: OwnedFd,
    /// Its stamp when it was opened.
    pub stamp: Stamp,
    _slot: Slot,
}

/// Opens files to hold them.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    n_held: Arc<AtomicUsize>,
}

impl Holder {
    /// Opens a file to hold it. Also returns whether the file is empty.
    ///
    /// An empty file is not held: as a rule it was just created, and its close will be reported.
    pub(crate) fn hold(&self, root: &Root, path: &str, place: ProjectFile) -> (Option<Held>, bool) {
        let Ok(file) = root.open_file(path) else {
            return (None, false);
        };
        let Ok(stat) = rustix::fs::fstat(&file) else {
            return (None, false);
        };
        let mut stamp = stamp(&stat);
        let is_empty = stamp.size == 0;
        if is_empty || kind_of(&stat).is_err() {
            return (None, is_empty);
        }
        if stat.st_nlink == 0 {
            // It lost its name since it was opened, which changed its change time.
            stamp.changed_ns = stamp.modified_ns;
        }
        let held = Slot::take(&self.n_held).map(|slot| Held {
            path: path.to_owned(),
            place,
            file,
            stamp,
            _slot: slot,
        });
        (held, false)
    }
}

/// The right to hold one file, released when dropped.
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(n_held: &Arc<AtomicUsize>) -> Option<Self> {
        // One too many is released at once, by the drop.
        let slot = Self(Arc::clone(n_held));
        (n_held.fetch_add(1, Ordering::AcqRel) < HELD_MAX).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
