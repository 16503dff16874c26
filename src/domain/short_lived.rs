//! Infers events from short-lived files, which existed only between two observations.
//!
//! Constraint: an event is inferred only if it is certain. A short-lived file is opened as soon as
//! a report names it, so its content can be read although its path is gone. The file proves nothing
//! about other files at that time.
//!
//! - A published copy or a snapshot causes an event only if a definition is recorded. If a
//!   definition is observed but not recorded yet, the file waits. A definition causes an event only
//!   if a definition was recorded before.
//! - A project that appeared and disappeared causes no event. For instance, somebody checked out
//!   another branch and returned.
//! - A file that is still in its project is not short-lived. For instance, it was written under a
//!   temporary name and then renamed. A file that was moved out of a project is short-lived in
//!   that project.
//! - If the project's directory is not the one in which the file was opened, the engine usually
//!   drops the file. It may belong to another project that was at this path for a short time.

use super::infer::{Inference, Removals, infer};
use super::project::{FileState, Observed, ObservedFile, Recorded, Role};

/// The result of judging a short-lived file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ShortLived {
    /// The file causes no event.
    Ignored,
    /// A later observation decides whether the file causes an event.
    Waits,
    /// The file causes the events of this inference, which also has the new record.
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
        Role::Definition | Role::Deleted => has_definition,
        Role::Published | Role::Snapshot => has_definition || observed.definition().is_some(),
    };
    // If the record is newer than the file, a later file at this path was recorded first. An event
    // for the older file would come in the wrong order, and the later file's event would come
    // twice.
    let is_before_record = recorded
        .file(&file.path)
        .is_some_and(|known| known.stamp.changed_ns > file.stamp.changed_ns);
    if !belongs_here || is_on_record(recorded, file) || is_before_record {
        return ShortLived::Ignored;
    }
    let Some(definition) = &recorded.definition else {
        // Later observations decide whether the project was imported or moved here.
        return ShortLived::Waits;
    };
    if observed.definition().is_none() && definition.is_of_another_project(file) {
        // Later observations decide whether another project was in this directory.
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
        // The event waits for a removal to be confirmed. Until then the file's content must be
        // kept.
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
