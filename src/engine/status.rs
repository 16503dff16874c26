//! What others may know of the engine: health, progress and counts.
//!
//! Constraint: written by the loop that does the work, read by whoever asks; a reader never waits
//! for work.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;
use crate::watch::Coverage;

/// A part that can be in trouble.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// The repository's root.
    Root,
    /// The store.
    Store,
}

/// A copy of what is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// Whether the first scan since the start is recorded.
    pub ready: bool,
    /// What is wrong now, for a person.
    pub troubles: BTreeMap<Trouble, String>,
    /// How many projects are on record.
    pub projects: usize,
    /// How many files do not count now.
    #[serde(rename = "incompleteFiles")]
    pub problems: usize,
    /// How well changes are noticed.
    pub coverage: Coverage,
    /// How often everything was compared, by reason.
    #[serde(skip)]
    pub rescans: BTreeMap<String, u64>,
    /// How often the configuration was read again: applied, rejected.
    #[serde(skip)]
    pub reloads: (u64, u64),
    /// How many events were recorded, by event and origin.
    #[serde(skip)]
    pub events: BTreeMap<(&'static str, &'static str), u64>,
}

impl Snapshot {
    /// Whether changes are being noticed: the first scan is done and nothing is wrong.
    pub fn is_watching(&self) -> bool {
        self.ready && self.troubles.is_empty()
    }
}

/// The shared state.
#[derive(Debug)]
pub struct Status {
    known: watch::Sender<Snapshot>,
    last_beat: Mutex<Moment>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(Snapshot::default()),
            last_beat: Mutex::new(Duration::ZERO),
        }
    }
}

impl Status {
    /// A copy of what is known now.
    pub fn snapshot(&self) -> Snapshot {
        self.known.borrow().clone()
    }

    /// Tells of what is known already, and of every change from then on: a repository that was
    /// compared before anybody asked is ready all the same.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        let mut changes = self.known.subscribe();
        changes.mark_changed();
        changes
    }

    /// The loop turned at this moment.
    pub fn beat(&self, now: Moment) {
        *self
            .last_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// When the loop turned last.
    pub fn last_beat(&self) -> Moment {
        *self
            .last_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The first scan since the start is recorded.
    pub fn set_ready(&self) {
        self.change(|known| !std::mem::replace(&mut known.ready, true));
    }

    /// Something is wrong, or no longer is. Returns whether that is new.
    pub fn set_trouble(&self, trouble: Trouble, what: Option<String>) -> bool {
        self.change(|known| match what {
            Some(what) => known.troubles.insert(trouble, what.clone()) != Some(what),
            None => known.troubles.remove(&trouble).is_some(),
        })
    }

    /// How well changes are noticed.
    pub fn set_coverage(&self, coverage: Coverage) {
        self.change(|known| {
            let changed = known.coverage != coverage;
            known.coverage = coverage;
            changed
        });
    }

    /// How many projects are on record.
    pub fn set_projects(&self, projects: usize) {
        self.change(|known| std::mem::replace(&mut known.projects, projects) != projects);
    }

    /// Projects came on record or went from it.
    pub fn add_projects(&self, more: usize, fewer: usize) {
        self.change(|known| {
            known.projects = known.projects.saturating_add(more).saturating_sub(fewer);
            more != fewer
        });
    }

    /// How many files do not count now.
    pub fn set_problems(&self, problems: usize) {
        self.change(|known| std::mem::replace(&mut known.problems, problems) != problems);
    }

    /// Everything is compared once more.
    pub fn count_rescan(&self, reason: RescanReason) {
        self.change(|known| {
            *known.rescans.entry(reason.as_str().to_owned()).or_default() += 1;
            true
        });
    }

    /// The configuration was read again, and applied or rejected.
    pub fn count_reload(&self, applied: bool) {
        self.change(|known| {
            if applied {
                known.reloads.0 += 1;
            } else {
                known.reloads.1 += 1;
            }
            true
        });
    }

    /// An event was recorded.
    pub fn count_event(&self, event: &'static str, origin: &'static str) {
        self.change(|known| {
            *known.events.entry((event, origin)).or_default() += 1;
            true
        });
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot) -> bool) -> bool {
        self.known.send_if_modified(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_told_of_what_was_before_it() {
        let status = Status::default();
        // The first scan of a small repository is done before anybody listens.
        status.set_ready();
        let mut told = status.subscribe();
        assert!(told.has_changed().unwrap());
        assert!(told.borrow_and_update().ready);
        assert!(!told.has_changed().unwrap());
    }
}
