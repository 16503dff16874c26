//! Writes the rows of files in the record of a project.
//!
//! Constraint: a row is replaced or deleted only if it has the hash and the change time of the file
//! in the old record. Otherwise the whole batch fails.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, ToSql, params, params_from_iter};

use super::{payload, row};
use crate::domain::project::{FileState, ProjectKey, Recorded, Role};
use crate::store::batch::Change;
use crate::store::error::Fault;

/// Writes the difference between the files before and after a change.
///
/// `is_new` returns whether the batch added the payload of a file.
pub(super) fn replace(
    connection: &Connection,
    change: &Change,
    is_new: impl Fn(&FileState) -> bool,
) -> Result<(), Fault> {
    let by_path = |recorded| -> BTreeMap<&str, &FileState> {
        Recorded::files(recorded)
            .map(|file| (file.path.as_str(), file))
            .collect()
    };
    let before = by_path(&change.before);
    let after = by_path(&change.after);
    for (path, file) in &before {
        if !after.contains_key(path) {
            delete(connection, &change.key, file)?;
        }
    }
    for (path, file) in &after {
        match before.get(path) {
            Some(old) if old == file => {}
            old => put(connection, &change.key, old.copied(), file, is_new(file))?,
        }
    }
    Ok(())
}

fn put(
    connection: &Connection,
    key: &ProjectKey,
    old: Option<&FileState>,
    file: &FileState,
    is_new: bool,
) -> Result<(), Fault> {
    let identity = identity_of(file);
    if let Some(identity) = &identity {
        // A new payload was already stored with its identity.
        if !is_new && !payload::set_identity(connection, &file.hash, identity)? {
            return Err(Fault::MissingPayload {
                hash: file.hash,
                needed_by: format!("the project {key}"),
            });
        }
    }
    let document = row::to_json("the file's document", &file.document)?;
    let written = (key, file, document.as_str());
    if let Some(old) = old
        && identity_of(old) == identity
    {
        let update = connection.prepare_cached(
            "UPDATE files SET role = ?4, tag = ?5, inode = ?6, size = ?7, modified_ns = ?8, \
             changed_ns = ?9, read_ns = ?10, hash = ?11, owner = ?12, document = ?13 \
             WHERE organization = ?1 AND project = ?2 AND path = ?3 \
             AND hash = ?14 AND changed_ns = ?15",
        )?;
        let hash = &old.hash.0[..];
        return write(update, written, &[&hash, &old.stamp.changed_ns]);
    }
    if let Some(old) = old {
        delete(connection, key, old)?;
    }
    let insert = connection.prepare_cached(
        "INSERT INTO files (organization, project, path, role, tag, inode, size, \
         modified_ns, changed_ns, read_ns, hash, owner, document, identity) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
         ON CONFLICT DO NOTHING",
    )?;
    write(insert, written, &[&identity])
}

/// Writes the row of a file.
///
/// The parameters 1 to 13 are its columns. `rest` has the further parameters.
fn write(
    mut statement: CachedStatement<'_>,
    (key, file, document): (&ProjectKey, &FileState, &str),
    rest: &[&dyn ToSql],
) -> Result<(), Fault> {
    let stamp = &file.stamp;
    let (inode, size) = (stamp.inode.cast_signed(), stamp.size.cast_signed());
    let (role, hash) = (file.role.as_str(), &file.hash.0[..]);
    let columns: [&dyn ToSql; 13] = [
        &key.organization,
        &key.project,
        &file.path,
        &role,
        &file.tag,
        &inode,
        &size,
        &stamp.modified_ns,
        &stamp.changed_ns,
        &file.read_ns,
        &hash,
        &file.owner,
        &document,
    ];
    let written = statement.execute(params_from_iter(columns.iter().chain(rest)))?;
    as_expected(written, key)
}

/// Returns the identity to store in the row of a file.
///
/// An update must not name this column. Otherwise SQLite would write a page of the column's index
/// even if the value stays the same.
fn identity_of(file: &FileState) -> Option<String> {
    let is_definition = matches!(file.role, Role::Definition | Role::Deleted);
    is_definition.then(|| file.identity().to_string())
}

fn delete(connection: &Connection, key: &ProjectKey, file: &FileState) -> Result<(), Fault> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM files WHERE organization = ?1 AND project = ?2 AND path = ?3 \
             AND hash = ?4 AND changed_ns = ?5",
        )?
        .execute(params![
            key.organization,
            key.project,
            file.path,
            &file.hash.0[..],
            file.stamp.changed_ns,
        ])?;
    as_expected(deleted, key)
}

fn as_expected(n_rows: usize, key: &ProjectKey) -> Result<(), Fault> {
    if n_rows == 1 {
        Ok(())
    } else {
        Err(Fault::Stale { key: key.clone() })
    }
}
