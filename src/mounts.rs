//! Reads the kernel's list of the mounts at and below a directory.
//!
//! Constraint: the list proves no change of a project. It only shows which paths to observe again,
//! which file systems do not report all changes, and which file systems are missing. Without /proc,
//! no mounts are known.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The file with the mounts of this process's namespace; see proc_pid_mountinfo(5).
const MOUNTS: &str = "/proc/self/mountinfo";

/// The event that poll(2) reports for the open file after a mount changed.
pub(crate) const CHANGED: PollFlags = PollFlags::PRI;

/// The kernel's list of mounts. The open file also reports changes of the list.
#[derive(Debug, Default)]
pub(crate) struct MountList {
    file: Option<File>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    id: u64,
    parent: u64,
    /// The device, the mounted directory and the source, as one text.
    origin: String,
    /// The type of the file system, such as `ext4` or `fuse.sshfs`.
    pub file_system: String,
}

/// The mounts at and below a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounts {
    /// The mount at the directory, or else the closest mount above the directory.
    pub above: Option<Mount>,
    /// The mounts below the directory, by path relative to the directory.
    pub below: BTreeMap<String, Mount>,
}

impl MountList {
    /// The file descriptor to poll for [`CHANGED`]. `None` until the list is read.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Whether the list changed since it was opened, or since the last reported change.
    ///
    /// The kernel reports each change only once: to this call, or to a poll of the descriptor.
    pub(crate) fn has_changed(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let mut descriptors = [PollFd::new(file, CHANGED)];
        let now = Timespec::default();
        poll(&mut descriptors, Some(&now)).is_ok_and(|n| n > 0)
    }

    /// Reads the mounts at and below a directory.
    ///
    /// Returns `None` if the path of the directory cannot be resolved, or the list cannot be read.
    pub(crate) fn read(&mut self, directory: &Path) -> Option<Mounts> {
        if self.file.is_none() {
            self.file = File::open(MOUNTS).ok();
        }
        let directory = directory.canonicalize().ok()?;
        let mut text = Vec::new();
        let file = self.file.as_mut()?;
        file.rewind().ok()?;
        file.read_to_end(&mut text).ok()?;
        Some(Mounts::parse(&text, &directory))
    }
}

impl Mount {
    /// The major and minor number of the device.
    pub(crate) fn device(&self) -> Option<(u32, u32)> {
        let (device, _) = self.origin.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

impl Mounts {
    /// Returns the mount that contains a path. The path is relative to the directory.
    pub(crate) fn of(&self, path: &str) -> Option<&Mount> {
        let contains = |point: &str| {
            let rest = path.strip_prefix(point);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // A mount point sorts before the mount points below it, so the last match is the closest.
        let mut below = self.below.iter().filter(|(point, _)| contains(point));
        below
            .next_back()
            .map(|(_, mount)| mount)
            .or(self.above.as_ref())
    }

    /// Parses the list. In every path, replaces the bytes that are not UTF-8.
    fn parse(text: &[u8], directory: &Path) -> Self {
        let text = String::from_utf8_lossy(text);
        let directory = directory.to_string_lossy();
        let mut at: BTreeMap<String, Vec<Mount>> = BTreeMap::new();
        for (point, mount) in text.lines().filter_map(line) {
            at.entry(point).or_default().push(mount);
        }
        let mut mounts = Self::default();
        for (point, stacked) in at {
            let point = point.trim_end_matches('/');
            let Some(mount) = top(stacked) else { continue };
            match directory.strip_prefix(point) {
                // A mount point sorts before the mount points below it, so the last match is the
                // closest.
                Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                    mounts.above = Some(mount);
                }
                _ => {
                    let below = point.strip_prefix(directory.trim_end_matches('/'));
                    if let Some(path) = below.and_then(|rest| rest.strip_prefix('/')) {
                        mounts.below.insert(path.to_owned(), mount);
                    }
                }
            }
        }
        mounts
    }

    /// Whether a mount below the directory in an earlier list is missing in this list.
    pub(crate) fn lacks_one_of(&self, earlier: &Self) -> bool {
        let mut earlier = earlier.below.values();
        earlier.any(|mount| !self.below.values().any(|now| now == mount))
    }

    /// Returns the paths whose mount differs from that of an earlier list.
    pub(crate) fn changed_since(&self, earlier: &Self) -> Vec<String> {
        let mut paths: Vec<&String> = self.below.keys().chain(earlier.below.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
            .into_iter()
            .filter(|path| self.below.get(*path) != earlier.below.get(*path))
            .cloned()
            .collect()
    }
}

/// Returns the mount that covers all other mounts at the same path.
fn top(stacked: Vec<Mount>) -> Option<Mount> {
    let covered: Vec<u64> = stacked.iter().map(|mount| mount.parent).collect();
    let mut open = stacked
        .into_iter()
        .filter(|mount| !covered.contains(&mount.id));
    open.next_back()
}

/// Parses a line into the mount point and the mount.
fn line(line: &str) -> Option<(String, Mount)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ');
    let id = place.next()?.parse().ok()?;
    let parent = place.next()?.parse().ok()?;
    let (device, mounted, point) = (place.next()?, place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let (file_system, source) = (kind.next()?, kind.next().unwrap_or_default());
    let mount = Mount {
        id,
        parent,
        origin: format!("{device} {mounted} {source}"),
        file_system: file_system.to_owned(),
    };
    Some((unescape(point), mount))
}

/// Decodes octal escapes.
///
/// The kernel writes `\040` for a space, and similar escapes for a few other characters.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /srv rw - xfs /dev/sdb rw
31 30 0:40 / /srv/repository/sales rw,nosuid shared:7 master:2 - nfs4 host:/sales rw
32 31 0:41 / /srv/repository/sales rw - tmpfs none rw
33 30 0:42 / /srv/repository/a\\040b/x rw - fuse.sshfs user@host:/ rw
34 30 0:43 / /srv/repository-2 rw - tmpfs none rw
";

    #[test]
    fn the_mounts_above_and_below_a_directory_are_read() {
        let parsed = |directory: &str| Mounts::parse(LIST.as_bytes(), Path::new(directory));
        let mounts = parsed("/srv/repository");
        assert_eq!(mounts.above.unwrap().file_system, "xfs");
        let below: Vec<(&str, &str)> = mounts
            .below
            .iter()
            .map(|(path, mount)| (path.as_str(), mount.file_system.as_str()))
            .collect();
        assert_eq!(below, [("a b/x", "fuse.sshfs"), ("sales", "tmpfs")]);
        let root = parsed("/");
        assert_eq!(root.above.unwrap().file_system, "ext4");
        assert_eq!(root.below.len(), 4);
    }

    #[test]
    fn a_directory_whose_path_is_not_utf_8_has_its_mounts() {
        use std::os::unix::ffi::OsStrExt;
        let list = b"31 30 0:40 / /srv/\xe9/sales rw - tmpfs none rw\n";
        let directory = std::ffi::OsStr::from_bytes(b"/srv/\xe9");
        let mounts = Mounts::parse(list, Path::new(directory));
        assert!(mounts.below.contains_key("sales"), "{mounts:?}");
    }

    #[test]
    fn a_mount_that_is_new_gone_or_another_one_is_a_change() {
        let mounts = |list: &str| Mounts::parse(list.as_bytes(), Path::new("/srv/repository"));
        let all = mounts(LIST);
        assert_eq!(all.changed_since(&all), [""; 0]);
        let without_top: Vec<&str> = LIST.lines().filter(|l| !l.starts_with("32")).collect();
        assert_eq!(
            mounts(&without_top.join("\n")).changed_since(&all),
            ["sales"]
        );
        assert_eq!(all.changed_since(&Mounts::default()), ["a b/x", "sales"]);
    }
}
