//! The names of repositories: of a list that one process watches, and of single ones beside it.
//!
//! Constraint: no repository is watched twice. So a database has the list of names beside the record of a
//! list. [`refuse_listed`] checks it for the lease on a single repository, and [`record`] checks the single
//! ones before it replaces the list. Both hold an advisory lock until they commit, so one of them finds
//! the other. A lock that is shared keeps single repositories from waiting for each other.

use tokio_postgres::Row;

use super::row;
use super::session::{LOCK_AS_HOLDER, Session, Statement, statement};
use super::transfer;
use crate::config::Postgres;
use crate::domain::project::organizations_of;
use crate::store::batch::{MetaKey, names_of, names_text};
use crate::store::error::Fault;

/// The key of the advisory lock: `pwnames` in ASCII.
const LOCK: i64 = 0x0070_776e_616d_6573;

/// A condition: the state of a repository `r` was not moved away by `migrate-store`.
macro_rules! is_here {
    () => {
        "NOT EXISTS (SELECT 1 FROM meta t WHERE t.repository = r.id AND t.key = 'transfer' \
         AND t.value::jsonb ->> 'state' = 'left')"
    };
}

/// Reads the list of names beside the record of a list: a value in `meta`, or no row.
///
/// `name` is the name of the row of a repository.
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
    Ok(names_of(value.as_deref()))
}

/// Returns why a single repository may not be watched: it is in the record of the list.
///
/// The transaction must take the lease after that.
pub(super) async fn refuse_listed(
    session: &mut Session,
    name: &str,
) -> Result<Option<String>, Fault> {
    let (first, end) = organizations_of(name);
    let lock = statement!("SELECT pg_advisory_xact_lock_shared($1)", LOCK);
    let read = statement!(
        concat!(
            "SELECT m.value, EXISTS (SELECT 1 FROM files f WHERE f.repository = r.id \
             AND f.organization >= $2 AND f.organization < $3) \
             FROM repositories r JOIN meta m ON m.repository = r.id AND m.key = 'repositories' \
             WHERE r.name = $1 AND ",
            is_here!()
        ),
        Postgres::LIST,
        first,
        end
    );
    let answers = session.begin("BEGIN", vec![lock, read]).await?;
    let Some(found) = answers.get(1).and_then(|rows| rows.first()) else {
        return Ok(None);
    };
    let is_watched = names_of(Some(&row::text(found, 0)?))
        .iter()
        .any(|one| one == name);
    let has_projects: bool = found.try_get(1)?;
    Ok(match (is_watched, has_projects) {
        (true, _) => Some(format!(
            "the repository {name} is one of the list `repositories` that other processes with this \
             database watch, so it would be watched twice. Set another repository.name, or remove it from \
             the list"
        )),
        (false, true) => Some(format!(
            "the repository {name} was one of the list `repositories` of this database, which still has \
             the record of its projects. Set another repository.name, or add it to the list again"
        )),
        (false, false) => None,
    })
}

/// Reads the repositories of a list that have a record of their own.
fn own_records(names: &[String]) -> Statement {
    statement!(
        concat!(
            "SELECT r.name, l.holder FROM repositories r LEFT JOIN leases l \
             ON l.repository = r.id AND l.leased_until >= clock_timestamp() \
             WHERE r.name = ANY($1) AND (l.holder IS NOT NULL \
             OR EXISTS (SELECT 1 FROM files f WHERE f.repository = r.id)) AND ",
            is_here!(),
            " ORDER BY r.name LIMIT 1"
        ),
        names.to_vec()
    )
}

/// Reads the rows of [`own_records`]: why the list may not be watched.
fn refusal(rows: &[Row]) -> Result<Option<String>, Fault> {
    let Some(found) = rows.first() else {
        return Ok(None);
    };
    let name = row::text(found, 0)?;
    let holder: Option<String> = found.try_get(1)?;
    let holder = holder.map_or_else(String::new, |holder| format!(", which {holder} watches"));
    Ok(Some(format!(
        "the repository {name} of the list `repositories` has a record of its own in this database{holder}, so \
         it would be watched twice. Set another name in the list, or remove it there"
    )))
}

/// Returns why a list may not be watched: one of its repositories has a record of its own.
pub(super) async fn refuse_own(
    session: &mut Session,
    names: &[String],
) -> Result<Option<String>, Fault> {
    refusal(&session.rows(own_records(names)).await?)
}

/// Replaces the list of names, while the process has the lease on the list.
///
/// A process that watched a single repository without projects may be stopped, and its lease expired. It
/// could renew that lease when it continues. So such a lease gets the next epoch.
pub(super) async fn record(
    session: &mut Session,
    repository: i32,
    epoch: i64,
    names: &[String],
) -> Result<(), Fault> {
    let refuse = |rows: Option<&Vec<Row>>| match refusal(rows.map_or(&[], Vec::as_slice))? {
        Some(reason) => Err(Fault::WatchedTwice(reason)),
        None => Ok(()),
    };
    let begun = session
        .begin(
            "BEGIN",
            vec![
                statement!("SELECT pg_advisory_xact_lock($1)", LOCK),
                statement!(LOCK_AS_HOLDER, repository, epoch),
                transfer::read_mark(repository),
                own_records(names),
            ],
        )
        .await?;
    if begun.get(1).is_none_or(Vec::is_empty) {
        return Err(Fault::Fenced);
    }
    transfer::unless_moved(begun.get(2))?;
    refuse(begun.get(3))?;
    let fenced = session
        .pipeline(vec![
            statement!(
                "UPDATE leases l SET epoch = l.epoch + 1, leased_until = '-infinity' \
                 FROM repositories r WHERE r.id = l.repository AND r.name = ANY($1) \
                 AND l.leased_until < clock_timestamp()",
                names.to_vec()
            ),
            // This waits for a commit of such a process, which may record the first project.
            statement!(
                "UPDATE repositories r SET epoch = l.epoch FROM leases l \
                 WHERE l.repository = r.id AND r.name = ANY($1) AND r.epoch < l.epoch",
                names.to_vec()
            ),
            own_records(names),
        ])
        .await?;
    refuse(fenced.get(2))?;
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
