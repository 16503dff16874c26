//! Reads limits of watches and types of file systems, and formats advice.

use std::fmt::Display;
use std::path::Path;

use super::coverage::Gap;

/// The kernel settings that limit the number of watches of a user.
///
/// See inotify(7). The second limit applies to the user namespace of the daemon; see namespaces(7).
const WATCH_LIMITS: [&str; 2] = ["fs.inotify.max_user_watches", "user.max_inotify_watches"];

/// The kernel settings that limit the number of inotify instances of a user.
const INSTANCE_LIMITS: [&str; 2] = [
    "fs.inotify.max_user_instances",
    "user.max_inotify_instances",
];

/// Returns the lowest limit of watches: the kernel setting and its value.
///
/// `None` if no limit can be read.
pub(super) fn max_watches() -> Option<(&'static str, usize)> {
    lowest(&WATCH_LIMITS)
}

/// Returns the setting with the lowest value, and the value.
///
/// If values are equal, returns the first setting. `None` if no value can be read.
fn lowest(settings: &[&'static str]) -> Option<(&'static str, usize)> {
    let values = settings.iter().filter_map(|name| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let text = std::fs::read_to_string(path).ok()?;
        Some((*name, text.trim().parse().ok()?))
    });
    values.min_by_key(|(_, value)| *value)
}

/// Returns the setting with the lowest value, with the value as text and number.
///
/// The number is 0 if the value is unknown.
fn describe(settings: &[&'static str; 2]) -> (&'static str, String, usize) {
    match lowest(settings) {
        Some((name, limit)) => (name, limit.to_string(), limit),
        None => (settings[0], "unknown".to_owned(), 0),
    }
}

/// Returns the note that the limit of watches is reached. It proposes a sufficient value.
pub(super) fn watch_limit(watches: usize, uncovered: usize) -> String {
    let directories = watches.saturating_add(uncovered);
    let (name, shown, limit) = describe(&WATCH_LIMITS);
    // Assume that other programs of this user need the rest of the limit. Allow the tree to grow by
    // half.
    let others = limit.saturating_sub(watches);
    let needed = directories
        .saturating_add(directories / 2)
        .saturating_add(others)
        .max(8_192)
        .next_multiple_of(1_024);
    format!(
        "the limit of watches is reached ({name} = {shown}; {watches} of {directories} directories \
         are watched); raise it: sysctl {name}={needed}"
    )
}

/// Returns the note that directories cannot be watched. It names the first directory.
pub(super) fn unwatchable(count: usize, first: &str, gap: &Gap) -> String {
    let advice = match gap {
        Gap::Failed(error) if error.kind() == std::io::ErrorKind::PermissionDenied => match count {
            1 => "give the daemon's user permission to read it",
            _ => "give the daemon's user permission to read them",
        },
        Gap::Failed(_) => "the daemon retries",
        Gap::SameAs(_) => "the kernel watches a directory at only one path",
    };
    let first = if first.is_empty() { "." } else { first };
    match count {
        1 => format!("cannot watch 1 directory: {first:?} ({gap}); {advice}"),
        _ => format!("cannot watch {count} directories; the first is {first:?} ({gap}); {advice}"),
    }
}

/// Returns the note that no file events are available.
///
/// Usually the cause is the limit of instances, or a lack of file descriptors. Both give the same
/// error.
pub(super) fn no_events(error: &dyn Display) -> String {
    let (name, shown, limit) = describe(&INSTANCE_LIMITS);
    // Other programs of this user use the existing instances.
    let needed = limit.saturating_mul(2).max(1_024);
    format!(
        "no file events are available ({error}); if the limit of instances is reached ({name} = \
         {shown}), raise it: sysctl {name}={needed}"
    )
}

/// Returns the note that a directory is on a network file system.
pub(super) fn network(name: &str, path: &str) -> String {
    let place = match path {
        "" => String::new(),
        path => format!(" (at {path:?})"),
    };
    format!(
        "{name}{place} does not report changes by other machines; if no other machine writes, set \
         repository.watch to native or notify"
    )
}

/// Returns the note that the types of the mounted file systems are unknown.
pub(super) fn unknown_mounts() -> String {
    "the mounted file systems cannot be listed (/proc/self/mountinfo); if none is a network file \
     system, set repository.watch to native or notify"
        .to_owned()
}

/// Returns a path's device, if its file system counts the links of directories.
///
/// Some file systems are known to do so. On them, a directory has two links plus one for each
/// subdirectory. A directory of ext4 with about 65,000 subdirectories or more has one link.
pub(super) fn counts_links(path: &Path) -> Option<u64> {
    // From linux/magic.h: ext2 to ext4, XFS, tmpfs, F2FS.
    const KNOWN: [u64; 4] = [0xef53, 0x5846_5342, 0x0102_1994, 0xf2f5_2010];
    let stat = rustix::fs::stat(path).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "the width differs between systems")]
    KNOWN.contains(&magic(path)?).then_some(stat.st_dev as u64)
}

/// File systems that can change without a report, mostly by other machines.
///
/// Each has the kernel's name and the name in messages.
const NETWORK: [(&str, &str); 31] = [
    ("9p", "9P"),
    ("acfs", "ACFS"),
    ("afs", "AFS"),
    ("beegfs", "BeeGFS"),
    ("ceph", "CephFS"),
    ("cifs", "CIFS"),
    ("coda", "Coda"),
    ("cvfs", "StorNext"),
    ("drvfs", "DrvFs"),
    ("fuse", "FUSE"),
    ("fuseblk", "FUSE"),
    ("gfs2", "GFS2"),
    ("gpfs", "GPFS"),
    ("ibrix", "IBRIX"),
    ("lustre", "Lustre"),
    ("ncpfs", "NCP"),
    ("nfs", "NFS"),
    ("nfs4", "NFS"),
    ("ocfs2", "OCFS2"),
    ("orangefs", "OrangeFS"),
    ("panfs", "PanFS"),
    ("prl_fs", "Parallels shared folders"),
    ("pvfs2", "PVFS2"),
    ("smb3", "SMB3"),
    ("smbfs", "SMB"),
    ("snfs", "StorNext"),
    ("vboxsf", "VirtualBox shared folders"),
    ("virtiofs", "virtiofs"),
    ("vmhgfs", "VMware shared folders"),
    ("weka", "WekaFS"),
    ("wekafs", "WekaFS"),
];

/// Returns the display name of a file system type that does not report all changes.
///
/// `None` for any other type.
pub(super) fn network_file_system(kind: &str) -> Option<&'static str> {
    // FUSE file systems may have a subtype, such as fuse.sshfs.
    let kind = kind.split_once('.').map_or(kind, |(kind, _)| kind);
    let found = NETWORK.iter().find(|(known, _)| *known == kind);
    found.map(|(_, name)| *name)
}

#[cfg(target_os = "linux")]
fn magic(path: &Path) -> Option<u64> {
    let found = rustix::fs::statfs(path).ok()?;
    #[allow(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "a magic number"
    )]
    Some(found.f_type as u64 & 0xffff_ffff)
}

#[cfg(not(target_os = "linux"))]
fn magic(_path: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_others_change_are_known_by_name() {
        for kind in [
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "fuse",
            "fuse.sshfs",
            "fuseblk",
            "9p",
            "ceph",
            "vboxsf",
            "vmhgfs",
            "fuse.vmhgfs-fuse",
            "prl_fs",
            "virtiofs",
            "lustre",
            "gpfs",
            "ocfs2",
            "gfs2",
            "beegfs",
            "coda",
            "afs",
        ] {
            assert!(network_file_system(kind).is_some(), "{kind}");
        }
        for kind in [
            "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "vfat", "exfat", "autofs",
        ] {
            assert_eq!(network_file_system(kind), None, "{kind}");
        }
    }
}
