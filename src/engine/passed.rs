//! Files that came and went between two looks.
//!
//! Constraint: a file that a hint named was opened at once, so its content is there although its
//! name is not; it counts as a look of its own, at a moment when the file was there. A file that
//! still has a name, wherever that is now, is seen by it and not here: a file that was written
//! under a temporary name and renamed is one file.

use std::os::fd::AsFd;

use jiff::Timestamp;

use super::Loop;
use super::step::Round;
use crate::domain::infer::Removals;
use crate::domain::moves::{self, Look};
use crate::domain::project::{FileState, Recorded, Role, Sighting};
use crate::observe::Held;
use crate::repository::Root;
use crate::store::StoreError;

impl Loop {
    /// Judges the held files of the projects that were looked at.
    pub(super) fn judge_held(
        &mut self,
        root: &Root,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<(), StoreError> {
        let n_looked_at = round.turns.len();
        for index in 0..n_looked_at {
            let Some(key) = round.turns.get(index).map(|turn| turn.due.key.clone()) else {
                continue;
            };
            let mut held = self.held.remove(&key).unwrap_or_default().into_iter();
            while let Some(next) = held.next() {
                if let Err(failed) = self.judge_one(root, now, round, index, next) {
                    let (error, next) = *failed;
                    self.hold_again(key, std::iter::once(next).chain(held));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn judge_one(
        &mut self,
        root: &Root,
        now: Timestamp,
        round: &mut Round,
        index: usize,
        held: Held,
    ) -> Result<(), Box<(StoreError, Held)>> {
        let unlinked = rustix::fs::fstat(held.file.as_fd()).is_ok_and(|stat| stat.st_nlink == 0);
        let Some(turn) = round.turns.get(index).filter(|_| unlinked) else {
            return Ok(());
        };
        let Some((state, bytes)) = self.observer.read_held(&held, now) else {
            return Ok(());
        };
        if is_on_record(&turn.record_after_passed, &state) {
            return Ok(());
        }
        let mut look = turn.look();
        look.removals = Removals::Wait;
        if state.role == Role::Definition {
            look.observed.files.retain(|_, sighting| {
                !matches!(sighting, Sighting::Complete(file) if file.role == state.role)
            });
        }
        let seen = Sighting::Complete(state.clone());
        look.observed.files.insert(state.path.clone(), seen);

        // A definition that came and went may be that of a project that moved here.
        if let Some(arrived) = look.arrival() {
            let arrived = vec![(look.key.clone(), arrived.identity(), turn.due.origin)];
            let looked = self
                .old_places(arrived, round)
                .and_then(|places| self.look_at_each(root, places, now, round));
            if let Err(error) = looked {
                return Err(Box::new((error, held)));
            }
        }
        let mut indexes = vec![index];
        let mut looks: Vec<Look> = vec![look.clone()];
        for (other, turn) in round.turns.iter().enumerate() {
            let is_its_old_place = other != index
                && turn.due.key.organization == look.key.organization
                && turn
                    .record_after_passed
                    .definition
                    .as_ref()
                    .is_some_and(|definition| definition.identity() == state.identity());
            if is_its_old_place {
                indexes.push(other);
                looks.push(turn.look());
            }
        }
        let changes = moves::infer_all(&looks, &self.relocate());
        let taken = changes
            .first()
            .is_some_and(|change| is_on_record(&change.inference.record, &state));
        if !taken {
            // It waits for a removal, and so its content has to be kept until that counts.
            if let Some(turn) = round.turns.get_mut(index) {
                turn.held_back.push(held);
            }
            return Ok(());
        }
        let moved_from = changes.first().and_then(|change| change.moved_from.clone());
        for (at, change) in indexes.into_iter().zip(changes) {
            let Some(turn) = round.turns.get_mut(at) else {
                continue;
            };
            // Of other places only that which the project left is judged here.
            if at == index || moved_from.as_ref() == Some(&change.key) {
                turn.passed.extend(change.inference.events);
                turn.record_after_passed = change.inference.record;
            }
        }
        round.keep(state.hash, bytes);
        if let Some(turn) = round.turns.get_mut(index) {
            turn.held.push(held);
        }
        Ok(())
    }
}

/// Whether a file with this content is on record in this place.
fn is_on_record(recorded: &Recorded, state: &FileState) -> bool {
    recorded
        .file(&state.path)
        .is_some_and(|known| known.hash == state.hash)
}
