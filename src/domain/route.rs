//! Selects the webhooks that receive an event.

use std::collections::BTreeSet;

use globset::GlobSet;

use super::event::EventKind;
use super::project::ProjectKey;

/// A webhook's events and projects.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The webhook's name.
    pub webhook: String,
    /// The events that it receives.
    pub events: BTreeSet<EventKind>,
    /// The projects that it receives, as `organization/project`; all if absent.
    pub projects: Option<GlobSet>,
}

impl Subscription {
    /// Whether the webhook receives this event of this project.
    pub fn wants(&self, kind: EventKind, key: &ProjectKey) -> bool {
        self.events.contains(&kind)
            && self
                .projects
                .as_ref()
                .is_none_or(|projects| projects.is_match(key.to_string()))
    }
}

/// Returns the names of the webhooks that receive an event, in the order of the configuration.
pub fn route<'a>(
    subscriptions: &'a [Subscription],
    kind: EventKind,
    key: &ProjectKey,
) -> impl Iterator<Item = &'a str> {
    subscriptions
        .iter()
        .filter(move |subscription| subscription.wants(kind, key))
        .map(|subscription| subscription.webhook.as_str())
}
