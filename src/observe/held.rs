//! Holds reported files open, so that they can be read even if they are removed.
//!
//! Constraint: no number of reports uses up the file descriptors of the process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::debug;

use crate::domain::project::{FileState, Stamp};
use crate::layout::ProjectFile;
use crate::repository::{Root, kind_of, open_file_below, stamp};

/// The maximum number of held files.
const HELD_MAX: usize = 256;

/// A file that was opened when a report named it.
#[derive(Debug)]
pub(crate) struct Held {
    /// The reported path below the root.
    pub path: String,
    /// The meaning of this path in the layout.
    pub place: ProjectFile,
    pub file: OwnedFd,
    /// The metadata of the file when it was opened.
    ///
    /// If the file was removed already, its change time is replaced by its modification time.
    pub stamp: Stamp,
    /// The inode of the project's directory in which the file was opened.
    ///
    /// `None` if the layout has no such directory.
    pub home: Option<u64>,
    /// Whether the file has a link, but the last observation found none in its project.
    ///
    /// If the next observation finds none either, the file has left the project.
    pub has_left: bool,
    /// A reference that counts this file in [`Holder::held`].
    _held: Arc<()>,
}

impl Held {
    /// Whether this is the recorded file, with the recorded or an earlier content.
    ///
    /// A file that was overwritten in place has the recorded inode, but a later change time.
    pub(crate) fn is_recorded_as(&self, known: &FileState) -> bool {
        known.stamp.inode == self.stamp.inode && known.stamp.changed_ns >= self.stamp.changed_ns
    }
}

/// Opens files to hold them.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// Counts the held files by its references.
    ///
    /// Each held file has a clone. So the reference count minus 1 is the number of held files.
    held: Arc<()>,
}

impl Holder {
    /// Opens a file to hold it. Also returns whether the file is empty.
    ///
    /// `home` is the path of the project's directory, if the layout has such a directory. An empty
    /// file is not held: usually it was just created, and a report of its close follows.
    pub(crate) fn hold(
        &self,
        root: &Root,
        home: Option<&str>,
        path: &str,
        place: ProjectFile,
    ) -> (Option<Held>, bool) {
        let (file, home) = match open(root, home, path) {
            Ok(opened) => opened,
            Err(error) => {
                debug!(path, %error, "cannot open a reported file; if it was removed, its content is lost");
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
            // The removal of the file has set its change time, so use the modification time
            // instead.
            stamp.changed_ns = stamp.modified_ns;
        }
        if Arc::strong_count(&self.held) > HELD_MAX {
            debug!(
                path,
                "cannot hold a reported file open, because {HELD_MAX} files are open; if it is \
                 removed now, its content is lost"
            );
            return (None, false);
        }
        let held = Held {
            path: path.to_owned(),
            place,
            file,
            stamp,
            home,
            has_left: false,
            _held: Arc::clone(&self.held),
        };
        (Some(held), false)
    }
}

/// Opens a file and its project's directory. Also returns the directory's inode.
fn open(root: &Root, home: Option<&str>, path: &str) -> io::Result<(OwnedFd, Option<u64>)> {
    let below = home.and_then(|home| {
        let rest = path.strip_prefix(home)?.strip_prefix('/')?;
        Some((home, rest))
    });
    let Some((home, rest)) = below else {
        return Ok((root.open_file(path)?, None));
    };
    let directory = root.open_directory(home)?;
    let file = open_file_below(&directory, rest)?;
    let stat = rustix::fs::fstat(&directory)?;
    Ok((file, Some(stamp(&stat).inode)))
}
