//! Elsewhere than on Linux, or with the Cargo feature `portable-watch`: the thread that is told of
//! changes by the crate notify.
//!
//! Constraint: as in the module above. When the kernel's queue overflows, watches of directories
//! made meanwhile are missing and paths of renamed ones are stale, and watching them again does
//! nothing; so a fresh watcher is built and everything is compared.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventKind, EventKindMask, RecursiveMode, WatchPathConfig, Watcher};
use tracing::{debug, info, warn};

use super::report::Reporter;
use super::{Coverage, SharedCoverage, WatchSettings, limits};
use crate::config::WatchMode;
use crate::domain::rescan::RescanReason;
use crate::hint::{Hint, HintSender};
use crate::layout::Cursor;
use crate::observe::{Entry, entries, join};
use crate::repository::Root;

/// How many reports may wait for the watch thread; one more is an overflow.
const REPORTS: usize = 65_536;

/// The handle's side: what the thread is told.
#[derive(Debug)]
pub(super) struct Control(SyncSender<Message>);

#[derive(Debug)]
enum Message {
    Report(Box<notify::Result<Event>>),
    Arm(Box<WatchSettings>, RescanReason),
    Stop,
}

impl Control {
    pub(super) fn arm(&self, settings: WatchSettings, reason: RescanReason) {
        // The thread is gone only when the daemon ends.
        let _ = self.0.send(Message::Arm(Box::new(settings), reason));
    }

    pub(super) fn stop(&self) {
        let _ = self.0.send(Message::Stop);
    }
}

/// The thread and its handle.
pub(super) fn prepare(
    settings: WatchSettings,
    hints: HintSender,
    coverage: SharedCoverage,
) -> io::Result<(Control, Thread)> {
    let (messages, inbox) = sync_channel(REPORTS);
    let thread = Thread {
        inbox,
        reports: messages.clone(),
        overflowed: Arc::new(AtomicBool::new(false)),
        reporter: Reporter::new(settings, hints, coverage),
        watcher: None,
    };
    Ok((Control(messages), thread))
}

pub(super) struct Thread {
    inbox: Receiver<Message>,
    reports: SyncSender<Message>,
    overflowed: Arc<AtomicBool>,
    reporter: Reporter,
    watcher: Option<notify::RecommendedWatcher>,
}

impl Thread {
    pub(super) fn run(mut self) {
        loop {
            let message = match self.inbox.try_recv() {
                Ok(message) => message,
                Err(_) => {
                    self.reporter.root = None;
                    let Ok(message) = self.inbox.recv() else {
                        return;
                    };
                    message
                }
            };
            match message {
                Message::Stop => return,
                Message::Arm(settings, reason) => {
                    self.reporter.settings = *settings;
                    self.arm_all(reason);
                }
                Message::Report(report) => self.report(*report),
            }
            if self.overflowed.swap(false, Ordering::AcqRel) {
                warn!(
                    "file events came faster than they could be read; everything is compared \
                     instead (fs.inotify.max_queued_events sets the size of the kernel's queue)"
                );
                self.arm_all(RescanReason::Overflow);
            }
        }
    }

    fn arm_all(&mut self, reason: RescanReason) {
        self.watcher = None;
        self.reporter.root = None;
        self.reporter
            .cover(|coverage| *coverage = Coverage::default());
        let root = match Root::open(&self.reporter.settings.root) {
            Ok(root) => root,
            Err(error) => {
                debug!(%error, "the root cannot be watched yet");
                self.reporter.hints.send_waiting(Hint::WalkFinished {
                    root: None,
                    reason,
                    problems: Vec::new(),
                });
                return;
            }
        };
        let identity = root.identity();
        self.reporter.root = Some(root);
        if self.reporter.settings.mode == WatchMode::Poll {
            self.note("repository.watch is poll");
        } else {
            if self.reporter.settings.mode == WatchMode::Auto
                && let Some(name) = limits::network_file_system(&self.reporter.settings.root)
            {
                self.note(&limits::network(name));
            }
            match self.fresh_watcher() {
                Ok(watcher) => {
                    self.watcher = Some(watcher);
                    let cursor = self.reporter.settings.layout.root();
                    self.arm("", &cursor, None);
                }
                Err(error) => {
                    self.reporter.cover(|coverage| coverage.uncovered += 1);
                    self.note(&limits::instance_limit(&error));
                }
            }
        }
        info!(
            reason = reason.as_str(),
            "watching {}",
            self.reporter.settings.root.display()
        );
        self.reporter.hints.send_waiting(Hint::WalkFinished {
            root: Some(identity),
            reason,
            problems: Vec::new(),
        });
    }

    fn fresh_watcher(&self) -> notify::Result<notify::RecommendedWatcher> {
        let reports = self.reports.clone();
        let overflowed = Arc::clone(&self.overflowed);
        let handler = move |report: notify::Result<Event>| {
            if reports.try_send(Message::Report(Box::new(report))).is_err() {
                overflowed.store(true, Ordering::Release);
            }
        };
        let mask = EventKindMask::CREATE
            | EventKindMask::REMOVE
            | EventKindMask::MODIFY_NAME
            | EventKindMask::ACCESS_CLOSE;
        notify::RecommendedWatcher::new(handler, notify::Config::default().with_event_kinds(mask))
    }

    /// Watches a directory, then reads it, and so on below it. With `what`, hints for all that is
    /// found there: the directory is new.
    fn arm(&mut self, path: &str, cursor: &Cursor, what: Option<&str>) {
        if !self.watch(path) {
            return;
        }
        let Some(root) = &self.reporter.root else {
            return;
        };
        let directory = match root.open_directory(path) {
            Ok(directory) => directory,
            // The engine finds out what is wrong with it, if it is still there.
            Err(_) => return,
        };
        let mut directories = Vec::new();
        let mut files = Vec::new();
        // What cannot be read is found out by the looks.
        let _ = entries(
            directory.as_fd(),
            path,
            cursor,
            |_| true,
            |entry| match entry {
                Entry::Directory(name, next) if next.leads_on() => {
                    directories.push((join(path, name), next));
                }
                Entry::Directory(..) | Entry::Problem(_) => {}
                Entry::Other(name, next) => files.push((join(path, name), next)),
            },
        );
        drop(directory);
        if let Some(what) = what {
            for (path, cursor) in &files {
                self.reporter.file(path, cursor, what);
            }
            if let Some(key) = cursor.project() {
                self.reporter.hints.send(Hint::Project {
                    key,
                    what: what.to_owned(),
                    held: None,
                    unfinished: false,
                });
            }
        }
        for (path, next) in directories {
            self.arm(&path, &next, what);
        }
    }

    /// Watches one directory. Returns whether it is there.
    fn watch(&mut self, path: &str) -> bool {
        let absolute = self.absolute(path);
        let Some(watcher) = &mut self.watcher else {
            return true;
        };
        let config = WatchPathConfig::new(RecursiveMode::NonRecursive)
            // The root's own path is the operator's, and may be a link.
            .with_dereference_symlinks(path.is_empty());
        match watcher.watch_with(&absolute, config) {
            Ok(()) => {
                self.reporter.cover(|coverage| coverage.watches += 1);
                true
            }
            Err(error) => match error.kind {
                ErrorKind::PathNotFound => false,
                ErrorKind::MaxFilesWatch => {
                    self.reporter.cover(|coverage| {
                        coverage.uncovered += 1;
                        coverage.polls = true;
                        // Once: the count goes on.
                        if coverage.note.is_none() {
                            let note = limits::watch_limit(coverage.watches, coverage.uncovered);
                            coverage.note = Some(note);
                        }
                    });
                    true
                }
                kind => {
                    debug!(path, ?kind, "cannot watch");
                    self.reporter.cover(|coverage| coverage.uncovered += 1);
                    self.note(
                        "some directories cannot be watched; the log at level debug names them",
                    );
                    true
                }
            },
        }
    }

    fn note(&self, note: &str) {
        self.reporter.cover(|coverage| {
            coverage.polls = true;
            coverage.note = Some(note.to_owned());
        });
    }

    fn absolute(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.reporter.settings.root.clone()
        } else {
            self.reporter.settings.root.join(path)
        }
    }

    fn report(&mut self, report: notify::Result<Event>) {
        let event = match report {
            Ok(event) => event,
            Err(error) => {
                debug!(%error, "the watcher reports an error; everything is compared");
                self.arm_all(RescanReason::Overflow);
                return;
            }
        };
        if event.need_rescan() {
            self.overflowed.store(true, Ordering::Release);
            return;
        }
        if self.reporter.root.is_none() {
            self.reporter.root = Root::open(&self.reporter.settings.root).ok();
        }
        for path in &event.paths {
            let Ok(below) = path.strip_prefix(&self.reporter.settings.root) else {
                continue;
            };
            // A name that is not text matches no template.
            let Some(path) = below.to_str() else { continue };
            let Some(cursor) = self.reporter.settings.layout.at(path) else {
                self.reporter.activity(path);
                continue;
            };
            self.translate(&event.kind, path, &cursor);
        }
    }

    fn translate(&mut self, kind: &EventKind, path: &str, cursor: &Cursor) {
        match kind {
            EventKind::Create(CreateKind::File) => self.reporter.file(path, cursor, "created"),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.reporter.file(path, cursor, "closed after writing");
            }
            EventKind::Create(_) => self.appeared(path, cursor, "created"),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.appeared(path, cursor, "renamed to");
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                self.reporter.plain(path, cursor, "renamed away");
            }
            EventKind::Remove(_) => self.reporter.plain(path, cursor, "removed"),
            _ => {}
        }
    }

    /// Something of an unknown kind appeared at a path.
    fn appeared(&mut self, path: &str, cursor: &Cursor, what: &str) {
        let is_directory = self
            .reporter
            .root
            .as_ref()
            .is_some_and(|root| cursor.leads_on() && root.open_directory(path).is_ok());
        if is_directory {
            self.arm(path, cursor, Some(&format!("{what}: {path}/")));
        } else {
            self.reporter.file(path, cursor, what);
        }
    }
}
