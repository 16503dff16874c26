//! Keeps track of payloads that may no longer be needed.
//!
//! A payload becomes a candidate for removal when one of its events is removed, or when a
//! definition with this content is replaced or removed. The candidates are only in memory, so each
//! start checks all payloads once.

use std::collections::BTreeSet;

use crate::domain::project::ContentHash;

/// The maximum number of candidates. If there are more, the store checks all payloads instead.
const CANDIDATES_MAX: usize = 16 * 1024;

/// Payloads that may no longer be needed.
#[derive(Clone, Debug)]
pub(super) struct Garbage {
    pub(super) candidates: BTreeSet<ContentHash>,
    /// The progress of a check of all payloads: the last checked hash.
    ///
    /// It is zero at the beginning. `None` if no such check is needed.
    pub(super) all_after: Option<ContentHash>,
}

impl Default for Garbage {
    fn default() -> Self {
        Self {
            candidates: BTreeSet::new(),
            all_after: Some(ContentHash([0; 32])),
        }
    }
}

impl Garbage {
    pub(super) fn add(&mut self, hashes: impl IntoIterator<Item = ContentHash>) {
        self.candidates.extend(hashes);
        if self.candidates.len() > CANDIDATES_MAX {
            self.candidates.clear();
            self.all_after = Some(ContentHash([0; 32]));
        }
    }

    /// Takes all candidates and the progress of the check, and leaves none.
    pub(super) fn take(&mut self) -> Self {
        let none = Self {
            candidates: BTreeSet::new(),
            all_after: None,
        };
        std::mem::replace(self, none)
    }

    /// Puts taken candidates back. Keeps candidates that were added in the meantime.
    pub(super) fn put_back(&mut self, rest: Self) {
        self.all_after = self.all_after.or(rest.all_after);
        self.add(rest.candidates);
    }

    pub(super) fn has_more(&self) -> bool {
        !self.candidates.is_empty() || self.all_after.is_some()
    }
}
