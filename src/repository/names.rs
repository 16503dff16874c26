//! Checks names against the listing of their directory.
//!
//! Constraint: looking up a name can give a wrong result. A file system that ignores case finds a
//! name in any spelling. A file system that caches names may miss an existing entry. In an
//! encrypted directory without its key, a lookup finds none of the real names. A listing is right
//! or fails, but takes time. So each [`Root`] lists a directory only if a lookup is not enough, and
//! keeps the names.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::encrypted::{check_listed, is_encrypted};
use super::{Root, stat_at};

/// Cached facts about the directories of a root.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By the path of a directory: the names in its listing.
    listed: RefCell<HashMap<String, HashSet<String>>>,
    /// By the path of a directory: whether lookups in the directory may ignore case.
    ignores_case: RefCell<HashMap<String, bool>>,
}

impl Root {
    /// Whether a path that a lookup did not find really does not exist.
    ///
    /// # Errors
    ///
    /// A directory of the path cannot be read, or is a link.
    pub(crate) fn is_absent(&self, path: &str) -> io::Result<bool> {
        let mut is_link = false;
        for (parent, name) in steps(path) {
            let directory = match self.open_directory(parent) {
                // Nothing exists below a file. A link is not followed, so the path may exist behind
                // the link.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory && !is_link => {
                    return Ok(true);
                }
                opened => opened?,
            };
            match stat_at(directory.as_fd(), name) {
                Ok(stat) => {
                    is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(
                        finds_every_name(directory.as_fd()) || !self.is_listed(parent, name)?
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether an existing path is spelled as in the listings of its directories.
    ///
    /// # Errors
    ///
    /// A directory of the path cannot be read.
    pub(crate) fn is_spelled_so(&self, path: &str) -> io::Result<bool> {
        for (parent, name) in steps(path) {
            if self.may_ignore_case(parent, name) && !self.is_listed(parent, name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the listing of a directory contains this name.
    fn is_listed(&self, parent: &str, name: &str) -> io::Result<bool> {
        let mut listed = self.names.listed.borrow_mut();
        if let Some(names) = listed.get(parent) {
            return Ok(names.contains(name));
        }
        let mut names = HashSet::new();
        let directory = self.open_directory(parent)?;
        list(directory.as_fd(), |name, _| {
            names.extend(name.ok().map(str::to_owned));
        })?;
        let is_listed = names.contains(name);
        listed.insert(parent.to_owned(), names);
        Ok(is_listed)
    }

    /// Whether lookups in a directory may ignore case.
    ///
    /// Lookups may ignore case if a lookup of another spelling finds an entry, or fails for a
    /// reason other than a missing entry.
    fn may_ignore_case(&self, parent: &str, name: &str) -> bool {
        if let Some(known) = self.names.ignores_case.borrow().get(parent) {
            return *known;
        }
        let Some(other) = other_spelling(name) else {
            return false;
        };
        let other = match parent {
            "" => other,
            parent => format!("{parent}/{other}"),
        };
        let found = stat_at(self.directory.as_fd(), &other);
        let may_ignore = !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let mut known = self.names.ignores_case.borrow_mut();
        known.insert(parent.to_owned(), may_ignore);
        may_ignore
    }
}

/// Whether a lookup in this directory finds every existing name.
///
/// True only for the local file systems in `KNOWN`, except in encrypted directories. Other file
/// systems may send the lookup to another machine or process. They may also cache that a name does
/// not exist.
#[cfg(target_os = "linux")]
fn finds_every_name(directory: BorrowedFd<'_>) -> bool {
    // From linux/magic.h: ext2 to ext4, XFS, Btrfs, tmpfs, F2FS.
    const KNOWN: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010];
    let is_known = rustix::fs::fstatfs(directory).is_ok_and(|stat| {
        #[allow(clippy::unnecessary_cast, reason = "the width differs between systems")]
        let kind = stat.f_type as u64;
        KNOWN.contains(&kind)
    });
    is_known && matches!(is_encrypted(directory), Ok(false))
}

#[cfg(not(target_os = "linux"))]
fn finds_every_name(_directory: BorrowedFd<'_>) -> bool {
    false
}

/// Returns the name in upper case, or in lower case if it is in upper case already.
///
/// Returns `None` if the name has no case. File systems map each character to one character.
/// So `ß` does not become `SS`.
fn other_spelling(name: &str) -> Option<String> {
    fn one(of: char, mut mapped: impl Iterator<Item = char>) -> char {
        let first = mapped.next().filter(|_| mapped.next().is_none());
        first.unwrap_or(of)
    }
    let upper: String = name.chars().map(|c| one(c, c.to_uppercase())).collect();
    let lower: String = name.chars().map(|c| one(c, c.to_lowercase())).collect();
    [upper, lower].into_iter().find(|other| other != name)
}

/// Returns the parent and the name of each component of a path, first to last.
fn steps(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let ends = path.match_indices('/').map(|(end, _)| end);
    ends.chain([path.len()]).filter_map(|end| {
        let path = path.get(..end)?;
        Some(path.rsplit_once('/').unwrap_or(("", path)))
    })
}

/// Visits the entries of a directory except `.` and `..`, with their types.
///
/// A type is `Unknown` if the listing does not have it. A name that is not UTF-8 is passed as an
/// `Err`, with the invalid bytes replaced. The descriptor must be new or rewound.
///
/// # Errors
///
/// The directory cannot be read, or it may show encrypted names because its key is missing.
pub(crate) fn list(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(Result<&str, String>, FileType),
) -> io::Result<()> {
    list_until(directory, |name, kind| {
        visit(name, kind);
        ControlFlow::Continue(())
    })
}

/// Like [`list`], but stops when `visit` returns `Break`.
pub(crate) fn list_until(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(Result<&str, String>, FileType) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut is_first = true;
    let mut flow = ControlFlow::Continue(());
    let listed = each_entry(directory, |name, kind| {
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }
        match name.to_str() {
            Ok(text) => {
                // Without the key, all names are encrypted, so checking the first name is enough.
                if std::mem::take(&mut is_first) {
                    check_listed(directory, text)?;
                }
                flow = visit(Ok(text), kind);
            }
            Err(_) => {
                is_first = false;
                flow = visit(Err(name.to_string_lossy().into_owned()), kind);
            }
        }
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            // `each_entry` stops only after an error.
            ControlFlow::Break(()) => Err(io::ErrorKind::Interrupted.into()),
        }
    });
    match flow {
        ControlFlow::Continue(()) => listed,
        ControlFlow::Break(()) => Ok(()),
    }
}

/// Visits the entries of a directory, including `.` and `..`, until `visit` fails.
#[cfg(target_os = "linux")]
pub(super) fn each_entry(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(&std::ffi::CStr, FileType) -> io::Result<()>,
) -> io::Result<()> {
    use rustix::fs::RawDir;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 8 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        visit(entry.file_name(), entry.file_type())?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn each_entry(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(&std::ffi::CStr, FileType) -> io::Result<()>,
) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        visit(entry.file_name(), entry.file_type())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_path_is_named() {
        let of = |path| steps(path).collect::<Vec<_>>();
        assert_eq!(of("a"), [("", "a")]);
        assert_eq!(of("a/b/c"), [("", "a"), ("a", "b"), ("a/b", "c")]);
    }

    #[test]
    fn another_spelling_has_as_many_characters() {
        for (name, other) in [
            ("orders", Some("ORDERS")),
            ("ORDERS", Some("orders")),
            ("straße", Some("STRAßE")),
            ("ß", None),
            ("2024-01", None),
        ] {
            assert_eq!(other_spelling(name).as_deref(), other, "{name}");
        }
    }

    #[test]
    fn a_path_behind_a_link_is_not_absent() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |path: &str| temporary.path().join(path);
        std::fs::create_dir(at("a")).unwrap();
        std::fs::write(at("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        let root = Root::open(temporary.path()).unwrap();
        for (path, expected) in [
            ("a/file", Some(false)),
            ("a/missing", Some(true)),
            ("a/file/below", Some(true)),
            ("missing/file", Some(true)),
            ("link", Some(false)),
            ("link/file", None),
            ("link/missing/file", None),
        ] {
            assert_eq!(root.is_absent(path).ok(), expected, "{path}");
        }
    }

    #[test]
    fn only_letters_have_another_spelling() {
        assert_eq!(other_spelling("orders-1").as_deref(), Some("ORDERS-1"));
        assert_eq!(other_spelling("ORDERS").as_deref(), Some("orders"));
        assert_eq!(other_spelling("Änderung").as_deref(), Some("ÄNDERUNG"));
        assert_eq!(other_spelling("2026-01"), None);
    }
}
