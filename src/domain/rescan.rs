//! Why everything is scanned.

/// The reason of a full scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RescanReason {
    /// The daemon starts.
    Start,
    /// The kernel's event queue overflowed, or the daemon's own.
    Overflow,
    /// `repository.rescan` passed.
    Timer,
    /// `repository.poll_interval` passed, and the system does not report all changes.
    Poll,
    /// SIGUSR1.
    Signal,
    /// The repository's root came back, or is another one.
    Root,
    /// The configuration of the repository changed.
    Reload,
}

impl RescanReason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::Start,
        Self::Overflow,
        Self::Timer,
        Self::Poll,
        Self::Signal,
        Self::Root,
        Self::Reload,
    ];

    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Overflow => "overflow",
            Self::Timer => "timer",
            Self::Poll => "poll",
            Self::Signal => "signal",
            Self::Root => "root",
            Self::Reload => "reload",
        }
    }
}
