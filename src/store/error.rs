//! What can go wrong with the store.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::domain::project::{ContentHash, ProjectKey};

/// An error of the database behind the store.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why a store could not be opened. Whatever it is, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another instance holds the state directory.
    #[error("another instance holds the state directory {directory}{}: stop it first, or give this one a state_dir of its own", process(*.pid))]
    Held {
        /// The state directory.
        directory: PathBuf,
        /// The process that holds it, where it said so.
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
    /// An earlier version wrote the state, and only the daemon brings it up to date.
    #[error(
        "{path} has schema {found} and this program needs {known}: start the daemon once, it brings the state up to date"
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
        "{path} is damaged: {what}. Nothing was changed. Restore the state directory from a copy, or move state.db and the files beside it that start with its name away to begin with an empty record; deliveries that were waiting are then lost"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
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
        /// What it lacks.
        what: String,
    },
    /// The operating system refused something.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database refused to be opened.
    #[error("cannot open {path}")]
    Database {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: Cause,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// What went wrong with an open store. The operation changed nothing, and may be tried again.
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

    /// What went wrong.
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
    /// No space. The store works again as soon as there is some, without being opened again.
    #[error(
        "no space is left for the state: free some; nothing is lost and the store goes on by itself"
    )]
    Full(#[source] Cause),
    /// Another process kept the database for longer than the store waits.
    #[error("another process keeps the database busy")]
    Busy(#[source] Cause),
    /// The database was damaged while it was open.
    #[error("the database is damaged: stop the daemon and restore the state directory from a copy")]
    Damaged(#[source] Cause),
    /// The operating system failed to read or write.
    #[error("the operating system cannot read or write the database")]
    Io(#[source] Cause),
    /// Any other error of the database.
    #[error("the database refused a statement")]
    Database(#[source] Cause),
    /// A payload is needed that was neither given nor stored.
    #[error("the payload {hash} of {needed_by} was neither given nor stored")]
    MissingPayload {
        /// Its hash.
        hash: ContentHash,
        /// The event or project that needs it.
        needed_by: String,
    },
    /// A payload does not have the hash it was given or stored with.
    #[error("the payload {hash} is not what its hash says")]
    WrongPayload {
        /// The hash it should have.
        hash: ContentHash,
    },
    /// A payload cannot be compressed or decompressed.
    #[error("the payload {hash} cannot be coded")]
    Coding {
        /// Its hash.
        hash: ContentHash,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// The record is not the one that a change was inferred from.
    #[error("the record of {key} changed meanwhile: read it again and infer again")]
    Stale {
        /// The project.
        key: ProjectKey,
    },
    /// A stored row makes no sense.
    #[error("{what} makes no sense: {reason}")]
    Undecodable {
        /// Which row.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A selector that selects everything was given to something that changes things.
    #[error("nothing says which deliveries are meant: name ids, a webhook, a state or a time")]
    EmptySelector,
    /// The store was closed, or its thread ended.
    #[error("the store is closed")]
    Closed,
}
