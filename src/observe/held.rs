//! Files that stay open after a report named them, so that their content outlives their names.
//!
//! Constraint: a flood of reports does not use up the descriptors of the process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::debug;

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
    /// Whether it has links and an observation did not find it. The next observation decides.
    pub has_left: bool,
    /// Counts the held files.
    _held: Arc<()>,
}

/// Opens files to hold them.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// Each held file has a clone of it.
    held: Arc<()>,
}

impl Holder {
    /// Opens a file to hold it. Also returns whether the file is empty.
    ///
    /// An empty file is not held: as a rule it was just created, and its close will be reported.
    pub(crate) fn hold(&self, root: &Root, path: &str, place: ProjectFile) -> (Option<Held>, bool) {
        let file = match root.open_file(path) {
            Ok(file) => file,
            Err(error) => {
                debug!(path, %error, "cannot open a reported file; if it is gone, its content is lost");
                return (None, false);
            }
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
        let held = (Arc::strong_count(&self.held) <= HELD_MAX).then(|| Held {
            path: path.to_owned(),
            place,
            file,
            stamp,
            has_left: false,
            _held: Arc::clone(&self.held),
        });
        (held, false)
    }
}
