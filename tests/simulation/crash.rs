//! The state that a killed process leaves, also in the middle of a commit.
//!
//! Constraint: only sequential writes may be cut. SQLite appends to the write-ahead log and flushes it
//! before it copies pages into the database. So a crash leaves the database as it was, and the log
//! up to any byte.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use project_webhooks::store::Store;

/// The time of a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    No,
    /// Before the store's transaction, or before an answer is recorded.
    Before,
    /// During the write: after `part` of 255 of its bytes.
    During {
        part: u8,
    },
    /// Right after it.
    After,
}

/// The files of the state at one time.
pub struct Image {
    database: Vec<u8>,
    log: Vec<u8>,
    /// The key of the fingerprints, which is written once.
    key: Vec<u8>,
}

impl Image {
    /// Copies a state that a store has open, and that nobody writes to.
    ///
    /// A page that a checkpoint copies into the database in the meantime is in the log too. If the
    /// checkpoint then empties the log, both are read again.
    pub fn take(state: &Path) -> Self {
        let path = state.join("state.db-wal");
        loop {
            let log = fs::read(&path).unwrap_or_default();
            let database = fs::read(state.join("state.db")).unwrap();
            let length = fs::metadata(&path).map_or(0, |log| log.len());
            if length == log.len() as u64 {
                let key = fs::read(state.join("key")).unwrap();
                return Self { database, log, key };
            }
        }
    }

    /// Returns the state of a store that was opened once: making its tables takes longer than most runs.
    pub fn of_new_store() -> &'static Self {
        static NEW: OnceLock<Image> = OnceLock::new();
        NEW.get_or_init(|| {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path()).unwrap();
            let image = Self::take(directory.path());
            drop(store);
            image
        })
    }

    /// The files after a kill during the write between two images.
    pub fn between(before: Self, after: Self, part: u8) -> Self {
        if !after.log.starts_with(&before.log) {
            // The log was restarted, so the database has everything before it.
            return after;
        }
        let written = after.log.len() - before.log.len();
        let whole = before.log.len() + written * usize::from(part) / 255;
        let mut log = after.log[..whole].to_vec();
        if part % 2 == 1 {
            // The file has its new length already, but not its new content.
            log.resize(after.log.len(), 0xa5);
        }
        Self {
            database: before.database,
            log,
            key: before.key,
        }
    }

    /// Writes the files into an empty directory.
    pub fn put(&self, state: &Path) {
        fs::create_dir(state).unwrap();
        fs::write(state.join("state.db"), &self.database).unwrap();
        fs::write(state.join("key"), &self.key).unwrap();
        if !self.log.is_empty() {
            fs::write(state.join("state.db-wal"), &self.log).unwrap();
        }
    }
}
