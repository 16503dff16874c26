//! The operating system's reports, as hints.
//!
//! Constraint: no report proves anything, and no report may be missed without a word. One watch a
//! directory, set before the directory is read: recursive watching loses the files that are written
//! while it walks (of 1,000 files written right after `mkdir -p a/b/c`, 10 to 627 were never
//! reported, in every version of notify that was tried). When the kernel's queue overflows, watches
//! of directories made meanwhile are missing and paths of renamed ones are stale, and watching
//! them again does nothing; so a fresh watcher is built and everything is compared.
//!
//! One thread owns the watcher. It opens a file as soon as a hint names it, so that its content
//! survives its name.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventKind, EventKindMask, RecursiveMode, WatchPathConfig, Watcher};
use rustix::fs::FileType;
use tracing::{debug, error, info, warn};

use crate::config::WatchMode;
use crate::hint::{Hint, HintSender, RescanReason};
use crate::layout::{Cursor, Entries, Layout};
use crate::observe::{Held, join, list};
use crate::repository::{Root, kind_of, stamp, stat_at};

/// How many reports may wait for the watch thread; one more is an overflow.
const REPORTS: usize = 65_536;
/// How many files are held open for hints that the engine has not seen yet.
const HELD_MAX: usize = 256;

/// What is watched, and how.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    /// The repository's root, absolute.
    pub root: PathBuf,
    /// Which directories matter.
    pub layout: Layout,
    /// How changes are noticed.
    pub mode: WatchMode,
}

/// How well changes are noticed now.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Coverage {
    /// How many directories are watched.
    pub watches: usize,
    /// How many directories could not be watched.
    pub uncovered: usize,
    /// Whether changes have to be found by comparison on a timer.
    pub polls: bool,
    /// Why, and what to do about it.
    pub note: Option<String>,
}

/// The thread that owns the watcher.
#[derive(Debug)]
pub struct Watch {
    messages: SyncSender<Message>,
    coverage: Arc<Mutex<Coverage>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Message {
    Report(Box<notify::Result<Event>>),
    Arm(Box<WatchSettings>, RescanReason),
    Stop,
}

impl Watch {
    /// Starts the thread and sets the watches; [`Hint::Armed`] tells when they are set.
    pub fn start(settings: WatchSettings, hints: HintSender) -> io::Result<Self> {
        let (messages, inbox) = sync_channel(REPORTS);
        let coverage = Arc::new(Mutex::new(Coverage::default()));
        let thread = Thread {
            inbox,
            reports: messages.clone(),
            overflowed: Arc::new(AtomicBool::new(false)),
            held: Arc::new(AtomicUsize::new(0)),
            hints,
            coverage: Arc::clone(&coverage),
            settings: settings.clone(),
            watcher: None,
            root: None,
        };
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || thread.run())?;
        let watch = Self {
            messages,
            coverage,
            thread: Some(thread),
        };
        watch.arm(settings, RescanReason::Start);
        Ok(watch)
    }

    /// Builds a fresh watcher and sets all watches; [`Hint::Armed`] tells when they are set.
    pub fn arm(&self, settings: WatchSettings, reason: RescanReason) {
        // The thread is gone only when the daemon ends.
        let _ = self.messages.send(Message::Arm(Box::new(settings), reason));
    }

    /// How well changes are noticed now.
    pub fn coverage(&self) -> Coverage {
        lock(&self.coverage).clone()
    }

    /// Whether the thread still runs.
    pub fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the watch thread panicked");
        }
    }
}

fn lock(coverage: &Mutex<Coverage>) -> std::sync::MutexGuard<'_, Coverage> {
    coverage.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Thread {
    inbox: Receiver<Message>,
    reports: SyncSender<Message>,
    overflowed: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
    hints: HintSender,
    coverage: Arc<Mutex<Coverage>>,
    settings: WatchSettings,
    watcher: Option<notify::RecommendedWatcher>,
    /// The root, open while there is work; see [`Root`].
    root: Option<Root>,
}

impl Thread {
    fn run(mut self) {
        loop {
            let message = match self.inbox.try_recv() {
                Ok(message) => message,
                Err(_) => {
                    self.root = None;
                    let Ok(message) = self.inbox.recv() else {
                        return;
                    };
                    message
                }
            };
            match message {
                Message::Stop => return,
                Message::Arm(settings, reason) => {
                    self.settings = *settings;
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
        self.root = None;
        *lock(&self.coverage) = Coverage::default();
        let root = match Root::open(&self.settings.root) {
            Ok(root) => root,
            Err(error) => {
                debug!(%error, "the root cannot be watched yet");
                self.hints.send_waiting(Hint::Armed { root: None, reason });
                return;
            }
        };
        let identity = root.identity();
        self.root = Some(root);
        if self.settings.mode == WatchMode::Poll {
            self.note("repository.watch is poll", true);
        } else {
            if self.settings.mode == WatchMode::Auto
                && let Some(name) = network_file_system(&self.settings.root)
            {
                self.note(
                    &format!(
                        "{name} does not report the changes of other machines; \
                         set repository.watch to native if there are none"
                    ),
                    true,
                );
            }
            match self.fresh_watcher() {
                Ok(watcher) => {
                    self.watcher = Some(watcher);
                    let cursor = self.settings.layout.root();
                    self.arm("", &cursor, None);
                }
                Err(error) => {
                    lock(&self.coverage).uncovered += 1;
                    self.note(&instance_limit(&error), true);
                }
            }
        }
        let coverage = lock(&self.coverage).clone();
        info!(
            watches = coverage.watches,
            reason = reason.as_str(),
            "watching {}",
            self.settings.root.display()
        );
        self.hints.send_waiting(Hint::Armed {
            root: Some(identity),
            reason,
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
        let Some(root) = &self.root else { return };
        let directory = match root.open_directory(path) {
            Ok(directory) => directory,
            // The engine finds out what is wrong with it, if it is still there.
            Err(_) => return,
        };
        let mut directories = Vec::new();
        let mut files = Vec::new();
        let mut visit = |name: &str, kind: FileType| {
            let Some(next) = cursor.enter(name) else {
                return;
            };
            match kind {
                FileType::Directory if next.leads_on() => {
                    directories.push((join(path, name), next))
                }
                FileType::Directory | FileType::Symlink => {}
                _ => files.push((join(path, name), next)),
            }
        };
        match cursor.entries() {
            Entries::Only(names) => {
                for name in names {
                    if let Ok(stat) = stat_at(directory.as_fd(), &name) {
                        visit(&name, FileType::from_raw_mode(stat.st_mode));
                    }
                }
            }
            Entries::Any => {
                let _ = list(directory.as_fd(), |name, kind| {
                    let Ok(name) = name else { return };
                    let kind = match kind {
                        FileType::Unknown => match stat_at(directory.as_fd(), name) {
                            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                            Err(_) => return,
                        },
                        known => known,
                    };
                    visit(name, kind);
                });
            }
        }
        drop(directory);
        if let Some(what) = what {
            for (path, cursor) in &files {
                self.file_hint(path, cursor, what);
            }
            if let Some(key) = cursor.project() {
                self.hints.send(Hint::Project {
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
                lock(&self.coverage).watches += 1;
                true
            }
            Err(error) => match error.kind {
                ErrorKind::PathNotFound => false,
                ErrorKind::MaxFilesWatch => {
                    let watches = {
                        let mut coverage = lock(&self.coverage);
                        coverage.uncovered += 1;
                        coverage.watches
                    };
                    self.note(&watch_limit(watches), true);
                    true
                }
                kind => {
                    debug!(path, ?kind, "cannot watch");
                    lock(&self.coverage).uncovered += 1;
                    self.note(
                        "some directories cannot be watched; the log at level debug names them",
                        true,
                    );
                    true
                }
            },
        }
    }

    fn note(&self, note: &str, polls: bool) {
        let mut coverage = lock(&self.coverage);
        coverage.polls |= polls;
        if coverage.note.as_deref() != Some(note) {
            warn!("changes are found by comparison every repository.poll_interval: {note}");
            coverage.note = Some(note.to_owned());
        }
    }

    fn absolute(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.settings.root.clone()
        } else {
            self.settings.root.join(path)
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
        if self.root.is_none() {
            self.root = Root::open(&self.settings.root).ok();
        }
        for path in &event.paths {
            let Ok(below) = path.strip_prefix(&self.settings.root) else {
                continue;
            };
            // A name that is not text matches no template.
            let Some(path) = below.to_str() else { continue };
            let Some(cursor) = self.settings.layout.at(path) else {
                self.activity(path);
                continue;
            };
            self.translate(&event.kind, path, &cursor);
        }
    }

    /// A file that is none of a project's files lies beside them.
    fn activity(&self, path: &str) {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let project = self
            .settings
            .layout
            .at(directory)
            .and_then(|cursor| cursor.project());
        if let Some(key) = project {
            self.hints.send_if_room(Hint::Activity { key });
        }
    }

    fn translate(&mut self, kind: &EventKind, path: &str, cursor: &Cursor) {
        match kind {
            EventKind::Create(CreateKind::File) => self.file_hint(path, cursor, "created"),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.file_hint(path, cursor, "closed after writing");
            }
            EventKind::Create(_) => self.appeared(path, cursor, "created"),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.appeared(path, cursor, "renamed to");
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                self.disappeared(path, cursor, "renamed away");
            }
            EventKind::Remove(_) => self.disappeared(path, cursor, "removed"),
            _ => {}
        }
    }

    /// Something of an unknown kind appeared at a path.
    fn appeared(&mut self, path: &str, cursor: &Cursor, what: &str) {
        let is_directory = self
            .root
            .as_ref()
            .is_some_and(|root| cursor.leads_on() && root.open_directory(path).is_ok());
        if is_directory {
            self.arm(path, cursor, Some(&format!("{what}: {path}/")));
        } else {
            self.file_hint(path, cursor, what);
        }
    }

    fn disappeared(&self, path: &str, cursor: &Cursor, what: &str) {
        let key = cursor
            .project()
            .or_else(|| cursor.place().map(|place| place.key));
        let what = format!("{what}: {path}");
        self.hints.send(match key {
            Some(key) => Hint::Project {
                key,
                what,
                held: None,
                unfinished: false,
            },
            None => Hint::Subtree {
                path: path.to_owned(),
                what,
            },
        });
    }

    /// A hint that names a file, with the file open if it can be.
    fn file_hint(&self, path: &str, cursor: &Cursor, what: &str) {
        let Some(place) = cursor.place() else {
            // Not a file of a project: what else appears where a directory may be.
            if let Some(key) = cursor.project() {
                self.hints.send(Hint::Project {
                    key,
                    what: format!("{what}: {path}"),
                    held: None,
                    unfinished: false,
                });
            }
            return;
        };
        let key = place.key.clone();
        let file = self
            .root
            .as_ref()
            .and_then(|root| root.open_file(path).ok());
        // A file that was just created is empty as a rule, and its close will be reported; one that
        // was linked into place is complete, and nothing else will be reported of it.
        let stat = file.as_ref().and_then(|file| rustix::fs::fstat(file).ok());
        let is_empty = stat.as_ref().is_some_and(|stat| stamp(stat).size == 0);
        let held = match (file, stat) {
            (Some(file), Some(stat)) if kind_of(&stat).is_ok() && !is_empty => {
                Permit::take(&self.held).map(|permit| Held {
                    path: path.to_owned(),
                    place,
                    file,
                    stamp: stamp(&stat),
                    permit,
                })
            }
            _ => None,
        };
        self.hints.send(Hint::Project {
            key,
            what: format!("{what}: {path}"),
            held,
            unfinished: is_empty && what == "created",
        });
    }
}

/// The right to hold one more file open; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    taken: Arc<AtomicUsize>,
}

impl Permit {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let permit = Self {
            taken: Arc::clone(taken),
        };
        // One too many is given back at once, by the drop.
        (taken.fetch_add(1, Ordering::AcqRel) < HELD_MAX).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

fn watch_limit(watches: usize) -> String {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let limit = limit.as_deref().map_or("unknown", str::trim);
    format!(
        "the limit of watches is reached (fs.inotify.max_user_watches = {limit}, {watches} in use \
         here); raise it: sysctl fs.inotify.max_user_watches={}",
        (watches.max(8_192)).saturating_mul(4)
    )
}

fn instance_limit(error: &notify::Error) -> String {
    format!(
        "no watcher can be had ({error}); is fs.inotify.max_user_instances reached? raise it: \
         sysctl fs.inotify.max_user_instances=1024"
    )
}

/// The name of a file system that does not report what other machines do.
#[cfg(target_os = "linux")]
fn network_file_system(path: &Path) -> Option<&'static str> {
    // From linux/magic.h; CIFS, SMB2 and CephFS from their own headers.
    const KNOWN: [(u64, &str); 8] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x6573_5546, "FUSE"),
        (0x0102_1997, "9P"),
        (0x5346_414f, "AFS"),
        (0x00c3_6400, "CephFS"),
    ];
    let found = rustix::fs::statfs(path).ok()?;
    #[allow(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "a magic number"
    )]
    let magic = found.f_type as u64 & 0xffff_ffff;
    KNOWN
        .iter()
        .find(|(known, _)| *known == magic)
        .map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_path: &Path) -> Option<&'static str> {
    None
}
