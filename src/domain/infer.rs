//! Infers events from the record of one project and an observation of it.
//!
//! Constraint: a missing file counts as removed only if the caller confirms the removal. In
//! addition, the observation must have read every directory that may contain the file. A complete
//! file causes its event immediately, with three exceptions:
//!
//! - If another project's definition replaces the recorded one, all events wait until the removal
//!   of the old project is confirmed. So the old project is deleted before its successor is
//!   imported.
//! - While the definition is missing, a published copy with another id waits as well, because it
//!   may belong to a successor.
//! - If neither the record nor the disk has a definition, a copy waits for the settle time. A
//!   checkout handles one file at a time. So the copy may be the last file of a project that is
//!   being removed, or the first file of a new one. A project that appeared and disappeared causes
//!   no event.
//!
//! A definition without an id keeps the id that its project had; see [`super::identity`]. A
//! definition with another id belongs to another project, even if a snapshot in the directory has
//! the same content. The snapshot then belongs to that project too.
//!
//! Four more events exist: a save, a move ([`super::moves`]), and the removal of a published copy
//! or a snapshot while the project stays. Only webhooks that name them receive them.
//!
//! A deleted project counts as unpublished only if no published copy remains. A copy also
//! remains if it is unreadable, or if it has new content or another tag. A new copy with another
//! id is ignored, because it belongs to another project.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{EventKind, InferredEvent};
use super::project::{FileState, Observed, ObservedFile, Recorded, Role};

/// Whether missing files count as removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removals {
    /// Missing files do not count as removed yet: the project was not idle for the settle time.
    Unconfirmed,
    /// Missing files count as removed.
    Confirmed,
}

/// The result of inferring from one observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// The new record.
    pub record: Recorded,
    /// The events, in the order of recording and delivery.
    pub events: Vec<InferredEvent>,
    /// Paths whose removal is not confirmed yet; see [`missing`].
    pub missing: BTreeSet<String>,
}

/// Returns the paths of missing files: recorded files that are gone.
///
/// A definition is also missing if another project's definition is at its path. For a new copy
/// without a definition, the result has the path of the copy.
pub fn missing(recorded: &Recorded, observed: &Observed) -> BTreeSet<String> {
    let (is_gone, is_orphan) = (observed.is_gone(), is_orphan(recorded, observed));
    let copies = recorded
        .published
        .values()
        .chain(recorded.snapshots.values())
        .filter(|copy| is_gone(copy))
        .map(|copy| &copy.path);
    let definition = recorded
        .definition
        .iter()
        .filter(|_| observed.definition_is_gone() || is_replaced(recorded, observed))
        .map(|definition| &definition.path);
    let orphans = observed
        .complete(Role::Published)
        .chain(observed.complete(Role::Snapshot))
        .filter(|seen| is_orphan(seen))
        .map(|seen| &seen.path);
    copies.chain(definition).chain(orphans).cloned().collect()
}

/// Returns a function that tells whether a new copy has no definition.
///
/// Such a copy has a definition neither in the record nor on disk.
fn is_orphan(recorded: &Recorded, observed: &Observed) -> impl Fn(&FileState) -> bool {
    let has_definition = recorded.definition.is_some() || observed.definition().is_some();
    move |seen| !has_definition && recorded.file(&seen.path).is_none()
}

/// Infers the events of one project.
pub fn infer(recorded: &Recorded, observed: &Observed, removals: Removals) -> Inference {
    let replaced = is_replaced(recorded, observed);
    if replaced && removals == Removals::Unconfirmed {
        // The delete of the old project must come first, so all events of the new one wait.
        return Inference {
            record: recorded.clone(),
            events: Vec::new(),
            missing: missing(recorded, observed),
        };
    }
    let mut events = Vec::new();
    if replaced {
        deletes(
            &mut events,
            recorded,
            observed,
            "the definition was replaced by that of another project (another id)",
        );
    }
    // The successor of a replaced project has no recorded definition.
    let definition_before = recorded.definition.as_ref().filter(|_| !replaced);

    let mut restore = None;
    let mut record = Recorded::default();
    match (definition_before, observed.definition()) {
        (None, Some(seen)) => {
            imports(&mut events, seen);
            record.definition = Some(seen.clone());
        }
        (Some(before), Some(seen)) => {
            if seen.hash != before.hash {
                let event = saved_or_restored(recorded, observed, before, seen);
                // A save comes before the snapshots that were taken of it.
                if event.kind == EventKind::ProjectSave {
                    events.push(event);
                } else {
                    restore = Some(event);
                }
            }
            record.definition = Some(seen.succeeding(before));
        }
        (before, None) => record.definition = before.cloned(),
    }

    let is_orphan = is_orphan(recorded, observed);
    record.snapshots = copies(
        &mut events,
        &recorded.snapshots,
        observed,
        Role::Snapshot,
        removals,
        |seen| removals == Removals::Unconfirmed && is_orphan(seen),
    );
    events.extend(restore);
    let definition_is_missing = record.definition.is_some() && observed.definition_is_gone();
    // See the second exception in the documentation of this module.
    let may_be_the_successors = |seen: &FileState| {
        definition_is_missing
            && definition_before.is_some_and(|before| before.is_of_another_project(seen))
    };
    record.published = copies(
        &mut events,
        &recorded.published,
        observed,
        Role::Published,
        removals,
        |seen| {
            removals == Removals::Unconfirmed && (may_be_the_successors(seen) || is_orphan(seen))
        },
    );
    // The copies of a replaced project were removed with it.
    if !definition_is_missing && removals == Removals::Confirmed && !replaced {
        removed_copies(&mut events, recorded, &record);
    }
    if definition_is_missing && removals == Removals::Confirmed {
        deletes(&mut events, recorded, observed, "the definition is gone");
        record.definition = None;
    }
    Inference {
        missing: missing(&record, observed),
        record,
        events,
    }
}

/// Whether the observed definition belongs to another project than the recorded one.
pub(crate) fn is_replaced(recorded: &Recorded, observed: &Observed) -> bool {
    match (&recorded.definition, observed.definition()) {
        (Some(before), Some(seen)) => before.is_of_another_project(seen),
        _ => false,
    }
}

/// Whether a published copy of the project with this definition remains or may remain.
fn is_still_published(definition: &FileState, recorded: &Recorded, observed: &Observed) -> bool {
    let came_with_another = |seen: &FileState| {
        let known = recorded.published.get(&seen.path);
        definition.is_of_another_project(seen) && known.is_none_or(|copy| copy.hash != seen.hash)
    };
    observed.files.values().any(|file| match file {
        ObservedFile::Complete(seen) => seen.role == Role::Published && !came_with_another(seen),
        ObservedFile::Invalid { role, .. } => *role == Role::Published,
    }) || observed.hides(Role::Published)
}

/// Returns the event for a definition with new content: a save or a restore.
fn saved_or_restored(
    recorded: &Recorded,
    observed: &Observed,
    before: &FileState,
    seen: &FileState,
) -> InferredEvent {
    let (kind, because) = match restored_from(recorded, observed, seen) {
        Some(because) => (EventKind::SnapshotRestore, because),
        None => (
            EventKind::ProjectSave,
            "the definition has new content".to_owned(),
        ),
    };
    InferredEvent {
        before: Some(before.clone()),
        ..InferredEvent::about(kind, seen.succeeding(before), because)
    }
}

/// Returns the explanation if this new definition restores a snapshot.
fn restored_from(recorded: &Recorded, observed: &Observed, seen: &FileState) -> Option<String> {
    if recorded.definition.as_ref()?.hash == seen.hash {
        return None;
    }
    if let Some(snapshot) = recorded
        .snapshots
        .values()
        .find(|snapshot| snapshot.hash == seen.hash)
    {
        return Some(format!(
            "the definition has the content of the snapshot {}",
            snapshot.path
        ));
    }
    // For a snapshot that is new in this observation, the change times decide. If the snapshot is
    // older, the definition was restored from it. Otherwise the definition was saved, then the
    // snapshot was taken.
    observed
        .complete(Role::Snapshot)
        .find(|snapshot| {
            snapshot.hash == seen.hash && snapshot.stamp.changed_ns < seen.stamp.changed_ns
        })
        .map(|snapshot| {
            format!(
                "the definition has the content of the new snapshot {}, which is older than it",
                snapshot.path
            )
        })
}

fn imports(events: &mut Vec<InferredEvent>, seen: &FileState) {
    for kind in [EventKind::ProjectImport, EventKind::ProjectImportAny] {
        let because = "a definition appeared where none was recorded".to_owned();
        events.push(InferredEvent::about(kind, seen.clone(), because));
    }
}

fn deletes(events: &mut Vec<InferredEvent>, recorded: &Recorded, observed: &Observed, why: &str) {
    let Some(definition) = &recorded.definition else {
        return;
    };
    let unpublished =
        !recorded.published.is_empty() && !is_still_published(definition, recorded, observed);
    let because = if unpublished {
        format!("{why}, and so are all published copies that were recorded")
    } else if recorded.published.is_empty() {
        format!("{why}; no published copy was recorded")
    } else {
        format!("{why}; a published copy is still there")
    };
    let kinds: &[EventKind] = if unpublished {
        &[
            EventKind::ProjectDelete,
            EventKind::ProjectDeleteAndUnpublish,
        ]
    } else {
        &[EventKind::ProjectDelete]
    };
    for kind in kinds {
        events.push(InferredEvent {
            before: Some(definition.clone()),
            ..InferredEvent::about(*kind, definition.clone(), because.clone())
        });
    }
}

/// Adds the events of copies that were removed while their project stays.
fn removed_copies(events: &mut Vec<InferredEvent>, recorded: &Recorded, record: &Recorded) {
    let Some(definition) = &record.definition else {
        return;
    };
    let published = recorded.published.values();
    let removed = published
        .chain(recorded.snapshots.values())
        .filter(|copy| record.file(&copy.path).is_none());
    for copy in removed {
        let (kind, what) = match copy.role {
            Role::Published => (EventKind::ProjectUnpublish, "published copy"),
            Role::Snapshot | Role::Definition => (EventKind::SnapshotDelete, "snapshot"),
        };
        let because = format!("the {what} is gone, and the definition is there");
        events.push(InferredEvent {
            definition: Some(definition.clone()),
            before: Some(copy.clone()),
            ..InferredEvent::about(kind, copy.clone(), because)
        });
    }
}

/// Compares the snapshots or the published copies, and returns their new record.
///
/// A new copy is not recorded yet if `has_to_wait` returns true for it.
fn copies(
    events: &mut Vec<InferredEvent>,
    recorded: &BTreeMap<String, FileState>,
    observed: &Observed,
    role: Role,
    removals: Removals,
    has_to_wait: impl Fn(&FileState) -> bool,
) -> BTreeMap<String, FileState> {
    let (kind, what) = match role {
        Role::Published => (EventKind::ProjectPublish, "a published copy"),
        Role::Snapshot | Role::Definition => (EventKind::SnapshotCreate, "a snapshot"),
    };
    let is_gone = observed.is_gone();
    let mut record: BTreeMap<String, FileState> = recorded
        .iter()
        .filter(|(_, before)| removals == Removals::Unconfirmed || !is_gone(before))
        .map(|(path, before)| (path.clone(), before.clone()))
        .collect();
    let mut fresh: Vec<&FileState> = Vec::new();
    for seen in observed.complete(role) {
        if recorded
            .get(&seen.path)
            .is_none_or(|before| before.hash != seen.hash)
        {
            if has_to_wait(seen) {
                continue;
            }
            fresh.push(seen);
        }
        record.insert(seen.path.clone(), seen.clone());
    }
    fresh.sort_by_key(|seen| (seen.stamp.changed_ns, seen.stamp.modified_ns, &seen.path));
    events.extend(fresh.into_iter().map(|seen| {
        let before = recorded.get(&seen.path);
        let because = match before {
            None => format!("{what} appeared"),
            Some(_) => format!("{what} has new content"),
        };
        InferredEvent {
            before: before.cloned(),
            ..InferredEvent::about(kind, seen.clone(), because)
        }
    }));
    record
}
