//! What a look means: recorded against observed, and the events that follow (contract section 2).
//!
//! Constraint: what is missing counts only when the caller says so, and only where the look could
//! see. What is there and complete counts at once.

use std::collections::BTreeMap;

use super::event::{EventKind, Inferred};
use super::project::{FileState, Observed, Recorded, Role};

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
    /// Whether something that is missing did not count yet.
    pub waits: bool,
}

/// What this look at one project means.
pub fn infer(recorded: &Recorded, observed: &Observed, removals: Removals) -> Inference {
    let replaced = is_replaced(recorded, observed);
    if replaced && removals == Removals::Wait {
        // The old project's delete comes before everything of the new one, so all of it waits.
        return Inference {
            record: recorded.clone(),
            events: Vec::new(),
            waits: true,
        };
    }
    let mut events = Vec::new();
    if replaced {
        let engine_id = observed.definition().and_then(|d| d.document.engine_id());
        let published_went = recorded
            .published
            .values()
            .all(|copy| went_with_its_project(copy, observed, engine_id));
        deletes(
            &mut events,
            recorded,
            published_went,
            "the definition was replaced by that of another project (another engineId)",
        );
    }
    // An organization or project name never decides here: a replaced project's successor starts
    // without a definition on record.
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

    let (snapshots, mut waits) = copies(
        &mut events,
        &recorded.snapshots,
        observed,
        Role::Snapshot,
        removals,
    );
    record.snapshots = snapshots;
    events.extend(restore);
    let (published, published_waits) = copies(
        &mut events,
        &recorded.published,
        observed,
        Role::Published,
        removals,
    );
    record.published = published;
    waits |= published_waits;

    if record.definition.is_some() && observed.definition_is_gone() {
        match removals {
            Removals::Wait => waits = true,
            Removals::Count => {
                let published_went = recorded.published.keys().all(|path| observed.is_gone(path));
                deletes(
                    &mut events,
                    recorded,
                    published_went,
                    "the definition is gone",
                );
                record.definition = None;
            }
        }
    }
    Inference {
        record,
        events,
        waits,
    }
}

/// Whether the definition is now that of another project.
///
/// A change to the content of one of the project's own snapshots is a restore, whatever engineId
/// that snapshot bears.
pub fn is_replaced(recorded: &Recorded, observed: &Observed) -> bool {
    let (Some(before), Some(seen)) = (&recorded.definition, observed.definition()) else {
        return false;
    };
    let ids = (before.document.engine_id(), seen.document.engine_id());
    matches!(ids, (Some(old), Some(new)) if old != new)
        && restored_from(recorded, observed, seen).is_none()
}

/// Whether a published copy of a replaced project went with it: it is gone, or its place holds a
/// copy of the successor.
fn went_with_its_project(
    copy: &FileState,
    observed: &Observed,
    successor_engine_id: Option<&str>,
) -> bool {
    observed.is_gone(&copy.path)
        || observed
            .complete(Role::Published)
            .any(|seen| seen.path == copy.path && seen.document.engine_id() == successor_engine_id)
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

fn deletes(events: &mut Vec<Inferred>, recorded: &Recorded, published_went: bool, why: &str) {
    let Some(definition) = &recorded.definition else {
        return;
    };
    let unpublished = !recorded.published.is_empty() && published_went;
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

/// Compares the snapshots or the published copies; returns what to record of them, and whether a
/// missing one waits.
fn copies(
    events: &mut Vec<Inferred>,
    recorded: &BTreeMap<String, FileState>,
    observed: &Observed,
    role: Role,
    removals: Removals,
) -> (BTreeMap<String, FileState>, bool) {
    let (kind, what) = match role {
        Role::Published => (EventKind::ProjectPublish, "a published copy"),
        Role::Snapshot | Role::Definition => (EventKind::SnapshotCreate, "a snapshot"),
    };
    let mut waits = false;
    let mut record = BTreeMap::new();
    for (path, before) in recorded {
        match (observed.is_gone(path), removals) {
            (true, Removals::Count) => {}
            (true, Removals::Wait) => {
                waits = true;
                record.insert(path.clone(), before.clone());
            }
            (false, _) => {
                record.insert(path.clone(), before.clone());
            }
        }
    }
    let mut fresh: Vec<&FileState> = Vec::new();
    for seen in observed.complete(role) {
        if recorded
            .get(&seen.path)
            .is_none_or(|before| before.hash != seen.hash)
        {
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
    (record, waits)
}
