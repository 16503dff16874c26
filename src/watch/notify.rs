//! The backend for every system: the crate notify reports the changes.
//!
//! Constraint: as in the module above. notify keeps its watches by path. After the kernel's queue
//! overflowed, some of its paths are stale, and watching these again does nothing. So every walk
//! builds a watcher of its own.

use std::collections::{BTreeSet, VecDeque};
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

use super::backend::{Backend, Change, ChangeKind, Directory, NOWHERE, Node, Report, WatchError};
use super::commands::Commands;
use crate::config::WatchMode;

/// How many reports are kept for the watch thread; one more is an overflow.
const REPORTS: usize = 16_384;
/// The longest wait for a watcher to release its watches: others need the room.
const RELEASE: Duration = Duration::from_secs(10);
/// The node of every watched directory: notify names them by path.
const WATCHED: Node = 1;

pub(super) struct Notify {
    commands: Arc<Commands>,
    root: PathBuf,
    watcher: Option<(notify::RecommendedWatcher, Receiver<notify::Result<Event>>)>,
    has_overflowed: Arc<AtomicBool>,
    /// The paths of the watched directories below the root.
    watched: BTreeSet<String>,
    queue: VecDeque<Change>,
}

impl Notify {
    pub(super) fn new(commands: Arc<Commands>) -> Self {
        Self {
            commands,
            root: PathBuf::new(),
            watcher: None,
            has_overflowed: Arc::default(),
            watched: BTreeSet::new(),
            queue: VecDeque::new(),
        }
    }

    /// Ends the watcher and waits until its watches are released.
    fn close(&mut self) {
        if let Some((watcher, reports)) = self.watcher.take() {
            drop(watcher);
            // The sender goes with the thread of the watcher.
            while reports.recv_timeout(RELEASE).is_ok() {}
        }
        self.watched.clear();
        self.queue.clear();
    }

    /// Queues the changes of an event.
    fn translate(&mut self, event: &Event) {
        for path in &event.paths {
            let Some((kind, is_directory)) = change_of(&event.kind, path) else {
                continue;
            };
            // The root itself has no name here: the engine checks it.
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
                self.forget(path);
            }
            self.queue.push_back(Change {
                parent: WATCHED,
                directory: directory.to_owned(),
                name: name.to_owned(),
                kind,
                is_directory,
            });
        }
    }

    /// notify removed the watches of a directory and of all below it.
    fn forget(&mut self, path: &str) {
        if !self.watched.remove(path) {
            return;
        }
        let first = format!("{path}/");
        let below = self.watched.range(first.clone()..);
        let below: Vec<String> = below
            .take_while(|path| path.starts_with(&first))
            .cloned()
            .collect();
        for path in below {
            self.watched.remove(&path);
        }
    }
}

/// The change that an event stands for, and whether it is of a directory.
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
        // macOS does not tell which of the two names it is.
        EventKind::Modify(ModifyKind::Name(RenameMode::Any)) => {
            let is_there = path.symlink_metadata().is_ok();
            let kind = if is_there {
                ChangeKind::MovedTo
            } else {
                ChangeKind::MovedFrom
            };
            (kind, None)
        }
        EventKind::Remove(RemoveKind::File) => (ChangeKind::Removed, Some(false)),
        EventKind::Remove(_) => (ChangeKind::Removed, None),
        _ => return None,
    })
}

/// The kinds of events that are reported. The daemon's own reading is not among them.
fn wanted() -> EventKindMask {
    let mask = EventKindMask::CREATE
        | EventKindMask::REMOVE
        | EventKindMask::MODIFY_NAME
        | EventKindMask::MODIFY_META
        | EventKindMask::ACCESS_CLOSE;
    if cfg!(target_os = "linux") {
        mask
    } else {
        // Other systems do not report that a file was closed.
        mask | EventKindMask::MODIFY_DATA
    }
}

impl Backend for Notify {
    fn mode(&self) -> WatchMode {
        WatchMode::Notify
    }

    fn begin_walk(&mut self, root: &Path) -> io::Result<()> {
        self.close();
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

    fn end_walk(&mut self) {}

    fn watch(&mut self, directory: Directory<'_>) -> Result<Node, WatchError> {
        let Some((watcher, _)) = &mut self.watcher else {
            return Ok(NOWHERE);
        };
        let is_root = directory.path.is_empty();
        // A path with a slash at its end is another one to notify.
        let absolute = if is_root {
            self.root.clone()
        } else {
            self.root.join(directory.path)
        };
        let config = WatchPathConfig::new(RecursiveMode::NonRecursive)
            // The root's own path is the operator's, and may be a link.
            .with_dereference_symlinks(is_root);
        match watcher.watch_with(&absolute, config) {
            Ok(()) => {
                self.watched.insert(directory.path.to_owned());
                Ok(WATCHED)
            }
            Err(error) => match error.kind {
                // It went or moved, which is reported.
                ErrorKind::PathNotFound => Ok(NOWHERE),
                ErrorKind::MaxFilesWatch => Err(WatchError::Limit),
                ErrorKind::Io(error) => Err(WatchError::Other(error)),
                _ => Err(WatchError::Other(io::Error::other(error))),
            },
        }
    }

    fn next(&mut self) -> Option<Report> {
        loop {
            if let Some(change) = self.queue.pop_front() {
                return Some(Report::Change(change));
            }
            if self.has_overflowed.swap(false, Ordering::AcqRel) {
                return Some(Report::Overflow);
            }
            let (_, reports) = self.watcher.as_ref()?;
            match reports.try_recv().ok()? {
                Ok(event) if event.need_rescan() => return Some(Report::Overflow),
                Ok(event) => self.translate(&event),
                Err(error) => {
                    debug!(%error, "the watcher reports an error");
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
