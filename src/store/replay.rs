//! Selects the recorded events of a replay.
//!
//! If the webhook already has a delivery of a selected event, that delivery is redelivered. Any
//! other selected event gets a new delivery. Both kinds of deliveries go to the current lane of the
//! project.

use std::collections::BTreeSet;

use super::error::Fault;
use super::values;
use crate::domain::event::{EventKind, Parameter};
use crate::domain::project::ProjectKey;
use crate::domain::route::{Interest, Properties, Subscription};

/// The maximum number of events that one transaction reads.
pub(super) const READ_MAX: usize = 10_000;

/// A range of events by their sequence numbers.
pub(super) struct Range {
    /// The range has events after this sequence number. Sequence numbers begin at 1.
    pub(super) after: i64,
    pub(super) last: i64,
    /// The current keys of projects with an earlier event that the webhook receives.
    ///
    /// The webhook also receives their events with [`Interest::IfHeard`]. Empty if the webhook has
    /// no filters.
    heard: BTreeSet<ProjectKey>,
}

impl Range {
    /// Returns the range of all events up to this one.
    pub(super) fn up_to(last: i64) -> Self {
        Self {
            after: 0,
            last,
            heard: BTreeSet::new(),
        }
    }
}

/// A recorded event that the replay may select.
pub(super) struct Candidate {
    pub(super) sequence: i64,
    /// The delivery of the event to the webhook, if there is one.
    pub(super) delivery: Option<i64>,
    pub(super) kind: String,
    pub(super) key: ProjectKey,
    /// The parameters in JSON, if the webhook filters by parameters.
    pub(super) parameters: Option<String>,
    /// Whether the event matches the replay's conditions on project and time.
    pub(super) is_in_range: bool,
}

/// Selected events in the order of recording.
#[derive(Default)]
pub(super) struct Found {
    /// The sequence number of each event, with its delivery to the webhook if any.
    pub(super) events: Vec<(i64, Option<i64>)>,
    /// The last event that was read. `None` if no event was left.
    pub(super) last: Option<i64>,
}

impl Found {
    /// Keeps only events with one of these sequence numbers, which must be sorted.
    pub(super) fn retain(&mut self, counted: &[i64]) {
        self.events
            .retain(|(sequence, _)| counted.binary_search(sequence).is_ok());
    }

    /// Adds an event if the replay selects it.
    ///
    /// `lane_of` returns the current key of the event's project.
    pub(super) fn add(
        &mut self,
        range: &mut Range,
        subscription: &Subscription,
        candidate: Candidate,
        lane_of: impl FnOnce(ProjectKey) -> Result<ProjectKey, Fault>,
    ) -> Result<(), Fault> {
        let Candidate {
            sequence,
            delivery,
            key,
            is_in_range,
            ..
        } = candidate;
        self.last = Some(sequence);
        let has_filter = subscription.has_filter();
        if !is_in_range && (delivery.is_none() || !has_filter) {
            return Ok(());
        }
        let kind = values::word("the event's kind", &candidate.kind, EventKind::from_name)?;
        let parameters: Vec<(Parameter, String)> = match &candidate.parameters {
            Some(json) => values::from_json("the event's parameters", json)?,
            None => Vec::new(),
        };
        let interest = subscription.interest(Properties {
            kind,
            key: &key,
            parameters: &parameters,
        });
        let lane = has_filter.then(|| lane_of(key)).transpose()?;
        let is_heard = lane.as_ref().is_some_and(|lane| range.heard.contains(lane));
        let is_selected = delivery.is_some()
            || match interest {
                Interest::Yes => true,
                Interest::IfHeard(_) => is_heard,
                Interest::No(_) => false,
            };
        match lane {
            // The delete of a project may be two events, so the first must not remove the lane from
            // `heard`. A later import removes the lane, unless the replay selects that import.
            Some(lane) if kind.is_import() && !is_selected => drop(range.heard.remove(&lane)),
            Some(lane) if is_selected && !kind.is_delete() => drop(range.heard.insert(lane)),
            _ => {}
        }
        if is_in_range && is_selected {
            self.events.push((sequence, delivery));
        }
        Ok(())
    }
}
