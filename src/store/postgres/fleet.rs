//! Reads the lease, the standbys and the senders of a repository.
//!
//! Also writes the row of a standby, a process that waits for the lease.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_postgres::Row;

use super::names::{is_here, is_listed};
use super::row;
use super::session::{Statement, statement};
use crate::store::batch::names_of;
use crate::store::error::Fault;
use crate::store::fleet::{Fleet, Holder, LeaseView, Process, Sender, Standby};

/// Makes the statements whose rows [`of_rows`] reads.
///
/// `length` is the length of the lease in seconds.
pub(super) fn statements(repository: i32, length: f64) -> [Statement; 4] {
    [
        statement!(
            concat!(
                "SELECT r.name, (SELECT value FROM meta WHERE repository = $1 \
                 AND key = 'repositories'), ",
                is_listed!("r"),
                " FROM repositories r WHERE r.id = $1"
            ),
            repository
        ),
        statement!(
            "SELECT holder, epoch, (extract(epoch FROM since) * 1000)::bigint, \
             leased_until > clock_timestamp() FROM leases WHERE repository = $1",
            repository
        ),
        statement!(
            "SELECT process, (extract(epoch FROM since) * 1000)::bigint, \
             (extract(epoch FROM seen) * 1000)::bigint, \
             seen > clock_timestamp() - make_interval(secs => $2) FROM standbys \
             WHERE repository = $1 AND seen > clock_timestamp() - interval '1 hour' \
             ORDER BY seen DESC, process LIMIT 100",
            repository,
            length
        ),
        statement!(
            "SELECT s.name, (extract(epoch FROM s.since) * 1000)::bigint, \
             (extract(epoch FROM s.seen) * 1000)::bigint, \
             coalesce(c.n, 0), s.leased_until > clock_timestamp() FROM senders s \
             LEFT JOIN (SELECT sender, count(*) AS n FROM claims WHERE repository = $1 \
             GROUP BY sender) c ON c.sender = s.id \
             WHERE s.repository = $1 ORDER BY s.id LIMIT 100",
            repository
        ),
    ]
}

/// Reads the rows of [`statements`].
pub(super) fn of_rows(answers: &[Vec<Row>]) -> Result<Fleet, Fault> {
    let [names, leases, standbys, senders] = answers else {
        return Err(Fault::Closed);
    };
    let name = names.first().map(|found| row::text(found, 0)).transpose()?;
    let several = names.first().map(|found| found.try_get(1)).transpose()?;
    let several: Option<String> = several.flatten();
    let is_listed = names.first().map(|found| found.try_get(2)).transpose()?;
    let holder = |found: &Row| -> Result<Holder, Fault> {
        Ok(Holder {
            process: process(&row::text(found, 0)?),
            epoch: row::number(found, 1)?,
            since: row::from_milliseconds(row::number(found, 2)?),
            is_valid: found.try_get(3)?,
        })
    };
    let standby = |found: &Row| -> Result<Standby, Fault> {
        Ok(Standby {
            process: process(&row::text(found, 0)?),
            since: row::from_milliseconds(row::number(found, 1)?),
            last_seen: row::from_milliseconds(row::number(found, 2)?),
            is_waiting: found.try_get(3)?,
        })
    };
    let sender = |found: &Row| -> Result<Sender, Fault> {
        Ok(Sender {
            process: process(&row::text(found, 0)?),
            since: row::from_milliseconds(row::number(found, 1)?),
            last_seen: row::from_milliseconds(row::number(found, 2)?),
            n_lanes: row::count(row::number(found, 3)?),
            is_alive: found.try_get(4)?,
        })
    };
    Ok(Fleet {
        repository: name.unwrap_or_default(),
        // Ignore damaged names: renewals of leases call this function, and they must not fail.
        repositories: names_of(several.as_deref()).unwrap_or_default(),
        is_listed: is_listed.unwrap_or_default(),
        lease: leases.first().map(holder).transpose()?,
        standbys: standbys
            .iter()
            .map(standby)
            .collect::<Result<Vec<Standby>, Fault>>()?,
        senders: senders
            .iter()
            .map(sender)
            .collect::<Result<Vec<Sender>, Fault>>()?,
    })
}

/// Parses a process. A text in another form becomes the host.
///
/// Another version of the program may have used another form.
fn process(text: &str) -> Process {
    Process::parse(text).unwrap_or_else(|| Process {
        host: text.to_owned(),
        pid: 0,
    })
}

/// Records that a process waits for the lease.
pub(super) fn wait(repository: &str, process: &str) -> Statement {
    statement!(
        "INSERT INTO standbys AS s (repository, process, since, seen) \
         SELECT r.id, $2, clock_timestamp(), clock_timestamp() FROM repositories r \
         WHERE r.name = $1 ON CONFLICT (repository, process) DO UPDATE SET seen = excluded.seen, \
         since = CASE WHEN s.seen < excluded.seen - interval '1 hour' \
         THEN excluded.since ELSE s.since END",
        repository.to_owned(),
        process.to_owned()
    )
}

/// Removes the row of a process that no longer waits for the lease.
///
/// Also removes the rows of processes that last asked for the lease more than a day ago.
pub(super) fn wait_no_longer(repository: i32, process: &str) -> Statement {
    statement!(
        "DELETE FROM standbys WHERE repository = $1 \
         AND (process = $2 OR seen < clock_timestamp() - interval '1 day')",
        repository,
        process.to_owned()
    )
}

/// The lease and the processes that share the repository, as last read.
#[derive(Clone)]
pub(super) struct LastRead(Arc<watch::Sender<LeaseView>>);

impl LastRead {
    pub(super) fn new(fleet: Fleet) -> Self {
        let is_reachable = true;
        Self(Arc::new(
            watch::channel(LeaseView {
                fleet,
                is_reachable,
            })
            .0,
        ))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<LeaseView> {
        self.0.subscribe()
    }

    pub(super) fn set(&self, fleet: Fleet) {
        let is_reachable = true;
        self.0.send_replace(LeaseView {
            fleet,
            is_reachable,
        });
    }

    /// Records that the last renewal failed.
    pub(super) fn unanswered(&self) {
        self.0.send_modify(|view| view.is_reachable = false);
    }
}
