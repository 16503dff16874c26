//! Runs consistent reads and atomic writes on a connection.

use rusqlite::Connection;

use crate::store::error::Fault;

/// Runs `work`. All reads of `work` see the same state.
pub(super) fn consistently<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    if !connection.is_autocommit() {
        // An earlier transaction is still open: its `work` panicked, or its rollback failed.
        statement(connection, "ROLLBACK")?;
    }
    statement(connection, "BEGIN")?;
    let result = work(connection);
    // Nothing was written. If the rollback fails, the next call tries again.
    let _ = statement(connection, "ROLLBACK");
    result
}

/// Runs `work` in a transaction. If `work` or the commit fails, undoes all changes.
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
        // SQLite has not rolled back by itself. If this rollback fails, the next BEGIN fails too.
        let _ = statement(connection, "ROLLBACK");
    }
    result
}

/// Runs a prepared statement that has no values and returns no rows.
fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_connection_can_be_read_after_a_panic() {
        let connection = Connection::open_in_memory().unwrap();
        let read = || {
            consistently(&connection, |connection| {
                Ok(connection.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))?)
            })
        };
        let panics = || consistently(&connection, |_| -> Result<(), Fault> { panic!("a panic") });
        catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!(read().unwrap(), 1);
    }
}
