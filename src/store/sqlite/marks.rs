//! File metadata for detecting unchanged files.
//!
//! Constraint: a full scan reads this for every project, so it leaves out documents and hashes.

use rusqlite::Connection;

use crate::domain::project::{Mark, ProjectKey, Stamp};
use crate::store::error::Fault;

/// The marks of the files of each of these projects, sorted by path, in the projects' order.
pub(super) fn marks(connection: &Connection, keys: &[ProjectKey]) -> Result<Vec<Vec<Mark>>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT path, inode, size, modified_ns, changed_ns, read_ns FROM files \
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
