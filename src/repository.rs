//! Opens the repository's root and the files below it.
//!
//! Constraint: opening a path below the root never follows a symbolic link, never leaves the root,
//! and never blocks on a FIFO or a device. On Linux, one call opens the whole path (openat2 with
//! RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS). Other systems, kernels before 5.6 and some sandboxes
//! do not offer this call. There, each component is opened relative to its parent, with O_NOFOLLOW.
//! The effect is the same, but each directory of the path must be readable, not only searchable.

mod encrypted;
mod names;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use crate::domain::project::Stamp;
use names::Names;

pub(crate) use encrypted::check_key;
pub(crate) use names::{list, list_until};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// The flags for opening a file.
///
/// With NONBLOCK, opening a FIFO does not wait for a writer.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The identity of a root directory: device, inode and birth time.
///
/// If a directory is removed and created again, it may have the same inode, but it has another
/// birth time. The birth time is 0 if it is unknown.
///
/// The device changes when the file system is mounted from another disk or loop device. The
/// watches of the root are then no longer valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootIdentity {
    device: u64,
    inode: u64,
    born_ns: i64,
}

impl RootIdentity {
    /// Returns the text of the identity in the store.
    ///
    /// A new mount or a restart may change the device, so the text contains the device only if
    /// there is no birth time.
    pub(crate) fn to_record(self) -> String {
        match self.born_ns {
            0 => format!("{:x}:{}", self.device, self.inode),
            born_ns => format!("{}:{born_ns}", self.inode),
        }
    }
}

/// The open root of a repository.
///
/// The engine opens the root for a batch of observations and closes it afterwards, because the file
/// system cannot be unmounted while the root is open.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    directory: OwnedFd,
    identity: RootIdentity,
    names: Names,
}

impl Root {
    /// Opens the root.
    ///
    /// Follows symbolic links in the path of the root, because the operator chose the path.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let directory = rustix::fs::openat(
            CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let stat = rustix::fs::fstat(&directory)?;
        let born_ns = born_ns(directory.as_fd(), Path::new(""), AtFlags::EMPTY_PATH);
        Ok(Self {
            path: path.to_owned(),
            directory,
            identity: identity(&stat, born_ns),
            names: Names::default(),
        })
    }

    pub(crate) fn identity(&self) -> RootIdentity {
        self.identity
    }

    /// Whether the path of the root still leads to this directory.
    pub(crate) fn is_in_place(&self) -> bool {
        Self::identity_at(&self.path).is_ok_and(|found| found == self.identity)
    }

    /// Returns the identity of the directory that is now at this path.
    pub(crate) fn identity_at(path: &Path) -> io::Result<RootIdentity> {
        let stat = rustix::fs::statat(CWD, path, AtFlags::empty())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(identity(&stat, born_ns(CWD, path, AtFlags::empty())))
    }

    /// Opens a directory below the root. The empty path is the root itself.
    pub(crate) fn open_directory(&self, path: &str) -> io::Result<OwnedFd> {
        if path.is_empty() {
            return Ok(rustix::fs::openat(
                &self.directory,
                ".",
                DIRECTORY,
                Mode::empty(),
            )?);
        }
        open_beneath(self.directory.as_fd(), path, DIRECTORY)
    }

    /// Whether this path below the root still leads to this directory.
    pub(crate) fn is_at(&self, path: &str, directory: &OwnedFd) -> bool {
        let at_path = rustix::fs::statat(&self.directory, path, AtFlags::SYMLINK_NOFOLLOW);
        match (at_path, rustix::fs::fstat(directory)) {
            (Ok(one), Ok(other)) => one.st_ino == other.st_ino && one.st_dev == other.st_dev,
            _ => false,
        }
    }

    /// Opens a file below the root for reading.
    ///
    /// The opened file may also be a directory, a FIFO or a device. Check the type with
    /// [`kind_of`].
    pub(crate) fn open_file(&self, path: &str) -> io::Result<OwnedFd> {
        open_beneath(self.directory.as_fd(), path, FILE)
    }
}

/// Opens a file below a directory, with the same rules as [`Root::open_file`].
pub(crate) fn open_file_below(directory: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    open_beneath(directory.as_fd(), path, FILE)
}

pub(crate) fn open_directory_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?)
}

pub(crate) fn open_file_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(parent, name, FILE, Mode::empty())?)
}

/// Returns the metadata of a name in a directory. Does not follow a symbolic link.
pub(crate) fn stat_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<Stat> {
    Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Returns the type of a listed entry.
///
/// Some file systems, such as FUSE and old formats of XFS, list no types. The type is then read
/// from the metadata. `None` if the entry is gone at that time.
///
/// # Errors
///
/// The listing has no type, and the metadata cannot be read. The entry may be a directory.
pub(crate) fn kind_at(
    parent: BorrowedFd<'_>,
    name: &str,
    listed: FileType,
) -> io::Result<Option<FileType>> {
    if listed != FileType::Unknown {
        return Ok(Some(listed));
    }
    match stat_at(parent, name) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn stamp(stat: &Stat) -> Stamp {
    let nanoseconds = |seconds: i64, part: u64| {
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::try_from(part).unwrap_or(0))
    };
    #[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
    Stamp {
        inode: stat.st_ino as u64,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        changed_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
    }
}

/// Checks that a file is a regular file. The error names any other type.
pub(crate) fn kind_of(stat: &Stat) -> Result<(), &'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err("is a directory"),
        FileType::Symlink => Err("is a symbolic link; links are not followed"),
        FileType::Fifo => Err("is a FIFO"),
        FileType::Socket => Err("is a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Err("is a device"),
        FileType::Unknown => Err("has an unknown type"),
    }
}

fn identity(stat: &Stat, born_ns: i64) -> RootIdentity {
    #[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
    RootIdentity {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        born_ns,
    }
}

/// Returns the birth time in nanoseconds since the Unix epoch. 0 if it is unknown.
#[cfg(target_os = "linux")]
fn born_ns(at: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> i64 {
    use rustix::fs::{StatxFlags, statx};
    match statx(at, path, flags, StatxFlags::BTIME) {
        Ok(found) if found.stx_mask & StatxFlags::BTIME.bits() != 0 => found
            .stx_btime
            .tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(found.stx_btime.tv_nsec)),
        _ => 0,
    }
}

#[cfg(not(target_os = "linux"))]
fn born_ns(_at: BorrowedFd<'_>, _path: &Path, _flags: AtFlags) -> i64 {
    0
}

#[cfg(target_os = "linux")]
fn open_beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    use rustix::fs::ResolveFlags;
    use rustix::io::Errno;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // NOSYS: the kernel lacks openat2. PERM: a sandbox forbids openat2. AGAIN: a directory was
        // renamed during the call, which does not disturb opening by component.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => open_by_component(root, path, flags),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    open_by_component(root, path, flags)
}

fn open_by_component(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let mut components = path.split('/').filter(|name| !name.is_empty()).peekable();
    let mut parent: Option<OwnedFd> = None;
    while let Some(name) = components.next() {
        if name == ".." {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let at = parent.as_ref().map_or(root, AsFd::as_fd);
        let last = components.peek().is_none();
        let opened = rustix::fs::openat(
            at,
            name,
            if last { flags } else { DIRECTORY },
            Mode::empty(),
        )?;
        if last {
            return Ok(opened);
        }
        parent = Some(opened);
    }
    Err(io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn opening_stays_below_the_root_and_follows_no_link() {
        let temporary = tempfile::tempdir().expect("a directory");
        let root_path = temporary.path().join("root");
        std::fs::create_dir_all(root_path.join("a/b")).expect("directories");
        std::fs::write(root_path.join("a/b/file"), "x").expect("a file");
        std::fs::write(temporary.path().join("outside"), "x").expect("a file");
        symlink("a", root_path.join("link")).expect("a link");
        symlink("../outside", root_path.join("out")).expect("a link");
        symlink("b/file", root_path.join("a/file-link")).expect("a link");
        let root = Root::open(&root_path).expect("opens");
        let by_component =
            |path: &str| open_by_component(root.directory.as_fd(), path, FILE).is_ok();
        for (path, opens) in [
            ("a/b/file", true),
            ("link/b/file", false),
            ("out", false),
            ("a/file-link", false),
            ("../outside", false),
            ("a/../../outside", false),
            ("missing", false),
        ] {
            assert_eq!(root.open_file(path).is_ok(), opens, "{path}");
            assert_eq!(by_component(path), opens, "{path}");
        }
        assert!(root.open_directory("a/b").is_ok());
        assert!(root.open_directory("").is_ok());
        assert!(root.open_directory("link").is_err());
    }

    #[test]
    fn an_entry_whose_type_cannot_be_read_is_not_gone() {
        let temporary = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(temporary.path().join("a")).expect("a directory");
        let directory = std::fs::File::open(temporary.path()).expect("opens");
        let kind = |name: &str, listed| kind_at(directory.as_fd(), name, listed).ok();
        let unknown = FileType::Unknown;
        assert_eq!(kind("a", unknown), Some(Some(FileType::Directory)));
        assert_eq!(kind("a", FileType::Fifo), Some(Some(FileType::Fifo)));
        assert_eq!(kind("gone", unknown), Some(None));
        // The name is too long for the file system, so its type cannot be read.
        assert_eq!(kind(&"a".repeat(300), unknown), None);
    }

    #[test]
    fn a_replaced_root_is_not_in_place() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("root");
        std::fs::create_dir(&path).expect("a directory");
        let root = Root::open(&path).expect("opens");
        assert!(root.is_in_place());
        std::fs::rename(&path, temporary.path().join("away")).expect("renames");
        assert!(!root.is_in_place());
        std::fs::create_dir(&path).expect("a directory");
        assert!(!root.is_in_place());
        let root = Root::open(&path).expect("opens");
        std::fs::remove_dir(&path).expect("removes");
        std::fs::create_dir(&path).expect("a directory");
        assert!(!root.is_in_place(), "removed and created again");
    }

    #[test]
    fn a_root_on_another_device_is_recorded_as_the_same() {
        let identity = |device, inode, born_ns| RootIdentity {
            device,
            inode,
            born_ns,
        };
        let known = identity(1, 2, 3);
        assert_ne!(known, identity(9, 2, 3), "its watches are gone");
        assert_eq!(known.to_record(), identity(9, 2, 3).to_record());
        assert_ne!(known.to_record(), identity(1, 7, 3).to_record());
        assert_ne!(known.to_record(), identity(1, 2, 7).to_record());
        let unborn = identity(1, 2, 0).to_record();
        assert_ne!(unborn, identity(9, 2, 0).to_record());
    }
}
