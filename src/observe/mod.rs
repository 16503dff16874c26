//! Observes projects: reads the repository's files for inference.
//!
//! Constraint: a file is valid only if two readings are equal and the content is well-formed to its
//! end. An unreadable file is treated neither as changed nor as deleted. The observer never follows
//! a symbolic link, never waits for a pipe, and reads no file that is larger than `max_file_size`.
//! Without a report, it does not read a file whose metadata proves that it is unchanged.
//!
//! Modules: this file reads a file. `held` opens reported files, and `reported` keeps them until
//! their project is observed. `contents` keeps the bytes that were read. `project` observes a
//! project, and `unchanged` compares its metadata with the record. `discover` finds the projects,
//! and `listing` lists a directory.

mod contents;
mod discover;
mod held;
mod listing;
mod project;
mod reported;
mod unchanged;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::Bytes;
use jiff::Timestamp;
use tracing::info;

use crate::document;
use crate::domain::project::{ContentHash, FileState, Inodes, Observed, Problem, Stamp};
use crate::layout::{Layout, ProjectFile};
use crate::repository::{Root, kind_of, stamp};
use crate::users::OwnerNames;

use listing::problem;

pub(crate) use contents::{Contents, Lost};
pub(crate) use discover::Discovery;
pub(crate) use held::{Held, Holder};
pub(crate) use listing::{Entry, entries, is_absent, join, unreadable};
pub(crate) use reported::Reported;
pub(crate) use unchanged::is_unchanged;

/// The maximum age of a malformed file that is observed again without a hint.
///
/// The age is the time since the last change. An older file causes no observation by itself.
const RECHECK_NS: i64 = 10 * 60 * 1_000_000_000;

/// The result of observing one project.
#[derive(Debug, Default)]
pub(crate) struct ObservedProject {
    /// The state on disk.
    pub observed: Observed,
    /// The inode of the project's directory. `None` if it is absent or cannot be read.
    pub home: Option<u64>,
    /// Whether a directory moved during the observation.
    ///
    /// Then this state may never have existed.
    is_torn: bool,
}

/// Reads the repository with the settings of one configuration.
pub(crate) struct Observer {
    layout: Layout,
    max_file_size: u64,
    owners: OwnerNames,
    inodes: Inodes,
    /// Hidden paths, each with the reason.
    ///
    /// Their file systems are not those of the record, so projects may seem to be missing there.
    hidden: BTreeMap<String, String>,
    /// Called before a file is read, and at each step of a search for projects.
    ///
    /// So a large project, or a large repository, does not look like a hang.
    on_progress: Option<Box<dyn Fn() + Send>>,
}

impl Observer {
    /// Makes an observer that reads files up to `max_file_size` bytes.
    pub(crate) fn new(layout: Layout, max_file_size: u64) -> Self {
        Self {
            layout,
            max_file_size,
            owners: OwnerNames::system(),
            inodes: Inodes::Stable,
            hidden: BTreeMap::new(),
            on_progress: None,
        }
    }

    /// Sets a function to call before a file is read, and during searches for projects.
    pub(crate) fn with_progress(mut self, on_progress: impl Fn() + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(on_progress));
        self
    }

    /// Changes the settings, but keeps the known names of owners.
    pub(crate) fn change(&mut self, layout: Layout, max_file_size: u64) {
        self.layout = layout;
        self.max_file_size = max_file_size;
        self.inodes = Inodes::Stable;
        self.hidden = BTreeMap::new();
    }

    /// Returns the name of a user, or the user id if the user has no name.
    ///
    /// `None` if the user database does not answer and no name is cached.
    pub(crate) fn user_name(&self, uid: u32, now: Timestamp) -> Option<String> {
        self.owners.name(uid, now)
    }

    /// Looks up unknown owners again if it is time. Does not wait.
    ///
    /// Returns whether names became known since the last call.
    pub(crate) fn retry_owners(&self, now: Timestamp) -> bool {
        self.owners.retry(now)
    }

    /// Hides these paths from observation. Each has a reason.
    pub(crate) fn hide(&mut self, hidden: BTreeMap<String, String>) {
        self.hidden = hidden;
    }

    /// Returns the hidden path that is or contains this path, with the reason.
    fn hidden_at(&self, path: &str) -> Option<(&str, &str)> {
        let ends = path.match_indices('/').map(|(end, _)| end);
        let mut above = ends.chain([path.len()]).filter_map(|end| path.get(..end));
        let found = above.find_map(|above| self.hidden.get_key_value(above));
        found.map(|(above, reason)| (above.as_str(), reason.as_str()))
    }

    /// Whether inode numbers identify files. Observations may show that they do not.
    pub(crate) fn inodes(&self) -> Inodes {
        self.inodes
    }

    /// Detects unstable inode numbers from two stamps of an unchanged file.
    ///
    /// If somebody had replaced the file, it would have another change time.
    fn learn_inodes(&mut self, before: &Stamp, after: &Stamp, path: &str) {
        let has_new_number = before != after && before.is_same(after, Inodes::Unstable);
        if has_new_number && self.inodes == Inodes::Stable {
            info!(
                path,
                "the file system changes inode numbers of unchanged files; ignoring inode numbers from now on"
            );
            self.inodes = Inodes::Unstable;
        }
    }

    pub(crate) fn discover(&self, root: &Root) -> Discovery {
        discover::discover(&self.layout, root, &|| self.progress())
    }

    /// Returns the problems that [`Self::discover`] would find at these paths.
    pub(crate) fn problems_at(&self, root: &Root, paths: &BTreeSet<String>) -> Vec<Problem> {
        discover::problems_at(&self.layout, root, paths)
    }

    /// Reads a held file. Returns `None` if it is invalid.
    ///
    /// Change times order the files, but removing a file changes its change time. So the returned
    /// stamp has the change time from [`Held::stamp`]. If the file was written since then, the
    /// returned stamp has the modification time instead.
    pub(crate) fn read_held(&mut self, held: &Held, now: Timestamp) -> Option<(FileState, Bytes)> {
        let (mut state, bytes) = self
            .read(held.file.as_fd(), &held.path, &held.place, now)
            .ok()?;
        let was_written_since = state.stamp.modified_ns != held.stamp.modified_ns
            || state.stamp.size != held.stamp.size;
        state.stamp.changed_ns = if was_written_since {
            state.stamp.modified_ns
        } else {
            held.stamp.changed_ns
        };
        Some((state, bytes))
    }

    fn progress(&self) {
        if let Some(on_progress) = &self.on_progress {
            on_progress();
        }
    }

    fn read(
        &mut self,
        file: BorrowedFd<'_>,
        path: &str,
        place: &ProjectFile,
        now: Timestamp,
    ) -> Result<(FileState, Bytes), Problem> {
        self.progress();
        let failed = |error: io::Error| problem(path, &format!("cannot be read: {error}"), true);
        let before = rustix::fs::fstat(file).map_err(|error| failed(error.into()))?;
        kind_of(&before).map_err(|kind| problem(path, kind, false))?;
        let size = stamp(&before).size;
        if size > self.max_file_size {
            return Err(self.too_large(path, size));
        }
        let bytes = read_up_to(file, size, self.max_file_size).map_err(failed)?;
        let after = rustix::fs::fstat(file).map_err(|error| failed(error.into()))?;
        let is_stable = stamp(&before) == stamp(&after)
            && bytes.len() as u64 == size
            && reads_the_same(file, &bytes).map_err(failed)?;
        if !is_stable {
            return Err(problem(path, "changed while it was read", true));
        }
        let read_ns = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        let stamp = stamp(&after);
        match document::parse(&bytes) {
            Ok(document) => {
                let state = FileState {
                    path: path.to_owned(),
                    role: place.role,
                    tag: place.tag.clone(),
                    stamp,
                    read_ns,
                    hash: ContentHash::of(&bytes),
                    document,
                    owner: self.owners.name(after.st_uid, now).unwrap_or_default(),
                };
                Ok((state, bytes))
            }
            Err(malformed) => {
                let may_resolve = read_ns.saturating_sub(stamp.changed_ns) < RECHECK_NS;
                Err(Problem {
                    line: Some(malformed.line),
                    column: Some(malformed.column),
                    ..problem(path, &malformed.reason, may_resolve)
                })
            }
        }
    }

    fn too_large(&self, path: &str, size: u64) -> Problem {
        let reason = format!(
            "has {size} bytes, but repository.max_file_size allows only {}",
            self.max_file_size
        );
        problem(path, &reason, false)
    }
}

fn read_up_to(file: BorrowedFd<'_>, size: u64, max: u64) -> io::Result<Bytes> {
    // Reading one byte more than expected shows whether the file grew. The capacity is the size
    // that the file system reports, up to `max`.
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(max)).unwrap_or(0) + 1);
    let mut positioned = PositionedRead { file, offset: 0 };
    positioned.by_ref().take(size + 1).read_to_end(&mut bytes)?;
    Ok(Bytes::from(bytes))
}

/// The number of bytes that are compared at once.
const COMPARED_AT_ONCE: usize = 32 * 1024;

/// Whether a second reading returns the same bytes.
fn reads_the_same(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<bool> {
    // Reading one byte more than expected shows whether the file grew.
    let mut buffer = vec![0_u8; bytes.len().saturating_add(1).min(COMPARED_AT_ONCE)];
    let mut offset = 0_usize;
    loop {
        let count = rustix::io::pread(file, &mut buffer, offset as u64)?;
        let (Some(again), Some(first)) = (
            buffer.get(..count),
            bytes.get(offset..offset.saturating_add(count)),
        ) else {
            return Ok(false);
        };
        if again != first {
            return Ok(false);
        }
        if count == 0 {
            return Ok(offset == bytes.len());
        }
        offset += count;
    }
}

/// Reads a file from its start without moving the position of the descriptor.
///
/// So a held file can be read several times.
struct PositionedRead<'a> {
    file: BorrowedFd<'a>,
    offset: u64,
}

impl Read for PositionedRead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = rustix::io::pread(self.file, buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
