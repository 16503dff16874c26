//! Keeps the contents that one step read, up to a limit.
//!
//! Constraint: a step keeps at most [`KEPT_MAX`] bytes of contents and one definition beyond them,
//! even for large projects. It hashes and parses other contents, drops them, and reads them again
//! to record them. If a content changed in the meantime, it is not recorded, and its project is
//! observed again.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;

use super::{Held, read_up_to};
use crate::domain::project::ContentHash;
use crate::repository::{Root, kind_of, stamp};

/// The maximum number of bytes that are kept in memory.
///
/// One definition may exceed the limit.
const KEPT_MAX: usize = 12 * 1024 * 1024;

/// The contents that one step read, by their hash.
#[derive(Debug)]
pub(crate) struct Contents {
    by_hash: HashMap<ContentHash, Content>,
    /// The number of bytes in memory.
    n_kept: usize,
    /// The total size of the different contents that were read, in bytes.
    n_read: usize,
    kept_max: usize,
}

#[derive(Debug)]
enum Content {
    /// A content in memory.
    Kept(Bytes),
    /// A content that was dropped, with its size in bytes.
    Dropped(Source, usize),
}

/// Where a dropped content can be read again.
#[derive(Debug)]
enum Source {
    /// The path below the root.
    Path(String),
    /// A held file, which may no longer have a path.
    Held(OwnedFd),
}

/// Why a dropped content cannot be read again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("it changed while it was recorded")]
    Changed,
    #[error("it cannot be read again: {0}")]
    Unreadable(#[from] io::Error),
}

impl Default for Contents {
    fn default() -> Self {
        Self::keeping(KEPT_MAX)
    }
}

impl Contents {
    /// Makes an empty collection that drops all contents.
    pub(crate) fn none() -> Self {
        Self::keeping(0)
    }

    fn keeping(kept_max: usize) -> Self {
        Self {
            by_hash: HashMap::new(),
            n_kept: 0,
            n_read: 0,
            kept_max,
        }
    }

    /// Adds the content of a file of a project.
    pub(super) fn add(&mut self, hash: ContentHash, bytes: Bytes, path: &str, is_definition: bool) {
        let may_exceed = is_definition && self.n_kept <= self.kept_max && self.kept_max > 0;
        self.put(hash, bytes, may_exceed, || Source::Path(path.to_owned()));
    }

    pub(crate) fn add_held(&mut self, hash: ContentHash, bytes: Bytes, held: &Held) {
        self.put(hash, bytes, false, || match held.file.try_clone() {
            Ok(file) => Source::Held(file),
            // No file descriptor is free. Read the content again by path, if the file still has a
            // path.
            Err(_) => Source::Path(held.path.clone()),
        });
    }

    fn put(
        &mut self,
        hash: ContentHash,
        bytes: Bytes,
        may_exceed: bool,
        source: impl FnOnce() -> Source,
    ) {
        if matches!(self.by_hash.get(&hash), Some(Content::Kept(_))) {
            return;
        }
        let n_bytes = bytes.len();
        let fits = self.n_kept.saturating_add(n_bytes) <= self.kept_max;
        let content = if fits || may_exceed {
            self.n_kept = self.n_kept.saturating_add(n_bytes);
            Content::Kept(bytes)
        } else {
            Content::Dropped(source(), n_bytes)
        };
        if self.by_hash.insert(hash, content).is_none() {
            self.n_read = self.n_read.saturating_add(n_bytes);
        }
    }

    /// The total size of the different contents that this step read, in bytes.
    pub(crate) fn n_read(&self) -> usize {
        self.n_read
    }

    /// The number of bytes to read again for this content: 0 unless it was dropped.
    pub(crate) fn n_to_read(&self, hash: &ContentHash) -> usize {
        match self.by_hash.get(hash) {
            Some(Content::Dropped(_, n_bytes)) => *n_bytes,
            Some(Content::Kept(_)) | None => 0,
        }
    }

    /// Returns a content. Reads it again if it was dropped.
    ///
    /// Returns `None` if this step did not read it.
    pub(crate) fn load(&self, root: &Root, hash: &ContentHash) -> Result<Option<Bytes>, Lost> {
        let (source, n_bytes) = match self.by_hash.get(hash) {
            None => return Ok(None),
            Some(Content::Kept(bytes)) => return Ok(Some(bytes.clone())),
            Some(Content::Dropped(source, n_bytes)) => (source, *n_bytes),
        };
        let opened;
        let file = match source {
            Source::Held(file) => file.as_fd(),
            Source::Path(path) => {
                opened = root.open_file(path)?;
                opened.as_fd()
            }
        };
        let stat = rustix::fs::fstat(file).map_err(io::Error::from)?;
        let size = n_bytes as u64;
        if kind_of(&stat).is_err() || stamp(&stat).size != size {
            return Err(Lost::Changed);
        }
        let bytes = read_up_to(file, size, size)?;
        if bytes.len() != n_bytes || ContentHash::of(&bytes) != *hash {
            return Err(Lost::Changed);
        }
        Ok(Some(bytes))
    }
}
