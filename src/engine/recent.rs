//! What is on record of the projects that were recorded last.
//!
//! Constraint: it is what the store would answer. Only the engine's thread records, and it notes here
//! what was committed; whatever casts doubt on that empties it.
//!
//! Why: reading one project from the database takes a tenth of an edit's way to its callback, and
//! who saves a project saves it again.

use std::collections::HashMap;

use crate::domain::project::{ProjectKey, Recorded};

/// How many files half of it holds, some 300 bytes each: enough for a thousand projects.
const FILES: usize = 4096;

/// The records of some thousand files: of those used since the last turn-over, and of those used in
/// the time before that.
#[derive(Debug, Default)]
pub(super) struct Recent {
    young: HashMap<ProjectKey, Recorded>,
    old: HashMap<ProjectKey, Recorded>,
    /// How many files the young ones have; a project counts as one at least.
    n_files: usize,
}

impl Recent {
    /// What is on record of a project, where that is known.
    pub(super) fn get(&mut self, key: &ProjectKey) -> Option<&Recorded> {
        if let Some(found) = self.old.remove(key) {
            self.put(key.clone(), found);
        }
        self.young.get(key)
    }

    /// Notes what is on record of a project.
    pub(super) fn put(&mut self, key: ProjectKey, recorded: Recorded) {
        self.n_files = self.n_files.saturating_add(n_files(&recorded));
        if self.n_files > FILES {
            self.n_files = n_files(&recorded);
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        if let Some(before) = self.young.insert(key, recorded) {
            self.n_files = self.n_files.saturating_sub(n_files(&before));
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn n_files(recorded: &Recorded) -> usize {
    recorded.files().count().max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::project::{ContentHash, Document, FileState, Role, Stamp};

    /// A record with so many snapshots, told apart by a number.
    fn record(n_files: usize, number: u64) -> Recorded {
        let file = |at: usize| FileState {
            path: at.to_string(),
            role: Role::Snapshot,
            tag: None,
            stamp: Stamp {
                inode: number,
                size: 0,
                modified_ns: 0,
                changed_ns: 0,
            },
            read_ns: 0,
            hash: ContentHash([0; 32]),
            document: Document::default(),
            owner: String::new(),
        };
        (0..n_files).map(file).collect()
    }

    proptest! {
        /// It forgets, and never tells anything else than what was noted last; and it holds no more
        /// than twice what half of it may.
        #[test]
        fn it_says_what_was_noted_last_or_nothing(
            steps in prop::collection::vec((0..40_u8, prop::option::of(0..600_usize)), 1..200),
        ) {
            let mut recent = Recent::default();
            let mut noted = BTreeMap::new();
            for (number, (project, n_files)) in (0..).zip(steps) {
                let key = ProjectKey::new("sales", project.to_string());
                match n_files {
                    Some(n_files) => {
                        recent.put(key.clone(), record(n_files, number));
                        noted.insert(key.clone(), record(n_files, number));
                        prop_assert_eq!(recent.get(&key), noted.get(&key));
                    }
                    None => {
                        let found = recent.get(&key);
                        prop_assert!(found.is_none() || found == noted.get(&key));
                    }
                }
                let of = |records: &HashMap<_, _>| records.values().map(super::n_files).sum::<usize>();
                prop_assert_eq!(of(&recent.young), recent.n_files);
                prop_assert!(of(&recent.young) <= FILES && of(&recent.old) <= FILES);
            }
        }
    }

    #[test]
    fn what_is_used_stays() {
        let mut recent = Recent::default();
        let key = |number: usize| ProjectKey::new("sales", number.to_string());
        recent.put(key(0), record(1, 0));
        for number in 1..FILES * 4 {
            recent.put(key(number), record(1, 0));
            assert!(recent.get(&key(0)).is_some(), "{number}");
        }
        assert!(recent.get(&key(1)).is_none());
    }
}
