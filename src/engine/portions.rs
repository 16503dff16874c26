//! Records a large change in portions, so that a step holds few contents in memory.
//!
//! Constraint: each portion commits its record, events, payloads and deliveries together. If a
//! content changed after it was read, neither its portion nor later portions of the project are
//! recorded.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tracing::debug;

use super::worker::Worker;
use crate::domain::project::{ContentHash, ProjectKey};
use crate::observe::{Contents, Lost};
use crate::repository::Root;
use crate::store::{Batch, Change};

/// The maximum number of bytes to read for a portion. A single content may be larger.
pub(super) const PORTION_BYTES: usize = 4 * 1024 * 1024;

/// A part of a change. One commit records it.
#[derive(Debug)]
pub(super) struct Portion {
    pub change: Change,
    /// The number of the project's events in the first batch and in earlier portions.
    pub n_events_before: usize,
    /// Whether this portion adds its project to the record.
    pub adds_project: bool,
    /// Whether this portion removes its project from the record.
    pub removes_project: bool,
}

/// The number of recorded events of each project with unrecorded portions.
pub(super) type Unrecorded = HashMap<ProjectKey, usize>;

/// Loads the payloads of these changes.
///
/// Contents that this step did not read are in the store already.
fn payloads(
    changes: &[Change],
    contents: &Contents,
    root: &Root,
) -> Result<Vec<(ContentHash, Bytes)>, Lost> {
    let events = changes.iter().flat_map(|change| &change.events);
    let definitions = changes
        .iter()
        .filter_map(|change| change.after.definition.as_ref());
    let hashes: HashSet<ContentHash> = events
        .map(|new| new.event.payload)
        .chain(definitions.map(|file| file.hash))
        .collect();
    let mut payloads = Vec::new();
    for hash in hashes {
        payloads.extend(contents.load(root, &hash)?.map(|bytes| (hash, bytes)));
    }
    Ok(payloads)
}

impl Worker {
    /// Loads the payloads of a batch and commits it. Returns whether that succeeded.
    pub(super) fn commit_with_payloads(
        &mut self,
        mut batch: Batch,
        contents: &Contents,
        root: &Root,
    ) -> bool {
        match payloads(&batch.changes, contents, root) {
            Ok(payloads) => batch.payloads = payloads,
            Err(error) => {
                debug!(%error, "cannot record the content of a file; its project is observed \
                    again");
                return false;
            }
        }
        self.commit(batch)
    }

    /// Commits the portions after the first batch, each in its own commit.
    ///
    /// Returns the projects with portions that were not recorded.
    pub(super) fn commit_portions(
        &mut self,
        portions: Vec<Portion>,
        contents: &Contents,
        root: &Root,
    ) -> Unrecorded {
        let mut unrecorded = Unrecorded::new();
        for portion in portions {
            let key = portion.change.key.clone();
            if unrecorded.contains_key(&key) {
                continue;
            }
            self.status.beat(self.clock.moment());
            let mut batch = Batch::new(self.clock.now());
            batch.changes.push(portion.change);
            // After a failure of the store or a stop, no more portions are recorded. The next
            // observation infers their events again.
            let goes_on = !self.timers.is_paused() && !self.status.is_stopping();
            let is_recorded = goes_on && self.commit_with_payloads(batch, contents, root);
            if is_recorded {
                self.status
                    .add_projects(portion.adds_project.into(), portion.removes_project.into());
            } else {
                unrecorded.insert(key, portion.n_events_before);
            }
        }
        unrecorded
    }
}
