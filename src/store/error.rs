//! Errors of the store.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::domain::project::{ContentHash, ProjectKey};

/// An error of the database behind the store.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// The reasons why a store cannot be opened. Opening changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another instance holds the state directory.
    #[error("another instance holds the state directory {directory}{}: stop it first, or give this one its own state_dir", process(*.pid))]
    Held {
        /// The state directory.
        directory: PathBuf,
        /// The process that holds it, if known.
        pid: Option<u32>,
    },
    /// There is no state yet.
    #[error("there is no state in {directory} yet: start the daemon once")]
    Absent {
        /// The state directory.
        directory: PathBuf,
    },
    /// A later version of this program wrote the state.
    #[error(
        "{path} has schema {found} and this program knows up to {known}: install the version that wrote it, or a later one"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The latest one known here.
        known: i64,
    },
    /// An earlier version wrote the state, and only the daemon migrates it.
    #[error(
        "{path} has schema {found} and this program needs {known}: start the daemon once to migrate the state"
    )]
    Older {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The one needed here.
        known: i64,
    },
    /// The state cannot be trusted.
    #[error(
        "{path} is damaged: {what}. Nothing was changed. Restore the state directory from a backup, or move its files away to start with an empty record; pending deliveries are then lost"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The damage.
        what: String,
        /// The database's own error, if it found the damage.
        #[source]
        source: Option<Cause>,
    },
    /// The file system under the state directory cannot do what the store needs.
    #[error(
        "the file system of {path} cannot hold the state: {what}; put state_dir on a local disk"
    )]
    Unsupported {
        /// The database.
        path: PathBuf,
        /// The missing feature.
        what: String,
    },
    /// The operating system refused something.
    #[error("cannot {what} {path}")]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The database refused to be opened.
    #[error("cannot open {path}")]
    Database {
        /// The database.
        path: PathBuf,
        /// The cause.
        source: Cause,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// An error of an open store. The operation changed nothing, and the caller may retry.
#[derive(Clone, Debug)]
pub struct StoreError {
    location: Arc<str>,
    fault: Fault,
}

impl StoreError {
    pub(super) fn new(location: &Arc<str>, fault: Fault) -> Self {
        Self {
            location: Arc::clone(location),
            fault,
        }
    }

    /// The kind of the error.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.location, self.fault)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.fault.source()
    }
}

/// The kinds of [`StoreError`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// No space. The store continues as soon as there is some, without being reopened.
    #[error(
        "no space is left for the state: free some; nothing is lost, and the store continues by itself"
    )]
    Full(#[source] Cause),
    /// Another process kept the database locked for longer than the store waits.
    #[error("another process keeps the database locked")]
    Busy(#[source] Cause),
    /// The database was damaged while it was open.
    #[error(
        "the database is damaged: stop the daemon and restore the state directory from a backup"
    )]
    Damaged(#[source] Cause),
    /// The operating system failed to read or write.
    #[error("the operating system cannot read or write the database")]
    Io(#[source] Cause),
    /// Any other error of the database.
    #[error("the database refused a statement")]
    Database(#[source] Cause),
    /// A needed payload is neither in the batch nor stored.
    #[error("the payload {hash} of {needed_by} is neither in the batch nor stored")]
    MissingPayload {
        /// Its hash.
        hash: ContentHash,
        /// The event or project that needs it.
        needed_by: String,
    },
    /// A payload does not match its hash.
    #[error("the payload {hash} does not match its hash")]
    WrongPayload {
        /// The hash it should have.
        hash: ContentHash,
    },
    /// A payload cannot be compressed or decompressed.
    #[error("cannot compress or decompress the payload {hash}")]
    Coding {
        /// Its hash.
        hash: ContentHash,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// The record changed after a change was inferred from it.
    #[error("the record of {key} changed meanwhile: read it again and infer again")]
    Stale {
        /// The project.
        key: ProjectKey,
    },
    /// A stored row is invalid.
    #[error("invalid data in {what}: {reason}")]
    Undecodable {
        /// Which row.
        what: String,
        /// The reason.
        reason: String,
    },
    /// A changing operation got an empty selector, which means all deliveries.
    #[error("no deliveries selected: give ids, a webhook, a state or a time")]
    EmptySelector,
    /// The store is closed, or its thread ended.
    #[error("the store is closed")]
    Closed,
}
