//! Compares the metadata of a project with the record.
//!
//! Constraint: the result "unchanged" must be certain. A wrong "changed" only costs an
//! observation. A full scan compares every project, and nearly all are unchanged. So the
//! comparison opens no file and keeps no results. In doubt, the result is "changed".

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::listing::join;
use crate::domain::project::{Inodes, Mark, ProjectKey};
use crate::layout::{Cursor, Entries, Layout};
use crate::repository::{Root, list, open_directory_at, stamp, stat_at};

/// Whether a project has exactly the recorded files, all of them unchanged.
///
/// `marks` is the recorded metadata of its files, sorted by path.
pub(crate) fn is_unchanged(
    layout: &Layout,
    root: &Root,
    key: &ProjectKey,
    marks: &[Mark],
    inodes: Inodes,
) -> bool {
    let Some((path, cursor)) = layout.directory_of(key) else {
        return false;
    };
    let Ok(directory) = root.open_directory(&path) else {
        return false;
    };
    if !matches!(root.is_spelled_so(&path), Ok(true)) {
        return false;
    }
    let mut comparison = MetadataScan {
        marks,
        inodes,
        n_same: 0,
    };
    comparison.directory(directory.as_fd(), &path, &cursor) && comparison.n_same == marks.len()
}

/// The progress of comparing one project.
///
/// The methods return whether everything is unchanged so far.
struct MetadataScan<'a> {
    marks: &'a [Mark],
    inodes: Inodes,
    /// The number of recorded files that are unchanged.
    n_same: usize,
}

impl MetadataScan<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &str, cursor: &Cursor) -> bool {
        match cursor.entries() {
            Entries::Only(names) => names.iter().all(|name| match cursor.enter(name) {
                Some(next) => self.entry(directory, path, name, &next, FileType::Unknown),
                None => true,
            }),
            Entries::Any => {
                let mut found = Vec::new();
                let mut is_text = true;
                let listed = list(directory, |name, kind| match name {
                    Ok(name) => {
                        if let Some(next) = cursor.enter(name) {
                            found.push((name.to_owned(), next, kind));
                        }
                    }
                    Err(_) => is_text = false,
                });
                listed.is_ok()
                    && is_text
                    && found
                        .iter()
                        .all(|(name, next, kind)| self.entry(directory, path, name, next, *kind))
            }
        }
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &str,
        name: &str,
        next: &Cursor,
        kind: FileType,
    ) -> bool {
        let path = join(path, name);
        let is_file = matches!(kind, FileType::RegularFile | FileType::Unknown);
        if is_file && next.file().is_some() {
            let stat = match stat_at(directory, name) {
                Ok(stat) => stat,
                // The count of unchanged files shows later that a recorded file is missing.
                Err(error) => return error.kind() == io::ErrorKind::NotFound,
            };
            let is_same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && self
                    .marks
                    .binary_search_by(|mark| mark.path.as_str().cmp(&path))
                    .ok()
                    .and_then(|found| self.marks.get(found))
                    .is_some_and(|mark| mark.is_unchanged(&stamp(&stat), self.inodes));
            self.n_same += usize::from(is_same);
            return is_same;
        }
        let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
        if may_be_directory && next.leads_on() {
            return match open_directory_at(directory, name) {
                Ok(opened) => self.directory(opened.as_fd(), &path, next),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
        }
        // The layout has a directory here, so a file is ignored. Anything else is a change.
        is_file && next.leads_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Returns the marks of all regular files below a directory, as if read much later.
    fn marks(root: &std::path::Path, below: &str, into: &mut Vec<Mark>) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let entry = entry.unwrap();
            let path = join(below, entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                marks(root, &path, into);
            } else {
                let stat = rustix::fs::stat(entry.path()).unwrap();
                into.push(Mark {
                    path,
                    stamp: stamp(&stat),
                    read_ns: i64::MAX,
                });
            }
        }
    }

    #[test]
    fn only_the_exact_record_is_unchanged() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |path: &str| temporary.path().join(path);
        let strings = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let layout = Layout::new(
            &strings(&["{organization}/{project}/project.xml"]),
            &strings(&["{organization}/{project}/published/{versionTag}/project.xml"]),
            &strings(&["{organization}/{project}/snapshots/{versionTag}.xml"]),
        )
        .unwrap();
        fs::create_dir_all(at("o/p/snapshots")).unwrap();
        fs::create_dir_all(at("o/p/published/v1")).unwrap();
        for file in [
            "project.xml",
            "published/v1/project.xml",
            "snapshots/a.xml",
            "snapshots/b.xml",
        ] {
            fs::write(at("o/p").join(file), file).unwrap();
        }
        let root = Root::open(temporary.path()).unwrap();
        let mut recorded = Vec::new();
        marks(temporary.path(), "o/p", &mut recorded);
        recorded.sort_by(|one, other| one.path.cmp(&other.path));
        let key = ProjectKey::new("o", "p");
        let is_same = |marks: &[Mark]| is_unchanged(&layout, &root, &key, marks, Inodes::Stable);
        assert!(is_same(&recorded));
        assert!(!is_same(&recorded[1..]), "one is new");
        let mut young = recorded.clone();
        young[0].read_ns = young[0].stamp.changed_ns;
        assert!(!is_same(&young), "a change in the same tick would not show");
        // Files that do not belong to the project are ignored.
        fs::write(at("o/p/notes.txt"), "x").unwrap();
        fs::write(at("o/p/published/notes.txt"), "x").unwrap();
        assert!(is_same(&recorded));
        for (make, undo) in [
            ("touch -d 2001-01-01 o/p/snapshots/a.xml", ""),
            ("mv o/p/snapshots/b.xml x", "mv x o/p/snapshots/b.xml"),
            ("ln -s a.xml o/p/snapshots/c.xml", "rm o/p/snapshots/c.xml"),
            ("mkdir o/p/snapshots/c.xml", "rmdir o/p/snapshots/c.xml"),
            (
                "mkdir o/p/published/v2; touch o/p/published/v2/project.xml",
                "rm -r o/p/published/v2",
            ),
            (
                "mv o/p/snapshots s; ln -s ../../s o/p/snapshots",
                "rm o/p/snapshots; mv s o/p/snapshots",
            ),
            ("mv o/p x", "mv x o/p"),
        ] {
            let run = |command: &str| {
                let status = std::process::Command::new("sh")
                    .args(["-ec", command])
                    .current_dir(temporary.path())
                    .status();
                assert!(status.unwrap().success(), "{command}");
            };
            run(make);
            assert!(
                !is_unchanged(&layout, &root, &key, &recorded, Inodes::Stable),
                "{make}"
            );
            run(undo);
            // Renaming a file has changed its change time.
            recorded.clear();
            marks(temporary.path(), "o/p", &mut recorded);
            recorded.retain(|mark| mark.path.ends_with(".xml"));
            recorded.sort_by(|one, other| one.path.cmp(&other.path));
            assert!(
                is_unchanged(&layout, &root, &key, &recorded, Inodes::Stable),
                "after {undo}"
            );
        }
    }
}
