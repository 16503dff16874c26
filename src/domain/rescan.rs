//! The reasons for a full scan.

/// The reason for a full scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RescanReason {
    /// The daemon started.
    Start,
    /// A queue of reports or hints overflowed, in the kernel or in the daemon.
    Overflow,
    /// `repository.rescan` has passed since the last full scan.
    Timer,
    /// Only scans find changes, and `repository.poll_interval` has passed since the last scan.
    Poll,
    /// The daemon received SIGUSR1.
    Signal,
    /// The repository's root came back, or was replaced by another directory.
    Root,
    /// A reload changed the configuration of the repository.
    Reload,
    /// Many projects vanished together; see [`super::wave`].
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
