//! What keeps directories from being watched, and what to do about it.

use std::path::Path;

/// The most watches that one user may have (inotify(7)), where it is known. In a user namespace,
/// as of a container, there is a limit of its own (namespaces(7)).
pub(super) fn max_watches() -> Option<usize> {
    let read = |path| {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<usize>().ok()
    };
    let system = read("/proc/sys/fs/inotify/max_user_watches");
    let namespace = read("/proc/sys/user/max_inotify_watches");
    system.into_iter().chain(namespace).min()
}

/// What to say when the limit of watches is reached: so many of the directories that matter are
/// watched, and so many are not.
pub(super) fn watch_limit(watches: usize, uncovered: usize) -> String {
    let limit = max_watches();
    let directories = watches.saturating_add(uncovered);
    // Other programs of this user have the rest; and the tree may grow by half.
    let others = limit.unwrap_or(0).saturating_sub(watches);
    let needed = directories
        .saturating_add(directories / 2)
        .saturating_add(others)
        .max(8_192)
        .next_multiple_of(1_024);
    let limit = limit.map_or("unknown".to_owned(), |limit| limit.to_string());
    format!(
        "the limit of watches is reached (fs.inotify.max_user_watches = {limit}; {watches} of \
         {directories} directories are watched); raise it: \
         sysctl fs.inotify.max_user_watches={needed}"
    )
}

#[cfg(all(target_os = "linux", not(feature = "portable-watch")))]
/// What to say of so many directories that cannot be watched, the first of which is this one.
pub(super) fn unwatchable(count: usize, first: &str) -> String {
    format!(
        "{count} directories cannot be read and watched, the first is {first:?}; give the daemon's \
         user permission to read them"
    )
}

/// What to say when no watcher can be had at all.
pub(super) fn instance_limit(error: &dyn std::fmt::Display) -> String {
    format!(
        "no watcher can be had ({error}); is fs.inotify.max_user_instances reached? raise it: \
         sysctl fs.inotify.max_user_instances=1024"
    )
}

/// What to say where the repository lies on a file system of this name.
pub(super) fn network(name: &str) -> String {
    format!(
        "{name} does not report the changes of other machines; set repository.watch to native if \
         there are none"
    )
}

/// The name of a file system that does not report what other machines do.
#[cfg(target_os = "linux")]
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
    let found = rustix::fs::statfs(path).ok()?;
    #[allow(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "a magic number"
    )]
    let magic = found.f_type as u64 & 0xffff_ffff;
    KNOWN
        .iter()
        .find(|(known, _)| *known == magic)
        .map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn network_file_system(_path: &Path) -> Option<&'static str> {
    None
}
