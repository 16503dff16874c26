//! The backend for every operating system. It uses the crate notify.
//!
//! Constraint: see [`super`]. notify identifies its watches by path. Watching a known path again
//! has no effect, even if another directory is at the path now. So this backend stores which
//! directory is at each path, and replaces the watch if the directory changed. After an overflow,
//! too many paths may be wrong, so the next walk uses a new watcher.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{ErrorKind, Event, EventKind, EventKindMask, RecursiveMode, WatchPathConfig, Watcher};
use tracing::debug;

use super::backend::{
    Backend, Change, ChangeKind, Directory, NOWHERE, Node, Report, WatchError, is_at,
};
use super::commands::Commands;
use crate::config::WatchMode;

/// The maximum number of reports in a watcher's channel. One more is an overflow.
const REPORTS: usize = 16_384;
/// After a watcher is dropped, how long to wait for its next report or the end of its thread.
///
/// The wait is necessary, because the number of watches is limited, and the new watcher needs the
/// watches of the old one.
const RELEASE: Duration = Duration::from_secs(10);
/// The node of every watched directory. notify identifies directories by path, not by node.
const WATCHED: Node = 1;

/// The device and the inode number of a directory.
type Inode = (u64, u64);

#[derive(Clone, Copy)]
struct Watched {
    inode: Inode,
    /// The value of [`Notify::walk`] when this directory was last passed to `watch`.
    walk: u32,
}

pub(super) struct Notify {
    commands: Arc<Commands>,
    root: PathBuf,
    watcher: Option<(notify::RecommendedWatcher, Receiver<notify::Result<Event>>)>,
    has_overflowed: Arc<AtomicBool>,
    /// The watched directories, by their paths below the root.
    watched: BTreeMap<String, Watched>,
    /// The path of each watched directory, by inode.
    paths: HashMap<Inode, String>,
    /// The number of the walk in progress, or of the last walk.
    walk: u32,
    /// Whether no walk with this watcher has ended yet.
    ///
    /// If so, `watch` expects no old watch of notify at a path.
    is_fresh: bool,
    queue: VecDeque<Report>,
}

impl Notify {
    pub(super) fn new(commands: Arc<Commands>) -> Self {
        Self {
            commands,
            root: PathBuf::new(),
            watcher: None,
            has_overflowed: Arc::default(),
            watched: BTreeMap::new(),
            paths: HashMap::new(),
            walk: 0,
            is_fresh: true,
            queue: VecDeque::new(),
        }
    }

    /// Ends the watcher and waits until it has released its watches; see [`RELEASE`].
    fn close(&mut self) {
        if let Some((watcher, reports)) = self.watcher.take() {
            drop(watcher);
            // The channel closes when the thread of the watcher ends.
            while reports.recv_timeout(RELEASE).is_ok() {}
        }
        self.watched.clear();
        self.paths.clear();
        self.queue.clear();
    }

    /// Translates an event to reports, and adds them to the queue.
    fn translate(&mut self, event: &Event) {
        if event.info() == Some("unmount") {
            self.queue.push_back(Report::Unmounted);
        }
        // The watch of a moved directory also reports its move. Ignore this report, because another
        // directory may be at the path by now. The report of the parent's watch comes in order.
        let is_rename_away = event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::From));
        if cfg!(target_os = "linux") && is_rename_away && event.tracker().is_none() {
            return;
        }
        for path in &event.paths {
            let Some((kind, is_directory)) = change_of(&event.kind, path) else {
                continue;
            };
            // Ignore reports about the root itself. The engine checks the root.
            let Ok(below) = path.strip_prefix(&self.root) else {
                continue;
            };
            let (Some(directory), Some(name)) = (below.parent(), below.file_name()) else {
                continue;
            };
            let Some(directory) = directory.to_str() else {
                continue;
            };
            if kind.is_gone()
                && let Some(path) = below.to_str()
            {
                // notify removes the watches of this directory and of all directories below it.
                self.take_below(path);
            }
            self.queue.push_back(Report::Change(Change {
                parent: WATCHED,
                directory: directory.to_owned(),
                name: name.to_owned(),
                kind,
                is_directory,
            }));
        }
    }

    /// Removes a directory and all directories below it from `watched`. Returns the removed paths.
    fn take_below(&mut self, path: &str) -> Vec<String> {
        let first = format!("{path}/");
        let below = self.watched.range(first.clone()..);
        let mut taken: Vec<String> = below
            .take_while(|(known, _)| known.starts_with(&first))
            .map(|(known, _)| known.clone())
            .collect();
        taken.push(path.to_owned());
        taken.retain(|path| self.take(path));
        taken
    }

    /// Removes a path from `watched`. Returns whether it was watched.
    fn take(&mut self, path: &str) -> bool {
        let Some(watched) = self.watched.remove(path) else {
            return false;
        };
        if self.paths.get(&watched.inode).is_some_and(|at| at == path) {
            self.paths.remove(&watched.inode);
        }
        true
    }

    /// Compares the watched directories with the watches of notify.
    ///
    /// Releases the watches that only notify has. Removes from `watched` the directories that
    /// notify does not watch, and returns them.
    fn compare(&mut self) -> Vec<String> {
        let known = self
            .watcher
            .as_ref()
            .map(|(watcher, _)| watcher.watched_paths());
        let Some(Ok(known)) = known else {
            return Vec::new();
        };
        let below = known.iter().filter_map(|(path, _)| {
            let path = path.strip_prefix(&self.root).ok()?;
            Some(path.to_str()?.to_owned())
        });
        let known: BTreeSet<String> = below.collect();
        let others = known.iter();
        let others = others.filter(|path| !self.watched.contains_key(*path));
        let others: Vec<String> = others.cloned().collect();
        self.release(&others);
        let mut missing: Vec<String> = self.watched.keys().cloned().collect();
        missing.retain(|path| !known.contains(path));
        for path in &missing {
            self.take(path);
        }
        missing
    }

    /// Releases the watches at these paths.
    fn release(&mut self, paths: &[String]) {
        let Some((watcher, _)) = &mut self.watcher else {
            return;
        };
        for path in paths {
            // This fails if notify has no such watch, for instance because the directory is gone.
            let _ = watcher.unwatch(&absolute(&self.root, path));
        }
    }
}

/// Returns the absolute path of a directory, without a slash at its end.
///
/// notify treats a path with a slash at its end as another path.
fn absolute(root: &Path, path: &str) -> PathBuf {
    if path.is_empty() {
        root.to_owned()
    } else {
        root.join(path)
    }
}

/// Translates the kind of an event.
///
/// Also returns whether the entry is a directory, if known.
fn change_of(kind: &EventKind, path: &Path) -> Option<(ChangeKind, Option<bool>)> {
    Some(match kind {
        EventKind::Create(CreateKind::File) => (ChangeKind::Created, Some(false)),
        EventKind::Create(CreateKind::Folder) => (ChangeKind::Created, Some(true)),
        EventKind::Create(_) => (ChangeKind::Created, None),
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Data(_)) => (ChangeKind::Written, Some(false)),
        EventKind::Modify(ModifyKind::Metadata(_)) => (ChangeKind::Attributes, None),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => (ChangeKind::MovedTo, None),
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) => (ChangeKind::MovedFrom, None),
        // On macOS, the path is either the old or the new name.
        EventKind::Modify(ModifyKind::Name(RenameMode::Any)) => {
            let found = path.symlink_metadata();
            let kind = match found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                true => ChangeKind::MovedFrom,
                false => ChangeKind::MovedTo,
            };
            (kind, None)
        }
        EventKind::Remove(RemoveKind::File) => (ChangeKind::Removed, Some(false)),
        EventKind::Remove(_) => (ChangeKind::Removed, None),
        _ => return None,
    })
}

/// The kinds of events to report. Reads are not among them, because the daemon reads too.
fn wanted() -> EventKindMask {
    let mask = EventKindMask::CREATE
        | EventKindMask::REMOVE
        | EventKindMask::MODIFY_NAME
        | EventKindMask::MODIFY_META
        | EventKindMask::ACCESS_CLOSE;
    if cfg!(target_os = "linux") {
        mask
    } else {
        // On other systems, notify may not report that a file was closed.
        mask | EventKindMask::MODIFY_DATA
    }
}

impl Backend for Notify {
    fn mode(&self) -> WatchMode {
        WatchMode::Notify
    }

    fn begin_walk(&mut self, root: &Path, is_doubtful: bool) -> io::Result<()> {
        self.walk = self.walk.wrapping_add(1);
        if self.watcher.is_some() && !is_doubtful && self.root == root {
            return Ok(());
        }
        self.close();
        self.is_fresh = true;
        root.clone_into(&mut self.root);
        let (sender, reports) = sync_channel(REPORTS);
        let (commands, has_overflowed) = (Arc::clone(&self.commands), Arc::default());
        self.has_overflowed = Arc::clone(&has_overflowed);
        let handler = move |report: notify::Result<Event>| {
            if sender.try_send(report).is_err() {
                has_overflowed.store(true, Ordering::Release);
            }
            commands.wake();
        };
        let config = notify::Config::default().with_event_kinds(wanted());
        let watcher = notify::RecommendedWatcher::new(handler, config).map_err(io::Error::other)?;
        self.watcher = Some((watcher, reports));
        Ok(())
    }

    fn end_walk(&mut self) -> Vec<String> {
        self.is_fresh = false;
        let walk = self.walk;
        let unseen = self.watched.iter().filter(|(_, one)| one.walk != walk);
        let unseen: Vec<String> = unseen.map(|(path, _)| path.clone()).collect();
        for path in &unseen {
            self.take(path);
        }
        self.release(&unseen);
        self.compare()
    }

    fn at(&self, path: &str) -> Node {
        if self.watched.contains_key(path) {
            WATCHED
        } else {
            NOWHERE
        }
    }

    fn forget(&mut self, path: &str) {
        let mut taken = self.take_below(path);
        // notify may watch the directory although this backend does not.
        taken.push(path.to_owned());
        self.release(&taken);
    }

    fn watch(&mut self, directory: Directory<'_>) -> Result<Node, WatchError> {
        let stat = rustix::fs::fstat(directory.opened);
        let stat = stat.map_err(|error| WatchError::Other(error.into()))?;
        #[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
        let inode = (stat.st_dev as u64, stat.st_ino as u64);
        let (path, walk) = (directory.path, self.walk);
        if let Some(known) = self.watched.get_mut(path) {
            if known.inode == inode {
                known.walk = walk;
                return Ok(WATCHED);
            }
            self.forget(path);
        }
        if let Some(other) = self.paths.get(&inode)
            && other != path
            && is_at(&absolute(&self.root, other), directory.opened).unwrap_or(true)
        {
            return Err(WatchError::SameAs(other.clone()));
        }
        let Some((watcher, _)) = &mut self.watcher else {
            return Ok(NOWHERE);
        };
        let absolute = absolute(&self.root, path);
        if !self.is_fresh {
            // notify may still watch the previous directory at this path.
            let _ = watcher.unwatch(&absolute);
        }
        let config = WatchPathConfig::new(RecursiveMode::NonRecursive)
            // The root is a configured path, which may be a symbolic link.
            .with_dereference_symlinks(path.is_empty());
        if let Err(error) = watcher.watch_with(&absolute, config) {
            return match error.kind {
                // The directory was removed or moved in the meantime. A report follows.
                ErrorKind::PathNotFound => Ok(NOWHERE),
                ErrorKind::MaxFilesWatch => Err(WatchError::Limit),
                ErrorKind::Io(error) => Err(WatchError::Other(error)),
                _ => Err(WatchError::Other(io::Error::other(error))),
            };
        }
        let is_there = match path {
            "" => Ok(true),
            _ => is_at(&absolute, directory.opened),
        };
        if !matches!(is_there, Ok(true)) {
            // Either the directory was removed or moved in the meantime, and a report follows. Or
            // its metadata cannot be read.
            let _ = watcher.unwatch(&absolute);
            return is_there.map(|_| NOWHERE).map_err(WatchError::Other);
        }
        self.watched
            .insert(path.to_owned(), Watched { inode, walk });
        self.paths.insert(inode, path.to_owned());
        Ok(WATCHED)
    }

    fn retain(&mut self, directory: Directory<'_>, _node: Node, names: &BTreeSet<&str>) {
        let above = match directory.path {
            "" => String::new(),
            path => format!("{path}/"),
        };
        let below = self.watched.range(above.clone()..);
        let below = below.map_while(|(path, _)| path.strip_prefix(&above));
        let others: BTreeSet<String> = below
            .filter_map(|rest| rest.split('/').next())
            .filter(|name| !name.is_empty() && !names.contains(name))
            .map(|name| format!("{above}{name}"))
            .collect();
        for path in others {
            self.forget(&path);
        }
    }

    fn next(&mut self) -> Option<Report> {
        loop {
            if let Some(report) = self.queue.pop_front() {
                return Some(report);
            }
            if self.has_overflowed.swap(false, Ordering::AcqRel) {
                return Some(Report::Overflow);
            }
            let (_, reports) = self.watcher.as_ref()?;
            match reports.try_recv().ok()? {
                Ok(event) if event.need_rescan() => return Some(Report::Overflow),
                Ok(event) => self.translate(&event),
                Err(error) => {
                    debug!(%error, "the crate notify reports an error");
                    return Some(Report::Overflow);
                }
            }
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn n_watches(&self) -> usize {
        self.watched.len()
    }
}
