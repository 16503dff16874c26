//! Detects encrypted directories whose key is missing (fscrypt of ext4, F2FS, UBIFS and Ceph).
//!
//! Constraint: if the key of an encrypted directory is missing, the kernel shows other names in it.
//! So a lookup or a listing does not prove that a name is missing. Only an ioctl without a safe
//! wrapper returns the state of the key. So this module checks the names first. If all names may be
//! encrypted, it tries to open the files, which fails without the key. A directory without any file
//! hides nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::names::each_entry;
use super::{kind_at, open_directory_at, open_file_at, stat_at};

/// The maximum number of files and directories that one search opens.
const OPENED_MAX: usize = 4_096;
/// The maximum depth of a search. One directory of each level is open at a time.
const DEPTH_MAX: usize = 8;

/// The result of a search in a directory for signs of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// There are no regular files, so no file is hidden even if the key is missing.
    Nothing,
    /// There is an unencrypted name or a readable file, so the key is available.
    Readable,
    /// There is a file that cannot be opened because the key is missing.
    Locked,
    /// The search found no sign of the key, but could not list or open everything.
    Unknown,
}

/// Whether a name may be an encrypted name, as the kernel shows it without the key.
///
/// The kernel shows encrypted names in base64. Older kernels use `+` and `,`, newer ones `-` and
/// `_`. The encoded bytes are a whole number of 32-bit words, or 189 bytes for a long name. For a
/// long name, older kernels show `_` and 24 encoded bytes. UUIDs with hyphens and SHA-1 hashes have
/// other lengths.
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

/// Whether a directory is encrypted, even if its key is available.
#[cfg(target_os = "linux")]
pub(super) fn is_encrypted(directory: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    match statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::ENCRYPTED)),
        // The kernel lacks statx, or a sandbox forbids statx.
        Err(Errno::NOSYS | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_encrypted(_directory: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// Checks that a directory shows its real names.
///
/// # Errors
///
/// The directory is encrypted, and its key is missing or may be missing. Or the metadata of the
/// directory cannot be read, so it may be encrypted.
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

/// Checks that a name from the listing of a directory is a real name.
///
/// # Errors
///
/// As for [`check_key`]. Or a lookup in the encrypted directory does not find the name, so the key
/// may have been missing at the time of the listing.
pub(super) fn check_listed(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    if !may_be_encrypted(name) || !is_encrypted(directory)? {
        return Ok(());
    }
    check_key(directory)?;
    // If the key was added after the listing, the listed name no longer exists.
    stat_at(directory, name).map_err(|_| Errno::NOKEY)?;
    Ok(())
}

/// A search for signs that the key is available.
///
/// Even with the key, names may look encrypted, for instance hexadecimal numbers. The search then
/// tries to open the files below the directory, because without the key no file can be opened.
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

    /// Opens a file or directory, unless the search has reached its limit.
    fn opened(&mut self, open: impl FnOnce() -> io::Result<OwnedFd>) -> Result<OwnedFd, Errno> {
        self.n_left = self.n_left.checked_sub(1).ok_or(Errno::TOOBIG)?;
        open().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Lists the files and the directories.
    ///
    /// Returns `None` if a name cannot be an encrypted one. This proves that the key is available.
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
            // Keep one name more than the search may open, so that the search reaches its limit and
            // returns `Unknown`.
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
            // Not encrypted, but of the same form: an MD5 or a UUID without hyphens, and a SHA-256.
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
