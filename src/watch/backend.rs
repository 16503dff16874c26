//! The interface of a backend, which receives change reports from the system.
//!
//! Constraint: a backend makes no decisions. It watches the directories that it gets from the walk,
//! and returns reports in the order of the changes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::config::WatchMode;

/// A backend's identifier of a watched directory.
pub(super) type Node = i32;

/// The node that stands for the parent of the root.
pub(super) const ABOVE: Node = 0;
/// The node that stands for a directory without a watch.
pub(super) const NOWHERE: Node = -1;

/// Watches directories and reports changes of their entries.
pub(super) trait Backend: Send {
    /// The mode of this backend, as [`WatchMode::resolved`] returns it.
    fn mode(&self) -> WatchMode;

    /// Begins a walk of everything below this root.
    ///
    /// The walk also passes directories to [`Backend::watch`] that are already watched. If
    /// `is_doubtful`, the known paths may be wrong, for instance because reports were lost.
    fn begin_walk(&mut self, root: &Path, is_doubtful: bool) -> io::Result<()>;

    /// Ends the walk. Releases the watches of directories that the walk did not pass.
    ///
    /// Returns the directories that the walk passed but whose watches were lost in the meantime.
    fn end_walk(&mut self) -> Vec<String>;

    /// Returns the watched directory at a path below the root, or [`NOWHERE`].
    fn at(&self, path: &str) -> Node;

    /// Forgets which directories are watched at and below a path.
    fn forget(&mut self, path: &str);

    /// Watches a directory. The caller passes a parent before its children.
    ///
    /// Returns [`NOWHERE`] if the directory or its parent is no longer at its path.
    fn watch(&mut self, directory: Directory<'_>) -> Result<Node, WatchError>;

    /// Drops the watched subdirectories of a directory, except those with these names.
    ///
    /// If a directory moved to another depth, the layout may not need its subdirectories any more.
    fn retain(&mut self, directory: Directory<'_>, node: Node, names: &BTreeSet<&str>);

    /// Returns the next report, if any. Does not wait.
    fn next(&mut self) -> Option<Report>;

    /// The file descriptor that becomes readable when reports arrive.
    ///
    /// A backend without a descriptor wakes the thread by
    /// [`Commands::wake`](super::commands::Commands::wake).
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Releases the watches of directories without a known path below the root.
    ///
    /// For instance, such directories were moved out of the repository. The caller must have read
    /// all reports, because an unread report may contain a new path below the root.
    fn release_moved_away(&mut self) {}

    fn n_watches(&self) -> usize;
}

#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    pub(super) opened: &'a OwnedFd,
    pub(super) parent: Node,
    /// The name of the directory in its parent. Empty for the root.
    pub(super) name: &'a str,
    /// The path of the directory below the root. Empty for the root.
    pub(super) path: &'a str,
}

/// The reason why a directory is not watched.
#[derive(Debug)]
pub(super) enum WatchError {
    /// The limit of watches is reached.
    Limit,
    /// The directory is already watched at this other path.
    ///
    /// For instance, one of the two paths is a bind mount.
    SameAs(String),
    Other(io::Error),
}

/// A report of the operating system.
#[derive(Debug)]
pub(super) enum Report {
    /// An entry of a watched directory changed.
    Change(Change),
    /// The file system of a watched directory was unmounted.
    Unmounted,
    /// Reports were lost, or may have been lost because of an error.
    Overflow,
}

#[derive(Debug)]
pub(super) struct Change {
    /// The watched directory that contains the entry.
    pub(super) parent: Node,
    /// The path of that directory below the root.
    pub(super) directory: String,
    /// The name of the entry.
    pub(super) name: OsString,
    pub(super) kind: ChangeKind,
    /// Whether the entry is a directory. `None` if the report does not say.
    pub(super) is_directory: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangeKind {
    Created,
    MovedTo,
    Written,
    MovedFrom,
    Removed,
    Attributes,
}

impl ChangeKind {
    /// Whether the entry was removed or moved away.
    pub(super) fn is_gone(self) -> bool {
        matches!(self, Self::MovedFrom | Self::Removed)
    }

    /// The text for this change in hints and logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::MovedTo => "renamed to",
            Self::Written => "closed after writing",
            Self::MovedFrom => "renamed away",
            Self::Removed => "removed",
            Self::Attributes => "attributes changed",
        }
    }
}

/// Whether this open directory is at this path.
///
/// # Errors
///
/// The metadata of the directory or of the path cannot be read. The directory may still be at the
/// path. If nothing is at the path, this is not an error.
pub(super) fn is_at(path: &Path, directory: &OwnedFd) -> io::Result<bool> {
    let found = match rustix::fs::lstat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
        found => found?,
    };
    let directory = rustix::fs::fstat(directory)?;
    Ok(found.st_ino == directory.st_ino && found.st_dev == directory.st_dev)
}
