//! Runs consistent reads and atomic writes on a connection.

use rusqlite::Connection;

use crate::store::error::Fault;

/// Runs `work`, whose reads all see one consistent state.
pub(super) fn consistently<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    statement(connection, "BEGIN")?;
    let result = work(connection);
    // Nothing was written. If the rollback fails, the next BEGIN fails as well.
    let _ = statement(connection, "ROLLBACK");
    result
}

/// Runs `work` in a transaction. An error undoes all of it.
pub(super) fn transact<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    // IMMEDIATE waits for another writing process here, before `work` runs.
    let result = statement(connection, "BEGIN IMMEDIATE")
        .map_err(Fault::from)
        .and_then(|()| work(connection))
        .and_then(|result| {
            statement(connection, "COMMIT")?;
            Ok(result)
        });
    if result.is_err() && !connection.is_autocommit() {
        // SQLite has often rolled back already. If the rollback fails, the next BEGIN fails as well.
        let _ = statement(connection, "ROLLBACK");
    }
    result
}

/// Runs a prepared statement that has no values and returns no rows.
fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
