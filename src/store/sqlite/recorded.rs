//! Reads the record: the files of projects, and facts about repositories.
//!
//! The functions implement operations of [`Records`], [`Recording`] and [`Listing`], which document
//! them.
//!
//! [`Records`]: crate::store::contract::Records
//! [`Recording`]: crate::store::contract::Recording
//! [`Listing`]: crate::store::contract::Listing

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::row;
use crate::domain::project::{
    Document, Identity, Mark, ProjectKey, Recorded, Stamp, organizations_of,
};
use crate::store::batch::MetaKey;
use crate::store::error::Fault;

pub(super) fn project(connection: &Connection, key: &ProjectKey) -> Result<Recorded, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM files WHERE organization = ?1 AND project = ?2",
        row::FILE_COLUMNS
    ))?;
    let mut rows = statement.query([&key.organization, &key.project])?;
    let mut recorded = Recorded::default();
    while let Some(row) = rows.next()? {
        recorded.put(row::file(row)?);
    }
    Ok(recorded)
}

pub(super) fn marks(connection: &Connection, keys: &[ProjectKey]) -> Result<Vec<Vec<Mark>>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT path, inode, size, modified_ns, changed_ns, iif(owner = '', 0, read_ns) FROM files \
         WHERE organization = ?1 AND project = ?2 ORDER BY path",
    )?;
    let mut of_all = Vec::with_capacity(keys.len());
    for key in keys {
        let mut rows = statement.query([&key.organization, &key.project])?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next()? {
            marks.push(Mark {
                path: row.get(0)?,
                stamp: Stamp {
                    inode: row.get::<_, i64>(1)?.cast_unsigned(),
                    size: row.get::<_, i64>(2)?.cast_unsigned(),
                    modified_ns: row.get(3)?,
                    changed_ns: row.get(4)?,
                },
                read_ns: row.get(5)?,
            });
        }
        of_all.push(marks);
    }
    Ok(of_all)
}

pub(super) fn keys(
    connection: &Connection,
    repository: Option<&str>,
) -> Result<Vec<ProjectKey>, Fault> {
    let all = "SELECT DISTINCT organization, project FROM files ORDER BY organization, project";
    let some = "SELECT DISTINCT organization, project FROM files \
                WHERE organization >= ?1 AND organization < ?2 ORDER BY organization, project";
    let mut statement = connection.prepare_cached(repository.map_or(all, |_| some))?;
    let keys = statement
        .query_map(params_from_iter(range(repository)), key)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(keys)
}

pub(super) fn keys_in(
    connection: &Connection,
    organization: &str,
) -> Result<Vec<ProjectKey>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT organization, project FROM files WHERE organization = ?1 \
         ORDER BY organization, project",
    )?;
    let keys = statement
        .query_map([organization], key)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(keys)
}

pub(super) fn n_defined(connection: &Connection, repository: Option<&str>) -> Result<usize, Fault> {
    let all = "SELECT count(*) - (SELECT count(*) FROM files WHERE role = 'deleted') \
               FROM files WHERE identity IS NOT NULL";
    let some = "SELECT count(*) - (SELECT count(*) FROM files WHERE role = 'deleted' \
                AND organization >= ?1 AND organization < ?2) FROM files \
                WHERE organization >= ?1 AND organization < ?2 AND identity IS NOT NULL";
    let mut statement = connection.prepare_cached(repository.map_or(all, |_| some))?;
    let n: i64 = statement.query_row(params_from_iter(range(repository)), |row| row.get(0))?;
    Ok(usize::try_from(n).unwrap_or_default())
}

/// Returns the bounds of a repository's organizations as SQL parameters.
///
/// `None` stands for all repositories, without bounds.
fn range(repository: Option<&str>) -> Vec<String> {
    let range = repository.map(organizations_of);
    range.map_or_else(Vec::new, |(first, end)| vec![first, end])
}

pub(super) fn with_identity(
    connection: &Connection,
    identity: &Identity,
) -> Result<Vec<ProjectKey>, Fault> {
    let mut statement = connection.prepare_cached(WITH_IDENTITY)?;
    let keys = statement
        .query_map([identity.to_string()], key)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(keys)
}

pub(super) const WITH_IDENTITY: &str = "SELECT organization, project FROM files \
     WHERE identity = ?1 ORDER BY organization, project";

pub(super) fn kept_ids(connection: &Connection) -> Result<Vec<(ProjectKey, String)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT organization, project, document FROM files \
         WHERE identity IS NOT NULL AND instr(document, '\"kept\"') > 0",
    )?;
    let mut rows = statement.query([])?;
    let mut kept = Vec::new();
    while let Some(row) = rows.next()? {
        let document: Document = row::from_json("the file's document", &row.get::<_, String>(2)?)?;
        if let Some(id) = document.kept_id() {
            kept.push((key(row)?, id.to_owned()));
        }
    }
    Ok(kept)
}

fn key(row: &rusqlite::Row<'_>) -> rusqlite::Result<ProjectKey> {
    Ok(ProjectKey {
        organization: row.get(0)?,
        project: row.get(1)?,
    })
}

pub(super) fn meta(
    connection: &Connection,
    repository: Option<&str>,
    key: MetaKey,
) -> Result<Option<String>, Fault> {
    Ok(connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key.stored(repository)], |row| row.get(0))
        .optional()?)
}

pub(super) fn n_pending(
    connection: &Connection,
    repository: &str,
    most: u64,
) -> Result<u64, Fault> {
    let (first, end) = organizations_of(repository);
    let mut statement = connection.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM webhooks CROSS JOIN deliveries d \
         INDEXED BY deliveries_lane WHERE d.webhook = webhooks.name AND d.organization >= ?1 \
         AND d.organization < ?2 AND d.state = 'pending' LIMIT ?3)",
    )?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let n = statement.query_row(params![first, end, most], |row| row.get(0))?;
    Ok(row::count(n))
}

pub(super) fn repositories(connection: &Connection) -> Result<Vec<String>, Fault> {
    let (first, end) = MetaKey::FirstStart.range();
    // The stored names of a repository's organizations begin with the name of the repository and
    // `//`. Each step of the recursion skips the other organizations of a repository. So the
    // recursion reads one row of each repository.
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE names(first) AS (SELECT min(organization) FROM files \
         WHERE organization >= '' UNION ALL SELECT (SELECT min(organization) FROM files \
         WHERE organization >= substr(first, 1, instr(first, '//') - 1) || '/0') FROM names \
         WHERE instr(first, '//') > 0) \
         SELECT substr(key, length(?1) + 1) FROM meta WHERE key >= ?1 AND key < ?2 \
         UNION SELECT substr(first, 1, instr(first, '//') - 1) FROM names \
         WHERE instr(first, '//') > 0 ORDER BY 1",
    )?;
    let names = statement
        .query_map([first, end], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(names)
}
