//! Stores the list of invalid files.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::row;
use crate::domain::project::{Problem, ProjectKey};
use crate::store::error::Fault;
use crate::store::listing::RecordedProblem;

/// Returns the organization and the project under which invalid files are stored.
///
/// Files outside any project have an empty project name. If there is only one repository, the
/// organization is empty too.
fn names(key: Option<&ProjectKey>) -> (&str, &str) {
    key.map_or(("", ""), |key| (&key.organization, &key.project))
}

/// Replaces the recorded invalid files of a project. Writes only rows that differ.
pub(super) fn replace(
    connection: &Connection,
    key: Option<&ProjectKey>,
    problems: &[Problem],
    now: Timestamp,
) -> Result<(), Fault> {
    let (organization, project) = names(key);
    let mut before = of_project(connection, organization, project)?;
    for problem in problems {
        if before.remove(&problem.path).as_ref() == Some(problem) {
            continue;
        }
        connection
            .prepare_cached(
                "INSERT INTO problems \
                 (organization, project, path, reason, line, column, may_resolve, since_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                 ON CONFLICT (organization, project, path) DO UPDATE SET \
                 reason = excluded.reason, line = excluded.line, column = excluded.column, \
                 may_resolve = excluded.may_resolve",
            )?
            .execute(params![
                organization,
                project,
                problem.path,
                problem.reason,
                problem.line.map(u64::cast_signed),
                problem.column.map(u64::cast_signed),
                problem.may_resolve,
                row::milliseconds(now),
            ])?;
    }
    for path in before.into_keys() {
        connection
            .prepare_cached(
                "DELETE FROM problems WHERE organization = ?1 AND project = ?2 AND path = ?3",
            )?
            .execute([organization, project, &path])?;
    }
    Ok(())
}

const COLUMNS: &str = "path, reason, line, column, may_resolve";

fn problem(row: &rusqlite::Row<'_>) -> rusqlite::Result<Problem> {
    Ok(Problem {
        path: row.get(0)?,
        reason: row.get(1)?,
        line: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
        column: row.get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
        may_resolve: row.get(4)?,
    })
}

fn of_project(
    connection: &Connection,
    organization: &str,
    project: &str,
) -> Result<BTreeMap<String, Problem>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM problems WHERE organization = ?1 AND project = ?2"
    ))?;
    let problems = statement
        .query_map([organization, project], problem)?
        .map(|found| found.map(|problem| (problem.path.clone(), problem)))
        .collect::<rusqlite::Result<_>>()?;
    Ok(problems)
}

/// Lists the first `limit` problems, sorted by project and path.
pub(super) fn list(connection: &Connection, limit: usize) -> Result<Vec<RecordedProblem>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, organization, project, since_ms FROM problems \
         ORDER BY organization, project, path LIMIT ?1"
    ))?;
    let problems = statement
        .query_map([row::limit(limit)], |found| {
            let (organization, project): (String, String) = (found.get(5)?, found.get(6)?);
            Ok(RecordedProblem {
                key: (!organization.is_empty()).then(|| ProjectKey::new(organization, project)),
                problem: problem(found)?,
                since: row::from_milliseconds(found.get(7)?),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(problems)
}
