//! Consistent reads and atomic writes on a connection.

use rusqlite::Connection;

use crate::store::error::Fault;

/// Runs `work` on one consistent state.
pub(super) fn consistently<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    statement(connection, "BEGIN")?;
    let result = work(connection);
    // Nothing was written. If this fails, so does the next BEGIN.
    let _ = statement(connection, "ROLLBACK");
    result
}

/// Runs `work` in a transaction. An error undoes all of it.
pub(super) fn transact<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    // IMMEDIATE: this waits for another process before any work is done.
    let result = statement(connection, "BEGIN IMMEDIATE")
        .map_err(Fault::from)
        .and_then(|()| work(connection))
        .and_then(|result| {
            statement(connection, "COMMIT")?;
            Ok(result)
        });
    if result.is_err() && !connection.is_autocommit() {
        // SQLite has often rolled back itself. If this fails, so does the next BEGIN.
        let _ = statement(connection, "ROLLBACK");
    }
    result
}

/// Runs a statement without values or rows, parsed once.
fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
