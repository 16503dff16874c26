//! Observed and recorded projects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::identity::{Identity, KeptIds};
pub(crate) use super::stamp::Inodes;
pub use super::stamp::{Mark, Stamp};
use super::work::visit;

/// Separates the repository from the organization in keys.
///
/// No name on disk contains a slash.
const IN_REPOSITORY: &str = "//";

/// The names of a project and its organization on disk.
///
/// They are the captures `{organization}` and `{project}` of the layout, usually directory names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProjectKey {
    /// The name of the organization. `default` if the layout has no `{organization}`.
    ///
    /// With several repositories, it starts with `REPOSITORY//`. So equal paths in two repositories
    /// are two projects in the record, in the queues, and in the ids of events.
    pub organization: String,
    /// The name of the project.
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

    /// The name of the repository, if there are several.
    pub fn repository(&self) -> Option<&str> {
        self.organization
            .rsplit_once(IN_REPOSITORY)
            .map(|(name, _)| name)
    }

    /// The name of the organization, without the repository.
    pub fn organization_name(&self) -> &str {
        self.organization
            .rsplit_once(IN_REPOSITORY)
            .map_or(&self.organization, |(_, organization)| organization)
    }

    /// The two names with a slash in between, without the repository.
    pub fn path(&self) -> String {
        format!("{}/{}", self.organization_name(), self.project)
    }
}

/// Returns the bounds of the stored names of a repository's organizations.
///
/// The end is exclusive.
pub(crate) fn organizations_of(repository: &str) -> (String, String) {
    // In ASCII, `0` follows the slash.
    (format!("{repository}//"), format!("{repository}/0"))
}

/// Returns the stored form of an organization's name: the name, or `REPOSITORY//NAME`.
pub fn stored_organization(repository: Option<&str>, organization: &str) -> String {
    match repository {
        Some(repository) => format!("{repository}{IN_REPOSITORY}{organization}"),
        None => organization.to_owned(),
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
    /// The last definition of a deleted project, in a record; see [`Recorded::deleted`].
    Deleted,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 4] = [
        Role::Definition,
        Role::Published,
        Role::Snapshot,
        Role::Deleted,
    ];

    /// The name of this role in messages and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Definition => "definition",
            Role::Published => "published",
            Role::Snapshot => "snapshot",
            Role::Deleted => "deleted",
        }
    }

    /// Parses a name returned by [`Role::as_str`].
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
        // Each event formats several hashes. Formatting byte by byte took 2 % of the instructions
        // of a burst (callgrind).
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

/// The parsed part of a project.xml, and the ids that the project keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The root attribute `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The root attribute `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The annotations by name.
    ///
    /// Annotations above the limits of the parser are left out. Of others with the same name, the
    /// first is used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Ids that the project keeps although this content lacks them.
    ///
    /// They come from [`FileState::succeeding`], [`FileState::moved`] and
    /// [`FileState::avoid_kept_ids`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Box<KeptIds>>,
}

/// The placeholder in the annotation `version` that means "no version yet".
///
/// A deployment replaces it.
const VERSION_PLACEHOLDER: &str = "version-to-be-generated-on-deploy";

impl Document {
    /// Returns an annotation without surrounding white space, unless nothing remains.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let value = self.annotations.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The annotation `version`, unless it is empty or the placeholder.
    pub fn version(&self) -> Option<&str> {
        self.annotation("version")
            .filter(|version| *version != VERSION_PLACEHOLDER)
    }
}

/// The state of a complete file at the time of reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The path below the repository's root.
    pub path: String,
    /// The role in the project.
    pub role: Role,
    /// The version tag captured from the path, if the template has `{versionTag}`.
    pub tag: Option<String>,
    /// The metadata.
    pub stamp: Stamp,
    /// The time of a reading with this stamp, in nanoseconds since the Unix epoch.
    ///
    /// [`FileState::read_again`] decides which reading, and when the value is
    /// [`SETTLED_NS`](super::stamp::SETTLED_NS). The value is 0 for [`Role::Deleted`].
    pub read_ns: i64,
    /// The hash of the content.
    pub hash: ContentHash,
    /// The parsed part of the content.
    pub document: Document,
    /// The owner of the file: the user name, or the user id if the user has no name.
    ///
    /// Empty if the user database did not answer.
    pub owner: String,
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
    /// The last definition of a deleted project whose published copies could not be read.
    ///
    /// The record keeps it until these copies can be judged, a definition is recorded again, or the
    /// project appears in another directory of its organization.
    pub deleted: Option<FileState>,
}

impl Recorded {
    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.last_definition().is_none() && self.published.is_empty() && self.snapshots.is_empty()
    }

    /// The definition, or the last definition of a deleted project.
    pub fn last_definition(&self) -> Option<&FileState> {
        self.definition.as_ref().or(self.deleted.as_ref())
    }

    /// All recorded files, including the last definition of a deleted project.
    pub fn files(&self) -> impl Iterator<Item = &FileState> {
        self.definition
            .iter()
            .chain(&self.deleted)
            .chain(self.published.values())
            .chain(self.snapshots.values())
            .inspect(|_| visit())
    }

    /// Whether a recorded file is below the directory at this path.
    ///
    /// Ignores the definition of a deleted project.
    pub(crate) fn has_files_below(&self, path: &str) -> bool {
        let is_below = |file: &str| {
            let rest = file.strip_prefix(path);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let first = format!("{path}/");
        let is_first_below = |copies: &BTreeMap<String, FileState>| {
            let mut from = copies.range(first.clone()..);
            from.next().is_some_and(|(file, _)| is_below(file))
        };
        let definition = self.definition.as_ref();
        definition.is_some_and(|file| is_below(&file.path))
            || is_first_below(&self.published)
            || is_first_below(&self.snapshots)
    }

    /// The recorded file at this path. Ignores the definition of a deleted project.
    pub fn file(&self, path: &str) -> Option<&FileState> {
        self.definition
            .as_ref()
            .filter(|definition| definition.path == path)
            .or_else(|| self.published.get(path))
            .or_else(|| self.snapshots.get(path))
    }

    /// Adds a file.
    ///
    /// A copy replaces the copy at its path. Any other file replaces the file with its role.
    pub fn put(&mut self, file: FileState) {
        match file.role {
            Role::Definition => self.definition = Some(file),
            Role::Deleted => self.deleted = Some(file),
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

/// A file or directory that cannot be used, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path below the repository's root. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The reason, as the log and `status` show it.
    pub reason: String,
    /// The line of the first error in a malformed file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column of the first error in a malformed file, in characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    /// Whether the problem may end without another hint.
    ///
    /// For instance, a program may still be writing the file. Then its project is observed again
    /// without a hint.
    #[serde(default)]
    pub may_resolve: bool,
}

impl Problem {
    /// Whether the file is malformed, probably because a program is still writing it.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.may_resolve && self.line.is_some()
    }
}

/// An observed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedFile {
    /// A complete file.
    Complete(FileState),
    /// A file that cannot be used, for instance because it is unreadable or malformed.
    ///
    /// Such a file does not count as deleted.
    Invalid {
        /// The role that a complete file would have at this path.
        ///
        /// Always [`Role::Snapshot`] if the path is not UTF-8.
        role: Role,
        /// The path, and why the file is invalid.
        problem: Problem,
    },
}

impl ObservedFile {
    pub(crate) fn role(&self) -> Role {
        match self {
            ObservedFile::Complete(file) => file.role,
            ObservedFile::Invalid { role, .. } => *role,
        }
    }
}

/// A directory whose files are unknown, usually because it could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The path, and why the files of the directory are unknown.
    pub problem: Problem,
    /// The roles of files that the directory may contain.
    ///
    /// Files with these roles do not count as gone.
    pub hides: BTreeSet<Role>,
}

/// An observation of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The observed files by path, including invalid files.
    pub files: BTreeMap<String, ObservedFile>,
    /// Directories whose files are unknown. These files do not count as deleted.
    pub unreadable: Vec<Unreadable>,
}

impl Observed {
    /// The complete files of one role.
    pub fn complete(&self, role: Role) -> impl Iterator<Item = &FileState> {
        let files = self.files.values().inspect(|_| visit());
        files.filter_map(move |file| match file {
            ObservedFile::Complete(file) if file.role == role => Some(file),
            _ => None,
        })
    }

    /// The definition, if it is complete.
    pub fn definition(&self) -> Option<&FileState> {
        self.complete(Role::Definition).next()
    }

    /// Whether the definition is probably being written.
    pub(crate) fn has_incomplete_definition(&self) -> bool {
        self.files.values().any(|file| match file {
            ObservedFile::Invalid { role, problem } => {
                *role == Role::Definition && problem.is_incomplete()
            }
            ObservedFile::Complete(_) => false,
        })
    }

    /// Whether a file of this role may be in an unreadable directory.
    pub(crate) fn hides(&self, role: Role) -> bool {
        self.unreadable.iter().any(|one| one.hides.contains(&role))
    }

    /// Whether the definition certainly does not exist.
    pub(crate) fn definition_is_gone(&self) -> bool {
        !self.hides(Role::Definition)
            && self
                .files
                .values()
                .inspect(|_| visit())
                .all(|file| file.role() != Role::Definition)
    }

    /// Returns a predicate for recorded files that certainly no longer exist.
    pub(crate) fn is_gone(&self) -> impl Fn(&FileState) -> bool {
        // Many directories may be unreadable, so their roles are collected once.
        let unreadable = self.unreadable.iter().inspect(|_| visit());
        let hidden: BTreeSet<Role> = unreadable.flat_map(|one| &one.hides).copied().collect();
        move |file| !hidden.contains(&file.role) && !self.files.contains_key(&file.path)
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
