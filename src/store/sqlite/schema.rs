//! Opens, creates and migrates the database. Rejects damaged or foreign files.
//!
//! Constraint: if opening finds that the database is damaged, foreign or newer, it returns an error
//! and changes nothing. An empty file is treated as damaged. So is a symbolic link to a missing
//! file, because the disk of the file may not be mounted. A new database is built under another
//! name and then renamed, so that `state.db` is never incomplete, even after a crash.
//!
//! The SQLite database `state.db` has the application id [`APPLICATION_ID`]. Its `user_version` is
//! the number of migrations that were applied.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{reserve, row};
use crate::store::error::{Fault, OpenError};
use crate::store::listing::{Disk, Space};

/// The file name of the database in the state directory.
const DATABASE_FILE: &str = "state.db";

/// The file name of a new database before it is complete.
const BUILDING_FILE: &str = "state.db.building";

/// The SQLite application id of this program: `pwh1` in ASCII.
///
/// Databases with another id are rejected, for instance those of unreleased versions.
const APPLICATION_ID: i64 = 0x7077_6831;

/// The migrations. Number n, from 1, migrates schema n - 1 to schema n.
///
/// A released migration never changes.
const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

/// The maximum time that a write waits for another process that is writing.
///
/// The daemon waits for commands, and commands wait for the daemon.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// [`open_and_migrate`] checks a database up to this size, in bytes.
///
/// The check reads the whole database. But a start must be fast even with a million pending
/// deliveries, which take more than 600 MiB. In a larger database, damage is found only when SQLite
/// reads a damaged page.
const CHECKED_MAX: u64 = 128 << 20;

/// The number of pages in the log at which a commit starts a checkpoint: 16 MiB.
///
/// On a small disk, the writer uses a smaller number.
///
/// A burst writes the same pages of the indexes repeatedly. A checkpoint copies each such page only
/// once.
pub(super) const LOG_PAGES: i64 = 4096;

/// The size of a page in bytes: the default of SQLite.
pub(super) const PAGE_SIZE: u64 = 4096;

/// A write-ahead log larger than this, in bytes, is truncated after a checkpoint.
pub(super) const LOG_SIZE: i64 = 16 << 20;

/// The size of the writer's cache in KiB.
///
/// SQLite expects a negative number for this unit.
const WRITER_CACHE: i64 = -4096;

/// The size of a reader's cache in KiB, also as a negative number.
///
/// A start reads the whole record once, in order. A larger cache would only fill up with pages
/// that are not needed again.
const READER_CACHE: i64 = -512;

/// The maximum number of prepared statements that a connection keeps.
const STATEMENTS_KEPT: usize = 128;

/// The latest schema that this program supports.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Returns the device and inode numbers of the file at this path.
pub(super) fn identity(path: &Path) -> Result<(u64, u64), OpenError> {
    let metadata = fs::metadata(path).map_err(|source| io_error("stat", path, source))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The path of the database in a state directory.
pub(super) fn database(directory: &Path) -> PathBuf {
    directory.join(DATABASE_FILE)
}

/// The path of the write-ahead log in a state directory.
pub(super) fn log(directory: &Path) -> PathBuf {
    directory.join(format!("{DATABASE_FILE}-wal"))
}

pub(super) fn log_size(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Returns the free space and the size of the file system of a directory, in bytes.
///
/// `None` if they are unknown: `statvfs` fails, or the file system reports no size.
pub(super) fn file_system(directory: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    (found.f_blocks > 0).then(|| (bytes(found.f_bavail), bytes(found.f_blocks)))
}

/// Returns the space that the database takes, and the space available to it.
///
/// `opened` is the identity of the opened database. If another file is at the path, the available
/// space is unknown, because the opened database may be in another file system.
pub(super) fn space(
    connection: &Connection,
    path: &Path,
    opened: (u64, u64),
) -> Result<Space, Fault> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let page_size = row::count(pragma("page_size")?);
    let n_pages = row::count(pragma("page_count")?);
    let n_free = row::count(pragma("freelist_count")?);
    let directory = path.parent().unwrap_or(path);
    let is_in_place = identity(path).is_ok_and(|found| found == opened);
    let disk = file_system(directory).filter(|_| is_in_place);
    Ok(Space {
        used: n_pages.saturating_sub(n_free).saturating_mul(page_size),
        log: log_size(&log(directory)),
        disk: disk.map(|(free, total)| Disk {
            available: free
                .saturating_add(reserve::held_in(directory))
                .saturating_add(n_free.saturating_mul(page_size)),
            total,
        }),
    })
}

/// Creates the state directory if it is missing.
///
/// Only its owner can access a new directory.
pub(in crate::store) fn prepare_directory(directory: &Path) -> Result<(), OpenError> {
    let above = directory.ancestors().skip(1);
    let missing: Vec<&Path> = above.take_while(|above| !above.exists()).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| io_error("create the directory", directory, source))?;
    // Leave out the state directory itself: `build` syncs its entry.
    missing.into_iter().try_for_each(sync_entry)
}

/// Opens the database for writing. Creates or migrates the database if necessary.
///
/// The caller must hold the lock on the directory.
pub(super) fn open_and_migrate(directory: &Path) -> Result<Connection, OpenError> {
    let path = database(directory);
    if !exists(&path)? {
        build(directory, &path)?;
    }
    check_file(&path)?;
    let connection = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let wrap = |source| OpenError::from_sqlite(&path, source);
    let found = version(&path, &connection)?;
    if found > known() {
        return Err(OpenError::Newer {
            path,
            found,
            known: known(),
        });
    }
    check(&path, &connection)?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(wrap)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(OpenError::Unsupported {
            path,
            what: "it does not support shared memory, which the write-ahead log needs".to_owned(),
        });
    }
    prepare_writer(&connection).map_err(wrap)?;
    migrate(&connection, MIGRATIONS, found).map_err(wrap)?;
    Ok(connection)
}

/// Opens a database with the current schema for writing.
///
/// A daemon may be running.
pub(super) fn open_for_writing(directory: &Path) -> Result<Connection, OpenError> {
    let (path, connection) = open_existing(directory, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    prepare_writer(&connection).map_err(|source| OpenError::from_sqlite(&path, source))?;
    Ok(connection)
}

/// Opens a database with the current schema for checkpoints.
///
/// Checkpoints never wait for a lock.
pub(super) fn open_for_checkpoints(directory: &Path) -> Result<Connection, OpenError> {
    let connection = open_for_writing(directory)?;
    connection
        .busy_timeout(Duration::ZERO)
        .map_err(|source| OpenError::from_sqlite(&database(directory), source))?;
    Ok(connection)
}

/// Opens a database with the current schema for reading.
pub(super) fn open_for_reading(directory: &Path) -> Result<Connection, OpenError> {
    let (path, connection) = open_existing(directory, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection
        .pragma_update(None, "cache_size", READER_CACHE)
        .map_err(|source| OpenError::from_sqlite(&path, source))?;
    Ok(connection)
}

fn open_existing(directory: &Path, access: OpenFlags) -> Result<(PathBuf, Connection), OpenError> {
    let path = database(directory);
    if !exists(&path)? {
        return Err(OpenError::Absent {
            directory: directory.to_owned(),
        });
    }
    check_file(&path)?;
    let connection = open(&path, access)?;
    let found = version(&path, &connection)?;
    let known = known();
    match found.cmp(&known) {
        std::cmp::Ordering::Greater => Err(OpenError::Newer { path, found, known }),
        std::cmp::Ordering::Less => Err(OpenError::Older { path, found, known }),
        std::cmp::Ordering::Equal => Ok((path, connection)),
    }
}

/// Rejects a path that cannot be a database, before SQLite opens it.
fn check_file(path: &Path) -> Result<(), OpenError> {
    let what = match fs::metadata(path) {
        Ok(found) if found.is_dir() => "it is a directory",
        Ok(found) if !found.is_file() => "it is not a file",
        Ok(found) if found.len() == 0 => "it is empty",
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "it is a symbolic link to a file that is missing"
        }
        Err(source) => return Err(io_error("read the size of", path, source)),
    };
    Err(OpenError::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    })
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, OpenError> {
    let wrap = |source| OpenError::from_sqlite(path, source);
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(wrap)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(wrap)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // Enable the query planner stability guarantee. Without it, SQLite plans a statement again
    // whenever a bound value might make another plan better. That took a third of the reader's
    // time, and the tests require one fixed plan anyway.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(wrap)?;
    // `cell_size_check` detects damage early. `trusted_schema = OFF` prevents a foreign schema from
    // calling functions with side effects. Temporary tables in memory need no writable directory.
    connection
        .execute_batch(
            "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;",
        )
        .map_err(wrap)?;
    Ok(connection)
}

/// Sets the options of a writing connection.
///
/// With `synchronous = FULL`, a commit survives a power cut, not only a crash of this process. With
/// `secure_delete`, the contents of removed rows are overwritten. Overwriting adds no pages to a
/// commit that only adds and updates rows. Removing a payload writes each of its pages once.
fn prepare_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
    for (name, value) in [
        ("wal_autocheckpoint", LOG_PAGES),
        ("journal_size_limit", LOG_SIZE),
        ("secure_delete", 1),
    ] {
        // These pragmas return a row, which `pragma_update` rejects.
        connection.query_row(&format!("PRAGMA {name} = {value}"), [], |_| Ok(()))?;
    }
    Ok(())
}

/// Reads the schema version. Rejects a database of another program.
fn version(path: &Path, connection: &Connection) -> Result<i64, OpenError> {
    let wrap = |source| OpenError::from_sqlite(path, source);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(wrap)?;
    let found = pragma("user_version").map_err(wrap)?;
    if application != APPLICATION_ID || found < 1 {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            what: "another program, or an unreleased version of this one, wrote it".to_owned(),
        });
    }
    Ok(found)
}

fn check(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let wrap = |source| OpenError::from_sqlite(path, source);
    let size = fs::metadata(path)
        .map_err(|source| io_error("read the size of", path, source))?
        .len();
    if size > CHECKED_MAX {
        return Ok(());
    }
    let mut statement = connection.prepare("PRAGMA quick_check(3)").map_err(wrap)?;
    let findings = statement
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .map_err(wrap)?;
    if findings.iter().any(|finding| finding != "ok") {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            what: findings.join("; "),
        });
    }
    Ok(())
}

/// Applies the migrations after schema `found`, each in its own transaction.
pub(super) fn migrate(
    connection: &Connection,
    migrations: &[&str],
    found: i64,
) -> rusqlite::Result<()> {
    for (version, migration) in (1_i64..).zip(migrations) {
        if version <= found {
            continue;
        }
        let transaction = connection.unchecked_transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Builds a database under another name and then renames the file.
fn build(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let log = log(directory);
    if exists(&log)? {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            what: format!("it is missing, although its log {} exists", log.display()),
        });
    }
    let building = directory.join(BUILDING_FILE);
    for leftover in [
        building.clone(),
        directory.join(format!("{BUILDING_FILE}-journal")),
    ] {
        match fs::remove_file(&leftover) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(
                    "remove the unfinished database",
                    &leftover,
                    source,
                ));
            }
            _ => {}
        }
    }
    // Create the file with mode 0600 here, so that other users can never read it. SQLite creates
    // its other files with the same mode.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&building)
        .map_err(|source| io_error("create", &building, source))?;
    let connection = open(&building, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let filled = || -> rusqlite::Result<()> {
        // `auto_vacuum` lets the file shrink. It must be set before the first table.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = FULL;")?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        migrate(&connection, MIGRATIONS, 0)
    };
    filled().map_err(|source| OpenError::from_sqlite(&building, source))?;
    connection
        .close()
        .map_err(|(_, source)| OpenError::from_sqlite(&building, source))?;
    fs::rename(&building, path).map_err(|source| io_error("create", path, source))?;
    sync(directory)?;
    // The state directory may also be new.
    sync_entry(directory)
}

/// Makes the entry of a directory in its parent directory durable.
fn sync_entry(directory: &Path) -> Result<(), OpenError> {
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => match sync(parent) {
            // A process that may not read the parent probably did not create the directory.
            Err(OpenError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Ok(())
            }
            result => result,
        },
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), OpenError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error("sync the directory", directory, source))
}

/// Whether a file exists at this path. True for a symbolic link to a missing file.
fn exists(path: &Path) -> Result<bool, OpenError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("look for", path, source)),
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
