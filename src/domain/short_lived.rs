//! Infers events from files that existed only between two observations.
//!
//! Constraint: only certain events count. Such a file was opened when a report named it, so its
//! content is known, although its path is gone. It proves nothing about other files at that time.
//!
//! - A copy counts where its project is or was on record, a definition only where one was on record.
//! - A whole project that came and went is no event, for instance in a checkout of another branch
//!   and back.
//! - A file that is still in its project is observed there: a file that was written under a temporary
//!   name and renamed is one file. A file with a path elsewhere is short-lived in its project.

use super::infer::{Inference, Removals, infer};
use super::project::{FileState, Observed, ObservedFile, Recorded, Role};

/// The meaning of a short-lived file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ShortLived {
    /// No event.
    Ignored,
    /// Perhaps an event; the next observation decides.
    Waits,
    /// The events of this file, and the record after it.
    Counts(Box<Inference>),
}

/// Infers the events of one short-lived file.
pub(crate) fn infer_short_lived(
    recorded: &Recorded,
    observed: &Observed,
    file: &FileState,
) -> ShortLived {
    let has_definition = recorded.definition.is_some();
    let belongs_here = match file.role {
        Role::Definition => has_definition,
        Role::Published | Role::Snapshot => has_definition || observed.definition().is_some(),
    };
    // A record that is newer than the file is that of its successor, whose hint came first. An event
    // now would come in the wrong order, and the successor's would come twice.
    let is_before_record = recorded
        .file(&file.path)
        .is_some_and(|known| known.stamp.changed_ns > file.stamp.changed_ns);
    if !belongs_here || is_on_record(recorded, file) || is_before_record {
        return ShortLived::Ignored;
    }
    if !has_definition {
        // Several observations decide whether its project was imported or moved here.
        return ShortLived::Waits;
    }
    let mut at_that_time = observed.clone();
    if file.role == Role::Definition {
        at_that_time.files.retain(
            |_, seen| !matches!(seen, ObservedFile::Complete(seen) if seen.role == file.role),
        );
    }
    let seen = ObservedFile::Complete(file.clone());
    at_that_time.files.insert(file.path.clone(), seen);
    let inference = infer(recorded, &at_that_time, Removals::Unconfirmed);
    if !is_on_record(&inference.record, file) {
        // The event waits for a removal to be confirmed, and needs the content then.
        return ShortLived::Waits;
    }
    ShortLived::Counts(Box::new(inference))
}

/// Whether this content is on record at this path.
fn is_on_record(recorded: &Recorded, file: &FileState) -> bool {
    recorded
        .file(&file.path)
        .is_some_and(|known| known.hash == file.hash)
}
