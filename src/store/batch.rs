//! The contents of one transaction of recording, and its result.

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::Timestamp;

use super::delivery::Claim;
use crate::domain::event::{Event, EventId};
use crate::domain::project::{ContentHash, Problem, ProjectKey, Recorded, Stamp};

/// The contents of one transaction of recording.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The projects that changed, in the order of their changes.
    pub changes: Vec<Change>,
    /// Payloads of the events and of the new definitions, by the hash of their bytes. One that is
    /// stored already is not stored again.
    pub payloads: Vec<(ContentHash, Bytes)>,
    /// The invalid files of these projects, replacing those recorded before; `None` stands for
    /// everything outside any project.
    pub problems: Vec<(Option<ProjectKey>, Vec<Problem>)>,
    /// Facts about the repository as a whole.
    pub meta: Vec<(MetaKey, String)>,
    /// The time of recording.
    pub now: Timestamp,
}

impl Batch {
    /// A batch with nothing in it.
    pub fn new(now: Timestamp) -> Self {
        Self {
            changes: Vec::new(),
            payloads: Vec::new(),
            problems: Vec::new(),
            meta: Vec::new(),
            now,
        }
    }

    /// Whether recording it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.problems.is_empty() && self.meta.is_empty()
    }
}

/// A change of one project.
#[derive(Clone, Debug)]
pub struct Change {
    /// The project.
    pub key: ProjectKey,
    /// Its record, as the store returned it.
    pub before: Recorded,
    /// Its new record; an empty one forgets the project.
    pub after: Recorded,
    /// The events of the change, in order.
    pub events: Vec<NewEvent>,
}

impl Change {
    /// The content of the definition that this change replaces or removes.
    pub(super) fn replaced(&self) -> Option<ContentHash> {
        let hash = |recorded: &Recorded| recorded.definition.as_ref().map(|file| file.hash);
        hash(&self.before).filter(|before| hash(&self.after) != Some(*before))
    }
}

/// An event to record.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The event with the id of its first happening ([`EventId::of`] with repetition 0).
    pub event: Event,
    /// The id of the project, in lower case: its deletes go before later events of the same id.
    pub project_id: String,
    /// The tag that its id is made of.
    pub tag: Option<String>,
    /// The stamp that its id is made of.
    pub stamp: Stamp,
    /// The names of its webhooks, with the time of the first attempt.
    pub webhooks: Vec<(String, Timestamp)>,
}

impl NewEvent {
    /// The id of this repetition of the event.
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

/// A fact about the repository as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// Set when the first scan was recorded; until then every start is a first start.
    FirstStart,
    /// The identity of the repository's root, to detect another one.
    RepositoryRoot,
    /// The path templates that the record was made with.
    Layout,
}

impl MetaKey {
    /// The key in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            MetaKey::FirstStart => "first-start",
            MetaKey::RepositoryRoot => "repository-root",
            MetaKey::Layout => "layout",
        }
    }
}

/// How many ready deliveries a commit returns at most. They cover single events; in a burst the
/// queues ask the store, which costs less for each.
pub const READY_MAX: usize = 16;

/// The most bytes of payloads that the ready deliveries of a commit have together.
pub const READY_BYTES: usize = 1024 * 1024;

/// The result of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The events in order, with the ids they were recorded under.
    pub events: Vec<RecordedEvent>,
    /// The deliveries that the commit made available.
    pub deliveries: NewDeliveries,
}

/// The deliveries that a commit made available.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewDeliveries {
    /// The webhooks with a delivery that leads its lane.
    pub webhooks: BTreeSet<String>,
    /// The first of these deliveries that are due, each with its webhook, as a claim returns them:
    /// at most [`READY_MAX`], with at most [`READY_BYTES`] of payloads.
    pub ready: Vec<(String, Claim)>,
}

/// An event as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its id.
    pub id: EventId,
    /// Its place in the order of recording; grows, with gaps.
    pub sequence: i64,
}
