//! The lease on the repository and the processes that wait for it, if the state is in PostgreSQL.

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
    /// The process that has the lease, or had it last.
    pub(crate) holder: Option<HolderReport>,
    /// The processes that wait, or did in the last hour.
    pub(crate) standbys: Vec<StandbyReport>,
}

/// The process with the lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HolderReport {
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// The number of the grant. Each grant has a higher one.
    pub(crate) epoch: i64,
    pub(crate) since: Timestamp,
    /// Whether the lease is valid: it is neither expired nor given back.
    pub(crate) is_valid: bool,
}

/// A process that waits for the lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StandbyReport {
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) since: Timestamp,
    pub(crate) last_seen: Timestamp,
    /// Whether it asked for the lease within the length of a lease.
    pub(crate) is_waiting: bool,
}

impl FleetReport {
    pub(crate) fn of(fleet: Fleet) -> Self {
        Self {
            repository: fleet.repository,
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
        }
    }

    /// The process of this machine that waits for the lease, if one does.
    pub(crate) fn here(&self) -> Option<&StandbyReport> {
        let this = Process::this();
        let mut standbys = self.standbys.iter();
        standbys.find(|standby| standby.is_waiting && standby.host == this.host)
    }
}

/// The end of the summary of a process with the lease.
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
    format!("; lease {epoch}, {standbys}")
}
