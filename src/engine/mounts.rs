//! Guards the file systems that are mounted below the root.
//!
//! Constraint: unmounting a file system must not look like a removal of its projects. So no event
//! is inferred below a hidden path. A path is hidden while its recorded file system is not mounted,
//! or while an unknown file system there covers recorded projects. But if at least half of the
//! recorded projects below a path have files, the path is not hidden.
//!
//! Some programs remove the mount point after unmounting. So if the mount point is missing too, the
//! path is hidden only for `repository.mass_delete_after`. After that, its projects are treated as
//! removed.

use std::collections::BTreeMap;
use std::path::Path;

use tracing::{info, warn};

use crate::config::Repository;
use crate::domain::project::ProjectKey;
use crate::domain::settle::Moment;
use crate::mounts::{MountList, Mounts};
use crate::observe::is_absent;
use crate::repository::Root;
use crate::store::{RepositoryStore, StoreError};

use super::root::SURVEYED_AT_ONCE;

/// The reason why a path is hidden if its file system is missing.
const MISSING: &str = "its file system is not mounted";

/// The reason why a path is hidden if its mount point is missing too.
const REMOVED: &str = "its file system is not mounted, and the mount point was removed";

/// Tracks the trusted and the hidden file systems below the root.
#[derive(Debug, Default)]
pub(crate) struct MountGuard {
    list: MountList,
    /// Whether the mounts were checked after their last change.
    is_current: bool,
    /// The identities of the trusted mounted directories, by path below the root.
    known: BTreeMap<String, String>,
    /// The stored text of `known`.
    recorded: String,
    /// The paths below which no events are inferred, each with the reason.
    hidden: BTreeMap<String, String>,
    /// Removed mount points, with the time when each was first found missing.
    removed: BTreeMap<String, Moment>,
}

/// The inputs of a check of the mounts.
pub(super) struct Checking<'a> {
    pub root: &'a Root,
    pub repository: &'a Repository,
    pub store: &'a RepositoryStore,
    pub now: Moment,
    /// Called for each recorded project that the check looks for.
    pub on_progress: &'a dyn Fn(),
}

impl MountGuard {
    /// Makes a guard from the stored text.
    pub(crate) fn new(recorded: Option<String>) -> Self {
        let recorded = recorded.unwrap_or_default();
        let known = recorded.lines().filter_map(|line| line.split_once('\t'));
        Self {
            known: known
                .map(|(identity, path)| (path.to_owned(), identity.to_owned()))
                .collect(),
            recorded,
            ..Self::default()
        }
    }

    /// Returns the text to store, if it differs from the stored text.
    pub(super) fn to_record(&self) -> Option<String> {
        let lines = self.known.iter();
        let text: String = lines
            .map(|(path, identity)| format!("{identity}\t{path}\n"))
            .collect();
        (text != self.recorded).then_some(text)
    }

    pub(super) fn remember(&mut self, recorded: String) {
        self.recorded = recorded;
    }

    /// Returns the paths below which no events are inferred, each with the reason.
    pub(super) fn hidden(&self) -> &BTreeMap<String, String> {
        &self.hidden
    }

    /// Returns recorded mounts that are missing or replaced, each with the reason.
    pub(crate) fn missing(&self, root: &Path) -> BTreeMap<String, String> {
        let missing = self
            .known
            .iter()
            .filter(|(path, known)| identity(&root.join(path)).as_ref() != Some(*known));
        missing
            .map(|(path, _)| (path.clone(), MISSING.to_owned()))
            .collect()
    }

    /// Whether the mounts changed since the last check.
    ///
    /// If a directory above a mount is renamed, the kernel's list of mounts does not report a
    /// change. So this also compares the identities of the mounted directories.
    pub(super) fn has_changed(&mut self, root: &Path) -> bool {
        let is_hidden = |path: &str| {
            let mut hidden = self.hidden.keys();
            hidden.any(|above| path == above || is_below(path, above))
        };
        let is_moved = self.known.iter().any(|(path, known)| {
            !is_hidden(path) && identity(&root.join(path)).as_ref() != Some(known)
        });
        if is_moved || self.list.has_changed() {
            self.is_current = false;
        }
        !self.is_current
    }

    /// Requests a check of all mounts. After it, hidden mounts may be trusted.
    pub(super) fn doubt(&mut self) {
        self.is_current = false;
    }

    /// Updates the hidden paths. Returns whether they changed.
    pub(super) fn check(&mut self, checking: &Checking<'_>) -> Result<bool, StoreError> {
        let Some(mounts) = self.list.read(&checking.repository.path) else {
            // If the list of mounts cannot be read, check only the recorded file systems. Only Linux
            // has the list.
            self.is_current = cfg!(not(target_os = "linux"));
            let none = Mounts::default();
            return self.judge(checking, &none);
        };
        self.is_current = true;
        self.judge(checking, &mounts)
            .inspect_err(|_| self.is_current = false)
    }

    fn judge(&mut self, checking: &Checking<'_>, mounts: &Mounts) -> Result<bool, StoreError> {
        let Checking {
            root,
            repository,
            now,
            ..
        } = *checking;
        let (root_path, layout) = (&repository.path, &repository.layout);
        let matters = |path: &&String| layout.at(path).is_some_and(|cursor| cursor.leads_on());
        let found: BTreeMap<String, String> = mounts
            .below
            .keys()
            .filter(matters)
            .filter_map(|path| Some((path.clone(), identity(&root_path.join(path))?)))
            .collect();
        self.follow_moves(root_path, &found);
        let mut paths: Vec<String> = self.known.keys().chain(found.keys()).cloned().collect();
        paths.sort_unstable();
        paths.dedup();
        let mut hidden: BTreeMap<String, String> = BTreeMap::new();
        for path in paths {
            let present = identity(&root_path.join(&path));
            if present.is_some() && self.known.get(&path) == present.as_ref() {
                continue;
            }
            if hidden.keys().any(|above| is_below(&path, above)) {
                continue;
            }
            let mounted = found.get(&path);
            if mounted.is_none() && self.is_removed(root, &path, mounts) {
                let since = *self.removed.entry(path.clone()).or_insert(now);
                if now.saturating_sub(since) >= repository.mass_delete_after {
                    info!(
                        "the mount point {path} has been missing for repository.mass_delete_after; its projects are treated as removed"
                    );
                    self.known.remove(&path);
                } else {
                    hidden.insert(path, REMOVED.to_owned());
                }
                continue;
            }
            let (n_found, n_recorded) = survey(checking, &path)?;
            if n_found.saturating_mul(2) >= n_recorded {
                match mounted {
                    Some(identity) => self.known.insert(path, identity.clone()),
                    None => self.known.remove(&path),
                };
                continue;
            }
            let what = match mounted {
                Some(_) => "another file system is mounted there",
                None => MISSING,
            };
            let reason = format!("{what}; only {n_found} of {n_recorded} projects have files");
            hidden.insert(path, reason);
        }
        let is_removed = |path: &String| hidden.get(path).is_some_and(|reason| reason == REMOVED);
        self.removed.retain(|path, _| is_removed(path));
        for (path, reason) in &hidden {
            if self.hidden.get(path) != Some(reason) {
                warn!(
                    "{path}: {reason}. No events are inferred below it until its file system is back, at least half of its projects have files, or the mount point has been missing for repository.mass_delete_after"
                );
            }
        }
        for path in self
            .hidden
            .keys()
            .filter(|path| !hidden.contains_key(*path))
        {
            info!("comparing the projects below {path} with the record again");
        }
        let is_change = self.hidden != hidden;
        self.hidden = hidden;
        Ok(is_change)
    }

    /// Updates the paths of mounts whose directories were moved.
    fn follow_moves(&mut self, root: &Path, found: &BTreeMap<String, String>) {
        for (path, identity_now) in found {
            if self.known.contains_key(path) {
                continue;
            }
            let before = self
                .known
                .iter()
                .find(|(old, known)| *known == identity_now && has_left(&root.join(old), known));
            if let Some(before) = before.map(|(old, _)| old.clone()) {
                self.known.remove(&before);
                self.known.insert(path.clone(), identity_now.clone());
            }
        }
    }

    /// Whether a mount point is gone, for another reason than an automounter.
    ///
    /// False directly below a mount of type autofs, because an automounter may remove mount points.
    fn is_removed(&self, root: &Root, path: &str, mounts: &Mounts) -> bool {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let parent = match above {
            "" => mounts.above.as_ref(),
            above => mounts.below.get(above),
        };
        let is_automount = parent.is_some_and(|mount| mount.file_system == "autofs");
        matches!(root.is_absent(path), Ok(true)) && !is_automount
    }
}

/// Returns the identity of the directory at a path, as text.
fn identity(path: &Path) -> Option<String> {
    let identity = Root::identity_at(path).ok()?;
    Some(identity.to_record())
}

/// Whether the directory with this identity is certainly no longer at a path.
fn has_left(path: &Path, known: &str) -> bool {
    match Root::identity_at(path) {
        Ok(found) => found.to_record() != known,
        Err(error) => is_absent(&error),
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Counts the projects whose record has files below a path.
///
/// Returns how many of them still have such a file on disk, and how many there are.
fn survey(checking: &Checking<'_>, path: &str) -> Result<(usize, usize), StoreError> {
    let Checking { root, store, .. } = checking;
    let layout = &checking.repository.layout;
    let is_near = |key: &ProjectKey| match layout.directory_of(key) {
        Some((home, _)) => home == path || is_below(&home, path) || is_below(path, &home),
        None => true,
    };
    let keys: Vec<ProjectKey> = store.keys()?.into_iter().filter(is_near).collect();
    let (mut n_found, mut n_recorded) = (0, 0);
    for keys in keys.chunks(SURVEYED_AT_ONCE) {
        for files in store.recorded_many(keys)? {
            (checking.on_progress)();
            let mut below = files.files().filter(|file| is_below(&file.path, path));
            let Some(first) = below.next() else { continue };
            n_recorded += 1;
            let has_a_file = std::iter::once(first)
                .chain(below)
                .any(|file| root.open_file(&file.path).is_ok());
            n_found += usize::from(has_a_file);
        }
    }
    Ok((n_found, n_recorded))
}
