//! Prevents a repository from being watched both alone and in a list.
//!
//! A process watches either a single repository or a list of `repositories`. Each single repository
//! has its own record in the database, and the list has one common record.
//!
//! # Constraints
//!
//! - A repository must not be watched both alone and in the list. So the record of the list
//!   contains the names of its repositories. Before a process gets the lease to watch a single
//!   repository, [`refuse_listed`] checks that the list does not contain it. Before [`record`]
//!   stores the names of a list, it checks that none of its repositories is in use alone. Both hold
//!   an advisory lock until they commit, so the second one finds the conflict. Single repositories
//!   share the lock and do not wait for each other.
//! - Deliveries in different records have no common order. So before a repository changes from one
//!   record to the other, the former record must have no pending deliveries of the repository.
//!   After the change, new pending deliveries in the former record are ignored. Otherwise an
//!   operator's redelivery could prevent watching.
//! - `migrate-store` copies the state of a list in several transactions. Until the copy is
//!   complete, the [`Mark`] of the transfer contains the names of the list.

use std::sync::Arc;

use tokio_postgres::Row;

use super::row;
use super::session::{LOCK_AS_HOLDER, Session, Statement, statement};
use super::transfer;
use crate::config::Postgres;
use crate::domain::project::organizations_of;
use crate::store::batch::{MetaKey, names_of, names_text};
use crate::store::error::{Fault, OpenError};
use crate::store::transfer::Mark;

/// The key of the advisory lock: `pwnames` in ASCII.
const LOCK: i64 = 0x0070_776e_616d_6573;

/// The condition that `migrate-store` did not move the repository's state away.
macro_rules! is_here {
    ($repository:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM meta t WHERE t.repository = ",
            $repository,
            ".id AND t.key = 'transfer' AND t.value::jsonb ->> 'state' = 'left')"
        )
    };
}

/// The condition that the name of the repository is in the list of this database.
macro_rules! is_listed {
    ($repository:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM repositories q JOIN meta m ON m.repository = q.id \
             AND m.key = 'repositories' WHERE q.name = 'repositories//' AND m.value::jsonb ? ",
            $repository,
            ".name AND ",
            is_here!("q"),
            ")"
        )
    };
}
pub(super) use {is_here, is_listed};

/// The reason why a process may not watch its repository or its list.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Whether the process may watch later without a change of the configuration.
    is_passing: bool,
}

impl Refusal {
    pub(super) fn fault(self) -> Fault {
        match self.is_passing {
            true => Fault::NotYet(self.reason),
            false => Fault::WatchedTwice(self.reason),
        }
    }

    pub(super) fn error(self, location: &Arc<str>) -> OpenError {
        let (location, reason) = (Arc::clone(location), self.reason);
        match self.is_passing {
            true => OpenError::NotYet { location, reason },
            false => OpenError::WatchedTwice { location, reason },
        }
    }
}

/// Reads the recorded names of a list, in JSON.
///
/// `name` is the name of the list itself in the table `repositories`. For the name of a single
/// repository, the statement returns no row.
pub(super) fn listed(name: &str) -> Statement {
    statement!(
        "SELECT m.value FROM meta m JOIN repositories r ON r.id = m.repository \
         WHERE r.name = $1 AND m.key = $2",
        name.to_owned(),
        MetaKey::HasRepositories.as_str()
    )
}

/// Reads the rows of [`listed`].
pub(super) fn of_rows(rows: &[Row]) -> Result<Vec<String>, Fault> {
    let value = rows.first().map(|found| row::text(found, 0)).transpose()?;
    names_of(value.as_deref())
}

/// Reads whether a repository may be watched alone. The record of the list `repositories` may
/// forbid it.
///
/// Pending deliveries of the repository in that record forbid it only until the repository has
/// projects in a record of its own.
fn list_beside(name: &str) -> Statement {
    let (first, end) = organizations_of(name);
    statement!(
        concat!(
            "SELECT m.value, t.value, EXISTS (SELECT 1 FROM leases l WHERE l.repository = r.id \
             AND l.leased_until >= clock_timestamp()), \
             EXISTS (SELECT 1 FROM files f WHERE f.repository = r.id \
             AND f.organization >= $3 AND f.organization < $4), \
             NOT EXISTS (SELECT 1 FROM repositories o WHERE o.name = $2 AND ",
            is_here!("o"),
            " AND (SELECT min(f.organization) FROM files f WHERE f.repository = o.id) IS NOT NULL) \
             AND EXISTS (SELECT 1 FROM deliveries d WHERE d.repository = r.id \
             AND d.organization >= $3 AND d.organization < $4 AND d.state = 'pending') \
             FROM repositories r \
             LEFT JOIN meta m ON m.repository = r.id AND m.key = 'repositories' \
             LEFT JOIN meta t ON t.repository = r.id AND t.key = 'transfer' WHERE r.name = $1"
        ),
        Postgres::LIST,
        name.to_owned(),
        first,
        end
    )
}

/// Returns why the repository may not be watched. Takes rows of [`list_beside`].
fn single_refusal(name: &str, rows: &[Row]) -> Result<Option<Refusal>, Fault> {
    let Some(found) = rows.first() else {
        return Ok(None);
    };
    let (names, mark): (Option<String>, Option<String>) = (found.try_get(0)?, found.try_get(1)?);
    let mark = mark.map(|text| row::from_json("the mark of `migrate-store`", &text));
    let is_in = |names: &[String]| names.iter().any(|one| one == name);
    let refused = |is_passing, reason: String| {
        let reason = format!("the repository {name} {reason}");
        Ok(Some(Refusal { reason, is_passing }))
    };
    match mark.transpose()? {
        Some(Mark::Left { .. }) => return Ok(None),
        // Ignore the other rows in the record of the list: `migrate-store` replaces them.
        Some(Mark::Arriving { names, .. }) if is_in(&names) => {
            return refused(
                false,
                "is in a list of repositories whose state `project-webhooks migrate-store` is moving to this \
                 database. Complete this move, or set another repository.name"
                    .to_owned(),
            );
        }
        Some(Mark::Arriving { .. }) => return Ok(None),
        Some(Mark::Arrived { .. }) | None => {}
    }
    let is_watched: bool = found.try_get(2)?;
    let (has_projects, has_pending): (bool, bool) = (found.try_get(3)?, found.try_get(4)?);
    let is_listed = is_in(&names_of(names.as_deref())?);
    match (is_listed, has_projects, has_pending) {
        (true, ..) if is_watched => refused(
            false,
            "is in the list `repositories` that other processes watch in this database, so it would be \
             watched twice. Set another repository.name, or remove the repository from the list"
                .to_owned(),
        ),
        (true, ..) => refused(
            false,
            "is in the list `repositories` that was last watched in this database, so it would be watched \
             twice. Set another repository.name, or start a process whose list lacks the repository"
                .to_owned(),
        ),
        (false, true, _) => refused(
            false,
            "was in the list `repositories` of this database, and the list's record still has projects of \
             this repository. Set another repository.name, or add the repository to the list again"
                .to_owned(),
        ),
        (false, false, true) => refused(
            true,
            "was in the list `repositories` of this database, and the list's record still has pending \
             deliveries of this repository. Let processes that have the list deliver them first, or run \
             `project-webhooks deliveries cancel` with the configuration that has the list"
                .to_owned(),
        ),
        (false, false, false) => Ok(None),
    }
}

/// Returns why this repository may not be watched alone, if the list forbids it.
///
/// Begins the transaction in which the caller must then get the lease.
pub(super) async fn refuse_listed(
    session: &mut Session,
    name: &str,
) -> Result<Option<Refusal>, Fault> {
    let lock = statement!("SELECT pg_advisory_xact_lock_shared($1)", LOCK);
    let answers = session
        .begin("BEGIN", vec![lock, list_beside(name)])
        .await?;
    single_refusal(name, answers.get(1).map_or(&[], Vec::as_slice))
}

/// Reads a repository of the list that is in use alone, if there is one.
///
/// Such a repository has its own record, lease or pending deliveries. An incomplete copy by
/// `migrate-store` is a record too. Pending deliveries matter only until the recorded list contains
/// the repository. An index finds the `min` of the organizations. With `EXISTS`, the server might
/// read all files.
fn own_records(names: &[String]) -> Statement {
    statement!(
        concat!(
            "SELECT name, holder, has_record FROM (SELECT r.name, l.holder, \
             (SELECT min(f.organization) FROM files f WHERE f.repository = r.id) IS NOT NULL \
             OR EXISTS (SELECT 1 FROM meta t WHERE t.repository = r.id AND t.key = 'transfer' \
             AND t.value::jsonb ->> 'state' = 'arriving') AS has_record, \
             EXISTS (SELECT 1 FROM deliveries d WHERE d.repository = r.id AND d.is_head) AND NOT ",
            is_listed!("r"),
            " AS has_pending FROM repositories r LEFT JOIN leases l \
             ON l.repository = r.id AND l.leased_until >= clock_timestamp() \
             WHERE r.name = ANY($1) AND ",
            is_here!("r"),
            ") AS own WHERE has_record OR holder IS NOT NULL OR has_pending \
             ORDER BY has_record DESC, name LIMIT 1"
        ),
        names.to_vec()
    )
}

/// Returns why the list may not be watched. Takes rows of [`own_records`].
fn refusal(rows: &[Row]) -> Result<Option<Refusal>, Fault> {
    let Some(found) = rows.first() else {
        return Ok(None);
    };
    let name = row::text(found, 0)?;
    let (holder, has_record): (Option<String>, bool) = (found.try_get(1)?, found.try_get(2)?);
    let reason = match (&holder, has_record) {
        (_, true) => {
            let watches =
                holder.map_or_else(String::new, |holder| format!(" and is watched by {holder}"));
            format!(
                "has a record of its own in this database{watches}; in the list it would have a second record. Set another \
                 name in the list, or remove the repository from the list"
            )
        }
        (Some(holder), false) => format!(
            "is watched alone by {holder}, so it would be watched twice. Stop that process, or remove the \
             repository from the list"
        ),
        (None, false) => {
            "has pending deliveries in a record of its own in this database. With the former configuration of \
             the repository, first deliver them (`roles: [deliver]`) or cancel them (`project-webhooks \
             deliveries cancel`)"
                .to_owned()
        }
    };
    Ok(Some(Refusal {
        reason: format!("the repository {name} of the list `repositories` {reason}"),
        is_passing: !has_record,
    }))
}

/// Returns why no process may watch a list, if a repository in it is in use alone.
pub(super) async fn refuse_own(
    session: &mut Session,
    names: &[String],
) -> Result<Option<Refusal>, Fault> {
    refusal(&session.rows(own_records(names)).await?)
}

/// Reads whether a process may watch the repository `name` or the list of `names`.
///
/// `names` is empty for a single repository.
pub(super) fn check(name: &str, names: &[String]) -> Statement {
    match names.is_empty() {
        true => list_beside(name),
        false => own_records(names),
    }
}

/// Returns why the process may not watch. Takes rows of [`check`].
pub(super) fn checked(
    name: &str,
    names: &[String],
    rows: &[Row],
) -> Result<Option<Refusal>, Fault> {
    match names.is_empty() {
        true => single_refusal(name, rows),
        false => refusal(rows),
    }
}

/// Replaces the recorded names of a list.
///
/// Fails if the process no longer has the lease on the list, if one of the repositories has a
/// record, a lease or pending deliveries of its own (see [`own_records`]), or if `migrate-store`
/// moved the state or has not finished copying it.
pub(super) async fn record(
    session: &mut Session,
    repository: i32,
    epoch: i64,
    names: &[String],
) -> Result<(), Fault> {
    let mark = begin(session, repository, epoch, names).await?;
    transfer::unless_moved(mark.as_ref())?;
    let write = statement!(
        "INSERT INTO meta (repository, key, value) VALUES ($1, $2, $3) \
         ON CONFLICT (repository, key) DO UPDATE SET value = excluded.value",
        repository,
        MetaKey::HasRepositories.as_str(),
        names_text(names)
    );
    session.commit(vec![write]).await?;
    Ok(())
}

/// Reserves the names of a list whose state `migrate-store` is about to copy here.
///
/// Writes the mark of the transfer, which contains the names. Fails if the process no longer has
/// the lease on the list, or if one of the repositories is in use alone.
pub(super) async fn reserve(
    session: &mut Session,
    repository: i32,
    epoch: i64,
    names: &[String],
    mark: Statement,
) -> Result<(), Fault> {
    begin(session, repository, epoch, names).await?;
    session.commit(vec![mark]).await?;
    Ok(())
}

/// Begins a transaction that stores the names of a list.
///
/// Returns the rows of a transfer's mark. Fails if the process no longer has the lease on the list,
/// or if one of the repositories is in use alone. A process that watches one of them alone may
/// be stopped until its lease has expired. When the process continues, it could renew the lease. So
/// this function raises the epoch of each expired lease, and then checks again.
async fn begin(
    session: &mut Session,
    repository: i32,
    epoch: i64,
    names: &[String],
) -> Result<Option<Vec<Row>>, Fault> {
    let refuse = |rows: Option<&Vec<Row>>| {
        let refused = refusal(rows.map_or(&[], Vec::as_slice))?;
        refused.map_or(Ok(()), |refusal| Err(refusal.fault()))
    };
    let mut begun = session
        .begin(
            "BEGIN",
            vec![
                statement!("SELECT pg_advisory_xact_lock($1)", LOCK),
                statement!(LOCK_AS_HOLDER, repository, epoch),
                own_records(names),
                transfer::read_mark(repository),
            ],
        )
        .await?;
    if begun.get(1).is_none_or(Vec::is_empty) {
        return Err(Fault::Fenced);
    }
    refuse(begun.get(2))?;
    let fenced = session
        .pipeline(vec![
            statement!(
                "UPDATE leases l SET epoch = l.epoch + 1, leased_until = '-infinity' \
                 FROM repositories r WHERE r.id = l.repository AND r.name = ANY($1) \
                 AND l.leased_until < clock_timestamp()",
                names.to_vec()
            ),
            // This waits for a running commit of a process whose lease has expired. The commit may
            // record the first project of the repository.
            statement!(
                "UPDATE repositories r SET epoch = l.epoch FROM leases l \
                 WHERE l.repository = r.id AND r.name = ANY($1) AND r.epoch < l.epoch",
                names.to_vec()
            ),
            own_records(names),
        ])
        .await?;
    refuse(fenced.get(2))?;
    Ok(begun.pop())
}
