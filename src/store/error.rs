//! Errors of the store.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use crate::config::Postgres;
use crate::domain::project::{ContentHash, ProjectKey};

/// An error of the underlying database.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// The reasons why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon, or a command that moves the state, uses the state directory.
    #[error(
        "another daemon or `migrate-store` uses the state directory {directory}{}: stop that process first, or configure another state_dir",
        process(*.pid)
    )]
    Held {
        /// The state directory.
        directory: PathBuf,
        /// The id of the process that uses it, if known.
        pid: Option<u32>,
    },
    /// There is no state yet.
    #[error("there is no state in {directory} yet: start the daemon once to create it")]
    Absent {
        /// The state directory, or the database and the repository in words.
        directory: PathBuf,
    },
    /// A later version of this program wrote the state.
    #[error(
        "{path} has schema {found}, but this program supports only schemas up to {known}: install the version that wrote it, or a later one"
    )]
    Newer {
        /// The path of the database, or its name if it is on a server.
        path: PathBuf,
        /// The schema version of the database.
        found: i64,
        /// The latest schema version that this program supports.
        known: i64,
    },
    /// An earlier version of this program wrote the state.
    ///
    /// Commands for reading or changing deliveries do not migrate it.
    #[error(
        "{path} has schema {found}, but this program needs {known}: start the daemon once to migrate the state"
    )]
    Older {
        /// The path of the database, or its name if it is on a server.
        path: PathBuf,
        /// The schema version of the database.
        found: i64,
        /// The schema version that this program needs.
        known: i64,
    },
    /// The file is damaged, or not a database of this program.
    #[error(
        "{path} is not a database of this program, or it is damaged: {what}. Nothing was changed. Restore the state directory from a backup, or move its files away to start with an empty record; pending deliveries are then lost"
    )]
    Damaged {
        /// The path of the database.
        path: PathBuf,
        /// A description of the damage.
        what: String,
    },
    /// The file system of the state directory lacks a feature that the store needs.
    #[error(
        "the file system of {path} cannot be used for the state: {what}; put state_dir on a local disk"
    )]
    Unsupported {
        /// The path of the database.
        path: PathBuf,
        /// A description of the missing feature.
        what: String,
    },
    /// The database cannot be used now, but may be usable later.
    #[error("{location} cannot be used now")]
    Unreachable {
        /// The database.
        location: Arc<str>,
        /// The cause.
        source: Cause,
    },
    /// The database cannot be used, for instance because it refused the user.
    #[error("cannot use {location}")]
    Refused {
        /// The database.
        location: Arc<str>,
        /// The cause.
        source: Cause,
    },
    /// The database lacks a property that the store needs.
    #[error("{location} cannot be used for the state: {what}")]
    Unsuitable {
        /// The database.
        location: Arc<str>,
        /// The missing property, and what to do.
        what: String,
    },
    /// Another process has the lease on the repository.
    #[error("{holder} watches {repository} in {location}{}{}", other_list(.difference.as_ref()), cannot_take_over(.refusal.as_ref()))]
    Leased {
        /// The database.
        location: Arc<str>,
        /// The repository or repositories.
        repository: String,
        /// The process that has the lease.
        holder: String,
        /// How this process's list of repositories differs from the holder's list.
        difference: Option<String>,
        /// Why this process could not take over the lease.
        refusal: Option<String>,
    },
    /// The lease is free, but this process lacks a repository of the recorded list.
    ///
    /// For now, only a process with the complete list may take the lease.
    #[error(
        "nobody watches {repository} in {location}. The list `repositories` of this process {difference}, so this process takes over only if no other process does within `store.lease`"
    )]
    Yields {
        /// The database.
        location: Arc<str>,
        /// The repositories of the last holder.
        repository: String,
        /// How this process's list of repositories differs from the last holder's list.
        difference: String,
    },
    /// A repository would be watched twice: in a list of repositories, and alone.
    #[error("{location}: {reason}")]
    WatchedTwice {
        /// The database.
        location: Arc<str>,
        /// Which repository, and what to do.
        reason: String,
    },
    /// The former record of a repository still has pending deliveries or a lease.
    #[error("{location}: {reason}")]
    NotYet {
        /// The database.
        location: Arc<str>,
        /// Which repository, and what to do.
        reason: String,
    },
    /// A process still delivers from the source or the target of a move.
    #[error(
        "{holder} delivers for {repository} in {location}: stop that process before the move. After a kill, wait as long as `store.lease`"
    )]
    Delivering {
        /// The database.
        location: Arc<str>,
        /// The repository or repositories.
        repository: String,
        /// The process that delivers.
        holder: String,
    },
    /// The state was moved to another place.
    #[error(
        "the state in {location} was moved to {to}: configure that place (`store`, or `state_dir` without `store`), or move the state back with `project-webhooks migrate-store`"
    )]
    Left {
        /// The former place of the state.
        location: String,
        /// The present place of the state.
        to: String,
    },
    /// The state is an incomplete copy of another state.
    #[error(
        "{location} has an incomplete copy of the state in {from}: run `project-webhooks migrate-store` again to complete it"
    )]
    Arriving {
        /// The place of the copy.
        location: String,
        /// The place of the copied state.
        from: String,
    },
    /// An operation of the operating system failed.
    #[error("cannot {what} {path}{}", advice(.source))]
    Io {
        /// The operation, as a verb such as `open`.
        what: &'static str,
        /// The path that the operation needed.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// SQLite cannot open or migrate the database.
    #[error("cannot open {path}")]
    Database {
        /// The path of the database.
        path: PathBuf,
        /// The cause.
        source: Cause,
    },
}

impl OpenError {
    /// Makes the error for a lease that another process has.
    ///
    /// `recorded` has the names in the holder's list of repositories, or is empty.
    pub(super) fn leased(
        location: &Arc<str>,
        settings: &Postgres,
        holder: String,
        recorded: &[String],
    ) -> Self {
        // The list may be missing: a holder gets the lease before it records its names.
        let is_known = !recorded.is_empty() && !settings.repositories.is_empty();
        Self::Leased {
            location: Arc::clone(location),
            repository: match is_known {
                true => format!("the repositories {}", recorded.join(", ")),
                false => settings.shown(),
            },
            holder,
            difference: is_known
                .then(|| difference(recorded, &settings.repositories))
                .flatten(),
            refusal: None,
        }
    }

    /// Returns an error if the configured list of repositories lacks a recorded name.
    pub(super) fn unless_lacking(
        location: &Arc<str>,
        settings: &Postgres,
        recorded: &[String],
    ) -> Result<(), Self> {
        let own = &settings.repositories;
        let lacks = recorded.iter().any(|name| !own.contains(name));
        match difference(recorded, own) {
            Some(difference) if lacks && !own.is_empty() => Err(Self::Yields {
                location: Arc::clone(location),
                repository: format!("the repositories {}", recorded.join(", ")),
                difference,
            }),
            _ => Ok(()),
        }
    }

    /// Adds the reason why this process could not take over the lease.
    pub(super) fn refused(mut self, reason: Option<String>) -> Self {
        if let Self::Leased { refusal, .. } = &mut self {
            *refusal = reason;
        }
        self
    }

    /// Whether opening the store may succeed later without a change by an operator.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Leased { .. }
                | Self::NotYet { .. }
                | Self::Yields { .. }
                | Self::Unreachable { .. }
        )
    }
}

/// Describes how the list of this process differs from the holder's list.
fn other_list(difference: Option<&String>) -> String {
    difference.map_or_else(String::new, |difference| {
        format!("; the list `repositories` of this process {difference}: give all processes the same list")
    })
}

fn cannot_take_over(refusal: Option<&String>) -> String {
    refusal.map_or_else(String::new, |reason| {
        format!("; this process cannot take over now: {reason}")
    })
}

/// Describes how a list of names differs from the recorded list.
///
/// `None` if both have the same names.
fn difference(recorded: &[String], own: &[String]) -> Option<String> {
    let without = |some: &[String], others: &[String], verb: &str| {
        let missing = some.iter().filter(|name| !others.contains(name));
        let missing: Vec<&str> = missing.map(String::as_str).collect();
        (!missing.is_empty()).then(|| format!("{verb} {}", missing.join(", ")))
    };
    let parts = [
        without(recorded, own, "lacks"),
        without(own, recorded, "adds"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

/// Returns advice for an error of the operating system, in parentheses.
///
/// The text is empty if there is none. The message puts the advice before the cause.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (run commands as the daemon's user, and let the daemon's user write state_dir: check its \
             owner, its mode and its mount, or configure another state_dir)"
        }
        io::ErrorKind::IsADirectory => " (move this directory away)",
        _ => "",
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// An error of an open store.
///
/// The failed transaction changed nothing, unless the connection to a database was lost.
#[derive(Clone, Debug)]
pub struct StoreError {
    location: Arc<str>,
    fault: Fault,
}

impl Fault {
    /// Whether this process may succeed later without a change by an operator.
    ///
    /// If it lost the lease ([`Fault::Fenced`]), it must first get the lease again.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Busy(_) | Self::Slow(_) | Self::Fenced | Self::NotYet(_)
        )
    }

    /// Whether stored data is damaged. Reading it again would give the same error.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Coding { source, .. } => !is_lack_of_memory(source),
            Self::MissingPayload { .. } | Self::WrongPayload { .. } | Self::Undecodable { .. } => {
                true
            }
            _ => false,
        }
    }

    /// Returns an error if the number of selected rows is not the expected one.
    pub(super) fn unless_expected(expected: Option<u64>, selected: usize) -> Result<(), Self> {
        let selected = selected as u64;
        match expected {
            Some(expected) if expected != selected => Err(Self::OtherNumber { expected, selected }),
            _ => Ok(()),
        }
    }
}

fn is_lack_of_memory(error: &io::Error) -> bool {
    let zstd: Option<&zstd::Error> = error.get_ref().and_then(|error| error.downcast_ref());
    error.kind() == io::ErrorKind::OutOfMemory
        || zstd.is_some_and(|zstd| zstd.is(ZSTD_ErrorCode::ZSTD_error_memory_allocation))
}

impl StoreError {
    pub(crate) fn new(location: &Arc<str>, fault: Fault) -> Self {
        Self {
            location: Arc::clone(location),
            fault,
        }
    }

    /// The kind of the error.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Whether the disk of the state directory is full.
    pub fn is_full(&self) -> bool {
        matches!(self.fault, Fault::Full(_))
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
    /// The disk of the state directory is full.
    ///
    /// The store works again as soon as there is space.
    #[error("the disk of state_dir is full (free some space)")]
    Full(#[source] Cause),
    /// Another transaction kept the database locked for longer than the store waits.
    #[error("another transaction, probably of another process, keeps the database locked")]
    Busy(#[source] Cause),
    /// The server ended a statement that took too long.
    #[error("the database took too long for a statement")]
    Slow(#[source] Cause),
    /// SQLite found damage in the open database.
    #[error(
        "the database is damaged (stop the daemon and restore the state directory from a backup)"
    )]
    Damaged(#[source] Cause),
    /// The operating system failed to read or write.
    #[error("the operating system cannot read or write the database")]
    Io(#[source] Cause),
    /// The server does not answer, or lacks a resource.
    ///
    /// The store works again as soon as the server does.
    #[error("the database does not answer, or lacks space, memory or connections")]
    Unreachable(#[source] Cause),
    /// This process has no lease on the repository. Usually another process took it over.
    #[error("another process took over the repository, so this process changes nothing")]
    Fenced,
    /// The database returned another error.
    #[error("an SQL statement failed")]
    Database(#[source] Cause),
    /// A needed payload is neither in the batch nor stored.
    #[error("the payload {hash} of {needed_by} is missing")]
    MissingPayload {
        /// The hash of the missing payload.
        hash: ContentHash,
        /// The event or project that needs the payload.
        needed_by: String,
    },
    /// The bytes of a payload do not match its hash.
    #[error("the bytes of the payload {hash} do not match this hash")]
    WrongPayload {
        /// The expected hash.
        hash: ContentHash,
    },
    /// A payload cannot be compressed or decompressed.
    #[error("cannot compress or decompress the payload {hash}")]
    Coding {
        /// The hash of the payload.
        hash: ContentHash,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// The record of a project changed after the batch was inferred from it.
    #[error("the record of {key} changed during the inference, so nothing was recorded")]
    Stale {
        /// The project whose record changed.
        key: ProjectKey,
    },
    /// A stored row contains invalid data, or is missing.
    #[error("invalid data in {what}: {reason}")]
    Undecodable {
        /// The row, such as `the event 7`.
        what: String,
        /// The reason why the row is invalid.
        reason: String,
    },
    /// A change got an empty selector, which would select all deliveries.
    #[error("no deliveries are selected: select them by id, webhook, state or time")]
    EmptySelector,
    /// The number of selected deliveries or events is not the expected one.
    #[error(
        "the selection now has {selected} deliveries or events, not {expected}, so nothing was changed"
    )]
    OtherNumber {
        /// The expected number.
        expected: u64,
        /// The current number.
        selected: u64,
    },
    /// The state was moved to another place, or is an incomplete copy of another state.
    #[error("{0}")]
    Moved(String),
    /// A repository would be watched twice: in a list of repositories, and alone.
    #[error("{0}")]
    WatchedTwice(String),
    /// The former record of a repository still has pending deliveries or a lease.
    #[error("{0}")]
    NotYet(String),
    /// The store was closed, or its thread ended.
    #[error("the store is closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_no_damage() {
        let hash = ContentHash([0; 32]);
        let coding = |source: io::Error| Fault::Coding {
            hash,
            source: Arc::new(source),
        };
        let torn = zstd::bulk::decompress(b"no frame of zstd", 100).unwrap_err();
        for (fault, expected) in [
            (coding(torn), true),
            (coding(io::ErrorKind::OutOfMemory.into()), false),
            (Fault::WrongPayload { hash }, true),
            (Fault::Closed, false),
        ] {
            assert_eq!(fault.is_damage(), expected, "{fault:?}");
        }
    }

    #[test]
    fn a_difference_names_the_repositories_of_one_list_alone() {
        let names =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        for (recorded, own, expected) in [
            ("a b", "b a", None),
            ("a b", "a", Some("lacks b")),
            ("a", "a b c", Some("adds b, c")),
            ("a b", "b c", Some("lacks a and adds c")),
        ] {
            let said = difference(&names(recorded), &names(own));
            assert_eq!(said.as_deref(), expected, "{recorded}; {own}");
        }
    }
}
