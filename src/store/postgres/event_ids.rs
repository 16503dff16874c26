//! Finds a free id for each new event of a batch.
//!
//! Constraint: no two events have the same id. [`EventId::of`] computes an id from the properties
//! of the event and a number, the *repetition*. If an id is taken, the event gets the id of a
//! higher repetition.

use std::collections::{HashMap, HashSet};

use super::facts::Facts;
use super::row;
use super::session::{Session, statement};
use crate::domain::event::EventId;
use crate::store::batch::NewEvent;
use crate::store::error::Fault;

/// The ids that were looked up, and whether each of them is taken.
pub(super) struct EventIds {
    is_taken: HashMap<EventId, bool>,
    /// The lowest repetition for the id of a new event.
    first_repetition: u32,
}

impl EventIds {
    /// Looks up ids until every event has a free one.
    ///
    /// The ids with the repetition `asked` are already looked up: `facts` has those that are taken.
    pub(super) async fn find(
        session: &mut Session,
        repository: i32,
        new: &[&NewEvent],
        facts: &Facts,
        asked: u32,
    ) -> Result<Self, Fault> {
        let known = new.iter().map(|new| new.id(asked));
        let mut ids = Self {
            is_taken: known
                .map(|id| (id.clone(), facts.taken.contains(&id)))
                .collect(),
            first_repetition: facts.repetition,
        };
        loop {
            let unknown = ids.unknown(new);
            if unknown.is_empty() {
                return Ok(ids);
            }
            let free = unknown.iter().map(|id| (EventId(id.clone()), false));
            ids.is_taken.extend(free);
            let sql = "SELECT id FROM events WHERE repository = $1 AND id = ANY($2)";
            let rows = session.rows(statement!(sql, repository, unknown)).await?;
            for found in &rows {
                ids.is_taken.insert(EventId(row::text(found, 0)?), true);
            }
        }
    }

    /// Assigns the first free id to an event. Returns the id with its repetition.
    pub(super) fn take(&mut self, new: &NewEvent) -> (EventId, u32) {
        let (id, repetition) = self.first(new, |id| self.is_taken.get(id) == Some(&true));
        self.is_taken.insert(id.clone(), true);
        (id, repetition)
    }

    /// Returns the ids that the events would get now, except ids that were looked up.
    fn unknown(&self, new: &[&NewEvent]) -> Vec<String> {
        let mut assigned: HashSet<EventId> = HashSet::new();
        let mut unknown = Vec::new();
        for new in new {
            let (id, _) = self.first(new, |id| {
                assigned.contains(id) || self.is_taken.get(id) == Some(&true)
            });
            if !self.is_taken.contains_key(&id) {
                unknown.push(id.0.clone());
            }
            assigned.insert(id);
        }
        unknown
    }

    /// Returns the first free id of an event, with its repetition.
    fn first(&self, new: &NewEvent, is_taken: impl Fn(&EventId) -> bool) -> (EventId, u32) {
        let mut repetition = self.first_repetition;
        let mut id = new.id(repetition);
        while is_taken(&id) {
            repetition = repetition.saturating_add(1);
            id = new.id(repetition);
        }
        (id, repetition)
    }
}
