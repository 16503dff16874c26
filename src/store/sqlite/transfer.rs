//! The SQLite state as the source or the target of a transfer.
//!
//! Constraint: [`SqliteSide`] holds the lock on the state directory, so no daemon uses the state.
//! But a command for deliveries may still change the state. If a command does, [`Side::version`]
//! returns another number.

use std::path::Path;
use std::sync::Arc;

use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::key::FingerprintKey;
use super::lock::StateLock;
use super::record::NextNumbers;
use super::transaction::transact;
use super::{row, schema};
use crate::store::error::{Fault, OpenError, StoreError};
use crate::store::transfer::{Cell, MARK, Mark, Numbers, Row, Rows, Side, TABLES, Table, identity};

/// The maximum number of rows in a page.
const ROWS_MAX: usize = 1_000;

/// The number of bytes after which a page ends.
const BYTES_MAX: usize = 4 << 20;

/// Columns that are not moved: table, column, and the SQL for the target's value.
///
/// An empty text stands for a parameter: the identity of the file. [`Side::complete`] computes the
/// identities of payloads later. Like deliveries of a replay, moved deliveries are outside their
/// event's range of ids.
const COMPUTED: [(&str, &str, &str); 5] = [
    ("payloads", "identity", "NULL"),
    ("files", "identity", ""),
    ("events", "first_delivery", "0"),
    ("events", "end_delivery", "0"),
    ("deliveries", "is_replay", "1"),
];

/// The state in a state directory, without a daemon.
pub(in crate::store) struct SqliteSide {
    connection: Connection,
    location: Arc<str>,
    directory: Box<Path>,
    key: FingerprintKey,
    _lock: StateLock,
}

impl SqliteSide {
    /// Opens the state to move, which must exist.
    pub(in crate::store) fn source(directory: &Path) -> Result<Self, OpenError> {
        if !schema::database(directory).exists() {
            return Err(OpenError::Absent {
                directory: directory.to_owned(),
            });
        }
        Self::target(directory)
    }

    /// Opens the state to move the rows to. Creates the state if it does not exist.
    pub(in crate::store) fn target(directory: &Path) -> Result<Self, OpenError> {
        schema::prepare_directory(directory)?;
        let lock = StateLock::take(directory)?;
        let key = FingerprintKey::read_or_create(directory)?;
        let connection = schema::open_and_migrate(directory)?;
        Ok(Self {
            connection,
            location: schema::database(directory).to_string_lossy().into(),
            directory: directory.into(),
            key,
            _lock: lock,
        })
    }

    fn error(&self, fault: impl Into<Fault>) -> StoreError {
        StoreError::new(&self.location, fault.into())
    }

    fn transact(
        &self,
        work: impl FnOnce(&Connection) -> Result<(), Fault>,
    ) -> Result<(), StoreError> {
        transact(&self.connection, work).map_err(|fault| self.error(fault))
    }
}

/// Returns an error if the state was moved away, or is an incomplete copy.
pub(super) fn refuse(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let wrap = |source| OpenError::from_sqlite(path, source);
    let text = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [MARK], |row| {
            row.get::<_, String>(0)
        })
        .optional()
        .map_err(wrap)?;
    match text {
        Some(text) => OpenError::of_mark(&text, &path.to_string_lossy()),
        None => Ok(()),
    }
}

/// Returns an error if the state was moved away, or is an incomplete copy.
///
/// A command calls this function within the transaction of each change. A daemon does not, because
/// it has the lock on the state directory.
pub(super) fn unless_moved(connection: &Connection) -> Result<(), Fault> {
    let text = connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([MARK], |row| row.get::<_, String>(0))
        .optional()?;
    text.map_or(Ok(()), |text| Fault::of_mark(&text))
}

fn read_mark(connection: &Connection) -> Result<Option<Mark>, Fault> {
    let text = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [MARK], |row| {
            row.get::<_, String>(0)
        })
        .optional()?;
    text.map(|text| row::from_json("the mark of `migrate-store`", &text))
        .transpose()
}

fn write_mark(connection: &Connection, mark: &Mark) -> Result<(), Fault> {
    let text = row::to_json("the mark of `migrate-store`", mark)?;
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        params![MARK, text],
    )?;
    Ok(())
}

fn names(table: &Table) -> String {
    let names: Vec<String> = table
        .columns
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    names.join(", ")
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Cell::Null => ToSqlOutput::Owned(Value::Null),
            Cell::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cell::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

fn cell(value: ValueRef<'_>) -> Result<Cell, Fault> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Text(text) => {
            // PostgreSQL cannot store the character NUL.
            Cell::Text(String::from_utf8_lossy(text).replace('\0', "\u{fffd}"))
        }
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Real(number) => {
            return Err(Fault::Undecodable {
                what: "a row to move".to_owned(),
                reason: format!("{number} is not an integer"),
            });
        }
    })
}

fn size(row: &[Cell]) -> usize {
    let size = |cell: &Cell| match cell {
        Cell::Null | Cell::Integer(_) => 8,
        Cell::Text(text) => text.len(),
        Cell::Bytes(bytes) => bytes.len(),
    };
    row.iter().map(size).sum()
}

fn page(connection: &Connection, table: &Table, after: Option<&[Cell]>) -> Result<Rows, Fault> {
    let key = table.key.join(", ");
    let mut conditions: Vec<String> = Vec::new();
    if table.name == "meta" {
        conditions.push(format!("key <> '{MARK}'"));
    }
    if let Some(after) = after {
        let values: Vec<String> = (1..=after.len()).map(|n| format!("?{n}")).collect();
        conditions.push(format!("({key}) > ({})", values.join(", ")));
    }
    let condition = match conditions.join(" AND ") {
        none if none.is_empty() => none,
        all => format!("WHERE {all}"),
    };
    let sql = format!(
        "SELECT {}, {key} FROM {} {condition} ORDER BY {key}",
        names(table),
        table.name
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(after.unwrap_or_default()))?;
    let (mut rows, mut n_bytes) = (Rows::new(), 0_usize);
    while rows.len() < ROWS_MAX && n_bytes < BYTES_MAX {
        let Some(one) = found.next()? else { break };
        let n_columns = table.columns.len();
        let cells = |from: usize, to: usize| -> Result<Vec<Cell>, Fault> {
            (from..to).map(|at| cell(one.get_ref(at)?)).collect()
        };
        let row = cells(0, n_columns)?;
        n_bytes = n_bytes.saturating_add(size(&row));
        let end = n_columns.saturating_add(table.key.len());
        rows.push((cells(n_columns, end)?, row));
    }
    Ok(rows)
}

fn put(connection: &Connection, table: &Table, rows: &[Row]) -> Result<(), Fault> {
    let computed = COMPUTED.iter().filter(|(name, ..)| *name == table.name);
    let (mut columns, mut values) = (names(table), String::new());
    let n_columns = table.columns.len();
    for number in 1..=n_columns {
        let comma = if number == 1 { "" } else { ", " };
        values.push_str(&format!("{comma}?{number}"));
    }
    for (_, name, value) in computed {
        columns.push_str(&format!(", {name}"));
        let number = n_columns.saturating_add(1);
        let value = if value.is_empty() {
            format!("?{number}")
        } else {
            (*value).to_owned()
        };
        values.push_str(&format!(", {value}"));
    }
    let sql = format!("INSERT INTO {} ({columns}) VALUES ({values})", table.name);
    let mut statement = connection.prepare_cached(&sql)?;
    for row in rows {
        let identity = match table.name {
            "files" => identity(row)?.map_or(Some(Cell::Null), |text| Some(Cell::Text(text))),
            _ => None,
        };
        statement.execute(params_from_iter(row.iter().chain(&identity)))?;
    }
    Ok(())
}

impl Side for SqliteSide {
    fn location(&self) -> String {
        self.location.to_string()
    }

    fn mark(&mut self) -> Result<Option<Mark>, StoreError> {
        read_mark(&self.connection).map_err(|fault| self.error(fault))
    }

    fn is_empty(&mut self) -> Result<bool, StoreError> {
        for table in TABLES.iter().map(|table| table.name).chain(["numbers"]) {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {table})");
            let found = self.connection.query_row(&sql, [], |row| row.get(0));
            if found.map_err(|error| self.error(error))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn clear(&mut self, mark: &Mark) -> Result<(), StoreError> {
        self.transact(|connection| {
            for table in TABLES.iter().map(|table| table.name).chain(["numbers"]) {
                connection.execute(&format!("DELETE FROM {table}"), [])?;
            }
            write_mark(connection, mark)
        })
    }

    fn page(&mut self, table: &Table, after: Option<&[Cell]>) -> Result<Rows, StoreError> {
        page(&self.connection, table, after).map_err(|fault| self.error(fault))
    }

    fn put(&mut self, table: &Table, rows: &[Row], mark: &Mark) -> Result<(), StoreError> {
        self.transact(|connection| {
            put(connection, table, rows)?;
            write_mark(connection, mark)
        })
    }

    fn numbers(&mut self) -> Result<Numbers, StoreError> {
        let numbers = || -> Result<Numbers, Fault> {
            let next = NextNumbers::read(&self.connection)?;
            let last_swept = self
                .connection
                .query_row(
                    "SELECT value FROM numbers WHERE name = 'last-swept-event'",
                    [],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(Numbers {
                next_event: next.sequence,
                next_delivery: next.delivery,
                first_repetition: i64::from(next.repetition),
                last_swept_event: last_swept.unwrap_or(0),
            })
        };
        numbers().map_err(|fault| self.error(fault))
    }

    fn complete(&mut self, numbers: Numbers) -> Result<(), StoreError> {
        self.transact(|connection| {
            for (name, value) in [
                ("last-event", numbers.next_event.saturating_sub(1)),
                ("last-delivery", numbers.next_delivery.saturating_sub(1)),
                ("first-repetition", numbers.first_repetition),
                ("last-swept-event", numbers.last_swept_event),
            ] {
                connection.execute(
                    "INSERT INTO numbers (name, value) VALUES (?1, ?2) \
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    params![name, value],
                )?;
            }
            connection.execute(
                "UPDATE payloads SET identity = d.identity FROM (SELECT hash, \
                 iif(min(identity) = max(identity), min(identity), '') AS identity FROM files \
                 WHERE identity IS NOT NULL GROUP BY hash) AS d WHERE payloads.hash = d.hash",
                [],
            )?;
            Ok(())
        })
    }

    fn fingerprint_key(&self) -> [u8; 32] {
        self.key.bytes()
    }

    fn set_fingerprint_key(&mut self, key: &[u8; 32]) -> Result<(), StoreError> {
        if self.key.bytes() == *key {
            return Ok(());
        }
        self.key = FingerprintKey::write(&self.directory, *key)
            .map_err(|source| self.error(Fault::Io(Arc::new(source))))?;
        Ok(())
    }

    fn version(&mut self) -> Result<i64, StoreError> {
        self.connection
            .pragma_query_value(None, "data_version", |row| row.get(0))
            .map_err(|error| self.error(error))
    }

    fn set_mark(&mut self, mark: &Mark, version: i64) -> Result<bool, StoreError> {
        let mut is_same = false;
        self.transact(|connection| {
            // During this transaction, no other process writes.
            let found: i64 =
                connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
            is_same = found == version;
            if is_same {
                write_mark(connection, mark)?;
            }
            Ok(())
        })?;
        Ok(is_same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_moved_or_computed() {
        let directory = tempfile::tempdir().unwrap();
        let side = SqliteSide::target(directory.path()).unwrap();
        let mut statement = side
            .connection
            .prepare(
                "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c \
                 WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> 'numbers'",
            )
            .unwrap();
        let mut found: Vec<(String, String)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let moved = TABLES.iter().flat_map(|table| {
            let columns = table.columns.iter();
            columns.map(|(name, _)| (table.name.to_owned(), (*name).to_owned()))
        });
        let computed = COMPUTED
            .iter()
            .map(|(table, name, _)| ((*table).to_owned(), (*name).to_owned()));
        let mut expected: Vec<_> = moved.chain(computed).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}
