//! The engine's state that other threads may read: health, progress and counts.
//!
//! Constraint: only the engine changes the snapshot. A reader never waits for a step of the engine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;
use crate::watch::Coverage;

/// A problem that stops the engine from inferring some events.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trouble {
    Root,
    Store,
    /// Removals are held. Other events are inferred as usual.
    Removals,
    /// The engine's loop does not run, for instance while a file system hangs.
    Engine,
    /// The watch thread does not run, for instance while a file system below the root hangs.
    Watch,
    /// After a take-over, nobody watches repositories that the former process watched.
    Repositories,
}

impl Trouble {
    /// Whether the problem stops only some events, not all.
    const fn is_partial(self) -> bool {
        matches!(self, Self::Removals | Self::Repositories)
    }
}

/// The held removals, as `status` shows them.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub(crate) struct HeldReport {
    /// The number of projects whose removals are held.
    pub count: usize,
    /// The cause: `all` or `more-than-half` of the projects vanished.
    pub cause: String,
    /// The reason in words.
    pub reason: String,
    /// The end of the hold. `None` if the hold has no time limit.
    pub until: Option<Timestamp>,
}

/// The state of the audit source, as `status` shows it.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub(crate) struct ActorReport {
    /// The key of the audit rule.
    pub key: String,
    /// The number of system calls in the received records.
    pub records: u64,
    /// The number of live events whose actor is known.
    pub named: u64,
    /// The number of live events whose actor is unknown.
    pub missed: u64,
    /// The number of times that the kernel dropped records.
    pub losses: u64,
    /// Why the source does not work. `None` if it works.
    pub failure: Option<String>,
}

/// A snapshot of the engine's state.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub(crate) struct Snapshot {
    /// Whether the first full scan since the start is recorded.
    pub ready: bool,
    /// The current problems, as `status` prints them.
    #[schema(value_type = BTreeMap<String, String>)]
    pub troubles: BTreeMap<Trouble, String>,
    pub projects: usize,
    #[serde(rename = "heldRemovals", default)]
    pub held_removals: Option<HeldReport>,
    /// The state of the audit source, if `audit` is a source of usernames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<ActorReport>,
    #[serde(rename = "incompleteFiles")]
    pub problems: usize,
    pub coverage: Coverage,
    /// The number of full scans, by reason.
    #[serde(skip)]
    pub rescans: BTreeMap<String, u64>,
    /// The numbers of applied and of rejected reloads.
    #[serde(skip)]
    pub reloads: (u64, u64),
    /// The number of recorded events, by event and origin.
    #[serde(skip)]
    pub events: BTreeMap<(&'static str, &'static str), u64>,
    /// The number of events by source of their username, if `audit` is a source.
    #[serde(skip)]
    pub usernames: BTreeMap<String, u64>,
}

impl Snapshot {
    /// Whether the start is complete.
    ///
    /// This is the case if the first full scan is recorded, or a problem prevents it.
    ///
    /// With a problem, the service manager must not wait: its start job would hang until the
    /// problem ends.
    pub(crate) fn is_started(&self) -> bool {
        let mut troubles = self.troubles.keys();
        self.ready || troubles.any(|trouble| !trouble.is_partial())
    }

    /// Whether the engine notices changes.
    ///
    /// It does after the first full scan is recorded, unless there is a problem. Two problems are
    /// ignored, because events of other projects are inferred: held removals, and repositories that
    /// are not in the configuration.
    pub(crate) fn is_watching(&self) -> bool {
        let mut troubles = self.troubles.keys();
        self.ready && troubles.all(|trouble| trouble.is_partial())
    }
}

/// The last sign of progress of the engine's loop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beat {
    pub(super) at: Moment,
    /// Whether the loop has been waiting for the store since then.
    pub(super) waits_for_store: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Status {
    known: watch::Sender<Snapshot>,
    last_beat: Mutex<Beat>,
    is_stopping: AtomicBool,
}

impl Status {
    pub(super) fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the engine must stop. A long step checks this, and ends early.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Reads the current state without cloning it.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        read(&self.known.borrow())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.known.borrow().clone()
    }

    /// Returns a receiver of the current state and its later changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Snapshot> {
        let mut changes = self.known.subscribe();
        changes.mark_changed();
        changes
    }

    fn lock_beat(&self) -> MutexGuard<'_, Beat> {
        self.last_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the engine made progress at this time.
    pub(crate) fn beat(&self, now: Moment) {
        self.beat_at_store(false, now);
    }

    /// Records that the engine's loop begins or ends a wait for the store.
    pub(crate) fn beat_at_store(&self, waits_for_store: bool, now: Moment) {
        *self.lock_beat() = Beat {
            at: now,
            waits_for_store,
        };
    }

    pub(super) fn last_beat(&self) -> Beat {
        *self.lock_beat()
    }

    /// Records that the first full scan since the start is complete.
    pub(crate) fn set_ready(&self) {
        self.change(|known| !std::mem::replace(&mut known.ready, true));
    }

    /// Sets or clears a problem. Returns whether it began, ended or has another reason now.
    pub(crate) fn set_trouble(&self, trouble: Trouble, reason: Option<String>) -> bool {
        self.change(|known| match reason {
            Some(reason) => known.troubles.insert(trouble, reason.clone()) != Some(reason),
            None => known.troubles.remove(&trouble).is_some(),
        })
    }

    pub(crate) fn set_held(&self, held: Option<HeldReport>) {
        self.change(|known| {
            let changed = known.held_removals != held;
            known.held_removals = held;
            changed
        });
    }

    pub(crate) fn set_actor(&self, actor: Option<ActorReport>) {
        self.change(|known| {
            let changed = known.actor != actor;
            known.actor = actor;
            changed
        });
    }

    /// Counts events by the source of their username.
    pub(crate) fn count_usernames(&self, sources: &[String]) {
        self.change(|known| {
            for source in sources {
                *known.usernames.entry(source.clone()).or_default() += 1;
            }
            !sources.is_empty()
        });
    }

    pub(crate) fn set_coverage(&self, coverage: Coverage) {
        self.change(|known| {
            let changed = known.coverage != coverage;
            known.coverage = coverage;
            changed
        });
    }

    pub(crate) fn set_projects(&self, projects: usize) {
        self.change(|known| std::mem::replace(&mut known.projects, projects) != projects);
    }

    /// Adds `more` to the number of recorded projects and subtracts `fewer`.
    pub(crate) fn add_projects(&self, more: usize, fewer: usize) {
        self.change(|known| {
            known.projects = known.projects.saturating_add(more).saturating_sub(fewer);
            more != fewer
        });
    }

    pub(crate) fn set_problems(&self, problems: usize) {
        self.change(|known| std::mem::replace(&mut known.problems, problems) != problems);
    }

    pub(crate) fn count_rescan(&self, reason: RescanReason) {
        self.change(|known| {
            *known.rescans.entry(reason.as_str().to_owned()).or_default() += 1;
            true
        });
    }

    pub(crate) fn count_event(&self, event: &'static str, origin: &'static str) {
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
    fn a_subscriber_receives_the_present_state_first() {
        let status = Status::default();
        status.set_ready();
        let mut changes = status.subscribe();
        assert!(changes.has_changed().unwrap());
        assert!(changes.borrow_and_update().ready);
        assert!(!changes.has_changed().unwrap());
    }
}
