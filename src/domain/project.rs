//! Observed and recorded projects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::parameters::another_made_up_id;

/// The directory names of a project and its organization.
///
/// They are the captures `{organization}` and `{project}` of the layout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProjectKey {
    /// The directory name of the organization. `default` if the layout has no `{organization}`.
    pub organization: String,
    /// The directory name of the project.
    pub project: String,
}

impl ProjectKey {
    /// Makes a key from the two names.
    pub fn new(organization: impl Into<String>, project: impl Into<String>) -> Self {
        Self {
            organization: organization.into(),
            project: project.into(),
        }
    }
}

impl fmt::Display for ProjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.organization, self.project)
    }
}

/// The role of a file in its project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The definition of the project.
    Definition,
    /// A published copy of the definition.
    Published,
    /// A snapshot of the definition.
    Snapshot,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Definition, Role::Published, Role::Snapshot];

    /// The word for this value in the configuration, in listings and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Definition => "definition",
            Role::Published => "published",
            Role::Snapshot => "snapshot",
        }
    }

    /// Parses a word of [`Role::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// The BLAKE3 hash of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// Hashes these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each event formats several hashes. Formatting byte by byte took 2 % of a burst (callgrind).
        let nibbles = self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        let text: String = nibbles
            .filter_map(|nibble| char::from_digit(nibble.into(), 16))
            .collect();
        formatter.write_str(&text)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ContentHash({self})")
    }
}

/// The metadata of a file, by which a change is detected without reading the file.
///
/// It does not include the device, which may change when a disk is mounted again. Otherwise an
/// unchanged file would look changed after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The inode number.
    pub inode: u64,
    /// The size in bytes.
    pub size: u64,
    /// The modification time, in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// The change time, in nanoseconds since the Unix epoch.
    pub changed_ns: i64,
}

/// The parsed part of a project.xml: attributes and direct annotations of the root element.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The root attribute `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The root attribute `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The direct annotations by name. If several have the same name, the first is used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Ids that the project keeps although this content lacks them.
    ///
    /// Only a record has these, and a new definition by [`FileState::avoid_kept_ids`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Box<KeptIds>>,
}

/// Ids that a project keeps although its definition lacks them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptIds {
    /// The engineId of an earlier definition, if the current definition has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_id: Option<String>,
    /// The first key of a renamed project. The generated id of the project is derived from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_key: Option<ProjectKey>,
    /// The generated id, if a renamed project keeps the one of this project's first key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_up: Option<String>,
}

impl KeptIds {
    /// Makes kept ids without a generated one. Returns `None` if both are absent.
    pub fn new(engine_id: Option<String>, first_key: Option<ProjectKey>) -> Option<Box<Self>> {
        Self {
            engine_id,
            first_key,
            made_up: None,
        }
        .boxed()
    }

    fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// The placeholder in the annotation `version` that means "no version yet".
///
/// The modeler writes it into every project, and the server replaces it when it deploys.
const VERSION_PLACEHOLDER: &str = "version-to-be-generated-on-deploy";

impl Document {
    /// Returns an annotation by name, unless it is empty.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let value = self.annotations.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The engineId of the project: that of this content, else the kept one.
    pub fn engine_id(&self) -> Option<&str> {
        self.own_engine_id()
            .or_else(|| self.kept.as_ref()?.engine_id.as_deref())
    }

    /// The key of the project before its first rename, if it was renamed.
    pub fn first_key(&self) -> Option<&ProjectKey> {
        self.kept.as_ref()?.first_key.as_ref()
    }

    /// The kept generated id; see [`KeptIds::made_up`].
    pub(crate) fn kept_made_up_id(&self) -> Option<&str> {
        self.kept.as_ref()?.made_up.as_deref()
    }

    /// Whether the project has no id, so that one is generated.
    fn needs_made_up_id(&self) -> bool {
        let id = self.id.as_deref();
        self.engine_id().is_none() && id.is_none_or(|id| id.trim().is_empty())
    }

    /// The former key whose generated id this renamed project keeps, if any.
    pub(crate) fn occupied_key(&self) -> Option<&ProjectKey> {
        let is_in_use = self.needs_made_up_id() && self.kept_made_up_id().is_none();
        self.first_key().filter(|_| is_in_use)
    }

    /// The engineId in this content.
    fn own_engine_id(&self) -> Option<&str> {
        self.annotation("engineId")
    }

    /// The version, unless it is the placeholder.
    pub fn version(&self) -> Option<&str> {
        self.annotation("version")
            .filter(|version| *version != VERSION_PLACEHOLDER)
    }
}

/// A complete file at the time when it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The path below the repository's root.
    pub path: String,
    /// The role in the project.
    pub role: Role,
    /// The captured `{versionTag}`, if the template has one.
    pub tag: Option<String>,
    /// The metadata at the time of reading.
    pub stamp: Stamp,
    /// The time of the first reading with this stamp, in nanoseconds since the Unix epoch.
    ///
    /// May also be [`SETTLED_NS`]; see [`FileState::is_unchanged`].
    pub read_ns: i64,
    /// The hash of the content.
    pub hash: ContentHash,
    /// The parsed part of the content.
    pub document: Document,
    /// The owner of the file: the user name, or the user id if the system knows no name.
    pub owner: String,
}

/// The identity of a project, independent of its path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// The project with this engineId, in lower case.
    EngineId(String),
    /// The content of a project without an engineId.
    Content(ContentHash),
}

impl fmt::Display for Identity {
    /// Formats the identity for the store. Different identities have different texts.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::EngineId(id) => write!(formatter, "engine-id {id}"),
            Identity::Content(hash) => write!(formatter, "content {hash}"),
        }
    }
}

/// How old a change must be when the file is read, so that a later change is certain to show.
///
/// Two writes within one tick of the file system's clock leave the same times. A tick of Linux is up
/// to 10 ms, and that of some network and FAT file systems 2 s. So a file with a more recent change
/// is read again.
const TICK_NS: i64 = 2_000_000_000;

/// The value of `read_ns` for a file that was the same in two readings far enough apart.
///
/// No later change can have the same times. That also holds for times in the future, which files
/// from archives may have.
pub(crate) const SETTLED_NS: i64 = i64::MAX;

/// How far apart two readings must be for [`SETTLED_NS`].
///
/// It is more than a tick plus the duration of a step, because the time of a reading is the time when
/// its step began.
const APART_NS: i64 = 10_000_000_000;

/// Whether inode numbers identify files.
///
/// Some FUSE file systems give a file another number after it left the kernel's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Inodes {
    /// A file keeps its inode number.
    #[default]
    Stable,
    /// Inode numbers of unchanged files change, so they are ignored.
    Unstable,
}

impl FileState {
    /// Returns the identity of the project that this file defines.
    ///
    /// It depends only on the content, not on kept ids. So a moved file and its recorded state have
    /// the same identity.
    pub fn identity(&self) -> Identity {
        match self.document.own_engine_id() {
            Some(id) => Identity::EngineId(id.to_lowercase()),
            None => Identity::Content(self.hash),
        }
    }

    /// Whether the content has an id, so that copies of it have the same project id.
    pub(crate) fn has_own_id(&self) -> bool {
        let id = self.document.id.as_deref();
        self.document.own_engine_id().is_some() || id.is_some_and(|id| !id.trim().is_empty())
    }

    /// Whether both files have an engineId and the engineIds differ, ignoring case.
    pub(crate) fn has_another_engine_id(&self, other: &FileState) -> bool {
        match (self.document.engine_id(), other.document.engine_id()) {
            (Some(one), Some(other)) => one.to_lowercase() != other.to_lowercase(),
            _ => false,
        }
    }

    /// Returns this definition with the ids that the project keeps from the previous definition.
    pub(crate) fn succeeding(&self, before: &FileState) -> Self {
        let mut definition = self.clone();
        let has_none = self.document.own_engine_id().is_none();
        let engine_id = before.document.engine_id().filter(|_| has_none);
        definition.document.kept = KeptIds {
            engine_id: engine_id.map(str::to_owned),
            first_key: before.document.first_key().cloned(),
            made_up: before.document.kept_made_up_id().map(str::to_owned),
        }
        .boxed();
        definition
    }

    /// Returns this file at its new path. It keeps the first key, from which the id is generated.
    pub(crate) fn moved(&self, path: &str, from: &ProjectKey, to: &ProjectKey) -> Self {
        let mut file = self.clone();
        path.clone_into(&mut file.path);
        if self.role == Role::Definition {
            let document = &mut file.document;
            let mut kept = document.kept.take().unwrap_or_default();
            let first_key = kept.first_key.take().unwrap_or_else(|| from.clone());
            kept.first_key = Some(first_key).filter(|it| it != to);
            document.kept = kept.boxed();
        }
        file
    }

    /// Gives a new definition a generated id of its own, if `occupied` has its key.
    ///
    /// `occupied` has the keys whose generated ids are kept by renamed projects. The id depends on
    /// the file, so inferring the same import again gives the same id.
    pub(crate) fn avoid_kept_ids(&mut self, key: &ProjectKey, occupied: &BTreeSet<ProjectKey>) {
        let is_new = self.role == Role::Definition && self.document.kept.is_none();
        if is_new && self.document.needs_made_up_id() && occupied.contains(key) {
            let kept = KeptIds {
                made_up: Some(another_made_up_id(key, &self.stamp)),
                ..KeptIds::default()
            };
            self.document.kept = kept.boxed();
        }
    }

    /// Whether this stamp proves the file unchanged, so that it need not be read.
    pub(crate) fn is_unchanged(&self, stamp: &Stamp, inodes: Inodes) -> bool {
        is_unchanged(&self.stamp, self.read_ns, stamp, inodes)
    }

    /// Returns the state to record after another reading with the same content.
    ///
    /// Returns `again` only if `again` can prove the file unchanged and `self` cannot. So most
    /// readings of an unchanged file write nothing to the store.
    pub(crate) fn read_again(&self, again: Self, inodes: Inodes) -> Self {
        let is_same = self.stamp.is_same(&again.stamp, inodes)
            && (self.role, &self.tag) == (again.role, &again.tag);
        if is_same && self.is_unchanged(&again.stamp, inodes) {
            return self.clone();
        }
        if !is_same || again.read_ns < self.read_ns || again.stamp.is_old(again.read_ns) {
            return again;
        }
        let is_settled = again.read_ns.saturating_sub(self.read_ns) > APART_NS;
        Self {
            read_ns: if is_settled { SETTLED_NS } else { self.read_ns },
            ..self.clone()
        }
    }
}

impl Stamp {
    /// Whether two stamps are equal, ignoring unstable inode numbers.
    pub(crate) fn is_same(&self, other: &Self, inodes: Inodes) -> bool {
        let has_same_inode = self.inode == other.inode || inodes == Inodes::Unstable;
        has_same_inode
            && (self.size, self.modified_ns, self.changed_ns)
                == (other.size, other.modified_ns, other.changed_ns)
    }

    /// Whether any change after a reading at this time would give the file other times.
    fn is_old(&self, read_ns: i64) -> bool {
        self.changed_ns.max(self.modified_ns) < read_ns.saturating_sub(TICK_NS)
    }
}

fn is_unchanged(recorded: &Stamp, read_ns: i64, found: &Stamp, inodes: Inodes) -> bool {
    (read_ns == SETTLED_NS || recorded.is_old(read_ns)) && recorded.is_same(found, inodes)
}

/// The recorded metadata of a file, by which a full scan detects changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The path below the repository's root.
    pub path: String,
    /// The metadata at the time of reading.
    pub stamp: Stamp,
    /// The time of the first reading with this stamp; see [`FileState::read_ns`].
    pub read_ns: i64,
}

impl Mark {
    /// Whether the file is unchanged; see [`FileState::is_unchanged`].
    pub(crate) fn is_unchanged(&self, stamp: &Stamp, inodes: Inodes) -> bool {
        is_unchanged(&self.stamp, self.read_ns, stamp, inodes)
    }
}

/// The record of a project: the last known complete files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The definition.
    pub definition: Option<FileState>,
    /// The published copies, by path.
    pub published: BTreeMap<String, FileState>,
    /// The snapshots, by path.
    pub snapshots: BTreeMap<String, FileState>,
}

impl Recorded {
    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.definition.is_none() && self.published.is_empty() && self.snapshots.is_empty()
    }

    /// All recorded files: the definition, the published copies, the snapshots.
    pub fn files(&self) -> impl Iterator<Item = &FileState> {
        self.definition
            .iter()
            .chain(self.published.values())
            .chain(self.snapshots.values())
    }

    /// The recorded file at this path.
    pub fn file(&self, path: &str) -> Option<&FileState> {
        self.definition
            .as_ref()
            .filter(|definition| definition.path == path)
            .or_else(|| self.published.get(path))
            .or_else(|| self.snapshots.get(path))
    }

    /// Adds a file. Replaces a file with the same role and path.
    pub fn put(&mut self, file: FileState) {
        match file.role {
            Role::Definition => self.definition = Some(file),
            Role::Published => {
                self.published.insert(file.path.clone(), file);
            }
            Role::Snapshot => {
                self.snapshots.insert(file.path.clone(), file);
            }
        }
    }
}

impl FromIterator<FileState> for Recorded {
    fn from_iter<T: IntoIterator<Item = FileState>>(files: T) -> Self {
        let mut recorded = Recorded::default();
        for file in files {
            recorded.put(file);
        }
        recorded
    }
}

/// An invalid file, and why it is invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path below the repository's root. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The reason, as the log and `status` show it.
    pub reason: String,
    /// The line of the first error in the file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column of the first error in characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    /// Whether the file may become valid without a further report, for instance while it is being
    /// written.
    ///
    /// Such a file is observed again without a hint.
    #[serde(default)]
    pub may_resolve: bool,
}

/// An observed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedFile {
    /// A complete file.
    Complete(FileState),
    /// A file that is unreadable, incomplete or malformed.
    ///
    /// It does not prove that the file was deleted.
    Invalid {
        /// The role that a complete file at this path has.
        role: Role,
        /// The path, and why the file is invalid.
        problem: Problem,
    },
}

impl ObservedFile {
    /// The role of the file in its project.
    pub(crate) fn role(&self) -> Role {
        match self {
            ObservedFile::Complete(file) => file.role,
            ObservedFile::Invalid { role, .. } => *role,
        }
    }
}

/// A directory that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The path, and why the directory could not be read.
    pub problem: Problem,
    /// The roles of files that the directory may contain. No file with such a role counts as gone.
    pub hides: BTreeSet<Role>,
}

/// An observation of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The observed files by path. A path without an entry did not exist.
    pub files: BTreeMap<String, ObservedFile>,
    /// Directories that could not be read. Their files do not count as deleted.
    pub unreadable: Vec<Unreadable>,
}

impl Observed {
    /// The complete files of one role.
    pub fn complete(&self, role: Role) -> impl Iterator<Item = &FileState> {
        self.files.values().filter_map(move |file| match file {
            ObservedFile::Complete(file) if file.role == role => Some(file),
            _ => None,
        })
    }

    /// The definition, if it is complete.
    pub fn definition(&self) -> Option<&FileState> {
        self.complete(Role::Definition).next()
    }

    /// Whether a file of this role may be in a directory that could not be read.
    pub(crate) fn hides(&self, role: Role) -> bool {
        self.unreadable.iter().any(|one| one.hides.contains(&role))
    }

    /// Whether the definition certainly does not exist.
    pub(crate) fn definition_is_gone(&self) -> bool {
        !self.hides(Role::Definition)
            && self
                .files
                .values()
                .all(|file| file.role() != Role::Definition)
    }

    /// Whether a recorded file certainly does not exist any more.
    pub(crate) fn is_gone(&self, file: &FileState) -> bool {
        !self.hides(file.role) && !self.files.contains_key(&file.path)
    }

    /// Invalid files and unreadable directories.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.files
            .values()
            .filter_map(|file| match file {
                ObservedFile::Invalid { problem, .. } => Some(problem),
                ObservedFile::Complete(_) => None,
            })
            .chain(self.unreadable.iter().map(|one| &one.problem))
    }
}
