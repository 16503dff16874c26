//! The processes that share the repository, if the state is in PostgreSQL.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::{Fleet, LeaseView, Process};

/// The processes that share the repository.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetReport {
    /// The name of the repository in the database.
    pub(crate) repository: String,
    /// The names of several repositories, as recorded by the process that watches them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) repositories: Vec<String>,
    /// The process that has the lease, or had it last.
    pub(crate) holder: Option<HolderReport>,
    /// The processes that wait for the lease, or waited for it in the last hour.
    pub(crate) standbys: Vec<StandbyReport>,
    /// The processes that deliver.
    pub(crate) senders: Vec<SenderReport>,
}

/// The process that has the lease, or had it last.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HolderReport {
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// The number of this grant of the lease. Each later grant has a higher number.
    pub(crate) epoch: i64,
    pub(crate) since: Timestamp,
    /// Whether the lease is valid: it is neither expired nor released.
    pub(crate) is_valid: bool,
}

/// A process that waits for the lease, or waited for it in the last hour.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StandbyReport {
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) since: Timestamp,
    pub(crate) last_seen: Timestamp,
    /// Whether the process still waits: it asked for the lease less than `store.lease` ago.
    pub(crate) is_waiting: bool,
}

/// A process that delivers.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SenderReport {
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) since: Timestamp,
    pub(crate) last_seen: Timestamp,
    /// The number of claimed lanes. A lane has the deliveries of one project to one webhook.
    pub(crate) lanes: u64,
    /// Whether the lease of this sender is valid. If not, other senders take over its lanes.
    pub(crate) is_alive: bool,
}

impl FleetReport {
    pub(crate) fn of(fleet: Fleet) -> Self {
        Self {
            repository: fleet.repository,
            repositories: fleet.repositories,
            holder: fleet.lease.map(|holder| HolderReport {
                host: holder.process.host,
                pid: holder.process.pid,
                epoch: holder.epoch,
                since: holder.since,
                is_valid: holder.is_valid,
            }),
            standbys: fleet
                .standbys
                .into_iter()
                .map(|standby| StandbyReport {
                    host: standby.process.host,
                    pid: standby.process.pid,
                    since: standby.since,
                    last_seen: standby.last_seen,
                    is_waiting: standby.is_waiting,
                })
                .collect(),
            senders: fleet
                .senders
                .into_iter()
                .map(|sender| SenderReport {
                    host: sender.process.host,
                    pid: sender.process.pid,
                    since: sender.since,
                    last_seen: sender.last_seen,
                    lanes: sender.n_lanes,
                    is_alive: sender.is_alive,
                })
                .collect(),
        }
    }

    /// Returns the name of the repository, or the names of several, in words.
    pub(crate) fn watched(&self) -> String {
        match self.repositories.as_slice() {
            [] => format!("repository {}", self.repository),
            several => format!("repositories {}", several.join(", ")),
        }
    }

    /// Returns a process of this machine that waits for the lease.
    pub(crate) fn here(&self) -> Option<&StandbyReport> {
        let this = Process::this();
        let mut standbys = self.standbys.iter();
        standbys.find(|standby| standby.is_waiting && standby.host == this.host)
    }

    /// Returns a process of this machine that delivers and does not watch.
    pub(crate) fn sending_here(&self) -> Option<&SenderReport> {
        let this = Process::this();
        let holder = self.holder.as_ref();
        let watches = |sender: &SenderReport| {
            holder.is_some_and(|holder| (&holder.host, holder.pid) == (&sender.host, sender.pid))
        };
        let mut senders = self.senders.iter();
        senders.find(|sender| sender.is_alive && sender.host == this.host && !watches(sender))
    }
}

/// Describes the lease, as an addition to the summary of the engine.
pub(super) fn summary(view: &LeaseView) -> String {
    if !view.is_reachable {
        return "; the database does not answer".to_owned();
    }
    let standbys = view.fleet.standbys.iter();
    let standbys = match standbys.filter(|standby| standby.is_waiting).count() {
        0 => "no standby".to_owned(),
        1 => "1 standby".to_owned(),
        n => format!("{n} standbys"),
    };
    let epoch = view.fleet.lease.as_ref().map_or(0, |lease| lease.epoch);
    format!("; lease epoch {epoch}, {standbys}")
}
