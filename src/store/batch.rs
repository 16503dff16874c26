//! A batch of changes to record in one transaction, and the result of the commit.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::delivery::Claim;
use super::error::Fault;
use super::values;
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, Problem, ProjectKey, Recorded, Stamp};

/// Changes that the store records in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The changes of projects, in order.
    pub changes: Vec<Change>,
    /// Payloads of the events and of the new definitions, each with its hash.
    ///
    /// Payloads that the store already has may be missing here.
    pub payloads: Vec<(ContentHash, Bytes)>,
    /// Lists of invalid files. Each list replaces the recorded list of its project.
    ///
    /// The key `None` stands for files outside any project.
    pub problems: Vec<(Option<ProjectKey>, Vec<Problem>)>,
    /// New values of facts.
    pub meta: Vec<(MetaKey, String)>,
    /// The repository of the facts in `meta`.
    ///
    /// `None` for the only repository, and for facts about the whole store.
    pub repository: Option<Arc<str>>,
    /// The time of recording.
    pub now: Timestamp,
}

impl Batch {
    /// Makes an empty batch.
    pub fn new(now: Timestamp) -> Self {
        Self {
            changes: Vec::new(),
            payloads: Vec::new(),
            problems: Vec::new(),
            meta: Vec::new(),
            repository: None,
            now,
        }
    }

    /// Whether the batch has no changes, no lists of invalid files and no facts.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.problems.is_empty() && self.meta.is_empty()
    }
}

/// A change of one project.
#[derive(Clone, Debug)]
pub struct Change {
    /// The changed project.
    pub key: ProjectKey,
    /// The former key if the project moved, or the key of a removed copy of the project.
    ///
    /// The deliveries in the lanes of this key move to the lanes of `key`.
    pub moved_from: Option<ProjectKey>,
    /// The record before the change.
    ///
    /// If it differs from the stored record in a file that changes, recording fails.
    pub before: Recorded,
    /// The record after the change. The store removes files that only `before` has.
    pub after: Recorded,
    /// The events of the change, in order.
    pub events: Vec<NewEvent>,
}

impl Change {
    /// The hash of the definition that the change replaces by other content or removes.
    ///
    /// The kept definition of a deleted project counts as its definition.
    pub(super) fn replaced(&self) -> Option<ContentHash> {
        let hash = |recorded: &Recorded| recorded.last_definition().map(|file| file.hash);
        hash(&self.before).filter(|before| hash(&self.after) != Some(*before))
    }

    /// Whether this change removes the kept definition of a deleted project.
    pub(super) fn forgets_deleted(&self) -> bool {
        self.before.deleted.is_some() && self.after.deleted.is_none()
    }
}

/// An event to record.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The event, with the id of repetition 0 ([`EventId::of`]).
    pub event: Event,
    /// The id of the project, in lower case.
    ///
    /// If this event is a delete, the events of a later import with this id wait for it.
    pub project_id: String,
    /// Whether this event or another one of the same change is an import.
    ///
    /// If so, the event waits for earlier deletes with the same project id, unless it is a delete.
    pub is_arrival: bool,
    /// The `{versionTag}` in the file's path, from which the id of the event is derived.
    pub tag: Option<String>,
    /// The file metadata from which the id of the event is derived.
    pub stamp: Stamp,
    /// The webhooks that receive the event, each with the time of the first attempt.
    pub webhooks: Vec<(String, Timestamp)>,
    /// Webhooks that receive the event only if an earlier event of the project was routed to them.
    ///
    /// Each name has the time of the first attempt.
    pub if_heard: Vec<(String, Timestamp)>,
}

impl NewEvent {
    /// Returns the id of the event for this repetition.
    pub(super) fn id(&self, repetition: u32) -> EventId {
        let event = &self.event;
        if repetition == 0 {
            return event.id.clone();
        }
        EventId::of(
            event.kind,
            &event.key,
            self.tag.as_deref(),
            &self.stamp,
            &event.payload,
            repetition,
        )
    }
}

/// The key of a recorded fact about a repository or about the whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// The time when the first full scan was recorded. A start without this fact is a first start.
    FirstStart,
    /// The identity of the repository's root directory.
    ///
    /// Each start compares this identity with that of the current root directory.
    RepositoryRoot,
    /// The path templates by which the record was made.
    Layout,
    /// The file systems that are mounted below the repository's root.
    Mounts,
    /// The projects whose removals are held. Some of these projects may exist again.
    HeldRemovals,
    /// Why removals are held, and until when.
    Hold,
    /// The projects whose removals an operator accepted.
    ///
    /// The engine may already have judged some of them.
    AcceptedRemovals,
    /// The names of the repositories, if the store has several.
    ///
    /// Unlike the other facts, this one is about the whole store.
    HasRepositories,
}

impl MetaKey {
    /// The stored key of this fact.
    ///
    /// `None` stands for the only repository, or for the whole store.
    pub(crate) fn stored(self, repository: Option<&str>) -> Cow<'static, str> {
        match repository {
            Some(repository) => format!("{} {repository}", self.as_str()).into(),
            None => self.as_str().into(),
        }
    }

    /// The range of this fact's stored keys if the store has several repositories.
    ///
    /// Returns the inclusive start and the exclusive end.
    pub(super) fn range(self) -> (String, String) {
        // In ASCII, `!` follows the space.
        (format!("{} ", self.as_str()), format!("{}!", self.as_str()))
    }

    /// The name of this key in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            MetaKey::FirstStart => "first-start",
            MetaKey::RepositoryRoot => "repository-root",
            MetaKey::Layout => "layout",
            MetaKey::Mounts => "mounts",
            MetaKey::HeldRemovals => "held-removals",
            MetaKey::Hold => "hold",
            MetaKey::AcceptedRemovals => "accepted-removals",
            MetaKey::HasRepositories => "repositories",
        }
    }
}

/// Formats the names of the repositories as the value of [`MetaKey::HasRepositories`].
pub(super) fn names_text(names: &[String]) -> String {
    // JSON can represent every string, so this never fails.
    serde_json::to_string(names).unwrap_or_default()
}

/// Parses the value of [`MetaKey::HasRepositories`]. Returns no names if there is no value.
pub(crate) fn names_of(value: Option<&str>) -> Result<Vec<String>, Fault> {
    value.map_or(Ok(Vec::new()), |text| {
        values::from_json("the list of repositories", text)
    })
}

/// The maximum number of ready deliveries that a commit returns.
///
/// This is enough for single events. In a burst, the queues claim deliveries from the store,
/// because one claim of many deliveries costs less per delivery.
pub const READY_MAX: usize = 16;

/// The maximum total payload size of a commit's ready deliveries, in bytes.
pub const READY_BYTES: usize = 1024 * 1024;

/// The result of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The recorded events in order, with their final ids.
    pub events: Vec<RecordedEvent>,
    /// The deliveries that the commit made available.
    pub deliveries: NewDeliveries,
}

/// The deliveries that a commit made available.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewDeliveries {
    /// The webhooks with a lane that has a new head.
    pub webhooks: BTreeSet<String>,
    /// Some of the due deliveries at the heads of these lanes, each with its webhook.
    ///
    /// There are at most [`READY_MAX`], with at most [`READY_BYTES`] bytes of payloads. The queues
    /// can send these deliveries without claiming them.
    pub ready: Vec<(String, Claim)>,
}

impl NewDeliveries {
    /// Adds a due delivery to `ready`, if the limits allow it.
    pub(super) fn add_ready(
        &mut self,
        webhook: &str,
        delivery: i64,
        id: &EventId,
        event: &Event,
        payload: Bytes,
    ) {
        let sizes = self.ready.iter().map(|(_, claim)| claim.payload.len());
        let n_bytes = sizes.fold(payload.len(), usize::saturating_add);
        if self.ready.len() < READY_MAX && n_bytes <= READY_BYTES {
            let event = Event {
                id: id.clone(),
                ..event.clone()
            };
            let claim = Claim::first(delivery, event, payload);
            self.ready.push((webhook.to_owned(), claim));
        }
    }
}

/// An event as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// The final id of the event.
    pub id: EventId,
    /// The position in the order of recording. A later event has a higher position.
    pub sequence: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_list_of_names_is_an_error_and_not_an_empty_list() {
        let names = ["a".to_owned(), "b \"c\"".to_owned()];
        assert_eq!(names_of(Some(&names_text(&names))).unwrap(), names);
        assert!(names_of(None).unwrap().is_empty());
        let error = names_of(Some("[\"a\"")).unwrap_err();
        assert!(matches!(error, Fault::Undecodable { .. }), "{error}");
    }
}
