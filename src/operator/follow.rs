//! Finds the new and changed items of a listing.
//!
//! Constraint: each round compares the newest items with those of the previous round, and misses
//! no new item. Between rounds, memory has only the positions and revisions of the newest items.

use std::collections::BTreeMap;

use crate::domain::delivery::State;
use crate::store::{ListedDelivery, ListedEvent};

/// The minimum number of items in the first read of a round.
///
/// The round doubles the number and reads again until it has all new items.
const READ_AT_FIRST: usize = 256;

/// The maximum number of known items. Changes of older items are not found.
pub(crate) const COMPARED: usize = 500;

/// The known items of a listing.
pub(crate) struct Follower<T> {
    /// The revisions of the newest items, by their positions.
    known: BTreeMap<i64, u64>,
    position: fn(&T) -> (i64, u64),
}

impl<T> Follower<T> {
    /// Makes a follower that knows these items, so that no round returns them as new.
    pub(crate) fn new(position: fn(&T) -> (i64, u64), items: &[T]) -> Self {
        let mut follower = Self {
            known: BTreeMap::new(),
            position,
        };
        follower.add(items);
        follower
    }

    /// Adds items that no later round returns as new.
    pub(crate) fn add(&mut self, items: &[T]) {
        self.known.extend(items.iter().map(self.position));
        self.forget();
    }

    fn forget(&mut self) {
        while self.known.len() > COMPARED {
            self.known.pop_first();
        }
    }

    /// Reads the items that are new or changed since the last round, newest first.
    ///
    /// `read(n)` returns the n newest items, newest first.
    pub(crate) fn next<E>(
        &mut self,
        read: &dyn Fn(usize) -> Result<Vec<T>, E>,
    ) -> Result<Vec<T>, E> {
        let mut items = self.read_again(read)?;
        items.retain(|item| {
            let (position, revision) = (self.position)(item);
            self.known.insert(position, revision) != Some(revision)
        });
        self.forget();
        Ok(items)
    }

    /// Reads all new items, and the known items that may have changed.
    fn read_again<E>(&self, read: &dyn Fn(usize) -> Result<Vec<T>, E>) -> Result<Vec<T>, E> {
        let newest = self.known.last_key_value();
        let newest = newest.map_or(i64::MIN, |(newest, _)| *newest);
        let oldest = self.known.first_key_value();
        let oldest = oldest.map_or(i64::MIN, |(oldest, _)| *oldest);
        let mut limit = READ_AT_FIRST.max(self.known.len().saturating_mul(2));
        loop {
            let mut items = read(limit)?;
            let last = items.last().map(|item| (self.position)(item).0);
            if items.len() < limit || last.is_none_or(|last| last <= newest) {
                // Items older than all known ones are not new: they were left out at the start, or
                // forgotten since.
                items.retain(|item| (self.position)(item).0 >= oldest);
                return Ok(items);
            }
            limit = limit.saturating_mul(2);
        }
    }
}

/// Returns the position of an event, and 0 as its revision: events never change.
pub(crate) fn event(listed: &ListedEvent) -> (i64, u64) {
    (listed.sequence, 0)
}

/// Returns the position of a delivery, and its revision.
///
/// The revision changes with the number of attempts and with the state.
pub(crate) fn delivery(delivery: &ListedDelivery) -> (i64, u64) {
    let state = match delivery.state {
        State::Pending => 0,
        State::Delivered => 1,
        State::Dead => 2,
        State::Cancelled => 3,
    };
    (delivery.id, u64::from(delivery.n_attempts) * 4 + state)
}
