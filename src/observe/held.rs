//! Holds reported files open, so that they can be read even if they are removed.
//!
//! Constraint: any number of reports must not use up the file descriptors of the process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::debug;

use crate::domain::project::Stamp;
use crate::layout::ProjectFile;
use crate::repository::{Root, kind_of, open_file_below, stamp};

/// The maximum number of held files.
const HELD_MAX: usize = 256;

/// A file that was opened when a report named it.
#[derive(Debug)]
pub(crate) struct Held {
    /// The reported path below the root.
    pub path: String,
    /// The project and the role of this path in the layout.
    pub place: ProjectFile,
    /// The open file.
    pub file: OwnedFd,
    /// The metadata of the file when it was opened.
    pub stamp: Stamp,
    /// The inode of the project's directory in which the file was opened.
    ///
    /// `None` if the layout has no such directory.
    pub home: Option<u64>,
    /// Whether the file still has a link, but an observation did not find it in its project.
    ///
    /// The next observation then decides about it.
    pub has_left: bool,
    /// A clone of the holder's `held`, whose count is the number of held files.
    _held: Arc<()>,
}

/// Opens files to hold them.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// Each held file has a clone of this, so its count is the number of held files plus one.
    held: Arc<()>,
}

impl Holder {
    /// Opens a file to hold it. Also returns whether the file is empty.
    ///
    /// `home` is the path of the project's directory, if the layout has one. An empty file is not
    /// held. Usually it was just created, and a report of its close follows.
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
            // The file was removed since it was opened, which changed its change time.
            stamp.changed_ns = stamp.modified_ns;
        }
        if Arc::strong_count(&self.held) > HELD_MAX {
            debug!(
                path,
                "cannot hold a reported file, because {HELD_MAX} are held; if it is removed now, its \
                 content is lost"
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

/// Opens a file by the directory of its project. Also returns the inode of that directory.
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
