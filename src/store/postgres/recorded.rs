//! Reads the record: project files, invalid files, and facts about a repository.
//!
//! Most functions implement an operation of [`Records`], [`Recording`] or [`Listing`]. See there
//! for the promises of each operation.
//!
//! [`Records`]: crate::store::contract::Records
//! [`Recording`]: crate::store::contract::Recording
//! [`Listing`]: crate::store::contract::Listing

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Row;

use super::client::number;
use super::row;
use super::session::{Session, statement};
use crate::domain::project::{
    ContentHash, Document, Identity, Mark, Problem, ProjectKey, Recorded, organizations_of,
};
use crate::store::batch::MetaKey;
use crate::store::error::Fault;
use crate::store::listing::RecordedProblem;

pub(super) async fn projects(
    session: &mut Session,
    repository: i32,
    keys: &[ProjectKey],
) -> Result<Vec<Recorded>, Fault> {
    let (organizations, projects) = row::arrays(keys);
    let sql = format!(
        "SELECT {}, organization, project FROM files f \
         JOIN (SELECT DISTINCT o, p FROM unnest($2::text[], $3::text[]) AS k (o, p)) k \
         ON f.organization = k.o AND f.project = k.p WHERE f.repository = $1",
        row::FILE_COLUMNS
    );
    let rows = session
        .rows(statement!(sql, repository, organizations, projects))
        .await?;
    let mut found: HashMap<ProjectKey, Recorded> = HashMap::new();
    for file in &rows {
        found
            .entry(row::key(file, 11)?)
            .or_default()
            .put(row::file(file)?);
    }
    Ok(keys
        .iter()
        .map(|key| found.get(key).cloned().unwrap_or_default())
        .collect())
}

pub(super) async fn marks(
    session: &mut Session,
    repository: i32,
    keys: &[ProjectKey],
) -> Result<Vec<Vec<Mark>>, Fault> {
    let (organizations, projects) = row::arrays(keys);
    let rows = session
        .rows(statement!(
            "SELECT path, inode, size, modified_ns, changed_ns, \
             CASE WHEN owner = '' THEN 0 ELSE read_ns END, organization, project FROM files f \
             JOIN (SELECT DISTINCT o, p FROM unnest($2::text[], $3::text[]) AS k (o, p)) k \
             ON f.organization = k.o AND f.project = k.p WHERE f.repository = $1 ORDER BY path",
            repository,
            organizations,
            projects
        ))
        .await?;
    let mut found: HashMap<ProjectKey, Vec<Mark>> = HashMap::new();
    for file in &rows {
        found.entry(row::key(file, 6)?).or_default().push(Mark {
            path: row::text(file, 0)?,
            stamp: row::stamp(file, 1)?,
            read_ns: row::number(file, 5)?,
        });
    }
    Ok(keys
        .iter()
        .map(|key| found.get(key).cloned().unwrap_or_default())
        .collect())
}

/// Lists the projects with a record, sorted.
///
/// `repository` is the id of a row in the table `repositories`. That row stands for one repository,
/// or for all repositories of the setting `repositories`. Then `name` can select one of them.
pub(super) async fn keys(
    session: &mut Session,
    repository: i32,
    name: Option<&str>,
) -> Result<Vec<ProjectKey>, Fault> {
    let selected = match name.map(organizations_of) {
        None => statement!(
            "SELECT DISTINCT organization, project FROM files WHERE repository = $1 \
             ORDER BY organization, project",
            repository
        ),
        Some((first, end)) => statement!(
            "SELECT DISTINCT organization, project FROM files WHERE repository = $1 \
             AND organization >= $2 AND organization < $3 ORDER BY organization, project",
            repository,
            first,
            end
        ),
    };
    keys_of(&session.rows(selected).await?)
}

pub(super) async fn keys_in(
    session: &mut Session,
    repository: i32,
    organization: String,
) -> Result<Vec<ProjectKey>, Fault> {
    let sql = "SELECT DISTINCT organization, project FROM files WHERE repository = $1 \
               AND organization = $2 ORDER BY organization, project";
    let selected = statement!(sql, repository, organization);
    keys_of(&session.rows(selected).await?)
}

fn keys_of(rows: &[Row]) -> Result<Vec<ProjectKey>, Fault> {
    rows.iter().map(|found| row::key(found, 0)).collect()
}

pub(super) async fn n_defined(
    session: &mut Session,
    repository: i32,
    name: Option<&str>,
) -> Result<usize, Fault> {
    let counted = match name.map(organizations_of) {
        None => statement!(
            "SELECT count(*) FROM files WHERE repository = $1 AND identity IS NOT NULL \
             AND role <> 'deleted'",
            repository
        ),
        Some((first, end)) => statement!(
            "SELECT count(*) FROM files WHERE repository = $1 AND identity IS NOT NULL \
             AND role <> 'deleted' AND organization >= $2 AND organization < $3",
            repository,
            first,
            end
        ),
    };
    let n = number(&session.rows(counted).await?)?;
    Ok(usize::try_from(n).unwrap_or_default())
}

pub(super) async fn with_identities(
    session: &mut Session,
    repository: i32,
    wanted: &[Identity],
) -> Result<Vec<Vec<ProjectKey>>, Fault> {
    let hashes: Vec<Vec<u8>> = wanted
        .iter()
        .map(|identity| row::indexed(&identity.to_string()))
        .collect();
    let rows = session
        .rows(statement!(
            "SELECT DISTINCT identity, organization, project FROM files WHERE repository = $1 \
             AND identity = ANY($2) ORDER BY organization, project",
            repository,
            hashes.clone()
        ))
        .await?;
    let mut found: BTreeMap<Vec<u8>, Vec<ProjectKey>> = BTreeMap::new();
    for project in &rows {
        let keys = found.entry(project.try_get(0)?).or_default();
        keys.push(row::key(project, 1)?);
    }
    Ok(hashes
        .iter()
        .map(|hash| found.get(hash).cloned().unwrap_or_default())
        .collect())
}

pub(super) async fn kept_ids(
    session: &mut Session,
    repository: i32,
) -> Result<Vec<(ProjectKey, String)>, Fault> {
    let rows = session
        .rows(statement!(
            "SELECT organization, project, document FROM files WHERE repository = $1 \
             AND identity IS NOT NULL AND strpos(document, '\"kept\"') > 0 \
             ORDER BY organization, project",
            repository
        ))
        .await?;
    let mut kept = Vec::new();
    for found in &rows {
        let document: Document = row::from_json("the file's document", &row::text(found, 2)?)?;
        if let Some(id) = document.kept_id() {
            kept.push((row::key(found, 0)?, id.to_owned()));
        }
    }
    Ok(kept)
}

pub(super) async fn meta(
    session: &mut Session,
    repository: i32,
    stored: String,
) -> Result<Option<String>, Fault> {
    let rows = session
        .rows(statement!(
            "SELECT value FROM meta WHERE repository = $1 AND key = $2",
            repository,
            stored
        ))
        .await?;
    rows.first().map(|found| row::text(found, 0)).transpose()
}

pub(super) async fn n_pending(
    session: &mut Session,
    repository: i32,
    name: &str,
    most: u64,
) -> Result<u64, Fault> {
    let (first, end) = organizations_of(name);
    let rows = session
        .rows(statement!(
            "SELECT count(*) FROM (SELECT FROM deliveries WHERE repository = $1 AND state = 'pending' \
             AND organization >= $2 AND organization < $3 LIMIT $4) d",
            repository,
            first,
            end,
            i64::try_from(most).unwrap_or(i64::MAX)
        ))
        .await?;
    Ok(row::count(number(&rows)?))
}

pub(super) async fn repositories(
    session: &mut Session,
    repository: i32,
) -> Result<Vec<String>, Fault> {
    let (first, end) = MetaKey::FirstStart.range();
    let skipped = i32::try_from(first.len()).unwrap_or_default();
    let rows = session
        .rows(statement!(
            "WITH RECURSIVE names(first) AS (SELECT min(organization) FROM files \
             WHERE repository = $1 UNION ALL SELECT (SELECT min(organization) FROM files \
             WHERE repository = $1 AND organization >= split_part(first, '//', 1) || '/0') \
             FROM names WHERE first IS NOT NULL) \
             SELECT substr(key, $4 + 1) COLLATE \"C\" AS name FROM meta \
             WHERE repository = $1 AND key >= $2 AND key < $3 \
             UNION SELECT split_part(first, '//', 1) FROM names WHERE first LIKE '%//%' \
             ORDER BY name",
            repository,
            first,
            end,
            skipped
        ))
        .await?;
    rows.iter().map(|found| row::text(found, 0)).collect()
}

pub(super) async fn problems(
    session: &mut Session,
    repository: i32,
    limit: usize,
) -> Result<Vec<RecordedProblem>, Fault> {
    let rows = session
        .rows(statement!(
            "SELECT organization, project, path, reason, line, \"column\", may_resolve, since_ms \
             FROM problems WHERE repository = $1 ORDER BY organization, project, path LIMIT $2",
            repository,
            row::limit(limit)
        ))
        .await?;
    let number = |found: &Row, column: usize| -> Result<Option<u64>, Fault> {
        let number: Option<i64> = found.try_get(column)?;
        Ok(number.map(i64::cast_unsigned))
    };
    rows.iter()
        .map(|found| {
            let key = row::key(found, 0)?;
            Ok(RecordedProblem {
                key: (!key.organization.is_empty()).then_some(key),
                problem: Problem {
                    path: row::text(found, 2)?,
                    reason: row::text(found, 3)?,
                    line: number(found, 4)?,
                    column: number(found, 5)?,
                    may_resolve: found.try_get(6)?,
                },
                since: row::from_milliseconds(row::number(found, 7)?),
            })
        })
        .collect()
}

pub(super) async fn listeners(
    session: &mut Session,
    repository: i32,
    key: &ProjectKey,
) -> Result<BTreeSet<String>, Fault> {
    let rows = session
        .rows(statement!(
            "SELECT webhook FROM listeners WHERE repository = $1 AND organization = $2 \
             AND project = $3",
            repository,
            key.organization.clone(),
            key.project.clone()
        ))
        .await?;
    rows.iter().map(|found| row::text(found, 0)).collect()
}

/// Returns which of these payloads are stored.
pub(super) async fn stored(
    session: &mut Session,
    repository: i32,
    hashes: &[ContentHash],
) -> Result<BTreeSet<ContentHash>, Fault> {
    let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.0.to_vec()).collect();
    let rows = session
        .rows(statement!(
            "SELECT hash FROM payloads WHERE repository = $1 AND hash = ANY($2)",
            repository,
            hashes
        ))
        .await?;
    rows.iter()
        .map(|found| row::hash_in("a payload", found, 0))
        .collect()
}
