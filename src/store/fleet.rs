//! The processes that share a repository in PostgreSQL.

use jiff::Timestamp;

/// The lease on a repository, its holder, and the processes that wait or deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The name of the repository in the database.
    pub repository: String,
    /// The names in the list `repositories`, as the last holder recorded them.
    ///
    /// Empty for a single repository.
    pub repositories: Vec<String>,
    /// Whether this single repository is now in the database's list of repositories.
    ///
    /// If so, no process may watch it alone.
    pub is_listed: bool,
    /// The last holder of the lease. `None` if nobody ever had it.
    pub lease: Option<Holder>,
    /// The processes that waited for the lease in the last hour, the last seen first.
    pub standbys: Vec<Standby>,
    /// The processes that deliver, in the order in which they began.
    pub senders: Vec<Sender>,
}

impl Fleet {
    /// Returns the names of the list of repositories, if a process watches them now.
    pub(crate) fn watched_by_another(&self) -> Option<&[String]> {
        let is_watched = self.lease.as_ref().is_some_and(|lease| lease.is_valid);
        (is_watched && !self.repositories.is_empty()).then_some(&self.repositories)
    }
}

/// The lease as this process read it at its last renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// The lease and the processes of the fleet.
    pub fleet: Fleet,
    /// Whether the database answered the last renewal.
    pub is_reachable: bool,
}

/// The process that has the lease, or had it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub process: Process,
    /// The number of this grant of the lease. Each grant has a higher number than the last.
    pub epoch: i64,
    /// When the process got the lease.
    pub since: Timestamp,
    /// Whether the lease is valid: neither expired nor released.
    pub is_valid: bool,
}

/// A process that waits for the lease, or waited for it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// The process.
    pub process: Process,
    /// When the process began to wait.
    pub since: Timestamp,
    /// When the process last asked for the lease.
    pub last_seen: Timestamp,
    /// Whether the process still waits: it asked within the duration of one lease.
    pub is_waiting: bool,
}

/// A process that delivers, or that delivered before and whose lease was not yet removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The process.
    pub process: Process,
    /// When the process began to deliver.
    pub since: Timestamp,
    /// When the process last renewed its lease as a sender.
    pub last_seen: Timestamp,
    /// The number of lanes that the process has claimed.
    pub n_lanes: u64,
    /// Whether the sender's lease is valid.
    ///
    /// If it has expired, other senders take over its lanes.
    pub is_alive: bool,
}

/// A process on one of the machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The name of the machine.
    pub host: String,
    /// The process id on that machine.
    pub pid: u32,
}

impl Process {
    /// Returns the calling process.
    pub(crate) fn this() -> Self {
        let system = rustix::system::uname();
        Self {
            host: system.nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
        }
    }

    /// Parses the text that [`Display`](std::fmt::Display) writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (pid, host) = text.strip_prefix("process ")?.split_once(" on ")?;
        Some(Self {
            host: host.to_owned(),
            pid: pid.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "process {} on {}", self.pid, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_text() {
        for process in [
            Process::this(),
            Process {
                host: "a on b".to_owned(),
                pid: 7,
            },
        ] {
            assert_eq!(Process::parse(&process.to_string()), Some(process));
        }
        assert_eq!(Process::parse("somebody"), None);
    }
}
