//! The phases of the engine, from the start to normal work.

use crate::config::{FirstStart, Repository};
use crate::domain::event::Origin;

/// The meaning of the recorded state for a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Whether nothing was recorded before.
    pub is_first: bool,
    /// Whether the record was made with another layout.
    pub layout_changed: bool,
    /// Whether the first full scan records projects without events.
    pub adopts: bool,
}

impl Start {
    /// Decides by the recorded values of [`FirstStart`](crate::store::MetaKey::FirstStart) and
    /// [`Layout`](crate::store::MetaKey::Layout).
    pub(crate) fn judge(
        first_start: Option<&str>,
        layout: Option<&str>,
        repository: &Repository,
    ) -> Self {
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

/// A phase of the engine. Each but the last ends when a full scan is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first full scan since the start; with `adopting` it records projects without events.
    Starting {
        adopting: bool,
    },
    /// The first full scan under a new layout; it records projects without events.
    Adopting,
    Running,
}

impl Phase {
    /// The phase after `repository.layout` changed.
    pub(super) fn with_new_layout(self) -> Self {
        match self {
            Phase::Starting { .. } => Phase::Starting { adopting: true },
            Phase::Adopting | Phase::Running => Phase::Adopting,
        }
    }

    /// Whether projects are recorded without events.
    pub(super) fn is_adopting(self) -> bool {
        matches!(self, Phase::Starting { adopting: true } | Phase::Adopting)
    }

    /// Whether the first full scan since the start is not recorded yet.
    pub(super) fn is_starting(self) -> bool {
        matches!(self, Phase::Starting { .. })
    }

    /// The origin of events that a full scan finds.
    pub(super) fn origin(self) -> Origin {
        if self.is_starting() {
            Origin::CatchUp
        } else {
            Origin::Live
        }
    }

    /// The number of projects that are observed for one commit.
    ///
    /// A start reads whole projects, and memory that was used once stays with the process.
    pub(super) fn batch(self) -> usize {
        if self.is_starting() { 32 } else { 256 }
    }
}
