//! Detects encrypted directories whose key is missing (fscrypt of ext4, F2FS, UBIFS and Ceph).
//!
//! Constraint: without its key, the kernel shows a directory with other names. So a lookup or a
//! listing does not prove that a name is missing. Asking for the state of the key needs an ioctl
//! without a safe wrapper. So the names decide, but only those of encrypted directories.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{open_directory_at, stat_at};

/// The minimum length of a name that stands for an encrypted one: 16 bytes in base64.
const NAME_MIN: usize = 22;
/// The number of levels that are searched for a readable name.
const DEPTH: usize = 3;
/// The number of subdirectories that are searched in each directory.
const SEARCHED: usize = 4;

/// The names that a directory shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// Only names that may stand for encrypted ones.
    Encrypted,
    Readable,
}

/// Whether a name may stand for an encrypted one.
///
/// The kernel writes those in base64. Older kernels use `+` and `,`, others use `-` and `_`.
pub(super) fn may_be_encrypted(name: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+,-_".contains(&byte);
    name.len() >= NAME_MIN && name.bytes().all(is_base64)
}

/// Whether a directory is encrypted, with its key or without.
#[cfg(target_os = "linux")]
pub(super) fn is_encrypted(directory: BorrowedFd<'_>) -> bool {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let found = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::ENCRYPTED))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_encrypted(_directory: BorrowedFd<'_>) -> bool {
    false
}

/// Checks that a directory shows its own names.
///
/// # Errors
///
/// It is encrypted, and its key is missing.
pub(crate) fn check_key(directory: BorrowedFd<'_>) -> io::Result<()> {
    if is_encrypted(directory) && shown(directory, DEPTH) == Shown::Encrypted {
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
    if !may_be_encrypted(name) || !is_encrypted(directory) {
        return Ok(());
    }
    check_key(directory)?;
    // With the key, the names that stood for encrypted ones are gone.
    stat_at(directory, name).map_err(|_| Errno::NOKEY)?;
    Ok(())
}

/// Returns the names that a directory shows.
///
/// Directories with a key may have names like those, for instance hexadecimal numbers. Then a
/// directory below shows a readable name.
fn shown(directory: BorrowedFd<'_>, depth: usize) -> Shown {
    let mut directories = Vec::new();
    let mut shown = Shown::Nothing;
    let listed = open_directory_at(directory, ".").and_then(|opened| {
        super::names::each_entry(opened.as_fd(), |name, kind| {
            if matches!(name.to_bytes(), b"." | b"..") {
                return Ok(());
            }
            match name.to_str() {
                Ok(name) if may_be_encrypted(name) && shown != Shown::Readable => {
                    shown = Shown::Encrypted;
                    let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
                    if may_be_directory && directories.len() < SEARCHED {
                        directories.push(name.to_owned());
                    }
                }
                _ => shown = Shown::Readable,
            }
            Ok(())
        })
    });
    if listed.is_err() || shown != Shown::Encrypted || depth == 0 {
        return shown;
    }
    let is_readable = |name: &String| {
        let opened = open_directory_at(directory, name);
        opened.is_ok_and(|below| self::shown(below.as_fd(), depth - 1) == Shown::Readable)
    };
    if directories.iter().any(is_readable) {
        return Shown::Readable;
    }
    Shown::Encrypted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn names_of_encrypted_entries_are_long_and_in_base64() {
        for name in [
            // Shown by ext4 of Linux 6.18.
            "tlSzLOG1Palhw9lVOtyv6fle80XNrml_V71YaIohYqpPx1-O0eaTTA",
            // In the base64 of older kernels.
            "0DHr1Sss2a8BZeUWb8T+CC,NMb",
            // Not encrypted, but of the same form.
            "0b6c1d3e9a574a3f8d511f0c3c6f7a10",
            "0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10",
        ] {
            assert!(may_be_encrypted(name), "{name}");
        }
        for name in [
            "sales",
            "published",
            "project.xml",
            "a-snapshot-with-a-long-name.xml",
            "a project with a long name",
            "ein-Projekt-für-die-Umsätze",
        ] {
            assert!(!may_be_encrypted(name), "{name}");
        }
    }

    #[test]
    fn a_readable_name_below_shows_that_the_key_is_there() {
        let temporary = tempfile::tempdir().unwrap();
        let long = |n: usize| format!("0b6c1d3e9a574a3f8d511f0c3c6f{n:04}");
        let root = File::open(temporary.path()).unwrap();
        let is = |expected: Shown| shown(root.as_fd(), DEPTH) == expected;
        assert!(is(Shown::Nothing));
        let at = |path: &str| temporary.path().join(path);
        for n in 0..9 {
            fs::create_dir_all(at(&long(n)).join(long(n))).unwrap();
        }
        assert!(is(Shown::Encrypted));
        fs::write(at(&long(9)), "x").unwrap();
        assert!(is(Shown::Encrypted));
        fs::write(at(&long(0)).join(long(0)).join("project.xml"), "x").unwrap();
        for n in 1..9 {
            fs::write(at(&long(n)).join("project.xml"), "x").unwrap();
        }
        assert!(is(Shown::Readable));
        fs::write(at("notes"), "x").unwrap();
        assert!(is(Shown::Readable));
    }
}
