//! Which callbacks came of those that had to.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use super::script::actions;
use crate::cli::output::between;
use crate::domain::event::EventKind;
use crate::receiver::{Received, Signature};

/// A callback that came.
#[derive(Debug)]
pub struct Arrival {
    /// What came.
    pub received: Received,
    /// Which of the callbacks that had to come it is.
    pub expected: Option<(EventKind, &'static str)>,
    /// The time from the last file operation to its arrival.
    pub latency: Option<Duration>,
}

impl Arrival {
    /// What came, and which of the callbacks that are waited for it is: that one is waited for no
    /// more. `done` is when the last file operation ended.
    pub fn of(
        received: Received,
        waiting: &mut Vec<(EventKind, &'static str)>,
        done: Timestamp,
    ) -> Self {
        let place = waiting.iter().position(|(kind, project)| {
            kind.as_str() == received.event && received.parameter("projectName") == Some(project)
        });
        let expected = place.map(|place| waiting.remove(place));
        Self {
            latency: expected.map(|_| between(done, received.at)),
            received,
            expected,
        }
    }
}

/// The score.
#[derive(Debug, Default)]
pub struct Outcome {
    arrivals: Vec<(EventKind, Duration, bool)>,
    /// What did not come in time.
    pub missing: Vec<(EventKind, &'static str)>,
    n_unexpected: usize,
}

/// What came of one event.
#[derive(Debug)]
pub struct Row {
    /// The event.
    pub kind: EventKind,
    /// How many callbacks had to come.
    pub n_expected: usize,
    /// How many came.
    pub n_arrived: usize,
    /// How many of these were signed rightly.
    pub n_verified: usize,
    /// The longest time from file to callback.
    pub latency_max: Option<Duration>,
}

impl Outcome {
    /// Notes a callback.
    pub fn note(&mut self, arrival: &Arrival) {
        match (arrival.expected, arrival.latency) {
            (Some((kind, _)), Some(latency)) => self.arrivals.push((
                kind,
                latency,
                arrival.received.signature == Signature::Verified,
            )),
            _ => self.n_unexpected = self.n_unexpected.saturating_add(1),
        }
    }

    /// Each event with what came of it, in the order in which the actions lead to them.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let expected: Vec<EventKind> = actions()
            .into_iter()
            .flat_map(|action| action.callbacks)
            .map(|(kind, _)| kind)
            .collect();
        let mut known = HashSet::new();
        let kinds: Vec<EventKind> = expected
            .iter()
            .copied()
            .filter(|kind| known.insert(*kind))
            .collect();
        kinds.into_iter().map(move |kind| {
            let came = || self.arrivals.iter().filter(move |(k, _, _)| *k == kind);
            Row {
                kind,
                n_expected: expected.iter().filter(|k| **k == kind).count(),
                n_arrived: came().count(),
                n_verified: came().filter(|(_, _, verified)| *verified).count(),
                latency_max: came().map(|(_, latency, _)| *latency).max(),
            }
        })
    }

    /// How many callbacks had to come, and how many did.
    pub fn counts(&self) -> (usize, usize) {
        self.rows().fold((0, 0), |(expected, arrived), row| {
            (
                expected.saturating_add(row.n_expected),
                arrived.saturating_add(row.n_arrived),
            )
        })
    }

    /// Whether everything came that had to, signed, and nothing else.
    pub fn is_complete(&self) -> bool {
        self.n_unexpected == 0
            && self
                .rows()
                .all(|row| row.n_arrived == row.n_expected && row.n_verified == row.n_expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_complete_only_when_all_came_signed_and_nothing_else() {
        let mut outcome = Outcome::default();
        assert!(!outcome.is_complete());
        for action in actions() {
            for (kind, _) in action.callbacks {
                outcome.arrivals.push((kind, Duration::ZERO, true));
            }
        }
        assert!(outcome.is_complete());
        outcome.n_unexpected = 1;
        assert!(!outcome.is_complete());
        outcome.n_unexpected = 0;
        outcome.arrivals[0].2 = false;
        assert!(!outcome.is_complete());
        outcome.arrivals.remove(0);
        assert!(!outcome.is_complete());
    }
}
