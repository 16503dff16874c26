//! Records entries, directories and file systems that an observation cannot read.
//!
//! Constraint: a file that may exist is not treated as gone. So each [`Unreadable`] has the roles
//! of the files that it may hide.

use std::io;

use super::ProjectWalk;
use crate::domain::project::{ObservedFile, Problem, Unreadable};
use crate::layout::Cursor;
use crate::observe::listing::{problem, unreadable};

impl ProjectWalk<'_> {
    pub(super) fn unreadable(&mut self, path: &str, cursor: &Cursor, error: &io::Error) {
        match cursor.file() {
            Some(place) if !cursor.leads_on() => {
                self.seen.observed.files.insert(
                    path.to_owned(),
                    ObservedFile::Invalid {
                        role: place.role,
                        problem: problem(path, &format!("cannot be examined: {error}"), true),
                    },
                );
            }
            _ => self.blind(path, cursor, error),
        }
    }

    /// Whether a path is hidden from observation. If so, records it as unreadable.
    pub(super) fn is_hidden(&mut self, path: &str, cursor: &Cursor) -> bool {
        let hidden = self.observer.hidden_at(path);
        let hidden = hidden.map(|(above, reason)| problem(above, reason, true));
        let is_hidden = hidden.is_some();
        if let Some(problem) = hidden {
            self.note_blind(problem, cursor);
        }
        is_hidden
    }

    pub(super) fn blind(&mut self, path: &str, cursor: &Cursor, error: &io::Error) {
        self.note_blind(unreadable(path, error), cursor);
    }

    pub(super) fn note_blind(&mut self, problem: Problem, cursor: &Cursor) {
        let (blind, hides) = (&mut self.seen.observed.unreadable, cursor.roles());
        let at = self.blind_at.get(&problem.path);
        match at.and_then(|at| blind.get_mut(*at)) {
            Some(known) => known.hides.extend(hides),
            None => {
                self.blind_at.insert(problem.path.clone(), blind.len());
                blind.push(Unreadable { problem, hides });
            }
        }
    }
}
