//! Infers events from the record of one project and an observation of it.
//!
//! Constraint: a missing file counts as removed only if the caller confirms the removal. In
//! addition, the observation must have read every directory that may contain the file. A complete
//! file causes its event immediately, with three exceptions. Here a *copy* is a published copy or a
//! snapshot.
//!
//! - If another project's definition replaces the recorded one, all events wait until the removal
//!   of the old project is confirmed. So the old project is deleted before its successor is
//!   imported.
//! - While the definition is missing, a published copy with another id waits until the removal of
//!   the definition is confirmed. The copy may belong to a successor.
//! - If neither the record nor the disk has a complete definition, a new copy waits for the settle
//!   time. A checkout handles one file at a time. So the copy may be the last file of a project
//!   that is being removed, or the first file of a new project. A copy that appears and disappears
//!   in this time causes no event. While a definition is probably being written, the copy waits
//!   longer.
//!
//! A definition without an id keeps the id that its project had; see [`super::identity`]. A
//! definition with another id ([`FileState::is_of_another_project`]) belongs to another project,
//! even if a snapshot in the directory has the same content. Then the snapshot belongs to the other
//! project too.
//!
//! A webhook receives four of the events only if it names them: a save, a move ([`super::moves`]),
//! and the removal of a published copy or of a snapshot while the project stays.
//!
//! A deleted project counts as unpublished only if a published copy was recorded and none remains.
//! A copy with new content or another tag counts as remaining. A new copy with another id is
//! ignored, because it belongs to another project.
//!
//! If a published copy of a deleted project cannot be read, the delete does not wait for it.
//! Usually the record keeps the last definition ([`Recorded::deleted`]) until the copies can be
//! read. If they are gone then, the project is unpublished. If a new definition appears in the
//! directory first, the copies belong to the new project, and the record drops the old definition.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{EventKind, InferredEvent};
use super::project::{FileState, Observed, ObservedFile, Recorded, Role};

/// Whether missing files count as removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removals {
    /// Missing files do not count as removed yet.
    ///
    /// For example, the settle time is not over.
    Unconfirmed,
    /// Missing files count as removed.
    Confirmed,
}

/// The result of inferring from one observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// The new record.
    pub record: Recorded,
    /// The events, in order.
    ///
    /// If the change is split, [`super::portions::order`] changes the order.
    pub events: Vec<InferredEvent>,
    /// The paths that wait for a confirmed removal; see [`missing`].
    pub missing: BTreeSet<String>,
}

/// Returns the paths of missing files: recorded files that are gone.
///
/// A definition that another project's definition replaced counts as missing too. The kept
/// definition of a deleted project ([`Recorded::deleted`]) counts as missing once the published
/// copies turn out to be gone. The result also has the path of each new copy without a definition,
/// because the copy waits for the settle time too.
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
    let deleted = recorded
        .deleted
        .iter()
        .filter(|deleted| is_unpublished(deleted, recorded, observed))
        .map(|deleted| &deleted.path);
    let orphans = observed
        .complete(Role::Published)
        .chain(observed.complete(Role::Snapshot))
        .filter(|seen| is_orphan(seen))
        .map(|seen| &seen.path);
    let projects = definition.chain(deleted);
    copies.chain(projects).chain(orphans).cloned().collect()
}

/// Returns a predicate for new copies without a definition.
///
/// For such a copy, neither the record nor the disk has a complete definition.
fn is_orphan(recorded: &Recorded, observed: &Observed) -> impl Fn(&FileState) -> bool {
    let has_definition = recorded.definition.is_some() || observed.definition().is_some();
    move |seen| !has_definition && recorded.file(&seen.path).is_none()
}

/// Infers the events of one project.
pub fn infer(recorded: &Recorded, observed: &Observed, removals: Removals) -> Inference {
    let replaced = is_replaced(recorded, observed);
    if replaced && removals == Removals::Unconfirmed {
        // The delete of the old project must come first, so all events of its successor wait.
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
            "the definition of another project (another id) replaced the recorded one",
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
                // A save comes before the snapshots of the saved content.
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
    let may_wait = removals == Removals::Unconfirmed || observed.has_incomplete_definition();
    record.snapshots = copies(
        &mut events,
        &recorded.snapshots,
        observed,
        Role::Snapshot,
        removals,
        |seen| may_wait && is_orphan(seen),
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
            let is_unconfirmed = removals == Removals::Unconfirmed;
            (is_unconfirmed && may_be_the_successors(seen)) || (may_wait && is_orphan(seen))
        },
    );
    // The copies of a replaced project were removed with it and cause no further events.
    if !definition_is_missing && removals == Removals::Confirmed && !replaced {
        removed_copies(&mut events, recorded, &record);
    }
    if definition_is_missing && removals == Removals::Confirmed {
        record.deleted = deletes(&mut events, recorded, observed, "the definition is gone");
        record.definition = None;
    } else if record.definition.is_none() {
        record.deleted = unpublishes(&mut events, recorded, observed, removals);
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

/// The state of the published copies of a deleted project.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copies {
    Unrecorded,
    Remain,
    /// No readable published copy of the project exists. An unreadable one may.
    Unclear,
    Gone,
}

/// Returns the state of the published copies of the project with this definition.
fn published_copies(definition: &FileState, recorded: &Recorded, observed: &Observed) -> Copies {
    // `deletes` keeps the definition of a deleted project only if no recorded copy has another id.
    // So a copy with another id is new.
    let was_deleted = definition.role == Role::Deleted;
    let came_with_another = |seen: &FileState| {
        let known = recorded.published.get(&seen.path);
        let is_new = was_deleted || known.is_none_or(|copy| copy.hash != seen.hash);
        is_new && definition.is_of_another_project(seen)
    };
    let is_unreadable = |file: &ObservedFile| match file {
        ObservedFile::Invalid { role, .. } => *role == Role::Published,
        ObservedFile::Complete(_) => false,
    };
    let mut complete = observed.complete(Role::Published);
    if complete.any(|seen| !came_with_another(seen)) {
        Copies::Remain
    } else if observed.hides(Role::Published) || observed.files.values().any(is_unreadable) {
        Copies::Unclear
    } else {
        Copies::Gone
    }
}

/// Whether a project that was deleted before has neither a definition nor a published copy.
fn is_unpublished(deleted: &FileState, recorded: &Recorded, observed: &Observed) -> bool {
    observed.definition_is_gone() && published_copies(deleted, recorded, observed) == Copies::Gone
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
                "the definition has the content of the new snapshot {}, which changed before \
                 the definition",
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

/// Adds the events of a deleted project.
///
/// Returns its definition, for [`Recorded::deleted`], if its published copies cannot be judged yet.
fn deletes(
    events: &mut Vec<InferredEvent>,
    recorded: &Recorded,
    observed: &Observed,
    why: &str,
) -> Option<FileState> {
    let definition = recorded.definition.as_ref()?;
    let copies = if recorded.published.is_empty() {
        Copies::Unrecorded
    } else {
        published_copies(definition, recorded, observed)
    };
    let and = match copies {
        Copies::Unrecorded => "; no published copy was recorded",
        Copies::Remain => "; a published copy is still there",
        Copies::Unclear => "; the published copies cannot be read",
        Copies::Gone => "; all recorded published copies are gone",
    };
    let because = format!("{why}{and}");
    events.push(delete(EventKind::ProjectDelete, definition, &because));
    if copies == Copies::Gone {
        let kind = EventKind::ProjectDeleteAndUnpublish;
        events.push(delete(kind, definition, &because));
    }
    // A recorded copy with another id belongs to this project. After the delete, it would look like
    // a new copy of another project. So the copies of such a project are not judged again.
    let mut published = recorded.published.values();
    let is_judged_later =
        copies == Copies::Unclear && published.all(|copy| !definition.is_of_another_project(copy));
    is_judged_later.then(|| FileState {
        role: Role::Deleted,
        // Makes a full scan observe the project, even if a definition with the same metadata is at
        // this path again.
        read_ns: 0,
        ..definition.clone()
    })
}

/// Adds the event of a project that was deleted before, if it is unpublished now.
///
/// Returns its definition if the copies cannot be judged yet, or if their removal is unconfirmed.
fn unpublishes(
    events: &mut Vec<InferredEvent>,
    recorded: &Recorded,
    observed: &Observed,
    removals: Removals,
) -> Option<FileState> {
    let deleted = recorded.deleted.as_ref()?;
    if is_unpublished(deleted, recorded, observed) && removals == Removals::Confirmed {
        let definition = FileState {
            role: Role::Definition,
            ..deleted.clone()
        };
        let because = "the project was deleted before, and its published copies are gone now";
        let kind = EventKind::ProjectDeleteAndUnpublish;
        events.push(delete(kind, &definition, because));
        return None;
    }
    let remain = published_copies(deleted, recorded, observed) == Copies::Remain;
    (!remain).then(|| deleted.clone())
}

fn delete(kind: EventKind, definition: &FileState, because: &str) -> InferredEvent {
    InferredEvent {
        before: Some(definition.clone()),
        ..InferredEvent::about(kind, definition.clone(), because.to_owned())
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
            _ => (EventKind::SnapshotDelete, "snapshot"),
        };
        let because = format!("the {what} is gone, but the definition still exists");
        events.push(InferredEvent {
            definition: Some(definition.clone()),
            before: Some(copy.clone()),
            ..InferredEvent::about(kind, copy.clone(), because)
        });
    }
}

/// Adds the events of new and changed copies of a role. Returns their new record.
///
/// A new or changed copy is not recorded yet if `has_to_wait` returns true for it.
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
        _ => (EventKind::SnapshotCreate, "a snapshot"),
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
