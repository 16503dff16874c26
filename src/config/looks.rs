//! Checks paths and reads files on file systems that may not answer.
//!
//! Constraint: hung file systems delay loading a configuration for a limited time: [`FIRST`] for
//! all hung paths of repositories together, [`FIRST`] for the first hung file, and [`FURTHER`] for
//! each further hung file. Each check and each read has its own thread, because a hung system call
//! cannot be cancelled. If a thread exceeds its time limit, no other thread uses its path until it
//! ends. So threads do not accumulate over reloads.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The time limit of a check, and of a read if no earlier read exceeded its limit.
///
/// An automounter may mount the path in this time.
const FIRST: Duration = Duration::from_secs(5);

/// The time limit of a read after an earlier read exceeded [`FIRST`].
///
/// Both files may be on the same hung server.
const FURTHER: Duration = Duration::from_millis(250);

/// The maximum number of symbolic links in a path, as in the Linux kernel.
const LINKS_MAX: usize = 40;

/// The paths whose threads still hang, with the resolved paths.
///
/// The callers of these threads have stopped waiting.
static UNANSWERED: Mutex<BTreeMap<PathBuf, Resolved>> = Mutex::new(BTreeMap::new());

/// A path with resolved links and dots.
///
/// Links at and below a file system that does not answer are not resolved.
type Resolved = Arc<Mutex<PathBuf>>;

/// The result of checking a path.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Directory,
    /// Anything else, such as a file.
    Other,
    /// The path cannot be read, for this reason.
    Unreadable(String),
    /// The path was not checked, because checks are off.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) found: Found,
    /// The path with resolved links and dots. See [`Resolved`].
    pub(super) canonical: PathBuf,
}

/// Checks paths and reads files with time limits. Checks each path once.
#[derive(Debug)]
pub(super) struct Looks {
    /// Whether paths are checked. Otherwise `at` returns [`Found::Unknown`].
    is_on: bool,
    seen: BTreeMap<PathBuf, Look>,
    /// How long to wait for the next file.
    limit: Duration,
}

impl Looks {
    pub(super) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            seen: BTreeMap::new(),
            limit: FIRST,
        }
    }

    /// Checks the path of a repository or of the state directory.
    pub(super) fn at(&mut self, path: &Path) -> Look {
        self.at_all(&[path.to_owned()]);
        let unknown = || Look {
            found: Found::Unknown,
            canonical: path.to_owned(),
        };
        self.seen.get(path).cloned().unwrap_or_else(unknown)
    }

    /// Checks several paths in parallel.
    ///
    /// Many hung paths take no longer than one hung path.
    pub(super) fn at_all(&mut self, paths: &[PathBuf]) {
        let is_new = |path: &&PathBuf| self.is_on && !self.seen.contains_key(*path);
        let asked: Vec<_> = paths
            .iter()
            .filter(is_new)
            .map(|path| Asked::begin(path, look))
            .collect();
        let mut limit = FIRST;
        for asked in asked {
            let (path, resolved) = (asked.path.clone(), Arc::clone(&asked.resolved));
            let found = asked.wait(limit).unwrap_or_else(|error| {
                if is_silent(&error) {
                    // The other paths had the same time to answer.
                    limit = Duration::ZERO;
                }
                Found::Unreadable(error.to_string())
            });
            let canonical = lock(&resolved).clone();
            self.seen.insert(path, Look { found, canonical });
        }
    }

    /// Runs `read` for a path on a thread, with a time limit.
    ///
    /// # Errors
    ///
    /// `read` fails, the file system does not answer ([`is_silent`]), or no thread can be started.
    pub(super) fn read<T: Send + 'static>(
        &mut self,
        path: &Path,
        read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let done = Asked::begin(path, |path, _| read(path)).wait(self.limit);
        if done.as_ref().is_err_and(is_silent) {
            self.limit = FURTHER;
        }
        done
    }
}

/// Whether an error means that a file system did not answer in time.
pub(super) fn is_silent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// A check or a read of a path, on its own thread.
struct Asked<T> {
    path: PathBuf,
    resolved: Resolved,
    answer: io::Result<Receiver<io::Result<T>>>,
}

impl<T: Send + 'static> Asked<T> {
    /// Starts the thread, unless an earlier thread still hangs at the path.
    fn begin(
        path: &Path,
        work: impl FnOnce(&Path, &Mutex<PathBuf>) -> io::Result<T> + Send + 'static,
    ) -> Self {
        let path = path.to_owned();
        if let Some(resolved) = lock(&UNANSWERED).get(&path).cloned() {
            return Self {
                path,
                resolved,
                answer: Err(silent()),
            };
        }
        let resolved = Arc::new(Mutex::new(path.clone()));
        let (sender, answer) = sync_channel(1);
        let (asked, known) = (path.clone(), Arc::clone(&resolved));
        let thread = std::thread::Builder::new()
            .name("look".to_owned())
            .spawn(move || {
                // The caller may have stopped waiting.
                let _ = sender.send(work(&asked, &known));
                lock(&UNANSWERED).remove(&asked);
            });
        Self {
            path,
            resolved,
            answer: thread.map(|_| answer),
        }
    }

    fn wait(self, limit: Duration) -> io::Result<T> {
        let answer = self.answer?;
        if let Ok(answered) = answer.recv_timeout(limit) {
            return answered;
        }
        let mut unanswered = lock(&UNANSWERED);
        // The thread may have answered and removed the path before this lock. A path that is
        // inserted now would then stay forever.
        answer.try_recv().unwrap_or_else(|_| {
            unanswered.insert(self.path, self.resolved);
            Err(silent())
        })
    }
}

fn silent() -> io::Error {
    let reason = "it does not answer; is its disk or network file system stuck?";
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

fn look(path: &Path, resolved: &Mutex<PathBuf>) -> io::Result<Found> {
    resolve(path, resolved);
    Ok(match std::fs::metadata(path)?.is_dir() {
        true => Found::Directory,
        false => Found::Other,
    })
}

/// Resolves symbolic links and dots in a path. The path need not exist.
///
/// Updates `resolved` after each link, because the next link may be on a file system that does not
/// answer.
fn resolve(path: &Path, resolved: &Mutex<PathBuf>) {
    let (mut whole, mut rest) = (PathBuf::new(), reversed(path));
    let mut n_links = 0;
    *lock(resolved) = joined(&whole, &rest);
    while let Some(next) = rest.pop() {
        whole = joined(&whole, &[next]);
        if n_links < LINKS_MAX
            && let Ok(target) = std::fs::read_link(&whole)
        {
            n_links += 1;
            whole.pop();
            rest.extend(reversed(&target));
            *lock(resolved) = joined(&whole, &rest);
        }
    }
}

/// Returns the components of a path in reverse order.
fn reversed(path: &Path) -> Vec<OsString> {
    let components = path.components().rev();
    components.map(|one| one.as_os_str().to_owned()).collect()
}

/// Appends components to a path, the last of `reversed` first. Resolves dots.
fn joined(path: &Path, reversed: &[OsString]) -> PathBuf {
    let mut whole = path.to_owned();
    for component in reversed.iter().rev() {
        if component == ".." {
            whole.pop();
        } else if component != "." {
            whole.push(component);
        }
    }
    whole
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_resolved_as_by_the_kernel_and_need_not_exist() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        symlink("a/b", base.join("relative")).unwrap();
        symlink(base.join("relative/.."), base.join("absolute")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        for (path, expected) in [
            ("a/b", "a/b"),
            ("relative/../b", "a/b"),
            ("absolute/b/./missing/../other", "a/b/other"),
            ("loop/x", "loop/x"),
        ] {
            let resolved = Mutex::default();
            resolve(&base.join(path), &resolved);
            assert_eq!(*lock(&resolved), base.join(expected), "{path}");
        }
    }
}
