//! Runs consistent reads and atomic writes on a connection.

use rusqlite::Connection;

use crate::store::error::Fault;

/// Runs `work`. All its reads see the same state.
pub(super) fn consistently<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    statement(connection, "BEGIN")?;
    let result = work(connection);
    // Nothing was written. If the rollback fails, the next BEGIN will fail too.
    let _ = statement(connection, "ROLLBACK");
    result
}

/// Runs `work` in a transaction. If it fails, all its changes are undone.
pub(super) fn transact<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    // IMMEDIATE waits for other writing processes here, before `work` runs.
    let result = statement(connection, "BEGIN IMMEDIATE")
        .map_err(Fault::from)
        .and_then(|()| work(connection))
        .and_then(|result| {
            statement(connection, "COMMIT")?;
            Ok(result)
        });
    if result.is_err() && !connection.is_autocommit() {
        // SQLite may have rolled back already. If the rollback fails, the next BEGIN will fail
        // too.
        let _ = statement(connection, "ROLLBACK");
    }
    result
}

/// Runs a prepared statement that has no values and returns no rows.
fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
