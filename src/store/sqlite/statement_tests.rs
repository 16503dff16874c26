//! Tests the plans of all statements in the source of the store.
//!
//! A statement must cost no more with a million rows than with ten. So no statement may read a
//! whole table of deliveries, events, payloads or files, unless [`SCANS`] has a reason.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::*;

/// The beginnings of statements that read a whole large table or index, with the reason.
const SCANS: &[(&str, &str)] = &[
    (
        "SELECT webhook FROM deliveries WHERE state = 'pending' GROUP BY webhook ORDER BY count(*)",
        "counts pending deliveries, but only at the limit of the state's size",
    ),
    (
        "SELECT id FROM deliveries NOT INDEXED WHERE webhook = ?1 AND state = 'pending'",
        "ends at its limit: at the limit of the state's size the oldest rows are pending",
    ),
    (
        "SELECT webhook, count(*), min(waiting_ms), max(waiting_ms) FROM deliveries",
        "counts for status and metrics, on a separate connection",
    ),
    (
        "SELECT webhook, state, count(*), max(finished_ms) FROM deliveries",
        "counts for status and metrics, on a separate connection",
    ),
    (
        "UPDATE payloads SET identity = d.identity FROM",
        "runs once, at the end of a move from another store",
    ),
    (
        "SELECT COUNT(*) FROM deliveries d WHERE {}",
        "counts the deliveries of an operator's selector, in a command",
    ),
    (
        "SELECT d.id FROM deliveries d WHERE {}",
        "selects the deliveries of an operator's change, to compare their number",
    ),
    (
        "SELECT {}, e.sequence, e.recorded_ms,",
        "its condition is a list of keys, which the placeholder hides",
    ),
    (
        "SELECT d.id, d.webhook, e.id, e.kind,",
        "its condition is a list of keys, which the placeholder hides",
    ),
    (
        "SELECT d.id FROM deliveries d INDEXED BY deliveries_lane WHERE (state = 'pending') AND {}",
        "ends at its limit, and the index has only matching rows",
    ),
    (
        "SELECT d.id FROM deliveries d INDEXED BY deliveries_undelivered WHERE (state = 'dead' OR",
        "ends at its limit, and the index has only matching rows",
    ),
    (
        "SELECT DISTINCT organization, project FROM files",
        "lists the record for a full scan",
    ),
    (
        "SELECT organization, project, document FROM files WHERE identity IS NOT NULL AND instr(",
        "reads the ids that no definition has, once after a start",
    ),
    (
        "SELECT length(p.compressed) FROM (SELECT payload FROM events ORDER BY sequence LIMIT ?1)",
        "ends after a hundred of the oldest events",
    ),
];

/// Tables with few rows, and names for rows that a statement generates itself.
const SMALL: [&str; 9] = [
    "CONSTANT",
    "json_each",
    "listeners",
    "meta",
    "moves",
    "names",
    "numbers",
    "problems",
    "webhooks",
];

/// Returns the string literals of a source file, without line continuations.
fn literals(source: &str) -> Vec<String> {
    let source = source.replace("'\"'", "");
    let code: Vec<&str> = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut literals = Vec::new();
    let mut rest = code.as_str();
    while let Some(begin) = rest.find('"') {
        let text = &rest[begin + 1..];
        let mut is_escaped = false;
        let end = text.find(|c: char| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        let Some(end) = end else { break };
        let lines = text[..end].split("\\\n");
        let joined: String = lines
            .enumerate()
            .map(|(n, line)| if n == 0 { line } else { line.trim_start() })
            .collect();
        literals.push(joined.replace("\\\"", "\""));
        rest = &text[end + 1..];
    }
    literals
}

/// Fills in the placeholders for an index and its condition, once for each index.
///
/// A statement without a placeholder for an index stays as it is.
fn with_indexes(statement: &str, indexes: &[(String, String)]) -> Vec<String> {
    if !statement.contains("INDEXED BY {index}") {
        return vec![statement.to_owned()];
    }
    let filled = indexes.iter().map(|(name, condition)| {
        let with_name = statement.replace("{index}", name);
        with_name.replace("{is_indexed}", condition)
    });
    filled.collect()
}

/// The partial indexes of `deliveries` whose name is a literal, each with its condition.
fn named_indexes(connection: &Connection, literals: &[String]) -> Vec<(String, String)> {
    let sql =
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'deliveries'";
    let mut statement = connection.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut indexes = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let (name, sql): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        if let Some((_, condition)) = sql
            .split_once(" WHERE ")
            .filter(|_| literals.contains(&name))
        {
            indexes.push((name, format!("({condition})")));
        }
    }
    indexes
}

/// Replaces each placeholder of `format!` by the constant 1.
fn filled(statement: &str) -> String {
    let mut filled = String::new();
    let mut rest = statement;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        filled.push('1');
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    filled + rest
}

/// Returns all statements in the source. Expands each placeholder for an index.
fn statements(connection: &Connection) -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/sqlite");
    let mut statements = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if !is_source || path.to_string_lossy().ends_with("tests.rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let verbs = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];
        // A transfer to another store reads whole tables. Its statements have placeholders for the
        // names of tables.
        let is_statement = |text: &&String| {
            let is_on_any_table = text.contains("FROM {") || text.contains("INTO {");
            verbs.iter().any(|verb| text.starts_with(verb)) && !is_on_any_table
        };
        let literals = literals(code);
        let indexes = named_indexes(connection, &literals);
        let found = literals.iter().filter(is_statement);
        statements.extend(found.flat_map(|statement| with_indexes(statement, &indexes)));
    }
    statements
}

#[test]
fn no_statement_reads_a_whole_large_table_without_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(directory.path()).unwrap());
    let connection = Connection::open(directory.path().join("state.db")).unwrap();
    let all = statements(&connection);
    assert!(all.len() > 80, "{} statements found", all.len());
    let mut n_used = vec![0; SCANS.len()];
    for statement in &all {
        let sql = format!("EXPLAIN QUERY PLAN {}", filled(statement));
        let mut prepared = connection.prepare(&sql).unwrap_or_else(|error| {
            panic!("{error}: {sql}");
        });
        let mut rows = prepared.raw_query();
        let mut scans = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let line: String = row.get(3).unwrap();
            let table = line.strip_prefix("SCAN ");
            let table = table.and_then(|rest| rest.split(' ').next());
            // For a subquery, a separate line shows how SQLite finds its rows.
            if table.is_some_and(|table| !SMALL.contains(&table) && !table.starts_with('(')) {
                scans.push(line);
            }
        }
        let reason = SCANS
            .iter()
            .position(|(begin, _)| statement.starts_with(begin));
        match reason {
            Some(reason) => n_used[reason] += 1,
            None => assert!(scans.is_empty(), "{statement}\n{scans:?}"),
        }
    }
    for ((begin, _), n) in SCANS.iter().zip(n_used) {
        assert!(n > 0, "{begin}");
    }
}
