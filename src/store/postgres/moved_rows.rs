//! Makes the statements that read and write all rows of a state in a transfer.

use tokio_postgres::Row as Found;

use super::row;
use super::session::{Statement, Value};
use crate::store::error::Fault;
use crate::store::transfer::{Cell, Kind, MARK, Row, Table, identity};

/// The maximum number of rows of a page.
const ROWS_MAX: usize = 1_000;

/// A page ends when the values of its large column exceed this total size in bytes.
const BYTES_MAX: i64 = 4 << 20;

/// The columns that are computed and not copied, each with its table.
///
/// `path_hash` is computed from the path, and `identity` from the document of a file.
const COMPUTED: [(&str, &str); 3] = [
    ("files", "path_hash"),
    ("problems", "path_hash"),
    ("files", "identity"),
];

/// Returns the columns of a table's key, in which `path_hash` replaces `path`.
pub(super) fn key_of(table: &Table) -> Vec<&'static str> {
    let is_hashed = COMPUTED.contains(&(table.name, "path_hash"));
    let names = table.key.iter();
    names
        .map(|name| match *name {
            "path" if is_hashed => "path_hash",
            name => name,
        })
        .collect()
}

/// Returns the type of a column of the key.
pub(super) fn kind_of(table: &Table, name: &str) -> Kind {
    let column = table.columns.iter().find(|(column, _)| *column == name);
    column.map_or(Kind::Bytes, |(_, kind)| *kind)
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Box::new(None::<i64>),
        Cell::Integer(number) => Box::new(*number),
        Cell::Text(text) => Box::new(text.clone()),
        Cell::Bytes(bytes) => Box::new(bytes.clone()),
    }
}

pub(super) fn select(repository: i32, table: &Table, after: Option<&[Cell]>) -> Statement {
    let key = key_of(table);
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|(name, kind)| match kind {
            Kind::Boolean => format!("\"{name}\"::int::bigint AS \"{name}\""),
            Kind::Small => format!("\"{name}\"::bigint AS \"{name}\""),
            Kind::Integer | Kind::Text | Kind::Bytes => format!("\"{name}\""),
        })
        .collect();
    let (columns, keys) = (columns.join(", "), key.join(", "));
    let mut values: Vec<Value> = vec![Box::new(repository)];
    let mut condition = "repository = $1".to_owned();
    if table.name == "meta" {
        condition.push_str(&format!(" AND key <> '{MARK}'"));
    }
    if let Some(after) = after {
        let numbers: Vec<String> = (2..after.len().saturating_add(2))
            .map(|number| format!("${number}"))
            .collect();
        condition.push_str(&format!(" AND ({keys}) > ({})", numbers.join(", ")));
        values.extend(after.iter().map(value));
    }
    // The columns of the key come last, under other names.
    let last: Vec<String> = key
        .iter()
        .map(|name| format!("{name} AS k_{name}"))
        .collect();
    let last = last.join(", ");
    let sql = match table.large {
        None => format!(
            "SELECT {columns}, {last} FROM {} WHERE {condition} ORDER BY {keys} LIMIT {ROWS_MAX}",
            table.name
        ),
        // The server knows the lengths without reading the bytes. Each page has at least one row,
        // even if that row exceeds the limit.
        Some(large) => format!(
            "SELECT {columns}, {last} FROM {0} WHERE {condition} AND ({keys}) <= (SELECT {keys} FROM \
             (SELECT {keys}, sum(octet_length({large})) OVER (ORDER BY {keys}) - \
             octet_length({large}) AS before FROM {0} WHERE {condition} ORDER BY {keys} \
             LIMIT {ROWS_MAX}) AS s WHERE before <= {BYTES_MAX} ORDER BY before DESC, \
             ({keys}) DESC LIMIT 1) ORDER BY {keys}",
            table.name
        ),
    };
    (sql.into(), values)
}

pub(super) fn cell(found: &Found, at: usize, kind: Kind) -> Result<Cell, Fault> {
    Ok(match kind {
        Kind::Integer | Kind::Small | Kind::Boolean => found
            .try_get::<_, Option<i64>>(at)?
            .map_or(Cell::Null, Cell::Integer),
        Kind::Text => found
            .try_get::<_, Option<String>>(at)?
            .map_or(Cell::Null, Cell::Text),
        Kind::Bytes => found
            .try_get::<_, Option<Vec<u8>>>(at)?
            .map_or(Cell::Null, Cell::Bytes),
    })
}

/// Returns the values of one column, as an array for a statement.
fn array(rows: &[Row], at: usize, kind: Kind) -> Value {
    let cells = || rows.iter().map(|row| row.get(at));
    match kind {
        Kind::Integer | Kind::Small | Kind::Boolean => Box::new(
            cells()
                .map(|cell| match cell {
                    Some(Cell::Integer(number)) => Some(*number),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        Kind::Text => Box::new(
            cells()
                .map(|cell| match cell {
                    Some(Cell::Text(text)) => Some(text.clone()),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        Kind::Bytes => Box::new(
            cells()
                .map(|cell| match cell {
                    Some(Cell::Bytes(bytes)) => Some(bytes.clone()),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
    }
}

/// Computes the columns in [`COMPUTED`]. Returns their names and values.
fn computed(table: &Table, rows: &[Row]) -> Result<Vec<(&'static str, Value)>, Fault> {
    let of_table = COMPUTED.iter().filter(|(name, _)| *name == table.name);
    let path = table.columns.iter().position(|(name, _)| *name == "path");
    of_table
        .map(|(_, name)| {
            let values = rows
                .iter()
                .map(|one| match *name {
                    "identity" => Ok(identity(one)?.map(|text| row::indexed(&text))),
                    _ => Ok(match path.and_then(|at| one.get(at)) {
                        Some(Cell::Text(path)) => Some(row::indexed(path)),
                        _ => None,
                    }),
                })
                .collect::<Result<Vec<Option<Vec<u8>>>, Fault>>()?;
            Ok((*name, Box::new(values) as Value))
        })
        .collect()
}

pub(super) fn insert(repository: i32, table: &Table, rows: &[Row]) -> Result<Statement, Fault> {
    let mut values: Vec<Value> = vec![Box::new(repository)];
    let (mut names, mut selected, mut arrays) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (name, kind)) in table.columns.iter().enumerate() {
        values.push(array(rows, at, *kind));
        let number = values.len();
        let (of_array, converted) = match kind {
            Kind::Integer => ("bigint", format!("c{number}")),
            Kind::Small => ("bigint", format!("c{number}::int")),
            Kind::Boolean => ("bigint", format!("c{number} <> 0")),
            Kind::Text => ("text", format!("c{number}")),
            Kind::Bytes => ("bytea", format!("c{number}")),
        };
        names.push(format!("\"{name}\""));
        selected.push(converted);
        arrays.push((number, of_array));
    }
    for (name, value) in computed(table, rows)? {
        values.push(value);
        let number = values.len();
        names.push(name.to_owned());
        selected.push(format!("c{number}"));
        arrays.push((number, "bytea"));
    }
    let aliases: Vec<String> = arrays.iter().map(|(n, _)| format!("c{n}")).collect();
    let arrays: Vec<String> = arrays
        .iter()
        .map(|(n, of)| format!("${n}::{of}[]"))
        .collect();
    let sql = format!(
        "INSERT INTO {} (repository, {}) SELECT $1::int, {} FROM unnest({}) AS rows ({})",
        table.name,
        names.join(", "),
        selected.join(", "),
        arrays.join(", "),
        aliases.join(", ")
    );
    Ok((sql.into(), values))
}
