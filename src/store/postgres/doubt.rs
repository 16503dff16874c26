//! Handles a batch whose commit failed because the server was unreachable.
//!
//! The batch may be recorded nevertheless. The next batch finds out whether it is. For that, each
//! batch stores a random value, its *mark*. The caller repeats the changes of the earlier batch. If
//! that batch was recorded, a repeated change of a project's record is stale, and the caller infers
//! again from the new record. But some changes have an event and do not alter the record, for
//! example the change of a short-lived snapshot. If such a change is repeated, its event is not
//! recorded again.

use std::collections::HashMap;

use crate::domain::event::EventId;
use crate::store::batch::{Change, NewEvent, RecordedEvent};

/// Events with their final ids, by the id that each would have with repetition 0.
pub(super) type FirstIds = HashMap<EventId, RecordedEvent>;

/// The last batch if its result is unknown, and events that a retry may repeat.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// The mark of the last batch. `None` if the result of that batch is known.
    mark: Option<Vec<u8>>,
    /// The events of the last batch, if its result is unknown.
    unknown: FirstIds,
    /// Events that were recorded, although the caller got an error.
    recorded: FirstIds,
}

impl Doubt {
    /// Whether the result of the last batch is unknown.
    pub(super) fn is_open(&self) -> bool {
        self.mark.is_some()
    }

    /// Remembers the mark and the events of a batch whose result is unknown.
    pub(super) fn open(&mut self, mark: Vec<u8>, events: FirstIds) {
        self.mark = Some(mark);
        self.unknown = events;
    }

    /// Finds out whether a batch with an unknown result was recorded.
    ///
    /// `last_batch` is the mark of the batch that the database recorded last.
    pub(super) fn resolve(&mut self, last_batch: Option<&Vec<u8>>) {
        if let Some(mark) = self.mark.take() {
            let unknown = std::mem::take(&mut self.unknown);
            if last_batch == Some(&mark) {
                self.recorded.extend(unknown);
            }
        }
    }

    /// Returns the final id and position of a new event that is already recorded.
    ///
    /// Returns `None` if the change alters the record of its project. Such a change is stale when
    /// it is repeated.
    pub(super) fn recorded(&self, change: &Change, new: &NewEvent) -> Option<&RecordedEvent> {
        let is_record_kept = change.before == change.after;
        self.recorded.get(&new.event.id).filter(|_| is_record_kept)
    }

    /// Forgets these events, because the caller now knows that they are recorded.
    ///
    /// If the same change happens again, it has a new event.
    pub(super) fn forget(&mut self, known: &[RecordedEvent]) {
        self.recorded.retain(|_, event| !known.contains(event));
    }
}
