//! Observes one project.
//!
//! Constraint: an observation must not mix states of different times. So published copies and
//! snapshots are read before the definition, and a listing with a new name is read again. If a path
//! is used twice, it must lead to the same directory both times. A project is observed, and a
//! directory is listed, up to [`TRIES`] times.

mod blind;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jiff::Timestamp;
use rustix::fs::{FileType, Stat};

use super::listing::{is_absent, join, lacks_key, problem, rewind, unnamed};
use super::{Contents, ObservedProject, Observer, Reported};
use crate::domain::project::{
    FileState, Observed, ObservedFile, Problem, ProjectKey, Recorded, Role, Stamp, Unreadable,
};
use crate::layout::{Cursor, Entries, ProjectFile};
use crate::repository::{Root, kind_of, list, open_directory_at, open_file_at, stamp, stat_at};

/// The maximum number of tries to observe a project, or to list a directory.
///
/// The observer observes a project again if directories moved or the definition was restored
/// meanwhile. It lists a directory with a new name until two listings are equal.
const TRIES: usize = 5;

impl Observer {
    /// Observes one project.
    ///
    /// A file whose metadata proves it unchanged is not read, unless it was `reported`. A reported
    /// change may leave the metadata unchanged: two writes to one page of a memory mapping may have
    /// the same times. Some file systems have no change time.
    ///
    /// The copies, that is published copies and snapshots, are read before the definition. In
    /// between, somebody may take a snapshot and restore it. The event of the snapshot would then
    /// come after the event of the restore. So if the definition was restored, the copies must be
    /// the same before and after the definition is read.
    pub(crate) fn observe(
        &mut self,
        root: &Root,
        key: &ProjectKey,
        recorded: &Recorded,
        reported: &Reported,
        contents: &mut Contents,
        now: Timestamp,
    ) -> ObservedProject {
        let mut seen = self.observe_once(root, key, recorded, reported, contents, now);
        for _ in 1..TRIES {
            if !seen.is_torn && !is_restored(&seen.observed, recorded) {
                return seen;
            }
            let again = self.observe_once(root, key, recorded, reported, contents, now);
            let is_same = copies(&again.observed).eq(copies(&seen.observed));
            let is_proven = is_same && !seen.is_torn && !again.is_torn;
            seen = again;
            if is_proven {
                return seen;
            }
        }
        if seen.is_torn {
            let reason = "the directories of the project keep moving while they are read; retrying";
            let path = self.layout.directory_of(key).map(|(path, _)| path);
            seen.observed.unreadable.push(Unreadable {
                problem: problem(&path.unwrap_or_else(|| key.path()), reason, true),
                hides: Role::ALL.into(),
            });
        }
        seen
    }

    fn observe_once(
        &mut self,
        root: &Root,
        key: &ProjectKey,
        recorded: &Recorded,
        reported: &Reported,
        contents: &mut Contents,
        now: Timestamp,
    ) -> ObservedProject {
        let home = self.layout.directory_of(key);
        let cursor = self.layout.project(key);
        let mut walk = ProjectWalk {
            observer: self,
            root,
            has_no_home: home.is_none(),
            recorded,
            reported,
            contents,
            now,
            definition_rank: usize::MAX,
            directories: HashMap::new(),
            blind_at: HashMap::new(),
            seen: ObservedProject::default(),
        };
        if let Some((path, cursor)) = home {
            if walk.is_hidden(&path, &cursor) {
                return walk.seen;
            }
            match walk.open_home(&path) {
                Ok(Some(directory)) => {
                    let stat = rustix::fs::fstat(&directory);
                    walk.seen.home = stat.ok().map(|stat| stamp(&stat).inode);
                    walk.copies_then_definition(&directory, &path, &cursor);
                    walk.seen.is_torn |= !root.is_at(&path, &directory);
                    return walk.seen;
                }
                Ok(None) => return walk.seen,
                // The walk below reports the error.
                Err(_) => {}
            }
        }
        match root.open_directory("") {
            Ok(directory) => walk.copies_then_definition(&directory, "", &cursor),
            Err(error) => walk.blind("", &cursor, &error),
        }
        walk.seen
    }
}

/// Whether the definition changed to the content of a snapshot.
fn is_restored(observed: &Observed, recorded: &Recorded) -> bool {
    let (Some(before), Some(seen)) = (&recorded.definition, observed.definition()) else {
        return false;
    };
    let mut snapshots = recorded
        .snapshots
        .values()
        .chain(observed.complete(Role::Snapshot));
    before.hash != seen.hash && snapshots.any(|snapshot| snapshot.hash == seen.hash)
}

/// Returns the observed files except the definition.
fn copies(observed: &Observed) -> impl Iterator<Item = (&String, &ObservedFile)> {
    let files = observed.files.iter();
    files.filter(|(_, file)| file.role() != Role::Definition)
}

/// The state of one observation of a project.
struct ProjectWalk<'a> {
    observer: &'a mut Observer,
    root: &'a Root,
    /// Whether the files have no common directory. Then the walk begins at the root.
    has_no_home: bool,
    recorded: &'a Recorded,
    reported: &'a Reported,
    contents: &'a mut Contents,
    now: Timestamp,
    definition_rank: usize,
    /// The inodes of the directories visited so far. `None` for an absent entry.
    directories: HashMap<String, Option<u64>>,
    /// The index of each path in the list of unreadable paths.
    blind_at: HashMap<String, usize>,
    seen: ObservedProject,
}

impl ProjectWalk<'_> {
    /// Opens the project's directory.
    ///
    /// Returns `None` if there is no directory with this exact name.
    fn open_home(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        let opened = match self.root.open_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.recorded.is_empty() || self.root.is_absent(path)? {
                    return Ok(None);
                }
                // Listing may have refreshed the file system's cache, so try again.
                self.root.open_directory(path).map_err(hidden_by_a_cache)?
            }
            opened => opened?,
        };
        Ok(self.root.is_spelled_so(path)?.then_some(opened))
    }

    /// Reads the copies, then the definition.
    ///
    /// A snapshot is a copy of an earlier definition. If the definition were read first, it could
    /// be saved and copied before the copies are read. The next observation would then mistake the
    /// save for a restore of this snapshot.
    fn copies_then_definition(&mut self, directory: &OwnedFd, path: &str, cursor: &Cursor) {
        let copies = cursor.clone().with_roles(|role| role != Role::Definition);
        let definition = cursor.clone().with_roles(|role| role == Role::Definition);
        for cursor in [copies, definition] {
            self.directory(directory, path, &cursor);
        }
    }

    fn directory(&mut self, directory: &OwnedFd, path: &str, cursor: &Cursor) {
        match cursor.entries() {
            Entries::Only(names) => {
                for name in names {
                    if let Some(next) = cursor.enter(&name) {
                        self.entry(directory.as_fd(), &join(path, &name), &name, &next, true);
                    }
                }
            }
            Entries::Any => match self.names_at_one_moment(directory.as_fd(), path, cursor) {
                Ok(names) => {
                    for (name, next) in names {
                        self.entry(directory.as_fd(), &join(path, &name), &name, &next, false);
                    }
                }
                Err(error) => self.blind(path, cursor, &error),
            },
        }
    }

    /// Lists the needed names of a directory, in order.
    ///
    /// If files are created during a listing, it may contain a later file and miss an earlier file.
    /// Then their events would be recorded in the wrong order. If two listings are equal, they miss
    /// only files that are newer than all listed files. If no name is new, a single listing is
    /// enough.
    fn names_at_one_moment(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &str,
        cursor: &Cursor,
    ) -> io::Result<Vec<(String, Cursor)>> {
        let mut found = self.names(directory, path, cursor)?;
        for _ in 1..TRIES {
            let is_known = |(name, _): &(String, Cursor)| {
                let path = join(path, name);
                self.recorded.file(&path).is_some() || self.is_recorded_below(&path)
            };
            if found.iter().all(is_known) {
                break;
            }
            rewind(directory)?;
            let again = self.names(directory, path, cursor)?;
            let is_same = again.len() == found.len()
                && again
                    .iter()
                    .zip(&found)
                    .all(|(again, found)| again.0 == found.0);
            found = again;
            if is_same {
                break;
            }
        }
        Ok(found)
    }

    /// Lists the needed names of a directory once, from its current position.
    fn names(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &str,
        cursor: &Cursor,
    ) -> io::Result<Vec<(String, Cursor)>> {
        let mut names = Vec::new();
        let files = &mut self.seen.observed.files;
        list(directory, |name, _| match name {
            Ok(name) => {
                if let Some(next) = cursor.enter(name) {
                    names.push((name.to_owned(), next));
                }
            }
            Err(lossy) => {
                let path = join(path, &lossy);
                let sighting = ObservedFile::Invalid {
                    role: Role::Snapshot,
                    problem: unnamed(&path),
                };
                files.insert(path, sighting);
            }
        })?;
        names.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(names)
    }

    /// Observes an entry. `expected` is true if the layout determines its exact name.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &str,
        name: &str,
        cursor: &Cursor,
        expected: bool,
    ) {
        if cursor.leads_on() && self.is_hidden(path, cursor) {
            return;
        }
        let stat = match self.look_up(parent, path, name, expected) {
            Ok(Some(stat)) => stat,
            Ok(None) => return self.note_directory(path, None),
            // The key of the encrypted directory is missing, so no name in it can be found.
            Err(error) if lacks_key(&error) => {
                let above = path.rsplit_once('/').map_or("", |(above, _)| above);
                return self.blind(above, cursor, &error);
            }
            Err(error) => return self.unreadable(path, cursor, &error),
        };
        if cursor.leads_on() {
            self.note_directory(path, Some(stamp(&stat).inode));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if cursor.leads_on() => match open_directory_at(parent, name) {
                Ok(directory) => self.directory(&directory, path, cursor),
                Err(error) if is_absent(&error) => {}
                Err(error) => self.blind(path, cursor, &error),
            },
            _ => match cursor.file() {
                Some(place) => self.file(parent, path, name, &place, &stat),
                // Something else is in place of a directory that the layout or the record expects.
                None if expected || self.is_recorded_below(path) => {
                    if let Err(kind) = kind_of(&stat)
                        && cursor.leads_on()
                    {
                        self.note_blind(problem(path, kind, false), cursor);
                    }
                }
                None => {}
            },
        }
    }

    /// Returns the metadata of an entry, or `None` if it does not exist.
    ///
    /// A failed lookup does not prove that a recorded file is gone, so the directory is also
    /// listed.
    fn look_up(
        &self,
        parent: BorrowedFd<'_>,
        path: &str,
        name: &str,
        expected: bool,
    ) -> io::Result<Option<Stat>> {
        let stat = match stat_at(parent, name) {
            Err(error) if is_absent(&error) => {
                let is_recorded =
                    self.recorded.file(path).is_some() || self.is_recorded_below(path);
                if !is_recorded || self.root.is_absent(path)? {
                    return Ok(None);
                }
                stat_at(parent, name).map_err(hidden_by_a_cache)?
            }
            found => found?,
        };
        let is_this =
            !(expected && self.has_no_home) || self.root.is_spelled_so(path).unwrap_or(true);
        Ok(is_this.then_some(stat))
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &str,
        name: &str,
        place: &ProjectFile,
        stat: &Stat,
    ) {
        if place.role == Role::Definition && place.rank > self.definition_rank {
            return;
        }
        let sighting = match self.sight(parent, path, name, place, stat) {
            Ok(Some(state)) => ObservedFile::Complete(state),
            Ok(None) => return,
            Err(problem) => ObservedFile::Invalid {
                role: place.role,
                problem,
            },
        };
        let files = &mut self.seen.observed.files;
        if place.role == Role::Definition {
            // If there are two definitions, use the definition of the earlier template.
            self.definition_rank = place.rank;
            files.retain(|_, file| file.role() != Role::Definition);
        }
        files.insert(path.to_owned(), sighting);
    }

    fn sight(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &str,
        name: &str,
        place: &ProjectFile,
        stat: &Stat,
    ) -> Result<Option<FileState>, Problem> {
        kind_of(stat).map_err(|kind| problem(path, kind, false))?;
        let stamp: Stamp = stamp(stat);
        let known = self.recorded.file(path);
        if let Some(known) = known
            && known.is_unchanged(&stamp, self.observer.inodes)
            && !self.reported.names(path)
        {
            return Ok(Some(known.clone()));
        }
        if stamp.size > self.observer.max_file_size {
            return Err(self.observer.too_large(path, stamp.size));
        }
        let file = match open_file_at(parent, name) {
            Ok(file) => file,
            Err(error) if is_absent(&error) && (known.is_none() || self.is_gone(path)) => {
                return Ok(None);
            }
            Err(error) => return Err(problem(path, &format!("cannot be opened: {error}"), true)),
        };
        let (mut state, bytes) = self.observer.read(file.as_fd(), path, place, self.now)?;
        if let Some(known) = known.filter(|known| known.hash == state.hash) {
            self.observer.learn_inodes(&known.stamp, &state.stamp, path);
            state = known.read_again(state, self.observer.inodes);
        }
        let is_definition = state.role == Role::Definition;
        self.contents.add(state.hash, bytes, path, is_definition);
        Ok(Some(state))
    }

    fn is_gone(&self, path: &str) -> bool {
        matches!(self.root.is_absent(path), Ok(true))
    }

    fn note_directory(&mut self, path: &str, inode: Option<u64>) {
        let before = self.directories.insert(path.to_owned(), inode);
        self.seen.is_torn |= before.is_some_and(|before| before != inode);
    }

    fn is_recorded_below(&self, path: &str) -> bool {
        self.recorded.has_files_below(path)
    }
}

/// Explains why a lookup does not find a name that is listed.
fn hidden_by_a_cache(error: io::Error) -> io::Error {
    if !is_absent(&error) {
        return error;
    }
    io::Error::other(
        "it is listed but cannot be looked up; the file system probably remembers that it did not exist",
    )
}

#[cfg(test)]
mod tests;
