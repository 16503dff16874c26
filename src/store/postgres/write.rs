//! The statements that write a batch, each for many rows of one table.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::row::{self, column};
use super::session::{PART, Statement, parts, statement};
use crate::domain::event::EventId;
use crate::domain::project::{FileState, Problem, ProjectKey, Role};
use crate::store::batch::{MetaKey, NewEvent};
use crate::store::error::Fault;
use crate::store::payload::Given;

/// A new delivery.
pub(super) struct Delivery {
    pub(super) id: i64,
    pub(super) event: i64,
    pub(super) webhook: String,
    pub(super) key: ProjectKey,
    pub(super) is_head: bool,
    pub(super) is_delete: bool,
    pub(super) project_id: Option<Vec<u8>>,
    pub(super) origin: &'static str,
    pub(super) due: i64,
}

/// The approximate size of a row without its texts, in bytes.
const ROW: usize = 256;

/// Inserts payloads.
pub(super) fn payloads(repository: i32, given: &[&Given]) -> Result<Vec<Statement>, Fault> {
    let all = given
        .iter()
        .map(|given| match given.compressed() {
            Some(compressed) => Ok((*given, compressed.clone())),
            // The payload was already stored when the batch was prepared, so it was not compressed.
            // It has been removed since then.
            None => Ok((*given, given.compress_late()?)),
        })
        .collect::<Result<Vec<(&Given, Bytes)>, Fault>>()?;
    let insert = |some: &[(&Given, Bytes)]| {
        statement!(
            "INSERT INTO payloads (repository, hash, size, compressed) SELECT $1::int, * \
             FROM unnest($2::bytea[], $3::bigint[], $4::bytea[]) ON CONFLICT DO NOTHING",
            repository,
            column(some, |(given, _)| given.hash().0.to_vec()),
            column(some, |(given, _)| row::limit(given.bytes().len())),
            column(some, |(_, compressed)| compressed.to_vec()),
        )
    };
    let size = |(_, compressed): &(&Given, Bytes)| compressed.len();
    Ok(parts(&all, size).map(insert).collect())
}

/// Returns the new payloads that are too large for the transaction of their batch.
///
/// Each has its compressed bytes.
pub(super) fn large(given: &[Given]) -> impl Iterator<Item = (&Given, &Bytes)> {
    let new = given
        .iter()
        .filter_map(|one| Some((one, one.compressed()?)));
    new.filter(|(_, compressed)| compressed.len() > PART)
}

/// Inserts a payload before its batch, if the process still has the lease.
pub(super) fn payload(repository: i32, epoch: i64, given: &Given, compressed: &Bytes) -> Statement {
    statement!(
        "INSERT INTO payloads (repository, hash, size, compressed) \
         SELECT id, $3::bytea, $4::bigint, $5::bytea FROM repositories WHERE id = $1 AND epoch = $2 \
         ON CONFLICT DO NOTHING",
        repository,
        epoch,
        given.hash().0.to_vec(),
        row::limit(given.bytes().len()),
        compressed.to_vec(),
    )
}

/// Inserts the rows of webhooks that have none.
pub(super) fn webhooks(repository: i32, names: &BTreeSet<String>) -> Option<Statement> {
    let names: Vec<String> = names.iter().cloned().collect();
    (!names.is_empty()).then(|| {
        statement!(
            "INSERT INTO webhooks (repository, name) SELECT $1::int, * FROM unnest($2::text[]) \
             ON CONFLICT DO NOTHING",
            repository,
            names
        )
    })
}

/// A new event, its id, the repetition of the id, and its sequence number.
pub(super) type Numbered<'a> = (&'a NewEvent, EventId, u32, i64);

/// Inserts events.
pub(super) fn events(
    repository: i32,
    events: &[Numbered<'_>],
    now: i64,
) -> Result<Vec<Statement>, Fault> {
    let all = events
        .iter()
        .map(|numbered| {
            let event = &numbered.0.event;
            // JSON escapes NUL, which the database cannot store.
            let parameters = row::to_json("the event's parameters", &event.parameters)?;
            let explanation = row::to_json("the event's explanation", &event.explanation)?;
            Ok((numbered, parameters, explanation))
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    let size = |(_, parameters, explanation): &(_, String, String)| {
        ROW.saturating_add(parameters.len())
            .saturating_add(explanation.len())
    };
    let some = parts(&all, size);
    Ok(some
        .map(|some| insert_events(repository, some, now))
        .collect())
}

/// Inserts events with their parameters and explanations in JSON.
fn insert_events(
    repository: i32,
    events: &[(&Numbered<'_>, String, String)],
    now: i64,
) -> Statement {
    statement!(
        "INSERT INTO events (repository, sequence, id, repetition, kind, organization, project, \
         origin, occurred_ns, recorded_ms, parameters, explanation, payload) \
         SELECT $1::int, e.sequence, e.id, e.repetition, e.kind, e.organization, e.project, e.origin, \
         e.occurred_ns, $2::bigint, e.parameters, e.explanation, e.payload \
         FROM unnest($3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], \
         $9::text[], $10::bigint[], $11::text[], $12::text[], $13::bytea[]) \
         AS e (sequence, id, repetition, kind, organization, project, origin, occurred_ns, \
         parameters, explanation, payload)",
        repository,
        now,
        column(events, |((.., sequence), ..)| *sequence),
        column(events, |((_, id, ..), ..)| id.0.clone()),
        column(events, |((_, _, repetition, _), ..)| i64::from(*repetition)),
        column(events, |((new, ..), ..)| new.event.kind.as_str()),
        column(events, |((new, ..), ..)| new.event.key.organization.clone()),
        column(events, |((new, ..), ..)| new.event.key.project.clone()),
        column(events, |((new, ..), ..)| new.event.origin.as_str()),
        column(events, |((new, ..), ..)| row::nanoseconds(
            new.event.occurred_at
        )),
        column(events, |(_, parameters, _)| parameters.clone()),
        column(events, |(.., explanation)| explanation.clone()),
        column(events, |((new, ..), ..)| new.event.payload.0.to_vec()),
    )
}

/// Inserts pending deliveries.
pub(super) fn deliveries(
    repository: i32,
    new: &[Delivery],
    now: i64,
) -> impl Iterator<Item = Statement> {
    parts(new, |_| ROW).map(move |new| {
        statement!(
            "INSERT INTO deliveries (repository, id, event, webhook, organization, project, \
             state, is_head, origin, due_ms, created_ms, waiting_ms, is_delete, project_id) \
             SELECT $1::int, d.id, d.event, d.webhook, d.organization, d.project, 'pending', \
             d.is_head, d.origin, d.due, $2::bigint, $2::bigint, d.is_delete, d.project_id \
             FROM unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], \
             $8::bool[], $9::text[], $10::bigint[], $11::bool[], $12::bytea[]) \
             AS d (id, event, webhook, organization, project, is_head, origin, due, is_delete, \
             project_id)",
            repository,
            now,
            column(new, |new| new.id),
            column(new, |new| new.event),
            column(new, |new| new.webhook.clone()),
            column(new, |new| new.key.organization.clone()),
            column(new, |new| new.key.project.clone()),
            column(new, |new| new.is_head),
            column(new, |new| new.origin),
            column(new, |new| new.due),
            column(new, |new| new.is_delete),
            column(new, |new| new.project_id.clone()),
        )
    })
}

/// Returns the hash of a project's identity, to store in the row of its definition.
///
/// This includes the kept definition of a deleted project. `None` for other files.
pub(super) fn identity_of(file: &FileState) -> Option<Vec<u8>> {
    let is_definition = matches!(file.role, Role::Definition | Role::Deleted);
    is_definition.then(|| row::indexed(&file.identity().to_string()))
}

/// Removes and writes the rows of files.
pub(super) fn files(
    repository: i32,
    files: &BTreeMap<(ProjectKey, String), Option<&FileState>>,
) -> Result<Vec<Statement>, Fault> {
    let mut statements = Vec::new();
    let removed: Vec<&(ProjectKey, String)> = files
        .iter()
        .filter(|(_, file)| file.is_none())
        .map(|(place, _)| place)
        .collect();
    if !removed.is_empty() {
        statements.push(statement!(
            "DELETE FROM files f USING unnest($2::text[], $3::text[], $4::bytea[]) AS r (o, p, h) \
             WHERE f.repository = $1 AND f.organization = r.o AND f.project = r.p \
             AND f.path_hash = r.h",
            repository,
            column(&removed, |(key, _)| key.organization.clone()),
            column(&removed, |(key, _)| key.project.clone()),
            column(&removed, |(_, path)| row::indexed(path)),
        ));
    }
    let written: Vec<(&ProjectKey, &FileState)> = files
        .iter()
        .filter_map(|((key, _), file)| Some((key, (*file)?)))
        .collect();
    let written = written
        .into_iter()
        .map(|(key, file)| {
            let document = row::to_json("the file's document", &file.document)?;
            Ok((key, file, document))
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    let size = |(.., document): &(_, _, String)| ROW.saturating_add(document.len());
    statements.extend(parts(&written, size).map(|some| put_files(repository, some)));
    Ok(statements)
}

/// Writes the rows of files with their documents in JSON.
fn put_files(repository: i32, files: &[(&ProjectKey, &FileState, String)]) -> Statement {
    statement!(
        PUT_FILES,
        repository,
        column(files, |(key, ..)| key.organization.clone()),
        column(files, |(key, ..)| key.project.clone()),
        column(files, |(_, file, _)| file.path.clone()),
        column(files, |(_, file, _)| row::indexed(&file.path)),
        column(files, |(_, file, _)| file.role.as_str()),
        column(files, |(_, file, _)| file.tag.clone()),
        column(files, |(_, file, _)| file.stamp.inode.cast_signed()),
        column(files, |(_, file, _)| file.stamp.size.cast_signed()),
        column(files, |(_, file, _)| file.stamp.modified_ns),
        column(files, |(_, file, _)| file.stamp.changed_ns),
        column(files, |(_, file, _)| file.read_ns),
        column(files, |(_, file, _)| file.hash.0.to_vec()),
        column(files, |(_, file, _)| row::storable(&file.owner)),
        column(files, |(.., document)| document.clone()),
        column(files, |(_, file, _)| identity_of(file)),
    )
}

const PUT_FILES: &str = "INSERT INTO files (repository, organization, project, path, path_hash, \
     role, tag, inode, size, modified_ns, changed_ns, read_ns, hash, owner, document, identity) \
     SELECT $1::int, * FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], \
     $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], \
     $13::bytea[], $14::text[], $15::text[], $16::bytea[]) \
     ON CONFLICT (repository, organization, project, path_hash) DO UPDATE SET \
     role = excluded.role, tag = excluded.tag, inode = excluded.inode, size = excluded.size, \
     modified_ns = excluded.modified_ns, changed_ns = excluded.changed_ns, \
     read_ns = excluded.read_ns, hash = excluded.hash, owner = excluded.owner, \
     document = excluded.document, identity = excluded.identity";

/// Removes and adds listeners, by the difference between before and after a batch.
pub(super) fn listeners(
    repository: i32,
    before: &BTreeMap<ProjectKey, BTreeSet<String>>,
    after: &BTreeMap<ProjectKey, BTreeSet<String>>,
) -> Vec<Statement> {
    type All = BTreeMap<ProjectKey, BTreeSet<String>>;
    let pairs = |all: &All| -> BTreeSet<(ProjectKey, String)> {
        all.iter()
            .flat_map(|(key, webhooks)| webhooks.iter().map(|name| (key.clone(), name.clone())))
            .collect()
    };
    let (before, after) = (pairs(before), pairs(after));
    let statement = |sql: &'static str, pairs: Vec<&(ProjectKey, String)>| {
        (!pairs.is_empty()).then(|| {
            statement!(
                sql,
                repository,
                column(&pairs, |(key, _)| key.organization.clone()),
                column(&pairs, |(key, _)| key.project.clone()),
                column(&pairs, |(_, webhook)| webhook.clone()),
            )
        })
    };
    let removed = statement(
        "DELETE FROM listeners l USING unnest($2::text[], $3::text[], $4::text[]) AS r (o, p, w) \
         WHERE l.repository = $1 AND l.organization = r.o AND l.project = r.p AND l.webhook = r.w",
        before.difference(&after).collect(),
    );
    let added = statement(
        "INSERT INTO listeners (repository, organization, project, webhook) \
         SELECT $1::int, * FROM unnest($2::text[], $3::text[], $4::text[]) ON CONFLICT DO NOTHING",
        after.difference(&before).collect(),
    );
    removed.into_iter().chain(added).collect()
}

/// Replaces the lists of invalid files of these projects.
///
/// A file that is in both the former and the new list keeps the time when it was first found.
pub(super) fn problems(
    repository: i32,
    lists: &[(Option<ProjectKey>, Vec<Problem>)],
    now: i64,
) -> Vec<Statement> {
    if lists.is_empty() {
        return Vec::new();
    }
    // If a project has several lists, use the last one. A list without a key is stored with an
    // empty organization and an empty project.
    let lists: BTreeMap<ProjectKey, BTreeMap<&str, &Problem>> = lists
        .iter()
        .map(|(key, list)| {
            let key = key.clone().unwrap_or_else(|| ProjectKey::new("", ""));
            (key, list.iter().map(|one| (&*one.path, one)).collect())
        })
        .collect();
    let (organizations, projects) = row::arrays(lists.keys());
    let all: Vec<(&ProjectKey, &Problem)> = lists
        .iter()
        .flat_map(|(key, list)| list.values().map(move |problem| (key, *problem)))
        .collect();
    let of_rows = || {
        (
            column(&all, |(key, _)| key.organization.clone()),
            column(&all, |(key, _)| key.project.clone()),
            column(&all, |(_, problem)| row::indexed(&problem.path)),
        )
    };
    let (kept_organizations, kept_projects, kept_paths) = of_rows();
    let (put_organizations, put_projects, put_paths) = of_rows();
    let mut statements = vec![statement!(
        "DELETE FROM problems r USING unnest($2::text[], $3::text[]) AS k (o, p) \
         WHERE r.repository = $1 AND r.organization = k.o AND r.project = k.p \
         AND NOT EXISTS (SELECT 1 FROM unnest($4::text[], $5::text[], $6::bytea[]) AS n (o, p, h) \
         WHERE n.o = r.organization AND n.p = r.project AND n.h = r.path_hash)",
        repository,
        organizations,
        projects,
        kept_organizations,
        kept_projects,
        kept_paths,
    )];
    if !all.is_empty() {
        statements.push(statement!(
            PUT_PROBLEMS,
            repository,
            now,
            put_organizations,
            put_projects,
            column(&all, |(_, problem)| row::storable(&problem.path)),
            put_paths,
            column(&all, |(_, problem)| row::storable(&problem.reason)),
            column(&all, |(_, problem)| problem.line.map(u64::cast_signed)),
            column(&all, |(_, problem)| problem.column.map(u64::cast_signed)),
            column(&all, |(_, problem)| problem.may_resolve),
        ));
    }
    statements
}

const PUT_PROBLEMS: &str = "INSERT INTO problems (repository, organization, project, path, \
     path_hash, reason, line, \"column\", may_resolve, since_ms) \
     SELECT $1::int, n.*, $2::bigint FROM unnest($3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[], \
     $8::bigint[], $9::bigint[], $10::bool[]) AS n \
     ON CONFLICT (repository, organization, project, path_hash) DO UPDATE SET \
     reason = excluded.reason, line = excluded.line, \"column\" = excluded.\"column\", \
     may_resolve = excluded.may_resolve";

/// Writes facts about the whole repository.
pub(super) fn meta(
    repository: i32,
    name: Option<&str>,
    facts: &[(MetaKey, String)],
) -> Option<Statement> {
    // If a key has several values, use the last one.
    let facts: BTreeMap<Cow<'_, str>, &str> = facts
        .iter()
        .map(|(key, value)| (key.stored(name), value.as_str()))
        .collect();
    (!facts.is_empty()).then(|| {
        let (keys, values): (Vec<String>, Vec<String>) = facts
            .iter()
            .map(|(key, value)| (key.to_string(), row::storable(value)))
            .unzip();
        statement!(
            "INSERT INTO meta (repository, key, value) \
             SELECT $1::int, * FROM unnest($2::text[], $3::text[]) \
             ON CONFLICT (repository, key) DO UPDATE SET value = excluded.value",
            repository,
            keys,
            values
        )
    })
}
