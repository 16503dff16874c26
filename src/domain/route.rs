//! Which webhooks hear of an event.

use std::collections::BTreeSet;

use globset::GlobSet;

use super::event::EventKind;
use super::project::ProjectKey;

/// What one webhook wants to hear of.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The webhook's name.
    pub webhook: String,
    /// The events it wants.
    pub events: BTreeSet<EventKind>,
    /// The projects it wants, as `organization/project`; all where absent.
    pub projects: Option<GlobSet>,
}

impl Subscription {
    /// Whether this event of this project is wanted.
    pub fn wants(&self, kind: EventKind, key: &ProjectKey) -> bool {
        self.events.contains(&kind)
            && self
                .projects
                .as_ref()
                .is_none_or(|projects| projects.is_match(key.to_string()))
    }
}

/// The names of the webhooks that hear of this event, in the order of the configuration.
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
