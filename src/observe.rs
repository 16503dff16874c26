//! The only reader of the repository.
//!
//! Constraint: a file counts only when it reads the same twice and is well-formed to its end, and
//! what cannot be read is neither there nor gone. A look never follows a link, never blocks, never
//! reads more than `max_file_size`, and reads no file whose metadata proves it unchanged.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::{Dir, FileType, Stat};

use crate::document;
use crate::domain::project::{
    ContentHash, FileState, Observed, Problem, ProjectKey, Recorded, Role, Sighting, Stamp,
};
use crate::layout::{Cursor, Entries, Layout, Place};
use crate::repository::{Root, kind_of, open_directory_at, open_file_at, stamp, stat_at};
use crate::users::OwnerNames;
use crate::watch::Permit;

/// How long after its last change a file that does not count is looked at again without a hint.
/// A writer that takes longer between two writes is found by its close or by the next rescan.
const HEALING_NS: i64 = 10 * 60 * 1_000_000_000;

/// How often a look is begun anew when directories are moved during it, and a directory is listed
/// when files come and go meanwhile.
const TRIES: usize = 5;

/// What one look found.
#[derive(Debug, Default)]
pub struct Look {
    /// What is there.
    pub observed: Observed,
    /// The bytes of the files that were read, by their hash.
    pub contents: Vec<(ContentHash, Bytes)>,
    /// Whether a directory was moved in between, so that this is no picture of any moment.
    is_torn: bool,
}

/// What a walk over directories found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The projects for which there is a directory or a file.
    pub keys: Vec<ProjectKey>,
    /// Directories that could not be read, and entries that cannot belong to a project.
    pub problems: Vec<Problem>,
    /// Whether some directory could not be read.
    pub blind: bool,
}

/// A file that a hint named, opened at once so that its content outlives its name.
#[derive(Debug)]
pub struct Held {
    /// Where it was, below the root.
    pub path: String,
    /// What it was there.
    pub place: Place,
    /// The open file.
    pub file: OwnedFd,
    /// What the file system said of it when it was opened.
    pub stamp: Stamp,
    /// Counts it among the held ones.
    pub permit: Permit,
}

/// Reads the repository as one configuration says.
pub struct Observer {
    layout: Layout,
    max_file_size: u64,
    owners: OwnerNames,
}

impl Observer {
    /// An observer of this layout that reads files up to `max_file_size` bytes.
    pub fn new(layout: Layout, max_file_size: u64) -> Self {
        Self {
            layout,
            max_file_size,
            owners: OwnerNames::system(),
        }
    }

    /// Looks at one project. Files whose metadata equals the recorded are taken as recorded.
    pub fn look(
        &mut self,
        root: &Root,
        key: &ProjectKey,
        recorded: &Recorded,
        now: Timestamp,
    ) -> Look {
        let mut look = self.look_once(root, key, recorded, now);
        for _ in 1..TRIES {
            if !look.is_torn {
                return look;
            }
            let earlier = look.contents;
            look = self.look_once(root, key, recorded, now);
            look.contents.extend(earlier);
        }
        if look.is_torn {
            let reason = "the project's directories are moved faster than they can be read";
            look.observed
                .blind
                .push(problem(&key.to_string(), reason, true));
        }
        look
    }

    fn look_once(
        &mut self,
        root: &Root,
        key: &ProjectKey,
        recorded: &Recorded,
        now: Timestamp,
    ) -> Look {
        let cursor = self.layout.project(key);
        let mut walk = ProjectWalk {
            observer: self,
            recorded,
            now,
            definition_rank: usize::MAX,
            directories: HashMap::new(),
            look: Look::default(),
        };
        // The definition last. A snapshot is taken of a definition that is saved already; were the
        // definition read first, one that is saved and snapshotted in between would seem to be
        // restored from that snapshot at the next look.
        let copies = cursor.clone().of(|role| role != Role::Definition);
        let definition = cursor.of(|role| role == Role::Definition);
        for cursor in [copies, definition] {
            match root.open_directory("") {
                Ok(directory) => walk.directory(directory, "", &cursor),
                Err(error) => walk.blind("", &error),
            }
        }
        walk.look
    }

    /// Reads a file that was opened when a hint named it. Nothing when it is not complete.
    ///
    /// Losing its name changed the file's change time, and it is compared with those of other
    /// files; so the time from before counts.
    pub fn read_held(&mut self, held: &Held, now: Timestamp) -> Option<(FileState, Bytes)> {
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

    /// Finds the projects at and below a directory; the empty path is the root.
    pub fn discover(&self, root: &Root, under: &str) -> Discovery {
        let mut discovery = Discovery::default();
        let Some(cursor) = self.layout.at(under) else {
            return discovery;
        };
        if let Some(key) = cursor.project() {
            discovery.keys.push(key);
            return discovery;
        }
        match root.open_directory(under) {
            Ok(directory) => discover_in(directory, under, &cursor, &mut discovery),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => discovery.blind(under, &error),
        }
        discovery.keys.sort();
        discovery.keys.dedup();
        discovery
    }

    fn read(
        &mut self,
        file: BorrowedFd<'_>,
        path: &str,
        place: &Place,
        now: Timestamp,
    ) -> Result<(FileState, Bytes), Problem> {
        let unread = |reason: String, may_heal: bool| Problem {
            path: path.to_owned(),
            reason,
            line: None,
            column: None,
            may_heal,
        };
        let failed = |error: io::Error| unread(format!("cannot be read: {error}"), true);
        let before = rustix::fs::fstat(file).map_err(|error| failed(error.into()))?;
        kind_of(&before).map_err(|kind| unread(kind.to_owned(), false))?;
        let size = stamp(&before).size;
        if size > self.max_file_size {
            return Err(self.too_large(path, size));
        }
        let file = File::from(file.try_clone_to_owned().map_err(failed)?);
        let bytes = read_up_to(&file, size, self.max_file_size).map_err(failed)?;
        let after = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        let is_stable = stamp(&before) == stamp(&after)
            && bytes.len() as u64 == size
            && reads_the_same(&file, &bytes).map_err(failed)?;
        if !is_stable {
            return Err(unread("changed while it was read".to_owned(), true));
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
                    owner: self.owners.name(after.st_uid, now),
                };
                Ok((state, bytes))
            }
            Err(malformed) => Err(Problem {
                path: path.to_owned(),
                reason: malformed.reason,
                line: Some(malformed.line),
                column: Some(malformed.column),
                may_heal: read_ns.saturating_sub(stamp.changed_ns) < HEALING_NS,
            }),
        }
    }

    fn too_large(&self, path: &str, size: u64) -> Problem {
        Problem {
            path: path.to_owned(),
            reason: format!(
                "is larger than repository.max_file_size allows ({size} bytes, {} allowed)",
                self.max_file_size
            ),
            line: None,
            column: None,
            may_heal: false,
        }
    }
}

/// One look at one project, in progress.
struct ProjectWalk<'a> {
    observer: &'a mut Observer,
    recorded: &'a Recorded,
    now: Timestamp,
    definition_rank: usize,
    /// The inodes of the directories on the way, none where there was no directory. A path that is
    /// passed twice must lead to the same one.
    directories: HashMap<String, Option<u64>>,
    look: Look,
}

impl ProjectWalk<'_> {
    fn directory(&mut self, directory: OwnedFd, path: &str, cursor: &Cursor) {
        match cursor.entries() {
            Entries::Only(names) => {
                for name in names {
                    if let Some(next) = cursor.enter(&name) {
                        self.entry(directory.as_fd(), &join(path, &name), &name, &next, true);
                    }
                }
            }
            Entries::Any => match names_at_one_moment(directory.as_fd(), cursor) {
                Ok(names) => {
                    for name in names {
                        if let Some(next) = cursor.enter(&name) {
                            self.entry(directory.as_fd(), &join(path, &name), &name, &next, false);
                        }
                    }
                }
                Err(error) => self.blind(path, &error),
            },
        }
    }

    /// `expected` says that the layout asks for this very name.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &str,
        name: &str,
        cursor: &Cursor,
        expected: bool,
    ) {
        let stat = match stat_at(parent, name) {
            Ok(stat) => stat,
            Err(error) if is_absent(&error) => return self.note_directory(path, None),
            Err(error) => return self.unreadable(path, cursor, &error),
        };
        if cursor.leads_on() {
            self.note_directory(path, Some(stamp(&stat).inode));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if cursor.leads_on() => match open_directory_at(parent, name) {
                Ok(directory) => self.directory(directory, path, cursor),
                Err(error) if is_absent(&error) => {}
                Err(error) => self.blind(path, &error),
            },
            _ => match cursor.place() {
                Some(place) => self.file(parent, path, name, &place, &stat),
                // Where a directory with recorded files was, something else is now.
                None if expected || self.is_recorded_below(path) => {
                    if let Err(kind) = kind_of(&stat)
                        && cursor.leads_on()
                    {
                        self.note_blind(problem(path, kind, false));
                    }
                }
                None => {}
            },
        }
    }

    fn file(&mut self, parent: BorrowedFd<'_>, path: &str, name: &str, place: &Place, stat: &Stat) {
        if place.role == Role::Definition {
            if place.rank > self.definition_rank {
                return;
            }
            // Of two definitions the template that is listed first decides.
            self.definition_rank = place.rank;
            self.look.observed.files.retain(|_, sighting| {
                !matches!(
                    sighting,
                    Sighting::Complete(FileState {
                        role: Role::Definition,
                        ..
                    }) | Sighting::Unclear {
                        role: Role::Definition,
                        ..
                    }
                )
            });
        }
        let sighting = match self.sight(parent, path, name, place, stat) {
            Ok(Some((state, contents))) => {
                if let Some(bytes) = contents {
                    self.look.contents.push((state.hash, bytes));
                }
                Sighting::Complete(state)
            }
            Ok(None) => return,
            Err(problem) => Sighting::Unclear {
                role: place.role,
                problem,
            },
        };
        self.look.observed.files.insert(path.to_owned(), sighting);
    }

    fn sight(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &str,
        name: &str,
        place: &Place,
        stat: &Stat,
    ) -> Result<Option<(FileState, Option<Bytes>)>, Problem> {
        kind_of(stat).map_err(|kind| problem(path, kind, false))?;
        let stamp: Stamp = stamp(stat);
        if let Some(known) = self.recorded.file(path)
            && known.is_unchanged(&stamp)
        {
            return Ok(Some((known.clone(), None)));
        }
        if stamp.size > self.observer.max_file_size {
            return Err(self.observer.too_large(path, stamp.size));
        }
        let file = match open_file_at(parent, name) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(problem(path, &format!("cannot be opened: {error}"), true)),
        };
        let (state, bytes) = self.observer.read(file.as_fd(), path, place, self.now)?;
        Ok(Some((state, Some(bytes))))
    }

    fn note_directory(&mut self, path: &str, inode: Option<u64>) {
        let before = self.directories.insert(path.to_owned(), inode);
        self.look.is_torn |= before.is_some_and(|before| before != inode);
    }

    fn unreadable(&mut self, path: &str, cursor: &Cursor, error: &io::Error) {
        match cursor.place() {
            Some(place) if !cursor.leads_on() => {
                self.look.observed.files.insert(
                    path.to_owned(),
                    Sighting::Unclear {
                        role: place.role,
                        problem: problem(path, &format!("cannot be examined: {error}"), true),
                    },
                );
            }
            _ => self.blind(path, error),
        }
    }

    fn blind(&mut self, path: &str, error: &io::Error) {
        let reason = format!("the directory cannot be read: {error}");
        self.note_blind(problem(path, &reason, true));
    }

    fn note_blind(&mut self, problem: Problem) {
        let blind = &mut self.look.observed.blind;
        if !blind.iter().any(|known| known.path == problem.path) {
            blind.push(problem);
        }
    }

    fn is_recorded_below(&self, path: &str) -> bool {
        self.recorded.files().any(|file| {
            file.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

impl Discovery {
    fn blind(&mut self, path: &str, error: &io::Error) {
        self.blind = true;
        let reason = format!("the directory cannot be read: {error}");
        self.problems.push(problem(path, &reason, true));
    }
}

fn discover_in(directory: OwnedFd, path: &str, cursor: &Cursor, discovery: &mut Discovery) {
    let mut directories = Vec::new();
    let mut visit = |name: &str, kind: FileType, discovery: &mut Discovery| {
        let Some(next) = cursor.enter(name) else {
            return;
        };
        let path = join(path, name);
        match kind {
            FileType::Directory if next.leads_on() => match next.project() {
                Some(key) => discovery.keys.push(key),
                None => directories.push((name.to_owned(), path, next)),
            },
            FileType::Symlink => {
                let reason = "is a symbolic link, and links are not followed";
                discovery.problems.push(problem(&path, reason, false));
            }
            _ => discovery.keys.extend(next.place().map(|place| place.key)),
        }
    };
    match cursor.entries() {
        Entries::Only(names) => {
            for name in names {
                match stat_at(directory.as_fd(), &name) {
                    Ok(stat) => visit(&name, FileType::from_raw_mode(stat.st_mode), discovery),
                    Err(error) if is_absent(&error) => {}
                    Err(error) => discovery.blind(&join(path, &name), &error),
                }
            }
        }
        Entries::Any => {
            let listed = list(directory.as_fd(), |name, kind| match name {
                Ok(name) => {
                    let kind = match kind {
                        FileType::Unknown => stat_at(directory.as_fd(), name)
                            .map_or(FileType::Unknown, |stat| {
                                FileType::from_raw_mode(stat.st_mode)
                            }),
                        known => known,
                    };
                    visit(name, kind, discovery);
                }
                Err(lossy) => discovery.problems.push(problem(
                    &join(path, &lossy),
                    "has a name that is not UTF-8, and so cannot be named in a callback",
                    false,
                )),
            });
            if let Err(error) = listed {
                discovery.blind(path, &error);
            }
        }
    }
    for (name, path, next) in directories {
        match open_directory_at(directory.as_fd(), &name) {
            Ok(below) => discover_in(below, &path, &next, discovery),
            Err(error) if is_absent(&error) => {}
            Err(error) => discovery.blind(&path, &error),
        }
    }
}

/// The names of a directory that its cursor leads on to.
///
/// A listing of a directory in which files are created meanwhile may have a later one and miss an
/// earlier one, and their events would be recorded in the wrong order. Two listings that are equal
/// miss only what was created after all that they have.
fn names_at_one_moment(directory: BorrowedFd<'_>, cursor: &Cursor) -> io::Result<Vec<String>> {
    let mut names = names(directory, cursor)?;
    for _ in 1..TRIES {
        let again = self::names(directory, cursor)?;
        if again == names {
            break;
        }
        names = again;
    }
    Ok(names)
}

fn names(directory: BorrowedFd<'_>, cursor: &Cursor) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    list(directory, |name, _| {
        // A name that is not text matches no template, and so cannot be a file of this project;
        // discovery and the listing of problems speak of it.
        if let Ok(name) = name
            && cursor.enter(name).is_some()
        {
            names.push(name.to_owned());
        }
    })?;
    names.sort_unstable();
    Ok(names)
}

/// Visits the entries of a directory but `.` and `..`: the name, or the name with its bytes that
/// are not UTF-8 replaced, and the kind of file as far as the listing tells.
pub fn list(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(Result<&str, String>, FileType),
) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match name.to_str() {
            Ok(text) => visit(Ok(text), entry.file_type()),
            Err(_) => visit(Err(name.to_string_lossy().into_owned()), entry.file_type()),
        }
    }
    Ok(())
}

/// A path below the root and one more component.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

fn problem(path: &str, reason: &str, may_heal: bool) -> Problem {
    Problem {
        path: path.to_owned(),
        reason: reason.to_owned(),
        line: None,
        column: None,
        may_heal,
    }
}

/// Whether an error says that nothing is there. A component that is a file where a directory was
/// says so too: what was below it is gone.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn read_up_to(file: &File, size: u64, max: u64) -> io::Result<Bytes> {
    // One byte more than expected shows a file that grew. The capacity is what the file system
    // says, which `max` bounds.
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(max)).unwrap_or(0) + 1);
    let mut positioned = PositionedRead { file, offset: 0 };
    positioned.by_ref().take(size + 1).read_to_end(&mut bytes)?;
    Ok(Bytes::from(bytes))
}

/// Whether a second reading gives the same bytes.
fn reads_the_same(file: &File, bytes: &[u8]) -> io::Result<bool> {
    let mut buffer = [0_u8; 32 * 1024];
    let mut offset = 0_usize;
    loop {
        let count = file.read_at(&mut buffer, offset as u64)?;
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

/// Reads from the start whatever the descriptor's own position is: a held descriptor may be read
/// more than once.
struct PositionedRead<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for PositionedRead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
