//! The interface of a backend, which learns of changes from the operating system.
//!
//! Constraint: a backend decides nothing. It watches the directories that the walk passes to it,
//! and returns reports in the order in which they happened.

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use crate::config::WatchMode;

/// A backend's name for a watched directory.
pub(super) type Node = i32;

/// The parent of the root.
pub(super) const ABOVE: Node = 0;
/// A directory that is not watched.
pub(super) const NOWHERE: Node = -1;

/// Watches directories and reports changes of their entries.
pub(super) trait Backend: Send {
    /// The mode that asks for it.
    fn mode(&self) -> WatchMode;

    /// Begins a walk over everything below this root.
    ///
    /// The walk passes every directory to [`Backend::watch`], those that are watched already too.
    /// With `is_doubtful`, reports were lost, or the root is new: known paths may be wrong.
    fn begin_walk(&mut self, root: &Path, is_doubtful: bool) -> io::Result<()>;

    /// Releases the watches of directories that the walk did not pass.
    fn end_walk(&mut self);

    /// The watched directory at a path below the root, or [`NOWHERE`].
    fn at(&self, path: &str) -> Node;

    /// Forgets the directories at and below a path, so that they are watched anew.
    fn forget(&mut self, path: &str);

    /// Watches a directory. A parent comes before its children.
    fn watch(&mut self, directory: Directory<'_>) -> Result<Node, WatchError>;

    /// Returns the next report, if there is one, without waiting.
    fn next(&mut self) -> Option<Report>;

    /// The descriptor that becomes readable when there are reports.
    ///
    /// A backend without one wakes the thread by [`Commands::wake`](super::commands::Commands::wake).
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Releases the watches of directories that left the repository. Called when all is read.
    fn release_moved_away(&mut self) {}

    /// How many directories are watched.
    fn n_watches(&self) -> usize;
}

/// A directory to watch.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    pub(super) opened: &'a OwnedFd,
    pub(super) parent: Node,
    /// Its name in its parent; empty for the root.
    pub(super) name: &'a str,
    /// Its path below the root; empty for the root.
    pub(super) path: &'a str,
}

/// The reason why a directory is not watched.
#[derive(Debug)]
pub(super) enum WatchError {
    /// The limit of watches is reached.
    Limit,
    /// The directory is watched at this path, and is at both.
    SameAs(String),
    /// Any other.
    Other(io::Error),
}

/// A report of the operating system.
#[derive(Debug)]
pub(super) enum Report {
    /// Something happened to an entry of a watched directory.
    Change(Change),
    /// The file system of a watched directory was unmounted.
    Unmounted,
    /// Reports were lost.
    Overflow,
}

#[derive(Debug)]
pub(super) struct Change {
    /// The watched directory.
    pub(super) parent: Node,
    /// Its path below the root.
    pub(super) directory: String,
    /// The entry's name.
    pub(super) name: OsString,
    pub(super) kind: ChangeKind,
    /// Whether the entry is a directory, if the system tells.
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
    /// Whether the entry is gone from its directory.
    pub(super) fn is_gone(self) -> bool {
        matches!(self, Self::MovedFrom | Self::Removed)
    }

    /// The words for a person.
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

/// Whether a path leads to this directory.
pub(super) fn is_at(path: &Path, directory: &OwnedFd) -> bool {
    match (rustix::fs::lstat(path), rustix::fs::fstat(directory)) {
        (Ok(one), Ok(other)) => one.st_ino == other.st_ino && one.st_dev == other.st_dev,
        _ => false,
    }
}
