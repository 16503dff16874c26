//! Infers events from short-lived files, which existed only between two observations.
//!
//! Constraint: only events that are certain are inferred. A short-lived file was opened when a report
//! named it, so its content is known although its path is gone. It proves nothing about other files
//! at that time.
//!
//! - A copy causes an event if its project is or was recorded. A definition causes an event only if a
//!   definition was recorded.
//! - A project that appeared and disappeared causes no event. For instance, somebody checked out
//!   another branch and returned.
//! - A file that is still in its project is not short-lived. For instance, it was written under a
//!   temporary name and renamed. A file that was moved out of a project counts as short-lived in
//!   that project.
//! - A file from another directory than the project's causes no event, because it may belong to another
//!   project that was at this path for a short time.

use super::infer::{Inference, Removals, infer};
use super::project::{FileState, Observed, ObservedFile, Recorded, Role};

/// The result of judging a short-lived file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ShortLived {
    /// The file causes no event.
    Ignored,
    /// The next observation decides whether the file causes an event.
    Waits,
    /// The file causes these events and this record.
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
    // If the record is newer than the file, the file's successor was recorded first. An event for
    // the file would come in the wrong order, and the event of the successor would come twice.
    let is_before_record = recorded
        .file(&file.path)
        .is_some_and(|known| known.stamp.changed_ns > file.stamp.changed_ns);
    if !belongs_here || is_on_record(recorded, file) || is_before_record {
        return ShortLived::Ignored;
    }
    let Some(definition) = &recorded.definition else {
        // Further observations decide whether the project was imported or moved here.
        return ShortLived::Waits;
    };
    if observed.definition().is_none() && definition.is_of_another_project(file) {
        // Another project may have been in this directory. The next observations decide.
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
        // The event waits until a removal is confirmed. It needs the content then.
        return ShortLived::Waits;
    }
    ShortLived::Counts(Box::new(inference))
}

/// Whether this content is recorded at this path.
fn is_on_record(recorded: &Recorded, file: &FileState) -> bool {
    recorded
        .file(&file.path)
        .is_some_and(|known| known.hash == file.hash)
}
