//! What a look means: recorded against observed, and the events that follow (contract section 2).
//!
//! Constraint: what is missing counts only when the caller says so, and only where the look could
//! see. What is there and complete counts at once, with two exceptions that keep a replaced
//! project's delete in front of its successor's events: nothing of a place whose definition was
//! replaced counts before the removal does, and while a definition is missing, neither does a
//! published copy that bears another engineId, for it may be the successor's.
//!
//! A copy that appears in a place where no definition is, on record or on disk, counts after the
//! pause too: it may be the rest of a project that is on its way, or the first of one. A checkout
//! makes and removes a project file by file, and one that came and went as a whole is no event.
//!
//! The engineId is a project's identity wherever both sides have one. A definition with another
//! engineId is that of another project, even when a snapshot in the same place has its content:
//! such a snapshot is the successor's, not the project's own.
//!
//! A published copy keeps a deleted project from being unpublished when it is still there in any
//! way: as it was, with new content, under another tag, or unreadable. Only a copy that came with
//! another engineId does not.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{EventKind, Inferred};
use super::project::{FileState, Observed, Recorded, Role, Sighting};

/// Whether what is missing counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removals {
    /// Not yet: the project was not quiet for long enough.
    Wait,
    /// It does.
    Count,
}

/// What a look means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// What to record.
    pub record: Recorded,
    /// What happened, in the order in which it is recorded and delivered.
    pub events: Vec<Inferred>,
    /// What is missing and did not count yet.
    pub missing: BTreeSet<String>,
}

/// What is missing: the paths of the recorded files that are gone, and of the definition also where
/// that of another project is in its place. Of new copies without a definition it is the project
/// that is missing, and their paths stand for it.
pub fn missing(recorded: &Recorded, observed: &Observed) -> BTreeSet<String> {
    let copies = recorded.published.keys().chain(recorded.snapshots.keys());
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
    copies
        .filter(|path| observed.is_gone(path))
        .chain(definition)
        .chain(orphans)
        .cloned()
        .collect()
}

/// Whether a copy appeared where no definition is, on record or on disk.
fn is_orphan(recorded: &Recorded, observed: &Observed, seen: &FileState) -> bool {
    recorded.definition.is_none()
        && observed.definition().is_none()
        && recorded.file(&seen.path).is_none()
}

/// What this look at one project means.
pub fn infer(recorded: &Recorded, observed: &Observed, removals: Removals) -> Inference {
    let replaced = is_replaced(recorded, observed);
    if replaced && removals == Removals::Wait {
        // The old project's delete comes before everything of the new one, so all of it waits.
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
                restore = restored_from(recorded, observed, seen).map(|because| Inferred {
                    kind: EventKind::SnapshotRestore,
                    subject: seen.clone(),
                    before: Some(before.clone()),
                    because,
                });
            }
            record.definition = Some(seen.clone());
        }
        (before, None) => record.definition = before.cloned(),
    }

    record.snapshots = copies(
        &mut events,
        &recorded.snapshots,
        observed,
        Role::Snapshot,
        removals,
        |seen| removals == Removals::Wait && is_orphan(recorded, observed, seen),
    );
    events.extend(restore);
    let definition_is_missing = record.definition.is_some() && observed.definition_is_gone();
    // Held back: see the head of this file.
    let may_be_the_successors = |seen: &FileState| {
        definition_is_missing
            && definition_before.is_some_and(|before| bears_another_engine_id(before, seen))
    };
    record.published = copies(
        &mut events,
        &recorded.published,
        observed,
        Role::Published,
        removals,
        |seen| {
            removals == Removals::Wait
                && (may_be_the_successors(seen) || is_orphan(recorded, observed, seen))
        },
    );
    if definition_is_missing && removals == Removals::Count {
        deletes(&mut events, recorded, observed, "the definition is gone");
        record.definition = None;
    }
    Inference {
        missing: missing(&record, observed),
        record,
        events,
    }
}

/// Whether the definition is now that of another project: both bear an engineId, and not the same.
pub fn is_replaced(recorded: &Recorded, observed: &Observed) -> bool {
    match (&recorded.definition, observed.definition()) {
        (Some(before), Some(seen)) => bears_another_engine_id(before, seen),
        _ => false,
    }
}

fn bears_another_engine_id(one: &FileState, other: &FileState) -> bool {
    match (one.document.engine_id(), other.document.engine_id()) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    }
}

/// Whether a published copy of the project that had this definition is, or may be, still there.
fn is_still_published(definition: &FileState, recorded: &Recorded, observed: &Observed) -> bool {
    let came_with_another = |seen: &FileState| {
        let known = recorded.published.get(&seen.path);
        bears_another_engine_id(definition, seen) && known.is_none_or(|copy| copy.hash != seen.hash)
    };
    observed.files.values().any(|sighting| match sighting {
        Sighting::Complete(seen) => seen.role == Role::Published && !came_with_another(seen),
        Sighting::Unclear { role, .. } => *role == Role::Published,
    }) || !observed.blind.is_empty()
}

/// Why a definition with this new content was restored from a snapshot, if it was.
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
    // New in this look: taken first and restored then, or the saved definition snapshotted? Only
    // the change times can tell; on a tie it was a save.
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

fn imports(events: &mut Vec<Inferred>, seen: &FileState) {
    for kind in [EventKind::ProjectImport, EventKind::ProjectImportAny] {
        events.push(Inferred {
            kind,
            subject: seen.clone(),
            before: None,
            because: "a definition appeared where none was recorded".to_owned(),
        });
    }
}

fn deletes(events: &mut Vec<Inferred>, recorded: &Recorded, observed: &Observed, why: &str) {
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
        events.push(Inferred {
            kind: *kind,
            subject: definition.clone(),
            before: Some(definition.clone()),
            because: because.clone(),
        });
    }
}

/// Compares the snapshots or the published copies; returns what to record of them. New ones that
/// have to wait are not recorded yet.
fn copies(
    events: &mut Vec<Inferred>,
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
        .filter(|(path, _)| removals == Removals::Wait || !observed.is_gone(path))
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
        Inferred {
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
