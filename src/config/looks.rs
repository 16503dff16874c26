//! Looks at paths whose file system may not answer, and reads files there.
//!
//! Constraint: a hung file system delays a configuration by a few seconds at most. Each look and each
//! read has a thread of its own, because nothing can end a system call that hangs. While such a
//! thread has not ended, nobody uses its path again. So reloads do not gather threads.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the first paths that do not answer may take. They may be mounted meanwhile.
const FIRST: Duration = Duration::from_secs(5);

/// The same for each further file, because several files may be on the same server.
const FURTHER: Duration = Duration::from_millis(250);

/// The most symbolic links in a path, as in the kernel.
const LINKS_MAX: usize = 40;

/// The paths with a thread that was given up and has not ended, and where they lead.
static UNANSWERED: Mutex<BTreeMap<PathBuf, Resolved>> = Mutex::new(BTreeMap::new());

/// A path without symbolic links and dots, in the part whose file systems have answered.
type Resolved = Arc<Mutex<PathBuf>>;

/// The result of a look at the path of a repository.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Directory,
    /// Anything else, such as a file.
    Other,
    /// Nothing that can be read, for this reason.
    Unreadable(String),
    /// Unknown, because the command needs no repository.
    Unknown,
}

/// A look at a path.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) found: Found,
    /// The path without symbolic links and dots, in the part whose file systems have answered.
    pub(super) canonical: PathBuf,
}

/// The looks of one configuration. Each repository is looked at once.
#[derive(Debug)]
pub(super) struct Looks {
    /// Whether repositories are looked at.
    is_on: bool,
    seen: BTreeMap<PathBuf, Look>,
    /// How long a file may take.
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

    /// Looks at the path of a repository or of the state directory.
    pub(super) fn at(&mut self, path: &Path) -> Look {
        self.at_all(&[path.to_owned()]);
        let unknown = || Look {
            found: Found::Unknown,
            canonical: path.to_owned(),
        };
        self.seen.get(path).cloned().unwrap_or_else(unknown)
    }

    /// Looks at several paths at the same time. Many that do not answer take no longer than one.
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
                    // The others have had the same time.
                    limit = Duration::ZERO;
                }
                Found::Unreadable(error.to_string())
            });
            let canonical = lock(&resolved).clone();
            self.seen.insert(path, Look { found, canonical });
        }
    }

    /// Reads a file, or something else at its path.
    ///
    /// # Errors
    ///
    /// It cannot be read, or does not answer ([`is_silent`]).
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

/// Work with a path, on a thread of its own.
struct Asked<T> {
    path: PathBuf,
    resolved: Resolved,
    answer: io::Result<Receiver<io::Result<T>>>,
}

impl<T: Send + 'static> Asked<T> {
    /// Begins the work, unless an earlier thread still waits for the path.
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
                // The configuration may have stopped waiting.
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
        // An answer before this lock would remove nothing later.
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

/// Resolves symbolic links and dots in a path. Its last components need not exist.
///
/// After each link, `resolved` has the path as far as it is known, because the next link may be on a
/// file system that does not answer.
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

/// The components of a path, the last one first.
fn reversed(path: &Path) -> Vec<OsString> {
    let components = path.components().rev();
    components.map(|one| one.as_os_str().to_owned()).collect()
}

/// Adds components, of which the last is the next, and resolves dots.
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
