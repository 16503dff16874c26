//! Locks a state directory, so that two daemons cannot use it.
//!
//! Constraint: a daemon that has ended must never block the next one. So the operating system
//! releases the lock (`flock`) when the process ends. The process id in the file is only for
//! messages.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::store::error::OpenError;

/// The name of the lock file in the state directory.
const LOCK_FILE: &str = "lock";

/// The maximum number of attempts to take the lock.
///
/// After the holder ends, its forked child may keep the lock until the child executes its program.
const TRIES: u32 = 10;

/// The pause before each further attempt.
const PAUSE: Duration = Duration::from_millis(20);

/// The maximum number of times to read the kernel's list of locks.
///
/// The kernel returns the list in pages. If a lock of the first page is released between the reads
/// of two pages, the second page lacks its first line. While a thread took and released 150 locks,
/// this happened in 136 of 2,614 lists.
const LIST_READS: u32 = 10;

/// Returns the process that holds the lock on a state directory. `None` if unknown.
///
/// Reads the kernel's list of locks. Taking the lock, even briefly, could make a starting daemon
/// fail.
pub(crate) fn holder(directory: &Path) -> Option<u32> {
    let path = directory.join(LOCK_FILE);
    let inode = std::fs::metadata(&path).ok()?.ino();
    let text = std::fs::read_to_string(&path).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let is_listed = |_| {
        std::fs::read_to_string("/proc/locks")
            .is_ok_and(|locks| locks.lines().any(|line| is_lock_of(line, pid, inode)))
    };
    (0..LIST_READS).any(is_listed).then_some(pid)
}

/// Whether a line of `/proc/locks` is about a lock of this process on this file.
///
/// For example `1: FLOCK  ADVISORY  WRITE 812 fe:00:1310 0 EOF`. The device number is ignored,
/// because it may differ from that of the file, for instance on btrfs.
fn is_lock_of(line: &str, pid: u32, inode: u64) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let is_lock = fields.next() == Some("FLOCK");
    let mut fields = fields.skip(2);
    let is_held_by = fields.next().and_then(|field| field.parse().ok()) == Some(pid);
    let file = fields.next().and_then(|field| field.rsplit(':').next());
    is_lock && is_held_by && file.and_then(|field| field.parse().ok()) == Some(inode)
}

/// The lock on a state directory. Dropping this value releases it.
#[derive(Debug)]
pub(super) struct StateLock {
    /// A lock on the directory itself, because somebody may remove the lock file.
    _directory: File,
    _file: File,
}

impl StateLock {
    /// Takes the lock. If it is held, the error names the holder if known.
    pub(super) fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(LOCK_FILE);
        let io = |what, source| OpenError::Io {
            what,
            path: path.clone(),
            source,
        };
        // Do not truncate the file: it may have the process id of the holder.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io("open the lock", source))?;
        let handle = File::open(directory).map_err(|source| OpenError::Io {
            what: "open the directory",
            path: directory.to_owned(),
            source,
        })?;
        let is_held = || -> Result<bool, OpenError> {
            // Some network file systems cannot lock directories. Then only the file is locked.
            if matches!(handle.try_lock(), Err(TryLockError::WouldBlock)) {
                return Ok(true);
            }
            match file.try_lock() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(source)) => Err(io("take the lock", source)),
            }
        };
        let mut more_tries = 1..TRIES;
        while is_held()? {
            if more_tries.next().is_some() {
                std::thread::sleep(PAUSE);
                continue;
            }
            let mut text = String::new();
            // The holder may not have written its process id yet, or somebody removed the file.
            let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
            return Err(OpenError::Held {
                directory: directory.to_owned(),
                pid: text.trim().parse().ok(),
            });
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| io("write the lock", source))?;
        Ok(Self {
            _directory: handle,
            _file: file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_the_holder() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(holder(directory.path()), None);
        let lock = StateLock::take(directory.path()).expect("the lock");
        assert_eq!(holder(directory.path()), Some(std::process::id()));
        drop(lock);
        // A child that another test just forked keeps the lock until the child executes its
        // program.
        let is_free = (0..1_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            holder(directory.path()).is_none()
        });
        assert!(is_free);
    }

    #[test]
    fn only_the_lock_of_this_process_on_this_file_counts() {
        for (line, expected) in [
            ("1: FLOCK  ADVISORY  WRITE 812 fe:00:1310 0 EOF", true),
            ("1: POSIX  ADVISORY  WRITE 812 fe:00:1310 0 EOF", false),
            ("1: FLOCK  ADVISORY  WRITE 813 fe:00:1310 0 EOF", false),
            ("1: FLOCK  ADVISORY  WRITE 812 fe:00:1311 0 EOF", false),
            ("1: -> FLOCK  ADVISORY  WRITE 812 fe:00:1310 0 EOF", false),
            ("", false),
        ] {
            assert_eq!(is_lock_of(line, 812, 1310), expected, "{line}");
        }
    }
}
