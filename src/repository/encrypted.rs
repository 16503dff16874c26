//! Detects encrypted directories whose key is missing (fscrypt of ext4, F2FS, UBIFS and Ceph).
//!
//! Constraint: without its key, the kernel shows a directory with other names. So a lookup or a
//! listing does not prove that a name is missing. Asking for the state of the key needs an ioctl
//! without a safe wrapper. So the names decide, and if those may be either, the files: without the key,
//! none can be opened. A directory without any file hides nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::names::each_entry;
use super::{kind_at, open_directory_at, open_file_at, stat_at};

/// The number of files and directories that one search opens.
const OPENED_MAX: usize = 4_096;
/// The number of levels that a search opens, which are open together.
const DEPTH_MAX: usize = 8;

/// The result of a search in a directory for signs of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// No files. So there is nothing to hide, with the key or without.
    Nothing,
    /// A name or a file that only a directory with its key shows.
    Readable,
    /// A file that cannot be opened without the key.
    Locked,
    /// None of these, but not everything could be searched.
    Unknown,
}

/// Whether a name may stand for an encrypted one.
///
/// The kernel writes those in base64. Older kernels use `+` and `,`, others use `-` and `_`. The bytes
/// are a whole number of 32-bit words, or 189 for a long name. Older kernels write `_` and 24 bytes for
/// a long one. So UUIDs with hyphens and hashes of Git have other lengths.
pub(super) fn may_be_encrypted(name: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+,-_".contains(&byte);
    let length = name.len();
    let n_bytes = length * 6 / 8;
    let is_whole = (n_bytes * 8).div_ceil(6) == length;
    let is_length = match n_bytes {
        16..=180 => is_whole && n_bytes.is_multiple_of(4),
        other => is_whole && other == 189,
    };
    let is_digest = length == 33 && name.starts_with('_');
    (is_length || is_digest) && name.bytes().all(is_base64)
}

/// Whether a directory is encrypted, with its key or without.
#[cfg(target_os = "linux")]
pub(super) fn is_encrypted(directory: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    match statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::ENCRYPTED)),
        // The kernel lacks statx, or a sandbox forbids it.
        Err(Errno::NOSYS | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_encrypted(_directory: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// Checks that a directory shows its own names.
///
/// # Errors
///
/// It is encrypted, and its key is missing. Or nobody knows whether it is encrypted.
pub(crate) fn check_key(directory: BorrowedFd<'_>) -> io::Result<()> {
    let has_key = || match Search::default().below(directory, DEPTH_MAX) {
        Found::Nothing | Found::Readable => true,
        Found::Locked | Found::Unknown => false,
    };
    if is_encrypted(directory)? && !has_key() {
        return Err(Errno::NOKEY.into());
    }
    Ok(())
}

/// Checks that a name from a listing of a directory is one of its own names.
///
/// # Errors
///
/// The directory is encrypted, and its key is missing or was missing at the time of the listing.
pub(super) fn check_listed(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    if !may_be_encrypted(name) || !is_encrypted(directory)? {
        return Ok(());
    }
    check_key(directory)?;
    // With the key, the names that stood for encrypted ones are gone.
    stat_at(directory, name).map_err(|_| Errno::NOKEY)?;
    Ok(())
}

/// A search for a sign of the key.
///
/// Directories with a key may have names like encrypted ones, for instance hexadecimal numbers. Then
/// only the files below tell: without the key, none of them can be opened.
struct Search {
    n_left: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { n_left: OPENED_MAX }
    }
}

impl Search {
    fn below(&mut self, directory: BorrowedFd<'_>, depth: usize) -> Found {
        let Ok(names) = self.names(directory) else {
            return Found::Unknown;
        };
        let Some((files, directories)) = names else {
            return Found::Readable;
        };
        let mut all = Found::Nothing;
        for name in &files {
            match self.opened(|| open_file_at(directory, name)) {
                Ok(_) => return Found::Readable,
                Err(Errno::NOKEY) => return Found::Locked,
                Err(Errno::NOENT) => {}
                Err(_) => all = Found::Unknown,
            }
        }
        for name in &directories {
            let found = match self.opened(|| open_directory_at(directory, name)) {
                Ok(below) if depth > 0 => self.below(below.as_fd(), depth - 1),
                Err(Errno::NOENT) => Found::Nothing,
                Ok(_) | Err(_) => Found::Unknown,
            };
            match found {
                Found::Readable | Found::Locked => return found,
                Found::Unknown => all = Found::Unknown,
                Found::Nothing => {}
            }
        }
        all
    }

    /// Opens something, unless the search has opened enough.
    fn opened(&mut self, open: impl FnOnce() -> io::Result<OwnedFd>) -> Result<OwnedFd, Errno> {
        self.n_left = self.n_left.checked_sub(1).ok_or(Errno::TOOBIG)?;
        open().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Lists the files and the directories. Returns `None` if a name is not an encrypted one.
    fn names(&self, directory: BorrowedFd<'_>) -> io::Result<Option<(Vec<String>, Vec<String>)>> {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        let mut is_readable = false;
        let listed = open_directory_at(directory, ".")?;
        each_entry(listed.as_fd(), |name, kind| {
            if matches!(name.to_bytes(), b"." | b"..") || is_readable {
                return Ok(());
            }
            let name = match name.to_str() {
                Ok(name) if may_be_encrypted(name) => name,
                _ => {
                    is_readable = true;
                    return Ok(());
                }
            };
            let names = match kind_at(directory, name, kind)? {
                Some(FileType::RegularFile) => &mut files,
                Some(FileType::Directory) => &mut directories,
                _ => return Ok(()),
            };
            // One more than can be opened, so that the rest is not taken for nothing.
            if names.len() <= self.n_left {
                names.push(name.to_owned());
            }
            Ok(())
        })?;
        Ok((!is_readable).then_some((files, directories)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn names_of_encrypted_entries_are_in_base64_of_whole_words() {
        for name in [
            // Shown by ext4 of Linux 6.18.
            "tlSzLOG1Palhw9lVOtyv6fle80XNrml_V71YaIohYqpPx1-O0eaTTA",
            // Of the form that older kernels show.
            "0DHr1Sss2a8BZeUWb8T+CC,NMb0",
            "_0DHr1Sss2a8BZeUWb8T+CC,NMb012345",
            // Not encrypted, but of the same form: an MD5 or a UUID, and a SHA-256.
            "0b6c1d3e9a574a3f8d511f0c3c6f7a10",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        ] {
            assert!(may_be_encrypted(name), "{name}");
        }
        assert!(may_be_encrypted(&"a".repeat(252)));
        for name in [
            "sales",
            "published",
            "project.xml",
            "a-snapshot-with-a-long-name.xml",
            "a project with a long name",
            "ein-Projekt-für-die-Umsätze",
            // A UUID, a SHA-1 of Git, and a ULID.
            "0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        ] {
            assert!(!may_be_encrypted(name), "{name}");
        }
    }

    #[test]
    fn a_readable_file_or_name_below_shows_that_the_key_is_there() {
        let temporary = tempfile::tempdir().unwrap();
        let long = |n: usize| format!("0b6c1d3e9a574a3f8d511f0c3c6f{n:04}");
        let root = File::open(temporary.path()).unwrap();
        let found = |n_left: usize| Search { n_left }.below(root.as_fd(), DEPTH_MAX);
        assert_eq!(found(9), Found::Nothing);
        let at = |path: &str| temporary.path().join(path);
        for n in 0..9 {
            fs::create_dir_all(at(&long(n)).join(long(n))).unwrap();
        }
        // Empty directories hide nothing, if all of them are searched.
        assert_eq!(found(18), Found::Nothing);
        assert_eq!(found(17), Found::Unknown);
        fs::write(at(&long(4)).join(long(4)).join(long(5)), "x").unwrap();
        assert_eq!(found(19), Found::Readable);
        fs::remove_file(at(&long(4)).join(long(4)).join(long(5))).unwrap();
        fs::write(at(&long(7)).join("notes"), "x").unwrap();
        assert_eq!(found(18), Found::Readable);
        assert_eq!(Search::default().below(root.as_fd(), 0), Found::Unknown);
        fs::write(at("notes"), "x").unwrap();
        assert_eq!(found(0), Found::Readable);
    }
}
