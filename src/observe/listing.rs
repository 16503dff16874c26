//! Lists the entries of a directory.
//!
//! Constraint: the search for projects and the walk that sets watches both use [`entries`], so that
//! they agree on the entries.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::domain::project::Problem;
use crate::layout::{Cursor, Entries};
use crate::repository::{check_key, kind_at, list, stat_at};

/// A directory entry that the layout needs.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    Directory(&'a str, Cursor),
    /// An entry that is neither a directory nor a symbolic link.
    Other(&'a str, Cursor),
    /// An unusable entry.
    Problem(Problem),
}

/// Visits the entries of a directory that the layout needs.
///
/// If the layout accepts any name, also visits each name that is not UTF-8, as a problem.
pub(crate) fn entries(
    directory: BorrowedFd<'_>,
    path: &str,
    cursor: &Cursor,
    mut visit: impl FnMut(Entry<'_>),
) -> io::Result<()> {
    let mut visit_kind = |name: &str, next: Cursor, kind: FileType| {
        visit(match kind {
            FileType::Directory => Entry::Directory(name, next),
            FileType::Symlink => {
                let reason = "is a symbolic link; links are not followed";
                Entry::Problem(problem(&join(path, name), reason, false))
            }
            _ => Entry::Other(name, next),
        });
    };
    match cursor.entries() {
        Entries::Only(names) => {
            let mut is_found = false;
            for name in names {
                let Some(next) = cursor.enter(&name) else {
                    continue;
                };
                match stat_at(directory, &name) {
                    Ok(stat) => {
                        is_found = true;
                        visit_kind(&name, next, FileType::from_raw_mode(stat.st_mode));
                    }
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            // In an encrypted directory whose key is missing, no name can be found.
            if is_found {
                Ok(())
            } else {
                check_key(directory)
            }
        }
        Entries::Any => {
            let mut unnamed_ones = Vec::new();
            list(directory, |name, kind| match name {
                Ok(name) => {
                    let Some(next) = cursor.enter(name) else {
                        return;
                    };
                    match kind_at(directory, name, kind) {
                        Ok(Some(kind)) => visit_kind(name, next, kind),
                        Ok(None) => {}
                        // The kind is unknown, and the entry may be a directory. If the
                        // caller opens it, the caller gets the error.
                        Err(_) if next.leads_on() => visit_kind(name, next, FileType::Directory),
                        Err(_) => visit_kind(name, next, FileType::Unknown),
                    }
                }
                Err(lossy) => unnamed_ones.push(unnamed(&join(path, &lossy))),
            })?;
            for problem in unnamed_ones {
                visit(Entry::Problem(problem));
            }
            Ok(())
        }
    }
}

/// Rewinds an open directory so that it can be listed again.
pub(super) fn rewind(directory: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
    Ok(())
}

/// Appends a component to a path below the root.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        let mut joined = String::with_capacity(path.len() + 1 + name.len());
        joined.push_str(path);
        joined.push('/');
        joined.push_str(name);
        joined
    }
}

/// Returns the problem of an entry whose name is not UTF-8.
pub(crate) fn unnamed(path: &str) -> Problem {
    let reason = "has a name that is not UTF-8, which a callback cannot contain";
    problem(path, reason, false)
}

/// Returns the problem of an unreadable directory.
pub(crate) fn unreadable(path: &str, error: &io::Error) -> Problem {
    let reason = format!("the directory cannot be read: {error}");
    problem(path, &reason, true)
}

pub(super) fn problem(path: &str, reason: &str, may_resolve: bool) -> Problem {
    Problem {
        path: path.to_owned(),
        reason: reason.to_owned(),
        line: None,
        column: None,
        may_resolve,
    }
}

/// Whether an error means that a directory is encrypted and its key is missing.
pub(super) fn lacks_key(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOKEY)
}

/// Whether an error means that nothing exists at a path.
///
/// This includes the error for a path that contains a file in place of a directory.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
