//! The limits that keep directories from being watched, and how to raise them.

use std::fmt::Display;
use std::path::Path;

/// The settings that limit how many watches one user may have.
///
/// See inotify(7), and namespaces(7) for the user namespace that the daemon runs in.
const WATCH_LIMITS: [&str; 2] = ["fs.inotify.max_user_watches", "user.max_inotify_watches"];

/// The settings that limit how many inotify instances one user may have.
const INSTANCE_LIMITS: [&str; 2] = [
    "fs.inotify.max_user_instances",
    "user.max_inotify_instances",
];

/// The setting that limits the watches most, and its value.
pub(super) fn max_watches() -> Option<(&'static str, usize)> {
    lowest(&WATCH_LIMITS)
}

/// The first of the lowest of these settings, and its value.
fn lowest(settings: &[&'static str]) -> Option<(&'static str, usize)> {
    let values = settings.iter().filter_map(|name| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let text = std::fs::read_to_string(path).ok()?;
        Some((*name, text.trim().parse().ok()?))
    });
    values.min_by_key(|(_, value)| *value)
}

/// A setting and its value as text and as a number, also if they are unknown.
fn describe(settings: &[&'static str; 2]) -> (&'static str, String, usize) {
    match lowest(settings) {
        Some((name, limit)) => (name, limit.to_string(), limit),
        None => (settings[0], "unknown".to_owned(), 0),
    }
}

/// The note that the limit of watches is reached, with a value that is enough.
pub(super) fn watch_limit(watches: usize, uncovered: usize) -> String {
    let directories = watches.saturating_add(uncovered);
    let (name, shown, limit) = describe(&WATCH_LIMITS);
    // Other programs of this user have the rest; and the tree may grow by half.
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

/// The note that directories cannot be watched, with the first of them.
pub(super) fn unwatchable(count: usize, first: &str, error: &std::io::Error) -> String {
    let advice = if error.kind() == std::io::ErrorKind::PermissionDenied {
        "give the daemon's user permission to read them"
    } else {
        "the log at level debug names all of them"
    };
    format!("{count} directories cannot be watched, the first is {first:?} ({error}); {advice}")
}

/// The note that the system provides no file events.
///
/// The error is the same when the process has no descriptors left.
pub(super) fn no_events(error: &dyn Display) -> String {
    let (name, shown, limit) = describe(&INSTANCE_LIMITS);
    // Other programs of this user have the existing instances.
    let needed = limit.saturating_mul(2).max(1_024);
    format!(
        "no file events are available ({error}); if the limit of instances is reached ({name} = \
         {shown}), raise it: sysctl {name}={needed}"
    )
}

/// The note that the repository is on a network file system.
pub(super) fn network(name: &str) -> String {
    format!(
        "{name} does not report the changes of other machines; if there are none, set \
         repository.watch to native or notify"
    )
}

/// The device of a path, if its file system counts the links of directories.
///
/// There a directory has two links, and one for each directory in it. Others give any number.
pub(super) fn counts_links(path: &Path) -> Option<u64> {
    // From linux/magic.h: ext4 and its elders, XFS, tmpfs, F2FS.
    const KNOWN: [u64; 4] = [0xef53, 0x5846_5342, 0x0102_1994, 0xf2f5_2010];
    let stat = rustix::fs::stat(path).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "the width differs between systems")]
    KNOWN.contains(&magic(path)?).then_some(stat.st_dev as u64)
}

/// The name of a file system that does not report the changes of other machines.
pub(super) fn network_file_system(path: &Path) -> Option<&'static str> {
    // From linux/magic.h; CIFS, SMB2 and CephFS from their own headers.
    const KNOWN: [(u64, &str); 8] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x6573_5546, "FUSE"),
        (0x0102_1997, "9P"),
        (0x5346_414f, "AFS"),
        (0x00c3_6400, "CephFS"),
    ];
    let magic = magic(path)?;
    KNOWN
        .iter()
        .find(|(known, _)| *known == magic)
        .map(|(_, name)| *name)
}

/// The number of the file system that a path is on.
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
