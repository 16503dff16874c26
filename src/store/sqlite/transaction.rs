//! Work on a connection that is whole: on one state, or done as one.

use rusqlite::Connection;

use crate::store::error::Fault;

/// Runs `work` on one consistent state.
pub(super) fn consistently<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    statement(connection, "BEGIN")?;
    let result = work(connection);
    // Nothing was written. Where even this fails, the next BEGIN says so.
    let _ = statement(connection, "ROLLBACK");
    result
}

/// Runs `work` in a transaction. After an error nothing of it is there.
pub(super) fn transact<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    // IMMEDIATE: waiting for another process happens here, before anything was done.
    let result = statement(connection, "BEGIN IMMEDIATE")
        .map_err(Fault::from)
        .and_then(|()| work(connection))
        .and_then(|result| {
            statement(connection, "COMMIT")?;
            Ok(result)
        });
    if result.is_err() && !connection.is_autocommit() {
        // SQLite has often done so itself; where even this fails, the next BEGIN says so.
        let _ = statement(connection, "ROLLBACK");
    }
    result
}

/// Runs a statement that has neither values nor rows, and is not parsed anew each time.
fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
