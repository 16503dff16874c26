//! The reasons for a full scan.

/// The reason for a full scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RescanReason {
    /// The daemon started.
    Start,
    /// Reports or hints were dropped, in the kernel or in the daemon.
    Overflow,
    /// The watches are set again.
    ///
    /// Usually because `repository.rescan` has passed. Otherwise because watches that could not be
    /// set before can perhaps be set now, or because a file system was unmounted.
    Timer,
    /// Only scans find changes, and a scan is due.
    ///
    /// Either `repository.poll_interval` has passed since the last scan, or a wave of vanished
    /// projects has ended, as for [`RescanReason::Removals`].
    Poll,
    /// The daemon received SIGUSR1.
    Signal,
    /// The root came back or was replaced, or mounts changed.
    ///
    /// Or inference waits for the root or for a mount, and the scan checks it again.
    Root,
    /// A reload changed settings of the repository that affect scans.
    Reload,
    /// A wave of vanished projects ended; see [`super::wave`].
    ///
    /// The scan must confirm that no more projects vanish.
    Removals,
    /// The user database answers again, and some recorded files have no known owner.
    Owners,
}

impl RescanReason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Overflow,
        Self::Timer,
        Self::Poll,
        Self::Signal,
        Self::Root,
        Self::Reload,
        Self::Removals,
        Self::Owners,
    ];

    /// The name of this reason in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Overflow => "overflow",
            Self::Timer => "timer",
            Self::Poll => "poll",
            Self::Signal => "signal",
            Self::Root => "root",
            Self::Reload => "reload",
            Self::Removals => "removals",
            Self::Owners => "owners",
        }
    }
}
