//! Detects changes of a file by its metadata.
//!
//! Constraint: a file counts as unchanged only if every change since its reading would have
//! changed its metadata.

use serde::{Deserialize, Serialize};

use super::project::FileState;

/// The metadata of a file.
///
/// If it differs from the recorded metadata, the file may have changed. The device number is not
/// included, because it may change when a disk is mounted again. Then unchanged files would look
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The inode number.
    pub inode: u64,
    /// The size in bytes.
    pub size: u64,
    /// The modification time, in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// The change time, in nanoseconds since the Unix epoch.
    pub changed_ns: i64,
}

/// A reading can prove a file unchanged only if it was more than this time after the last change.
///
/// Two writes within one tick of the file system's clock leave the same times. A tick is up to
/// 10 ms on Linux, and 2 s on some network and FAT file systems. So a file that changed shortly
/// before its reading is read again.
const TICK_NS: i64 = 2_000_000_000;

/// The value of `read_ns` after two readings far apart found the same content.
///
/// A later change would change the times of the file, even if these times are in the future. Files
/// from archives may have such times.
pub(crate) const SETTLED_NS: i64 = i64::MAX;

/// The minimum time between two readings for [`SETTLED_NS`].
///
/// It is more than a tick plus the usual duration of an engine step, because the recorded time of a
/// reading is the start of its step.
const APART_NS: i64 = 10_000_000_000;

/// Whether inode numbers identify files.
///
/// Some FUSE file systems give a file another number after it left the kernel's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Inodes {
    /// A file keeps its inode number.
    #[default]
    Stable,
    /// Inode numbers of unchanged files change, so they are ignored.
    Unstable,
}

impl FileState {
    /// Whether this stamp proves that the file is unchanged and need not be read.
    ///
    /// If the owner is unknown, the result is false, so that the owner is looked up again.
    pub(crate) fn is_unchanged(&self, stamp: &Stamp, inodes: Inodes) -> bool {
        !self.owner.is_empty() && is_unchanged(&self.stamp, self.read_ns, stamp, inodes)
    }

    /// Returns the state to record after a second reading with the same content.
    ///
    /// Usually the state is `self`, so that reading an unchanged file writes nothing to the store.
    /// It is `again` if the metadata, the role or the tag differ, if the owner was unknown, if the
    /// clock was set back, or if only `again` can prove the file unchanged. If neither reading can
    /// prove that, but they are more than [`APART_NS`] apart, `self` gets [`SETTLED_NS`].
    pub(crate) fn read_again(&self, again: Self, inodes: Inodes) -> Self {
        let is_same = self.stamp.is_same(&again.stamp, inodes)
            && (self.role, &self.tag) == (again.role, &again.tag);
        if is_same && self.is_unchanged(&again.stamp, inodes) {
            return self.clone();
        }
        if is_same && self.owner.is_empty() {
            return again;
        }
        if !is_same || again.read_ns < self.read_ns || again.stamp.is_old(again.read_ns) {
            return again;
        }
        let is_settled = again.read_ns.saturating_sub(self.read_ns) > APART_NS;
        Self {
            read_ns: if is_settled { SETTLED_NS } else { self.read_ns },
            ..self.clone()
        }
    }
}

impl Stamp {
    /// Whether two stamps are equal, ignoring unstable inode numbers.
    pub(crate) fn is_same(&self, other: &Self, inodes: Inodes) -> bool {
        let has_same_inode = self.inode == other.inode || inodes == Inodes::Unstable;
        has_same_inode
            && (self.size, self.modified_ns, self.changed_ns)
                == (other.size, other.modified_ns, other.changed_ns)
    }

    /// Whether every change of the file after a reading at `read_ns` would change the times.
    fn is_old(&self, read_ns: i64) -> bool {
        self.changed_ns.max(self.modified_ns) < read_ns.saturating_sub(TICK_NS)
    }
}

fn is_unchanged(recorded: &Stamp, read_ns: i64, found: &Stamp, inodes: Inodes) -> bool {
    (read_ns == SETTLED_NS || recorded.is_old(read_ns)) && recorded.is_same(found, inodes)
}

/// The recorded metadata of a file. A full scan compares it to detect changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The path below the repository's root.
    pub path: String,
    /// The metadata.
    pub stamp: Stamp,
    /// The value of [`FileState::read_ns`], or 0 if the owner is unknown.
    pub read_ns: i64,
}

impl Mark {
    /// Whether the file is unchanged; see [`FileState::is_unchanged`].
    pub(crate) fn is_unchanged(&self, stamp: &Stamp, inodes: Inodes) -> bool {
        is_unchanged(&self.stamp, self.read_ns, stamp, inodes)
    }
}
