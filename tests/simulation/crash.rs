//! What a process that is killed leaves of its state, also in the middle of a commit.
//!
//! Constraint: only what is written in order may be cut. The log of the database is appended to and
//! flushed before anything moves from it into the database, so that a crash leaves the database as
//! it was and the log up to any byte.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

/// When the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    No,
    /// Before the store's transaction, or before an answer is recorded.
    Before,
    /// While it is written: after this part of 256 of its bytes.
    During {
        part: u8,
    },
    /// After it, before anything else.
    After,
}

/// The files of the state at one moment.
pub struct Image {
    database: Vec<u8>,
    log: Vec<u8>,
}

impl Image {
    /// Of a state that a store has open. What is appended to the log meanwhile is a commit more or a
    /// part of one; what is moved from the log into the database is in the log as well, since that is
    /// read first, and nothing newer is moved while a reader is there.
    pub fn take(state: &Path) -> Self {
        let reader = Connection::open(state.join("state.db")).unwrap();
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")
            .unwrap();
        let log = fs::read(state.join("state.db-wal")).unwrap_or_default();
        let database = fs::read(state.join("state.db")).unwrap();
        Self { database, log }
    }

    /// What there is when the process is killed while it writes what is between two moments.
    pub fn between(before: Self, after: Self, part: u8) -> Self {
        if !after.log.starts_with(&before.log) {
            // The log was begun anew, and so all before it is in the database.
            return after;
        }
        let written = after.log.len() - before.log.len();
        let whole = before.log.len() + written * usize::from(part) / 255;
        let mut log = after.log[..whole].to_vec();
        if part % 2 == 1 {
            // The file has its new length already, and not its new content.
            log.resize(after.log.len(), 0xa5);
        }
        Self {
            database: before.database,
            log,
        }
    }

    /// Lays the files down in an empty directory.
    pub fn put(&self, state: &Path) {
        fs::create_dir(state).unwrap();
        fs::write(state.join("state.db"), &self.database).unwrap();
        if !self.log.is_empty() {
            fs::write(state.join("state.db-wal"), &self.log).unwrap();
        }
    }
}
