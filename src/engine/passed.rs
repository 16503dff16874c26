//! Files that came and went between two looks.
//!
//! Constraint: a file that a hint named was opened at once, so its content is there although its
//! name is not; it counts as a look of its own, at a moment when the file was there. It says
//! nothing about other files at that moment, so only what is certain counts: a copy counts in a
//! place where its project is or was on record, a definition only where one was on record. A whole
//! project that came and went, as in a checkout of another branch and back, is none. A file that
//! still has a name, wherever that is now, is seen by it and not here: a file that was written
//! under a temporary name and renamed is one file.

use std::os::fd::AsFd;

use jiff::Timestamp;

use super::Loop;
use super::step::{Round, Turn};
use crate::domain::infer::{Inference, Removals, infer};
use crate::domain::project::{FileState, ObservedFile, Recorded, Role};
use crate::observe::Held;

impl Loop {
    /// Judges the held files of the projects that were looked at.
    pub(super) fn judge_held(&mut self, now: Timestamp, round: &mut Round) {
        let mut contents = Vec::new();
        for turn in &mut round.turns {
            for held in self.held.remove(&turn.due.key).unwrap_or_default() {
                let unlinked =
                    rustix::fs::fstat(held.file.as_fd()).is_ok_and(|stat| stat.st_nlink == 0);
                if !unlinked {
                    // It is seen by its name, unless that is gone by the time it may count.
                    turn.named.push(held);
                    continue;
                }
                let Some((state, bytes)) = self.observer.read_held(&held, now) else {
                    continue;
                };
                let hash = state.hash;
                if judge(turn, held, state) {
                    contents.push((hash, bytes));
                }
            }
        }
        for (hash, bytes) in contents {
            round.keep(hash, bytes);
        }
    }
}

impl Turn {
    /// Keeps the held files that have their names still and are not on record after this turn,
    /// because all of their place waits for a removal: they may be gone when it counts.
    pub(super) fn keep_what_waits(&mut self, judged: &Inference) {
        if judged.missing.is_empty() {
            return;
        }
        let named = std::mem::take(&mut self.named);
        self.held_back.extend(named.into_iter().filter(|held| {
            judged
                .record
                .file(&held.path)
                .is_none_or(|file| file.stamp.inode != held.stamp.inode)
        }));
    }
}

/// Judges one file that came and went. Returns whether its content is needed.
fn judge(turn: &mut Turn, held: Held, state: FileState) -> bool {
    let has_definition = turn.record_after_passed.definition.is_some();
    let counts = match state.role {
        Role::Definition => has_definition,
        Role::Published | Role::Snapshot => has_definition || turn.observed.definition().is_some(),
    };
    if !counts
        || is_on_record(&turn.record_after_passed, &state)
        || is_before_record(&turn.record_after_passed, &state)
    {
        return false;
    }
    if !has_definition {
        // Whether its project was imported or moved here is judged first, from several looks.
        turn.held_back.push(held);
        return false;
    }
    let mut observed = turn.observed.clone();
    if state.role == Role::Definition {
        observed.files.retain(
            |_, sighting| !matches!(sighting, ObservedFile::Complete(file) if file.role == state.role),
        );
    }
    let seen = ObservedFile::Complete(state.clone());
    observed.files.insert(state.path.clone(), seen);
    let inference = infer(&turn.record_after_passed, &observed, Removals::Unconfirmed);
    if !is_on_record(&inference.record, &state) {
        // It waits for a removal, and so its content has to be kept until that counts.
        turn.held_back.push(held);
        return false;
    }
    turn.passed.extend(inference.events);
    turn.record_after_passed = inference.record;
    turn.held.push(held);
    true
}

/// Whether what is on record in this place came after this file: its hint came later than the look
/// that saw its successor. Told now it would be told in the wrong order, and the successor twice.
fn is_before_record(recorded: &Recorded, state: &FileState) -> bool {
    recorded
        .file(&state.path)
        .is_some_and(|known| known.stamp.changed_ns > state.stamp.changed_ns)
}

/// Whether a file with this content is on record in this place.
fn is_on_record(recorded: &Recorded, state: &FileState) -> bool {
    recorded
        .file(&state.path)
        .is_some_and(|known| known.hash == state.hash)
}
