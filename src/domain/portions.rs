//! Splits the change of one project into portions, which are recorded one after another.
//!
//! Constraint: after each portion, the record must be a state that an earlier observation could
//! have recorded. If the daemon ends between two portions, the next observation infers exactly the
//! missing events.
//!
//! So the record after a portion has the files of its events and of earlier events only. There are
//! three special cases:
//!
//! - Changes without an event are recorded after the events of short-lived files and before all
//!   other events. If a project moved, its first portion needs them, because the same commit
//!   removes the moved files from the record at the old location.
//! - A snapshot that was taken after a save is recorded after the save. Otherwise the save would
//!   look like a restore.
//! - Missing files stay recorded until their project is deleted, or else until the last portion.
//!   Deletes and restores are inferred from them.
//!
//! Two kinds of events are recorded late. Otherwise they would hide another event from the next
//! observation:
//!
//! - new content of a snapshot whose old content was restored: after the restore
//! - a published copy with another id than the deleted definition: after the delete

use std::collections::HashSet;

use super::event::{EventKind, InferredEvent};
use super::project::{ContentHash, FileState, Recorded, Role};

/// A part of a change: some events, and the files that they change in the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Portion {
    /// The recorded state of the changed files, before these events.
    pub before: Recorded,
    /// The state of the changed files, after these events.
    pub after: Recorded,
    /// The number of events of this portion.
    pub n_events: usize,
}

/// A change of one project.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// The record before the change.
    pub before: &'a Recorded,
    /// The record after the change.
    pub after: &'a Recorded,
    /// The events, in the order of [`order`].
    pub events: &'a [InferredEvent],
    /// The number of events of short-lived files, which come first in `events`.
    ///
    /// The changes without an event are recorded after these events.
    pub n_short_lived: usize,
}

/// Reorders events: those that would hide a restore or a delete come after it.
///
/// Only a change that is split needs this order.
pub fn order(events: Vec<InferredEvent>) -> Vec<InferredEvent> {
    let is_closing =
        |event: &InferredEvent| event.kind == EventKind::SnapshotRestore || event.kind.is_delete();
    let n_until_closing = events.iter().rposition(is_closing).map_or(0, |at| at + 1);
    let Some(closing) = events.iter().rfind(|event| is_closing(event)).cloned() else {
        return events;
    };
    let mut events = events.into_iter();
    let until_closing: Vec<InferredEvent> = events.by_ref().take(n_until_closing).collect();
    let (hiding, mut ordered): (Vec<_>, Vec<_>) = until_closing
        .into_iter()
        .partition(|event| hides(event, &closing));
    ordered.extend(hiding);
    ordered.extend(events);
    ordered
}

/// Whether recording this event would prevent inferring `closing` afterwards.
fn hides(event: &InferredEvent, closing: &InferredEvent) -> bool {
    match (event.kind, closing.kind) {
        (EventKind::SnapshotCreate, EventKind::SnapshotRestore) => {
            let recorded = event.before.as_ref();
            recorded.is_some_and(|recorded| recorded.hash == closing.subject.hash)
        }
        (EventKind::ProjectPublish, kind) if kind.is_delete() => {
            closing.subject.is_of_another_project(&event.subject)
        }
        _ => false,
    }
}

/// Splits a change so that each portion has at most `bytes_max` bytes of payloads to read.
///
/// `weigh` returns the number of bytes to read for a payload. The first portion has the events
/// before the first payload to read. Every later portion has at least one event, even if its
/// payload is larger.
pub fn split(
    change: &Change<'_>,
    bytes_max: usize,
    weigh: impl Fn(&ContentHash) -> usize,
) -> Vec<Portion> {
    let mut portions = Vec::new();
    let mut recording = Recording::new(change);
    let (mut n_bytes, mut room) = (0_usize, 0);
    let mut weighed: HashSet<ContentHash> = HashSet::new();
    for (index, event) in change.events.iter().enumerate() {
        if index == change.n_short_lived {
            recording.record_silent(index);
        }
        let hash = event.payload();
        // A move needs no reading, because its definition is stored already. So it belongs to the
        // first portion.
        let weight = if event.kind != EventKind::ProjectMove && weighed.insert(hash) {
            weigh(&hash)
        } else {
            0
        };
        let may_end = portions.is_empty() || recording.portion.n_events > 0;
        if weight > 0 && may_end && n_bytes.saturating_add(weight) > room {
            portions.push(recording.end_portion());
            (n_bytes, room) = (0, bytes_max);
        }
        n_bytes = n_bytes.saturating_add(weight);
        recording.record(event);
    }
    recording.finish();
    portions.push(recording.end_portion());
    portions
}

/// The progress while the events of a change are recorded one after another.
struct Recording<'a> {
    change: &'a Change<'a>,
    /// The record after the events so far.
    record: Recorded,
    portion: Portion,
    /// The files that the current portion changes.
    changed: HashSet<(Role, String)>,
}

impl<'a> Recording<'a> {
    fn new(change: &'a Change<'a>) -> Self {
        Self {
            change,
            record: change.before.clone(),
            portion: Portion::default(),
            changed: HashSet::new(),
        }
    }

    fn end_portion(&mut self) -> Portion {
        self.changed.clear();
        std::mem::take(&mut self.portion)
    }

    /// Records the changed files that have no event from the event number `index` on.
    ///
    /// If a project only moved, its definition is recorded too. The kept definition of a deleted
    /// project is not recorded here.
    fn record_silent(&mut self, index: usize) {
        let mut of_copies: HashSet<&str> = HashSet::new();
        let mut has_definition = false;
        for event in self.change.events.iter().skip(index) {
            match event.subject.role {
                Role::Definition | Role::Deleted => {
                    has_definition |= event.kind != EventKind::ProjectMove
                }
                Role::Published | Role::Snapshot => {
                    of_copies.insert(event.subject.path.as_str());
                }
            }
        }
        for file in self.change.after.files() {
            let has_event = match file.role {
                Role::Definition => has_definition,
                // The deleted definition is recorded with the delete.
                Role::Deleted => true,
                Role::Published | Role::Snapshot => of_copies.contains(file.path.as_str()),
            };
            if !has_event {
                self.put(file.clone());
            }
        }
    }

    fn record(&mut self, event: &InferredEvent) {
        self.portion.n_events += 1;
        let subject = &event.subject;
        if event.kind.is_delete() {
            self.remove_definition();
            self.remove_copies();
            self.keep_deleted();
            return;
        }
        // This event removes a copy, which stays recorded until the last portion.
        if event.definition.is_some() {
            return;
        }
        // The moved definition is recorded already.
        if event.kind == EventKind::ProjectMove && self.record.definition.is_some() {
            return;
        }
        let recorded = self.change.after.file(&subject.path);
        let recorded = recorded
            .filter(|file| file.hash == subject.hash && file.role == subject.role)
            .cloned();
        let before = self.record.definition.as_ref();
        let file = match (recorded, before) {
            (Some(recorded), _) => recorded,
            (None, Some(before)) if subject.role == Role::Definition => subject.succeeding(before),
            (None, _) => subject.clone(),
        };
        self.put(file);
    }

    /// Records the remaining differences, mostly removed files.
    fn finish(&mut self) {
        let after = self.change.after;
        for file in after.files() {
            self.put(file.clone());
        }
        if after.definition.is_none() {
            self.remove_definition();
        }
        self.remove_copies();
        self.keep_deleted();
    }

    /// Records the removal of copies that are not in the new record.
    fn remove_copies(&mut self) {
        let after = self.change.after;
        let copies = self.record.published.values();
        let copies = copies.chain(self.record.snapshots.values());
        let gone: Vec<FileState> = copies
            .filter(|file| after.file(&file.path).is_none())
            .cloned()
            .collect();
        for file in gone {
            let is_new = self.changed.insert((file.role, file.path.clone()));
            let portion = &mut self.portion;
            let copies = match file.role {
                Role::Published => &mut portion.after.published,
                _ => &mut portion.after.snapshots,
            };
            copies.remove(&file.path);
            if is_new {
                portion.before.put(file.clone());
            }
            let copies = match file.role {
                Role::Published => &mut self.record.published,
                _ => &mut self.record.snapshots,
            };
            copies.remove(&file.path);
        }
    }

    fn put(&mut self, file: FileState) {
        if file.role == Role::Definition {
            self.remove_deleted();
        }
        let before = match file.role {
            Role::Definition => self.record.definition.as_ref(),
            Role::Deleted => self.record.deleted.as_ref(),
            Role::Published => self.record.published.get(&file.path),
            Role::Snapshot => self.record.snapshots.get(&file.path),
        };
        if before == Some(&file) {
            return;
        }
        let name = match file.role {
            Role::Definition | Role::Deleted => String::new(),
            Role::Published | Role::Snapshot => file.path.clone(),
        };
        if self.changed.insert((file.role, name))
            && let Some(before) = before
        {
            self.portion.before.put(before.clone());
        }
        self.portion.after.put(file.clone());
        self.record.put(file);
    }

    /// Updates the kept definition of a deleted project.
    fn keep_deleted(&mut self) {
        match &self.change.after.deleted {
            Some(deleted) => self.put(deleted.clone()),
            None => self.remove_deleted(),
        }
    }

    fn remove_deleted(&mut self) {
        let Some(before) = self.record.deleted.take() else {
            return;
        };
        self.portion.after.deleted = None;
        if self.changed.insert((Role::Deleted, String::new())) {
            self.portion.before.deleted = Some(before);
        }
    }

    fn remove_definition(&mut self) {
        let Some(before) = self.record.definition.take() else {
            return;
        };
        self.portion.after.definition = None;
        if self.changed.insert((Role::Definition, String::new())) {
            self.portion.before.definition = Some(before);
        }
    }
}
