//! The lock that prevents two daemons from using one state directory.
//!
//! Constraint: a daemon that ended, for whatever reason, must not block the next one. The operating
//! system releases the lock (`flock`) when the process ends. The process id in the file is only for
//! messages.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::store::error::OpenError;

/// The name of the lock file in the state directory.
const LOCK_FILE: &str = "lock";

/// The lock on a state directory. Dropping this value releases it.
#[derive(Debug)]
pub(super) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock. The error names the process that holds it.
    pub(super) fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(LOCK_FILE);
        let io = |what, source| OpenError::Io {
            what,
            path: path.clone(),
            source,
        };
        // Do not truncate the file: until this process has the lock, the content is the holder's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io("open the lock", source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder may not have written its id yet.
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
                return Err(OpenError::Held {
                    directory: directory.to_owned(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io("take the lock", source)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| io("write the lock", source))?;
        Ok(Self { _file: file })
    }
}
