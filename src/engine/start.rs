//! What a start finds on record, and what follows for its first comparison.

use crate::config::{FirstStart, Repository};

/// What the record says at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Nothing was recorded before.
    pub is_first: bool,
    /// The record was made with another layout.
    pub layout_changed: bool,
    /// What the first comparison finds is recorded without events (contract section 2, first
    /// start).
    pub adopts: bool,
}

impl Start {
    /// Judges by the facts [`FirstStart`](crate::store::MetaKey::FirstStart) and
    /// [`Layout`](crate::store::MetaKey::Layout) on record.
    pub fn judge(first_start: Option<&str>, layout: Option<&str>, repository: &Repository) -> Self {
        let is_first = first_start.is_none();
        let layout_changed =
            layout.is_some_and(|recorded| recorded != repository.layout.to_string());
        Self {
            is_first,
            layout_changed,
            adopts: layout_changed || (is_first && repository.on_first_start == FirstStart::Adopt),
        }
    }
}
