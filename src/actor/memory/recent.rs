//! Keeps the latest changes, and finds them by place or by file.
//!
//! Constraint: the number and the age of all changes are limited. So is the number of changes that
//! the index has for one file or one place.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::super::change::{Change, Node, Place};

/// The maximum time between the oldest and the newest change, in milliseconds.
const AGE_MAX_MS: i64 = 15 * 60 * 1000;

/// The maximum number of indexed changes for each file and for each place.
const CHANGES_MAX: usize = 64;

/// Changes in the order of their arrival, indexed by place and by file.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ring: VecDeque<Change>,
    /// The number of the first change in the ring. Numbers grow by one with each added change.
    first: u64,
    by_place: HashMap<Place, VecDeque<u64>>,
    by_node: HashMap<Node, VecDeque<u64>>,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(super) fn add(&mut self, change: Change, max: usize) {
        let oldest_ms = change.act.time_ms.saturating_sub(AGE_MAX_MS);
        let is_old = |first: &Change| first.act.time_ms < oldest_ms;
        while self.ring.len() >= max || self.ring.front().is_some_and(is_old) {
            self.remove_first();
        }
        let number = self.first.saturating_add(self.ring.len() as u64);
        for place in change.places() {
            note(&mut self.by_place, place.clone(), number);
        }
        note(&mut self.by_node, change.node, number);
        self.ring.push_back(change);
    }

    fn remove_first(&mut self) {
        let Some(change) = self.ring.pop_front() else {
            return;
        };
        for place in change.places() {
            forget(&mut self.by_place, place, self.first);
        }
        forget(&mut self.by_node, &change.node, self.first);
        self.first = self.first.saturating_add(1);
    }

    pub(super) fn latest_at(
        &self,
        place: &Place,
        wanted: &impl Fn(&Change) -> bool,
    ) -> Option<&Change> {
        self.latest(self.by_place.get(place)?, wanted)
    }

    pub(super) fn latest_of(
        &self,
        node: Node,
        wanted: &impl Fn(&Change) -> bool,
    ) -> Option<&Change> {
        self.latest(self.by_node.get(&node)?, wanted)
    }

    fn latest(
        &self,
        numbers: &VecDeque<u64>,
        wanted: &impl Fn(&Change) -> bool,
    ) -> Option<&Change> {
        let change = |number: &u64| {
            let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
            self.ring.get(index)
        };
        let found = numbers.iter().filter_map(change);
        found
            .filter(|change| wanted(change))
            .max_by_key(|change| change.act.serial)
    }
}

fn note<Key: Hash + Eq>(index: &mut HashMap<Key, VecDeque<u64>>, key: Key, number: u64) {
    let numbers = index.entry(key).or_default();
    numbers.push_back(number);
    if numbers.len() > CHANGES_MAX {
        numbers.pop_front();
    }
}

/// Removes a number from the index, if it is the oldest number of its key.
fn forget<Key: Hash + Eq>(index: &mut HashMap<Key, VecDeque<u64>>, key: &Key, number: u64) {
    let Some(numbers) = index.get_mut(key) else {
        return;
    };
    if numbers.front() == Some(&number) {
        numbers.pop_front();
    }
    if numbers.is_empty() {
        index.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Act;
    use super::*;
    use crate::actor::Deed;

    fn wrote(time_ms: i64, inode: u64) -> Change {
        Change {
            act: Arc::new(Act {
                serial: 1,
                time_ms,
                login: Some(1),
                effective: 1,
                pid: 1,
                program: String::new(),
                key: None,
                has_key: true,
            }),
            node: ((8, 1), inode),
            deed: Deed::Wrote,
        }
    }

    #[test]
    fn changes_are_bounded_by_number_and_age() {
        const MAX: usize = 100;
        let mut recent = Recent::default();
        for inode in 0..2 * MAX as u64 {
            recent.add(wrote(1_000, inode), MAX);
            assert!(recent.len() <= MAX);
        }
        assert_eq!(recent.by_node.len(), MAX);
        for _ in 0..10 * CHANGES_MAX {
            recent.add(wrote(2_000, 7), 10 * MAX);
        }
        assert_eq!(recent.by_node[&((8, 1), 7)].len(), CHANGES_MAX);
        recent.add(wrote(3_000 + AGE_MAX_MS, 7), MAX);
        assert_eq!((recent.len(), recent.by_node.len()), (1, 1));
        assert!(recent.by_place.is_empty());
    }
}
