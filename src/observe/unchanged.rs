//! Whether a project is as recorded, by metadata alone.
//!
//! Constraint: a yes is certain, and a no costs a look. A comparison of everything asks this of
//! every project, and nearly always hears yes; so no file is opened, nothing is kept, and what is
//! out of the ordinary is a no.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::listing::{join, list};
use crate::domain::project::{Mark, ProjectKey};
use crate::layout::{Cursor, Entries, Layout};
use crate::repository::{Root, open_directory_at, stamp, stat_at};

/// Whether a look at the project would find exactly the files with these marks, unchanged. The
/// marks are sorted by path.
pub fn is_unchanged(layout: &Layout, root: &Root, key: &ProjectKey, marks: &[Mark]) -> bool {
    let Some((path, cursor)) = layout.home(key) else {
        return false;
    };
    let Ok(directory) = root.open_directory(&path) else {
        return false;
    };
    let mut n_same = 0;
    directory_is_unchanged(directory.as_fd(), &path, &cursor, marks, &mut n_same)
        && n_same == marks.len()
}

fn directory_is_unchanged(
    directory: BorrowedFd<'_>,
    path: &str,
    cursor: &Cursor,
    marks: &[Mark],
    n_same: &mut usize,
) -> bool {
    let mut entry = |name: &str, next: &Cursor, kind: FileType| -> bool {
        let path = join(path, name);
        let is_file = matches!(kind, FileType::RegularFile | FileType::Unknown);
        if is_file && next.place().is_some() {
            let stat = match stat_at(directory, name) {
                Ok(stat) => stat,
                // What was recorded there is missed by the count.
                Err(error) => return error.kind() == io::ErrorKind::NotFound,
            };
            let is_same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && marks
                    .binary_search_by(|mark| mark.path.as_str().cmp(&path))
                    .ok()
                    .and_then(|found| marks.get(found))
                    .is_some_and(|mark| mark.is_unchanged(&stamp(&stat)));
            *n_same += usize::from(is_same);
            return is_same;
        }
        let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
        if may_be_directory && next.leads_on() {
            return match open_directory_at(directory, name) {
                Ok(opened) => directory_is_unchanged(opened.as_fd(), &path, next, marks, n_same),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
        }
        // A file where only a directory counts is nothing, and everything else is for a look.
        is_file && next.leads_on()
    };
    match cursor.entries() {
        Entries::Only(names) => names.iter().all(|name| match cursor.enter(name) {
            Some(next) => entry(name, &next, FileType::Unknown),
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
                    .all(|(name, next, kind)| entry(name, next, *kind))
        }
    }
}
