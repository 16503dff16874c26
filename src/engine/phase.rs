//! The phase of the engine: starting, adopting or running.

use crate::config::{FirstStart, Repository};
use crate::domain::event::Origin;

/// The kind of a start, by the recorded state and the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Whether no full scan was ever recorded.
    pub is_first: bool,
    /// Whether the recorded layout differs from the configured layout.
    pub layout_changed: bool,
    /// Whether the first full scan records projects without events.
    pub adopts: bool,
}

impl Start {
    /// Compares the recorded values with the configuration.
    ///
    /// The values are [`FirstStart`](crate::store::MetaKey::FirstStart) and
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

/// A phase of the engine. Every phase except `Running` ends when a full scan is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first full scan since the start is not recorded yet.
    Starting {
        /// Whether projects are recorded without events.
        adopting: bool,
        /// Whether no full scan was ever recorded.
        is_first: bool,
    },
    /// The first full scan with a new layout is not recorded yet.
    ///
    /// Projects are recorded without events.
    Adopting,
    Running,
}

impl Phase {
    /// The phase after `repository.layout` changed.
    pub(super) fn with_new_layout(self) -> Self {
        match self {
            Phase::Starting { is_first, .. } => Phase::Starting {
                adopting: true,
                is_first,
            },
            Phase::Adopting | Phase::Running => Phase::Adopting,
        }
    }

    /// Whether projects are recorded without events.
    pub(super) fn is_adopting(self) -> bool {
        matches!(
            self,
            Phase::Starting { adopting: true, .. } | Phase::Adopting
        )
    }

    /// Whether the first full scan since the start is not recorded yet.
    pub(super) fn is_starting(self) -> bool {
        matches!(self, Phase::Starting { .. })
    }

    /// Whether no full scan was ever recorded.
    pub(super) fn is_first_start(self) -> bool {
        matches!(self, Phase::Starting { is_first: true, .. })
    }

    /// The origin of the events that a full scan causes.
    pub(super) fn origin(self) -> Origin {
        if self.is_starting() {
            Origin::CatchUp
        } else {
            Origin::Live
        }
    }

    /// The maximum number of due projects in one step.
    ///
    /// A start may read all files of each project, and the process does not return memory to the
    /// system. So the number is lower during a start.
    pub(super) fn batch(self) -> usize {
        if self.is_starting() { 32 } else { 256 }
    }
}
