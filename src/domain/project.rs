//! What is seen of a project on disk, and what was recorded of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A project's place: the names of its organization and project directories, as the layout's
/// captures `{organization}` and `{project}` yielded them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProjectKey {
    /// The organization's directory name, or `default` where the layout has no organization.
    pub organization: String,
    /// The project's directory name.
    pub project: String,
}

impl ProjectKey {
    /// A key from the two names.
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

/// What a file is to its project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The project's definition.
    Definition,
    /// A published copy of it.
    Published,
    /// A snapshot of it.
    Snapshot,
}

impl Role {
    /// The word used in configuration, listings and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Definition => "definition",
            Role::Published => "published",
            Role::Snapshot => "snapshot",
        }
    }

    /// The role that [`Role::as_str`] names.
    pub fn from_word(word: &str) -> Option<Self> {
        [Role::Definition, Role::Published, Role::Snapshot]
            .into_iter()
            .find(|role| role.as_str() == word)
    }
}

/// BLAKE3 of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each event shows some of them. To format byte by byte took a fiftieth of a burst (callgrind).
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

/// What the file system says of a file without reading it.
///
/// The device is left out: it changes when a disk is mounted again, and would make the same file
/// look like another one after a restart.
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

/// What a project.xml says of itself: the root's own attributes and its direct annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The root attribute `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The root attribute `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The direct annotations by name; of two with one name the first counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The value of the annotation `version` that is no version (reference: the modeler writes it
/// into every project and the server replaces it when it deploys).
const VERSION_PLACEHOLDER: &str = "version-to-be-generated-on-deploy";

impl Document {
    /// An annotation that is there and not empty.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let value = self.annotations.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The project's UUID.
    pub fn engine_id(&self) -> Option<&str> {
        self.annotation("engineId")
    }

    /// The version, unless it is the placeholder.
    pub fn version(&self) -> Option<&str> {
        self.annotation("version")
            .filter(|version| *version != VERSION_PLACEHOLDER)
    }
}

/// A complete file, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Where it is, below the repository's root.
    pub path: String,
    /// What it is to its project.
    pub role: Role,
    /// What `{versionTag}` captured, where the template has it.
    pub tag: Option<String>,
    /// What the file system said when it was read.
    pub stamp: Stamp,
    /// When it was read, in nanoseconds since the Unix epoch; see [`FileState::is_unchanged`].
    pub read_ns: i64,
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// What it says of itself.
    pub document: Document,
    /// The file's owner: a name, or the number where the system knows no name.
    pub owner: String,
}

/// Which project a definition is of, wherever it lies: the one with this engineId, or, where it
/// has none, the one with this content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// The project with this engineId.
    EngineId(String),
    /// A project without an engineId, known by its content alone.
    Content(ContentHash),
}

impl fmt::Display for Identity {
    /// A text that differs for different identities.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::EngineId(id) => write!(formatter, "engine-id {id}"),
            Identity::Content(hash) => write!(formatter, "content {hash}"),
        }
    }
}

/// How old a change must have been when the file was read for its times to prove anything, in
/// nanoseconds.
///
/// Two writes within one tick of the file system's clock leave the same times. Linux ticks at up
/// to 10 ms and some network and FAT file systems at 2 s, so a younger change is read again.
const TICK_NS: i64 = 2_000_000_000;

impl FileState {
    /// Which project this is of.
    pub fn identity(&self) -> Identity {
        match self.document.engine_id() {
            Some(id) => Identity::EngineId(id.to_owned()),
            None => Identity::Content(self.hash),
        }
    }

    /// Whether a file with this stamp is the recorded one and need not be read.
    pub fn is_unchanged(&self, stamp: &Stamp) -> bool {
        is_unchanged(&self.stamp, self.read_ns, stamp)
    }
}

fn is_unchanged(recorded: &Stamp, read_ns: i64, found: &Stamp) -> bool {
    let newest = recorded.changed_ns.max(recorded.modified_ns);
    recorded == found && newest < read_ns.saturating_sub(TICK_NS)
}

/// What tells whether a recorded file is unchanged, and nothing else of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where the file is, below the repository's root.
    pub path: String,
    /// What the file system said when it was read.
    pub stamp: Stamp,
    /// When it was read, in nanoseconds since the Unix epoch.
    pub read_ns: i64,
}

impl Mark {
    /// As [`FileState::is_unchanged`].
    pub fn is_unchanged(&self, stamp: &Stamp) -> bool {
        is_unchanged(&self.stamp, self.read_ns, stamp)
    }
}

/// What was recorded of a project: its complete files by path.
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

    /// Puts a file in the place of its role and path.
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

/// Why a file that is there does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where it is, below the repository's root; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What is wrong with it, for a person.
    pub reason: String,
    /// The line of the first fault in the file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column of it in characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    /// Whether time alone can mend it: a file that is still being written, for one. Such a file is
    /// looked at again without a hint.
    #[serde(default)]
    pub may_heal: bool,
}

/// What one look found in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// A complete file.
    Complete(FileState),
    /// Something that could not be read as a complete file: neither there nor gone.
    Unclear {
        /// What a complete file there would be to the project.
        role: Role,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What one look found of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What was found, by path. What is not here was not there.
    pub files: BTreeMap<String, Sighting>,
    /// Directories that could not be read. With any of these nothing that is missing counts as
    /// gone: unreadable is not deleted.
    pub blind: Vec<Problem>,
}

impl Observed {
    /// The complete files of one role.
    pub fn complete(&self, role: Role) -> impl Iterator<Item = &FileState> {
        self.files
            .values()
            .filter_map(move |sighting| match sighting {
                Sighting::Complete(file) if file.role == role => Some(file),
                _ => None,
            })
    }

    /// The definition, where it is complete.
    pub fn definition(&self) -> Option<&FileState> {
        self.complete(Role::Definition).next()
    }

    /// Whether it is certain that there is no definition.
    pub fn definition_is_gone(&self) -> bool {
        self.blind.is_empty()
            && !self.files.values().any(|sighting| match sighting {
                Sighting::Complete(file) => file.role == Role::Definition,
                Sighting::Unclear { role, .. } => *role == Role::Definition,
            })
    }

    /// Whether the file at this path is certainly not there.
    pub fn is_gone(&self, path: &str) -> bool {
        self.blind.is_empty() && !self.files.contains_key(path)
    }

    /// Everything that could not be read.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.files
            .values()
            .filter_map(|sighting| match sighting {
                Sighting::Unclear { problem, .. } => Some(problem),
                Sighting::Complete(_) => None,
            })
            .chain(&self.blind)
    }
}
