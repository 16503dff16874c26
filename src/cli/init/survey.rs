//! Lists the XML files of a directory tree, within limits.
//!
//! Constraint: the tree may be huge, hostile and partly unreadable. The walk follows no symbolic
//! links, stops at the limits, and leaves out the names that the daemon ignores.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use rustix::fs::FileType;

use crate::document;
use crate::layout::Ignored;
use crate::observe::{is_absent, join};
use crate::repository::{Root, kind_of, list_until, stat_at};

/// The limits of a survey.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The maximum number of directory entries to visit.
    pub(super) entries: usize,
    /// The maximum number of directories between the root and a file.
    pub(super) depth: usize,
    /// The maximum number of files to read, to find out whether they define a project.
    pub(super) reads: usize,
    /// The maximum number of bytes to read from all files.
    pub(super) bytes: u64,
}

/// The limits of `init`. Each allows a few seconds of work on a slow disk.
pub(super) const BOUNDS: Bounds = Bounds {
    entries: 200_000,
    depth: 12,
    reads: 2_000,
    bytes: 256 * 1024 * 1024,
};

/// The maximum number of example paths for a reason.
const EXAMPLES_MAX: usize = 3;

/// Paths that are left out for the same reason.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) count: usize,
    pub(super) examples: Vec<String>,
}

/// The paths that are left out, by reason.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<String, Left>);

impl LeftOut {
    /// Adds a path that is left out. `detail` is shown in parentheses after this path.
    pub(super) fn add(&mut self, reason: &str, path: &str, detail: Option<&str>) {
        let left = self.0.entry(reason.to_owned()).or_default();
        left.count += 1;
        if left.examples.len() < EXAMPLES_MAX {
            let detail = detail.map(|detail| format!(" ({detail})"));
            let example = format!("{path}{}", detail.unwrap_or_default());
            left.examples.push(example);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Left)> {
        self.0.iter()
    }

    pub(super) fn count(&self) -> usize {
        self.0.values().map(|left| left.count).sum()
    }
}

/// The XML files of a tree.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Files that define a project or that were not read, sorted.
    pub(super) paths: Vec<String>,
    /// The number of these files that were not read.
    pub(super) unread: usize,
    pub(super) left_out: LeftOut,
    /// Whether the walk stopped at the limit of entries.
    pub(super) is_cut: bool,
}

/// Surveys the tree below a root.
pub(super) fn survey(root: &Root, ignored: &Ignored, bounds: Bounds) -> Survey {
    let mut walk = Walk {
        root,
        ignored,
        bounds,
        entries: 0,
        xml: Vec::new(),
        survey: Survey::default(),
    };
    // This stack replaces recursion. The last directory is visited first.
    let mut pending = vec![(String::new(), 0)];
    while let Some((path, depth)) = pending.pop() {
        let mut below = walk.directory(&path);
        if depth < bounds.depth {
            below.sort_unstable_by(|one, other| other.cmp(one));
            pending.extend(below.into_iter().map(|path| (path, depth + 1)));
        } else {
            for path in below {
                let reason = "directories too deep, which are not searched";
                walk.survey.left_out.add(reason, &path, None);
            }
        }
        if walk.survey.is_cut {
            break;
        }
    }
    walk.read()
}

struct Walk<'a> {
    root: &'a Root,
    ignored: &'a Ignored,
    bounds: Bounds,
    entries: usize,
    xml: Vec<String>,
    survey: Survey,
}

impl Walk<'_> {
    /// Visits the entries of a directory. Returns the directories among them.
    fn directory(&mut self, path: &str) -> Vec<String> {
        let mut below = Vec::new();
        let opened = self.root.open_directory(path);
        let read = opened.and_then(|directory| {
            list_until(directory.as_fd(), |name, kind| {
                if self.entries >= self.bounds.entries {
                    self.survey.is_cut = true;
                    return ControlFlow::Break(());
                }
                self.entries += 1;
                let next = ControlFlow::Continue(());
                let name = match name {
                    Ok(name) if name.starts_with('.') || self.ignored.matches(name) => return next,
                    Ok(name) => name,
                    Err(lossy) => {
                        let reason = "names that are not UTF-8, which a callback cannot contain";
                        self.survey.left_out.add(reason, &join(path, &lossy), None);
                        return next;
                    }
                };
                let kind = match kind {
                    FileType::Unknown => stat_at(directory.as_fd(), name)
                        .map_or(kind, |stat| FileType::from_raw_mode(stat.st_mode)),
                    known => known,
                };
                let is_xml = has_xml_name(name);
                match kind {
                    FileType::Directory => below.push(join(path, name)),
                    FileType::Symlink => {
                        let reason = "symbolic links, which are not followed";
                        self.survey.left_out.add(reason, &join(path, name), None);
                    }
                    _ if is_xml => self.xml.push(join(path, name)),
                    _ => {}
                }
                next
            })
        });
        match read {
            Err(error) if !is_absent(&error) => {
                let reason = "directories that cannot be read";
                let shown = if path.is_empty() { "." } else { path };
                let detail = error.to_string();
                self.survey.left_out.add(reason, shown, Some(&detail));
            }
            _ => {}
        }
        below
    }

    /// Reads the XML files that the walk found, within the limits.
    fn read(mut self) -> Survey {
        let mut xml = std::mem::take(&mut self.xml);
        xml.sort_unstable();
        let (mut reads, mut bytes) = (self.bounds.reads, self.bounds.bytes);
        for path in xml {
            if reads == 0 || bytes == 0 {
                self.survey.unread += 1;
                self.survey.paths.push(path);
                continue;
            }
            reads -= 1;
            match self.definition(&path, &mut bytes) {
                Ok(Some(())) => self.survey.paths.push(path),
                Ok(None) => {
                    self.survey.unread += 1;
                    self.survey.paths.push(path);
                }
                Err((reason, detail)) => self.survey.left_out.add(reason, &path, Some(&detail)),
            }
        }
        self.survey
    }

    /// Checks that a file defines a project. If not, the error has the reason and its detail.
    ///
    /// Returns `None` if the file is larger than the rest of the limit of bytes.
    fn definition(
        &self,
        path: &str,
        bytes: &mut u64,
    ) -> Result<Option<()>, (&'static str, String)> {
        let unreadable = |error: std::io::Error| ("files that cannot be read", error.to_string());
        let file = self.root.open_file(path).map_err(unreadable)?;
        let stat = rustix::fs::fstat(&file).map_err(|error| unreadable(error.into()))?;
        kind_of(&stat).map_err(|kind| ("files of other types", kind.to_owned()))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > *bytes {
            return Ok(None);
        }
        let mut content = Vec::new();
        let read = File::from(file).take(*bytes).read_to_end(&mut content);
        read.map_err(unreadable)?;
        *bytes = bytes.saturating_sub(content.len() as u64);
        match document::parse(&content) {
            Ok(_) => Ok(Some(())),
            Err(malformed) => Err((
                "XML files that do not define a project",
                malformed.to_string(),
            )),
        }
    }
}

fn has_xml_name(name: &str) -> bool {
    name.strip_suffix(".xml")
        .is_some_and(|stem| !stem.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_bounded_in_a_tree_of_any_size() {
        let directory = tempfile::tempdir().expect("a directory");
        for n in 0..40 {
            let below = directory.path().join(format!("o/p{n:02}"));
            std::fs::create_dir_all(&below).expect("directories");
            std::fs::write(below.join("project.xml"), "<schema name=\"a\"/>").expect("a file");
        }
        let root = Root::open(directory.path()).expect("opens");
        let bounds = |entries, reads, bytes, depth| Bounds {
            entries,
            reads,
            bytes,
            depth,
        };
        for (name, bounds, expected) in [
            ("all", bounds(1_000, 1_000, 10_000, 9), (40, 0, false, 0)),
            ("entries", bounds(51, 1_000, 10_000, 9), (10, 0, true, 0)),
            ("reads", bounds(1_000, 15, 10_000, 9), (40, 25, false, 0)),
            ("bytes", bounds(1_000, 1_000, 36, 9), (40, 38, false, 0)),
            ("depth", bounds(1_000, 1_000, 10_000, 1), (0, 0, false, 40)),
        ] {
            let found = survey(&root, &Ignored::default(), bounds);
            let left = found.left_out.count();
            let summary = (found.paths.len(), found.unread, found.is_cut, left);
            assert_eq!(summary, expected, "{name}: {found:#?}");
        }
        // A file that exceeds the limit of bytes is not read, so the other files still are.
        let large = "<schema name=\"a\"/>".repeat(100);
        std::fs::write(directory.path().join("o/large.xml"), large).expect("a file");
        let found = survey(&root, &Ignored::default(), bounds(1_000, 1_000, 1_000, 9));
        assert_eq!((found.paths.len(), found.unread), (41, 1), "{found:#?}");
    }
}
