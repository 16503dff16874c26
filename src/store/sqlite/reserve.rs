//! Keeps disk space in reserve, so that rows can be removed when the disk is full.
//!
//! Constraint: removing rows needs space before it frees any. SQLite writes each changed page to
//! the log. The log can be reused only after its pages were copied into the database, which may
//! grow. So there are two rules:
//!
//! - The writer commits a transaction only if the database has space for all pages of the log
//!   (`admit`). It does not check this if all jobs of the transaction remove rows, or if the free
//!   space is unknown.
//! - A file, the reserve, occupies some space. On a full disk, the writer removes this file to copy
//!   the log and to remove rows. If possible, it restores the file before it commits anything else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::process::Resource;

use super::{row, schema};
use crate::domain::state_size;
use crate::store::error::Fault;

/// The file name of the reserve in the state directory.
const RESERVE_FILE: &str = "reserve";

/// The smallest reserve that allows commits: the full size divided by this number.
///
/// With a smaller reserve, even the removal of rows could fail.
const LEAST_PART: u64 = 8;

/// The maximum size of changes that are only in the writer's cache, in bytes.
///
/// This is the size of `WRITER_CACHE` in `schema`.
const CACHED_MAX: u64 = 4 << 20;

/// The cause of a refused commit.
#[derive(Debug, thiserror::Error)]
#[error("only {available} bytes are available; the daemon keeps them for the removal of old rows")]
struct Scarce {
    available: u64,
}

enum Taken {
    Yes,
    /// The disk is full, or a quota is exhausted.
    Scarce,
    /// The file cannot be opened now, for instance because too many files are open.
    Failed,
    /// The file cannot get its size for another reason, for instance a limit on file sizes.
    Impossible,
}

/// The space in reserve. It belongs to the holder of the writing connection.
pub(super) struct Reserve {
    path: PathBuf,
    database: PathBuf,
    /// The full size in bytes, which depends on the size of the file system.
    size: u64,
    held: u64,
    is_possible: bool,
}

/// Returns the space that the reserve in a state directory takes, in bytes.
pub(super) fn held_in(directory: &Path) -> u64 {
    fs::metadata(directory.join(RESERVE_FILE))
        .map_or(0, |metadata| metadata.blocks().saturating_mul(512))
}

impl Reserve {
    /// Takes the reserve of a state directory, or a part of it if space is scarce.
    pub(super) fn take(directory: &Path) -> Self {
        let total = schema::file_system(directory).map(|(_, total)| total);
        let mut reserve = Self {
            path: directory.join(RESERVE_FILE),
            database: schema::database(directory),
            size: state_size::reserve(total.unwrap_or(u64::MAX)),
            held: held_in(directory),
            is_possible: total.is_some(),
        };
        reserve.restore();
        reserve
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Enlarges the reserve to its full size, or a half, a quarter or an eighth of it.
    ///
    /// Takes the largest of these sizes for which there is space. Returns whether commits are
    /// allowed: the reserve is large enough, or there is space but the reserve cannot be made.
    pub(super) fn restore(&mut self) -> bool {
        let mut wanted = self.size;
        let least = self.size / LEAST_PART;
        while self.is_possible && self.held < wanted && wanted >= least.max(1) {
            // Check the free space first. On a full disk, each size would cost a failed allocation.
            let available = self.available().unwrap_or_default();
            if available.saturating_add(self.held) >= wanted {
                match self.allocate(wanted) {
                    Taken::Yes => self.held = wanted,
                    Taken::Scarce => self.release(),
                    // The next commit tries again.
                    Taken::Failed => return true,
                    Taken::Impossible => self.is_possible = false,
                }
            }
            wanted /= 2;
        }
        !self.is_possible || self.held >= least
    }

    /// Removes the file, so that its space is free for the log and for removals.
    pub(super) fn release(&mut self) {
        // Empty the file first, because another process may have it open.
        let emptied = OpenOptions::new().write(true).open(&self.path);
        let _ = emptied.and_then(|file| file.set_len(0));
        let _ = fs::remove_file(&self.path);
        self.held = 0;
    }

    /// Refuses a commit if the database might then lack space for the pages of the log.
    pub(super) fn admit(&self, connection: &Connection) -> Result<(), Fault> {
        let pages: i64 = connection
            .prepare_cached("PRAGMA page_count")?
            .query_row([], |row| row.get(0))?;
        let needed = row::count(pages).saturating_mul(schema::PAGE_SIZE);
        let length = fs::metadata(&self.database).map_or(0, |metadata| metadata.len());
        let growth = needed.saturating_sub(length);
        if growth == 0 {
            return Ok(());
        }
        let Some(available) = self.available() else {
            return Ok(());
        };
        let space = available.saturating_add(self.held);
        if space < growth.saturating_add(growth.min(CACHED_MAX)) {
            return Err(Fault::Full(Arc::new(Scarce { available })));
        }
        Ok(())
    }

    /// Makes the error of a commit that is refused for lack of space.
    pub(super) fn scarce(&self) -> Fault {
        Fault::Full(Arc::new(Scarce {
            available: self.available().unwrap_or_default(),
        }))
    }

    /// Returns the free space of the file system, without the reserve.
    ///
    /// `None` if the free space is unknown.
    fn available(&self) -> Option<u64> {
        let directory = self.path.parent().unwrap_or(&self.path);
        schema::file_system(directory).map(|(free, _)| free)
    }

    fn allocate(&self, size: u64) -> Taken {
        // Exceeding this limit would end the process by a signal.
        let largest = rustix::process::getrlimit(Resource::Fsize).current;
        if largest.is_some_and(|largest| largest < size) {
            return Taken::Impossible;
        }
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path);
        let (result, failure) = match opened {
            Ok(file) => (occupy(file, size), Taken::Impossible),
            Err(error) => (Err(error), Taken::Failed),
        };
        match result {
            Ok(()) => Taken::Yes,
            Err(error) if is_scarce(&error) => Taken::Scarce,
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "cannot reserve space");
                failure
            }
        }
    }
}

fn is_scarce(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT)
    )
}

/// Makes a file occupy at least this many bytes of the disk.
fn occupy(file: File, size: u64) -> io::Result<()> {
    let allocate = || rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size);
    match retry_on_intr(allocate) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_noise(file, size),
        result => result.map_err(io::Error::from),
    }
}

/// Fills a file with contents that a file system cannot compress.
fn write_noise(mut file: File, size: u64) -> io::Result<()> {
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut part = vec![0_u8; 64 << 10];
    let mut rest = size;
    while rest > 0 {
        noise.fill(&mut part);
        let n = usize::try_from(rest).unwrap_or(usize::MAX).min(part.len());
        let piece = part.get(..n).unwrap_or_default();
        file.write_all(piece)?;
        rest = rest.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_could_not_be_opened_is_taken_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(RESERVE_FILE);
        // A directory cannot be opened for writing.
        fs::create_dir(&path).unwrap();
        let mut reserve = Reserve::take(directory.path());
        assert!(reserve.restore());
        fs::remove_dir(&path).unwrap();
        assert!(reserve.restore());
        assert_eq!(reserve.held, reserve.size);
        assert!(held_in(directory.path()) >= reserve.size);
    }
}
