//! What was found is recorded; and while it cannot be, inference waits.
//!
//! Constraint: what the rest of the loop believes changes only after a commit. A store that fails is
//! said once, with what follows from it, and so is its return.

use std::sync::Arc;

use tracing::info;

use super::status::Trouble;
use super::{Loop, PAUSE, WRITE_OUT_AFTER};
use crate::domain::event::{EventKind, Origin};
use crate::domain::project::{ProjectKey, Recorded};
use crate::domain::settle::Moment;
use crate::store::{Batch, Fault, MetaKey, StoreError};

impl Loop {
    /// Commits a batch, rings for those who send its callbacks, and takes note of what is on record now.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            self.store_works();
            return Ok(());
        }
        let problems = batch.problems.clone();
        let changes = batch.changes.iter();
        let recorded: Vec<(ProjectKey, Recorded)> = changes
            .map(|change| (change.key.clone(), change.after.clone()))
            .collect();
        let told: Vec<(EventKind, ProjectKey, Origin, usize)> = batch
            .changes
            .iter()
            .flat_map(|change| &change.events)
            .map(|new| {
                let event = &new.event;
                (
                    event.kind,
                    event.key.clone(),
                    event.origin,
                    new.webhooks.len(),
                )
            })
            .collect();
        let doorbells = Arc::clone(&self.doorbells);
        let committed = self.store.record_handing(batch, move |handed, commit| {
            doorbells.hand(handed, commit);
        });
        let committed = committed.inspect_err(|_| self.recent.clear())?;
        // First the callbacks, then the lines about what they are of.
        std::thread::yield_now();
        self.doorbells.ring(&committed);
        if !self.store.is_written_out() {
            let due = self.clock.moment().saturating_add(WRITE_OUT_AFTER);
            self.write_out_at.get_or_insert(due);
        }
        let events = committed.events;
        for (key, recorded) in recorded {
            self.recent.put(key, recorded);
        }
        self.store_works();
        for (recorded, (kind, key, origin, webhooks)) in events.iter().zip(told) {
            info!(
                event_id = %recorded.id,
                project = %key,
                origin = origin.as_str(),
                webhooks,
                "{}",
                kind.label()
            );
            self.status.count_event(kind.as_str(), origin.as_str());
        }
        for (key, problems) in problems {
            self.remember_problems(key, problems);
        }
        Ok(())
    }

    /// Records that everything was compared. Returns false where that failed.
    pub(super) fn record_scan(&mut self) -> bool {
        let mut batch = Batch::new(self.clock.now());
        let identity = self.root.identity_to_record();
        if let Some(identity) = &identity {
            batch.meta.push((MetaKey::RepositoryRoot, identity.clone()));
        }
        if self.starting || self.layout_changed {
            batch
                .meta
                .push((MetaKey::FirstStart, self.clock.now().to_string()));
            let layout = self.config.repository.layout.to_string();
            batch.meta.push((MetaKey::Layout, layout));
        }
        // Also where there is nothing to record: that the store could be read ends its trouble.
        if let Err(error) = self.commit(batch) {
            self.store_failed(&error);
            return false;
        }
        self.layout_changed = false;
        if let Some(identity) = identity {
            self.root.remember(Some(identity));
        }
        if self.status.set_trouble(Trouble::Root, None) {
            info!("the repository's root is back");
        }
        true
    }

    /// Writes out what was recorded, where nobody who wrote since has done so.
    pub(super) fn write_out(&mut self, now: Moment) {
        if self.write_out_at.is_none_or(|due| now < due) {
            return;
        }
        match self.store.write_out() {
            Ok(()) => {
                self.write_out_at = None;
                // Nothing else may be recorded for long, and say so. Trouble of another kind ends by
                // what it hindered.
                if self.has_journal_trouble {
                    self.store_works();
                }
            }
            Err(error) => self.store_failed(&error),
        }
    }

    /// Nothing can be recorded: inference waits, and it is said why.
    pub(super) fn store_failed(&mut self, error: &StoreError) {
        self.paused_until = Some(self.clock.moment().saturating_add(PAUSE));
        self.has_journal_trouble = !self.store.is_written_out();
        if self.has_journal_trouble {
            self.write_out_at.get_or_insert(self.clock.moment());
        }
        // The store's threads end before this one only by a panic.
        self.has_lost_a_part |= matches!(error.fault(), Fault::Closed);
        let what = format!(
            "{}; inference waits, and nothing is forgotten",
            crate::error::chain(error)
        );
        if self.status.set_trouble(Trouble::Store, Some(what.clone())) {
            tracing::error!("{what}");
        }
    }

    /// The database that is open may be in the state directory no more.
    pub(super) fn check_store(&mut self, now: Moment) {
        let is_displaced = !self.store.is_in_place();
        if is_displaced {
            // Nothing is recorded where it would be lost; until the next check, and some.
            self.paused_until = Some(now.saturating_add(PAUSE));
            self.has_journal_trouble = false;
            let what = format!(
                "{} was removed, moved or replaced while the daemon runs; inference waits, and \
                 callbacks that wait go out. Put it back, or restart the daemon: it then begins \
                 with what is in the state directory",
                self.store.path().display()
            );
            if self.status.set_trouble(Trouble::Store, Some(what.clone())) {
                tracing::error!("{what}");
            }
        } else if self.is_store_displaced {
            self.store_works();
        }
        self.is_store_displaced = is_displaced;
    }

    /// Something was recorded, or could have been.
    fn store_works(&mut self) {
        self.has_journal_trouble = false;
        if self.status.set_trouble(Trouble::Store, None) {
            info!("the store works again");
        }
    }
}
