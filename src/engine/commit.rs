//! What was found is recorded; and while it cannot be, inference waits.
//!
//! Constraint: what the rest of the loop believes changes only after a commit. A store that fails is
//! said once, with what follows from it, and so is its return.

use tracing::info;

use super::status::Trouble;
use super::{Loop, PAUSE};
use crate::domain::event::{EventKind, Origin};
use crate::domain::project::ProjectKey;
use crate::domain::settle::Moment;
use crate::store::{Batch, Fault, MetaKey, StoreError};

impl Loop {
    /// Commits a batch and passes its deliveries to their queues.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            self.store_works();
            return Ok(());
        }
        let problems = batch.problems.clone();
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
        let committed = self.store.record(batch)?;
        self.queues.deliver(committed.deliveries);
        let events = committed.events;
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

    /// Nothing can be recorded: inference waits, and it is said why.
    pub(super) fn store_failed(&mut self, error: &StoreError) {
        self.paused_until = Some(self.clock.moment().saturating_add(PAUSE));
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
        if self.status.set_trouble(Trouble::Store, None) {
            info!("the store works again");
        }
    }
}
