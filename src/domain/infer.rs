//! Infers events from the record and an observation of one project.
//!
//! Constraint: a missing file counts as removed only when the caller confirms it, and only where the
//! observation could read every directory that such a file may be in. A complete file counts at once, with three exceptions:
//!
//! - Nothing in the place of a replaced definition counts before the removal is confirmed, so that
//!   the old project's delete comes before the events of its successor.
//! - While the definition is missing, a published copy with another engineId waits with it: the copy
//!   may be the successor's.
//! - A copy without a definition, on record or on disk, waits for the settle time. It may be the
//!   rest of a project that a checkout removes, or the first file of a project that it creates. A
//!   checkout handles one file at a time, and a whole project that came and went is no event.
//!
//! The engineId identifies a project wherever both sides have one. A definition without an engineId
//! keeps the one that its project had. A definition with another engineId belongs to another project, even when a snapshot beside it has the same content: such a
//! snapshot belongs to the successor.
//!
//! A deleted project is not unpublished while a published copy is still there in any form: as it
//! was, with new content, under another tag, or unreadable. A copy that came with another engineId
//! is the one exception.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{EventKind, InferredEvent};
use super::project::{FileState, Observed, ObservedFile, Recorded, Role};

/// Whether missing files count as removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removals {
    /// Not yet: the project was not idle for the settle time.
    Unconfirmed,
    /// They do.
    Confirmed,
}

/// The meaning of one observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// The new record.
    pub record: Recorded,
    /// The events, in the order of recording and delivery.
    pub events: Vec<InferredEvent>,
    /// Paths whose removal is not confirmed yet; see [`missing`].
    pub missing: BTreeSet<String>,
}

/// Returns the paths of missing files.
///
/// These are the recorded files that are gone. A definition is also missing when another project's
/// definition is in its place. New copies without a definition miss their project, so their paths
/// stand for it.
pub fn missing(recorded: &Recorded, observed: &Observed) -> BTreeSet<String> {
    let copies = recorded
        .published
        .values()
        .chain(recorded.snapshots.values())
        .filter(|copy| observed.is_gone(copy))
        .map(|copy| &copy.path);
    let definition = recorded
        .definition
        .iter()
        .filter(|_| observed.definition_is_gone() || is_replaced(recorded, observed))
        .map(|definition| &definition.path);
    let orphans = observed
        .complete(Role::Published)
        .chain(observed.complete(Role::Snapshot))
        .filter(|seen| is_orphan(recorded, observed, seen))
        .map(|seen| &seen.path);
    copies.chain(definition).chain(orphans).cloned().collect()
}

/// Whether a new copy has no definition, neither on record nor on disk.
fn is_orphan(recorded: &Recorded, observed: &Observed, seen: &FileState) -> bool {
    recorded.definition.is_none()
        && observed.definition().is_none()
        && recorded.file(&seen.path).is_none()
}

/// Infers the events of one project.
pub fn infer(recorded: &Recorded, observed: &Observed, removals: Removals) -> Inference {
    let replaced = is_replaced(recorded, observed);
    if replaced && removals == Removals::Unconfirmed {
        // The old project's delete comes before all events of the new one, so all of them wait.
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
            "the definition was replaced by that of another project (another engineId)",
        );
    }
    // A replaced project's successor starts without a definition on record.
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
                restore = restored_from(recorded, observed, seen).map(|because| InferredEvent {
                    kind: EventKind::SnapshotRestore,
                    subject: seen.clone(),
                    before: Some(before.clone()),
                    because,
                });
            }
            record.definition = Some(seen.succeeding(before));
        }
        (before, None) => record.definition = before.cloned(),
    }

    record.snapshots = copies(
        &mut events,
        &recorded.snapshots,
        observed,
        Role::Snapshot,
        removals,
        |seen| removals == Removals::Unconfirmed && is_orphan(recorded, observed, seen),
    );
    events.extend(restore);
    let definition_is_missing = record.definition.is_some() && observed.definition_is_gone();
    // See the second exception at the head of this file.
    let may_be_the_successors = |seen: &FileState| {
        definition_is_missing
            && definition_before.is_some_and(|before| before.has_another_engine_id(seen))
    };
    record.published = copies(
        &mut events,
        &recorded.published,
        observed,
        Role::Published,
        removals,
        |seen| {
            removals == Removals::Unconfirmed
                && (may_be_the_successors(seen) || is_orphan(recorded, observed, seen))
        },
    );
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

/// Whether the definition now belongs to another project: both have an engineId, and they differ.
pub(crate) fn is_replaced(recorded: &Recorded, observed: &Observed) -> bool {
    match (&recorded.definition, observed.definition()) {
        (Some(before), Some(seen)) => before.has_another_engine_id(seen),
        _ => false,
    }
}

/// Whether a published copy of the project with this definition is, or may be, still there.
fn is_still_published(definition: &FileState, recorded: &Recorded, observed: &Observed) -> bool {
    let came_with_another = |seen: &FileState| {
        let known = recorded.published.get(&seen.path);
        definition.has_another_engine_id(seen) && known.is_none_or(|copy| copy.hash != seen.hash)
    };
    observed.files.values().any(|file| match file {
        ObservedFile::Complete(seen) => seen.role == Role::Published && !came_with_another(seen),
        ObservedFile::Invalid { role, .. } => *role == Role::Published,
    }) || observed.hides(Role::Published)
}

/// Returns why this new definition is a restore of a snapshot, if it is.
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
    // A snapshot that is new in this observation: was it restored, or was the saved definition
    // snapshotted? Only the change times can tell. On a tie it was a save.
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
        events.push(InferredEvent {
            kind,
            subject: seen.clone(),
            before: None,
            because: "a definition appeared where none was recorded".to_owned(),
        });
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
            kind: *kind,
            subject: definition.clone(),
            before: Some(definition.clone()),
            because: because.clone(),
        });
    }
}

/// Compares the snapshots or the published copies, and returns their new record.
///
/// New copies for which `has_to_wait` holds are not recorded yet.
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
    let mut record: BTreeMap<String, FileState> = recorded
        .iter()
        .filter(|(_, before)| removals == Removals::Unconfirmed || !observed.is_gone(before))
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
        InferredEvent {
            kind,
            subject: seen.clone(),
            before: before.cloned(),
            because: match before {
                None => format!("{what} appeared"),
                Some(_) => format!("{what} has new content"),
            },
        }
    }));
    record
}
