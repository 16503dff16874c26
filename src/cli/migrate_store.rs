//! `migrate-store`: moves the recorded state from SQLite to PostgreSQL, or back.
//!
//! Constraint: the command must not mix up two repositories. So one configuration names both
//! databases: `state_dir` has the SQLite database, and `store.postgres` names the PostgreSQL
//! database.

use std::io::Write;

use serde::Serialize;

use super::output::{counted, print_json, safe};
use super::{DONE, usage};
use crate::config::Config;
use crate::store::{self, Transferred};

/// The arguments of the command `migrate-store`.
#[derive(Debug, clap::Args)]
pub(super) struct MigrateStoreArguments {
    /// Where the state goes: `postgres` is store.postgres, and `sqlite` is state_dir
    #[arg(long, value_enum, value_name = "STORE")]
    to: Place,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Place {
    Postgres,
    Sqlite,
}

/// The result as JSON, for `--json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MovedView<'a> {
    from: &'a str,
    to: &'a str,
    /// Whether an earlier run had already moved the state.
    was_done: bool,
    tables: Vec<TableView<'a>>,
}

#[derive(Serialize)]
struct TableView<'a> {
    name: &'a str,
    rows: u64,
    checksum: &'a str,
}

/// Moves the state. Prints the progress to `notes`.
pub(super) fn run(
    arguments: &MigrateStoreArguments,
    config: &Config,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<u8> {
    let Some(postgres) = &config.store else {
        return Err(usage(
            "store.postgres is not set. Set it in the configuration, also for a move back to SQLite",
        ));
    };
    let mut copied = |table: &'static str, n: u64| {
        // If the progress cannot be written, move the state anyway.
        let _ = writeln!(notes, "copied {} of {table}", counted(n, "row"));
    };
    let moved = match arguments.to {
        Place::Postgres => store::move_to_postgres(&config.state_dir, postgres, &mut copied)?,
        Place::Sqlite => store::move_to_sqlite(postgres, &config.state_dir, &mut copied)?,
    };
    if arguments.json {
        print_json(out, &view(&moved))?;
    } else {
        print(&moved, arguments.to, out)?;
    }
    Ok(DONE)
}

fn view(moved: &Transferred) -> MovedView<'_> {
    let tables = moved.tables.iter();
    MovedView {
        from: &moved.from,
        to: &moved.to,
        was_done: moved.was_done,
        tables: tables
            .map(|(name, rows, checksum)| TableView {
                name,
                rows: *rows,
                checksum,
            })
            .collect(),
    }
}

fn print(moved: &Transferred, to: Place, out: &mut dyn Write) -> std::io::Result<()> {
    let (from, place) = (safe(&moved.from), safe(&moved.to));
    let rows = |name: &str| {
        let table = moved.tables.iter().find(|(table, ..)| *table == name);
        table.map_or(0, |(_, n, _)| *n)
    };
    let n = format!(
        "{} and {}",
        counted(rows("events"), "event"),
        match rows("deliveries") {
            1 => "1 delivery".to_owned(),
            n => format!("{n} deliveries"),
        }
    );
    if moved.was_done {
        writeln!(
            out,
            "The state was already moved from {from} to {place}: {n} are there now."
        )?;
    } else {
        writeln!(
            out,
            "Moved {n} from {from} to {place}. The checksums of all rows agree."
        )?;
    }
    match to {
        Place::Postgres => writeln!(
            out,
            "Start the daemon. The configuration already names the new database (`store`)."
        ),
        Place::Sqlite => writeln!(
            out,
            "Remove `store` from the configuration, then start the daemon."
        ),
    }
}
