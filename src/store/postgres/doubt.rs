//! A batch whose commit has an unknown result, because the connection was lost.
//!
//! The next batch finds out whether the earlier one was recorded. If so, a change of the record is
//! stale, and the caller infers it again from the new record. But an event that leaves the record
//! as it is would be recorded twice: that of a short-lived snapshot, for example. So the next batch
//! leaves out such events.

use std::collections::HashMap;

use crate::domain::event::EventId;
use crate::store::batch::{Change, NewEvent, RecordedEvent};

/// Events by their id with repetition 0.
pub(super) type FirstIds = HashMap<EventId, RecordedEvent>;

/// The last batch, if its result is unknown, and events of earlier batches that got an error.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// The mark of the batch. `None` once its result is known.
    mark: Option<Vec<u8>>,
    /// The events of the batch.
    unknown: FirstIds,
    /// Events that were recorded, although the caller got an error.
    recorded: FirstIds,
}

impl Doubt {
    /// Whether the result of a batch is unknown.
    pub(super) fn is_open(&self) -> bool {
        self.mark.is_some()
    }

    /// Remembers a batch by its mark and events, after its commit had no answer.
    pub(super) fn open(&mut self, mark: Vec<u8>, events: FirstIds) {
        self.mark = Some(mark);
        self.unknown = events;
    }

    /// Finds out whether the batch was recorded, by the mark of the last recorded batch.
    pub(super) fn resolve(&mut self, last_batch: Option<&Vec<u8>>) {
        if let Some(mark) = self.mark.take() {
            let unknown = std::mem::take(&mut self.unknown);
            if last_batch == Some(&mark) {
                self.recorded.extend(unknown);
            }
        }
    }

    /// Returns the event's record, if an earlier batch recorded the event.
    pub(super) fn recorded(&self, change: &Change, new: &NewEvent) -> Option<&RecordedEvent> {
        let is_record_kept = change.before == change.after;
        self.recorded.get(&new.event.id).filter(|_| is_record_kept)
    }

    /// Forgets events that the caller has received. If the same happens again, it is another event.
    pub(super) fn forget(&mut self, known: &[RecordedEvent]) {
        self.recorded.retain(|_, event| !known.contains(event));
    }
}
