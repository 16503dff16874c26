//! The backend for Linux, which reads inotify(7) directly.
//!
//! Constraint: see [`super`]. A watch belongs to a directory, not to a path (`tree`). So if a
//! directory is renamed within the repository, the watches at and below it stay. A walk after an
//! overflow keeps all watches that are still right.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tracing::debug;

use super::backend::{
    Backend, Change, ChangeKind, Directory, NOWHERE, Node, Report, WatchError, is_at,
};
use super::tree::Tree;
use crate::config::WatchMode;

/// The size of one read from the kernel's queue, in bytes.
///
/// It usually has room for some hundred reports.
const BUFFER: usize = 16 * 1024;
/// The changes that the kernel reports. Reads are not among them, because the daemon reads too.
const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    // A change of permissions may make a directory readable.
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

pub(super) struct Native {
    inotify: OwnedFd,
    tree: Tree,
    root: PathBuf,
    /// The reports that were read from the kernel but not returned yet.
    queue: VecDeque<RawReport>,
}

/// A report of the kernel. Its path depends on earlier reports, such as renames.
struct RawReport {
    node: Node,
    flags: ReadFlags,
    name: Option<OsString>,
}

impl Native {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            tree: Tree::default(),
            root: PathBuf::new(),
            queue: VecDeque::new(),
        })
    }

    /// Reads the kernel's queue once. Returns false if the read failed.
    fn fill(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(report) => self.queue.push_back(RawReport {
                    node: report.wd(),
                    flags: report.events(),
                    name: report
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                }),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return true,
                Err(error) => {
                    debug!(%error, "cannot read inotify reports");
                    return false;
                }
            }
            if reader.is_buffer_empty() {
                return true;
            }
        }
    }

    /// Applies a report to the tree. Returns the change that it reports, if any.
    fn change(&mut self, report: RawReport) -> Option<Change> {
        let RawReport { node, flags, name } = report;
        if flags.contains(ReadFlags::IGNORED) {
            self.tree.forget(node);
            return None;
        }
        let (name, directory) = (name?, self.tree.path(node)?);
        let kind = if flags.contains(ReadFlags::CLOSE_WRITE) {
            ChangeKind::Written
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            ChangeKind::MovedFrom
        } else if flags.contains(ReadFlags::DELETE) {
            ChangeKind::Removed
        } else if flags.contains(ReadFlags::ATTRIB) {
            ChangeKind::Attributes
        } else if flags.contains(ReadFlags::MOVED_TO) {
            ChangeKind::MovedTo
        } else {
            ChangeKind::Created
        };
        let is_directory = flags.contains(ReadFlags::ISDIR);
        if is_directory
            && kind.is_gone()
            && let Some(name) = name.to_str()
        {
            self.tree.detach(node, name);
        }
        Some(Change {
            parent: node,
            directory,
            name,
            kind,
            is_directory: Some(is_directory),
        })
    }

    /// Adds a directory to the tree after the kernel has set its watch.
    fn place(&mut self, node: Node, directory: Directory<'_>) -> Result<Node, WatchError> {
        // For a directory that is mounted at two paths, the kernel has only one watch.
        if !self.tree.is_placed(node, directory.parent, directory.name)
            && let Some(other) = self.tree.path(node)
            && other != directory.path
            && is_at(&self.root.join(&other), directory.opened).unwrap_or(true)
        {
            return Err(WatchError::SameAs(other));
        }
        if self.tree.put(node, directory.parent, directory.name) {
            return Ok(node);
        }
        // The parent is no longer watched, for instance because it was moved or removed.
        if !self.tree.contains(node) {
            self.release(vec![node]);
        }
        Ok(NOWHERE)
    }

    fn release(&self, nodes: Vec<Node>) {
        for node in nodes {
            // This fails if the directory is gone, because the kernel has already removed its
            // watch.
            let _ = inotify::remove_watch(&self.inotify, node);
        }
    }
}

impl Backend for Native {
    fn mode(&self) -> WatchMode {
        WatchMode::Native
    }

    fn begin_walk(&mut self, root: &Path, _is_doubtful: bool) -> io::Result<()> {
        root.clone_into(&mut self.root);
        self.tree.begin_walk();
        Ok(())
    }

    fn at(&self, path: &str) -> Node {
        self.tree.at(path).unwrap_or(NOWHERE)
    }

    fn forget(&mut self, path: &str) {
        if let Some((parent, name)) = path.rsplit_once('/').or(Some(("", path)))
            && let Some(parent) = self.tree.at(parent)
        {
            self.tree.detach(parent, name);
        }
    }

    fn end_walk(&mut self) -> Vec<String> {
        let unseen = self.tree.take_unseen();
        self.release(unseen);
        Vec::new()
    }

    fn watch(&mut self, directory: Directory<'_>) -> Result<Node, WatchError> {
        // This path leads to the opened directory, even if the directory was renamed in the
        // meantime.
        let by_descriptor = format!("/proc/self/fd/{}", directory.opened.as_raw_fd());
        let added = match inotify::add_watch(&self.inotify, by_descriptor, WANTED) {
            // Perhaps /proc is not mounted or not accessible.
            Err(Errno::NOENT | Errno::ACCESS) => {
                let path = self.root.join(directory.path);
                inotify::add_watch(&self.inotify, path, WANTED)
            }
            added => added,
        };
        match added {
            Ok(node) => self.place(node, directory),
            Err(Errno::NOSPC) => Err(WatchError::Limit),
            Err(error) => Err(WatchError::Other(error.into())),
        }
    }

    fn retain(&mut self, _directory: Directory<'_>, node: Node, names: &BTreeSet<&str>) {
        self.tree.retain(node, names);
    }

    fn next(&mut self) -> Option<Report> {
        loop {
            if self.queue.is_empty() && !self.fill() {
                return Some(Report::Overflow);
            }
            let report = self.queue.pop_front()?;
            if report.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                return Some(Report::Overflow);
            }
            if report.flags.contains(ReadFlags::UNMOUNT) {
                return Some(Report::Unmounted);
            }
            if let Some(change) = self.change(report) {
                return Some(Report::Change(change));
            }
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inotify.as_fd())
    }

    fn release_moved_away(&mut self) {
        let orphans = self.tree.take_orphans();
        self.release(orphans);
    }

    fn n_watches(&self) -> usize {
        self.tree.len()
    }
}
