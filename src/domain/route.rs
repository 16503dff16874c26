//! Selects the webhooks that receive an event.

use std::collections::BTreeSet;

use globset::GlobSet;

use super::event::EventKind;
use super::names::composed;
use super::project::ProjectKey;

/// The events and projects that a webhook subscribes to.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The name of the webhook.
    pub webhook: String,
    /// The events that the webhook receives.
    pub events: BTreeSet<EventKind>,
    /// The globs that select its projects, in the composed form. `None` selects all.
    pub projects: Option<GlobSet>,
}

/// Whether a webhook receives an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// The webhook receives the event.
    Yes,
    /// The webhook receives the event if an earlier event of the project was routed to it.
    ///
    /// The event is a delete or a move, and the current name of the project does not match
    /// `projects`. The project may have had a matching name before.
    IfHeard,
    /// The webhook does not receive the event.
    No,
}

impl Subscription {
    /// Returns whether the webhook receives this event of this project.
    pub fn interest(&self, kind: EventKind, key: &ProjectKey) -> Interest {
        if !self.events.contains(&kind) {
            return Interest::No;
        }
        let is_selected = self
            .projects
            .as_ref()
            .is_none_or(|projects| projects.is_match(&*composed(&key.to_string())));
        match (
            is_selected,
            kind.is_delete() || kind == EventKind::ProjectMove,
        ) {
            (true, _) => Interest::Yes,
            (false, true) => Interest::IfHeard,
            (false, false) => Interest::No,
        }
    }

    /// Whether the webhook receives this event, independent of earlier events.
    pub fn wants(&self, kind: EventKind, key: &ProjectKey) -> bool {
        self.interest(kind, key) == Interest::Yes
    }
}

/// Returns the names of the webhooks that receive an event, in the order of the configuration.
///
/// `heard` has the webhooks that an earlier event of the project was routed to.
pub fn route<'a>(
    subscriptions: &'a [Subscription],
    kind: EventKind,
    key: &ProjectKey,
    heard: &BTreeSet<String>,
) -> impl Iterator<Item = &'a str> {
    subscriptions
        .iter()
        .filter(move |subscription| match subscription.interest(kind, key) {
            Interest::Yes => true,
            Interest::IfHeard => heard.contains(&subscription.webhook),
            Interest::No => false,
        })
        .map(|subscription| subscription.webhook.as_str())
}
