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

/// Whether a webhook receives an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// It does.
    Yes,
    /// It does if it was to receive an earlier event of the project.
    ///
    /// This is the delete of a project whose present name is not one of the webhook's: it had
    /// another name before.
    IfHeard,
    /// It does not.
    No,
}

impl Subscription {
    /// Returns whether the webhook receives this event of the project with this key.
    pub fn interest(&self, kind: EventKind, key: &ProjectKey) -> Interest {
        if !self.events.contains(&kind) {
            return Interest::No;
        }
        let is_selected = self
            .projects
            .as_ref()
            .is_none_or(|projects| projects.is_match(key.to_string()));
        match (is_selected, kind.is_delete()) {
            (true, _) => Interest::Yes,
            (false, true) => Interest::IfHeard,
            (false, false) => Interest::No,
        }
    }

    /// Whether the webhook receives this event, whatever it received before.
    pub fn wants(&self, kind: EventKind, key: &ProjectKey) -> bool {
        self.interest(kind, key) == Interest::Yes
    }
}

/// Returns the names of the webhooks that receive an event, in the order of the configuration.
///
/// `heard` are those that were to receive an earlier event of the project.
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
