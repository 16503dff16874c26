//! Selects the webhooks that receive an event.

use std::collections::BTreeSet;

use globset::GlobSet;

use super::event::{Event, EventKind, Parameter};
use super::names::composed;
use super::project::ProjectKey;

/// The events that a webhook subscribes to, and its filters.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The name of the webhook.
    pub webhook: String,
    /// The events that the webhook receives.
    pub events: BTreeSet<EventKind>,
    /// The globs that select the webhook's projects, in the composed form. `None` selects all.
    pub projects: Option<GlobSet>,
    /// The repositories whose events the webhook receives. `None` selects all.
    pub repositories: Option<BTreeSet<String>>,
    /// The filters of parameters. An event must pass all of them.
    ///
    /// [`Interest::IfHeard`] describes an exception for deletes.
    pub when: Vec<(Parameter, ValueFilter)>,
}

/// A filter of the values of one parameter. Its globs are in the composed form.
#[derive(Clone, Debug, Default)]
pub struct ValueFilter {
    /// A value must match one of these globs. `None` selects all values.
    pub included: Option<GlobSet>,
    /// A value must match none of these globs.
    pub excluded: GlobSet,
}

impl ValueFilter {
    /// Whether the filter selects this value.
    pub fn selects(&self, value: &str) -> bool {
        let value = &*composed(value);
        let included = self.included.as_ref();
        included.is_none_or(|globs| globs.is_match(value)) && !self.excluded.is_match(value)
    }
}

/// The properties of an event that decide which webhooks receive it.
#[derive(Clone, Copy, Debug)]
pub struct Properties<'a> {
    /// The kind of event.
    pub kind: EventKind,
    /// The project of the event.
    pub key: &'a ProjectKey,
    /// The parameters of the event.
    pub parameters: &'a [(Parameter, String)],
}

impl<'a> From<&'a Event> for Properties<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            kind: event.kind,
            key: &event.key,
            parameters: &event.parameters,
        }
    }
}

/// Whether a webhook receives an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// The webhook receives the event.
    Yes,
    /// The webhook receives the event only if it received an earlier event of the project.
    ///
    /// The event is a delete that the filters do not select, or a move to a path that `projects` or
    /// `repositories` does not select. Without this event, the receiver would keep a project that
    /// was deleted, or keep it at its old path. A move that `when` does not select is
    /// [`Interest::No`].
    IfHeard(Mismatch),
    /// The webhook does not receive the event.
    No(Mismatch),
}

/// The part of a subscription that does not select an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The webhook does not subscribe to the event.
    Event,
    /// `projects` does not select the project.
    Project,
    /// `repositories` does not select the repository.
    Repository,
    /// `when` does not select the value of this parameter.
    Value(Parameter),
}

impl Subscription {
    /// Returns whether the webhook receives this event.
    pub fn interest(&self, event: Properties<'_>) -> Interest {
        let Properties { kind, key, .. } = event;
        if !self.events.contains(&kind) {
            return Interest::No(Mismatch::Event);
        }
        match (self.unselected_value(event), self.unselected_place(key)) {
            (None, None) => Interest::Yes,
            (Some(parameter), _) if !kind.is_delete() => Interest::No(Mismatch::Value(parameter)),
            (Some(parameter), None) => Interest::IfHeard(Mismatch::Value(parameter)),
            (_, Some(place)) if kind.is_delete() || kind == EventKind::ProjectMove => {
                Interest::IfHeard(place)
            }
            (_, Some(place)) => Interest::No(place),
        }
    }

    /// Whether the webhook has filters in addition to its list of events.
    pub(crate) fn has_filter(&self) -> bool {
        self.projects.is_some() || self.repositories.is_some() || !self.when.is_empty()
    }

    /// Whether the webhook may receive this opt-in event. Ignores the parameters.
    ///
    /// The event is recorded only if there is such a webhook.
    pub fn may_receive(&self, kind: EventKind, key: &ProjectKey) -> bool {
        self.events.contains(&kind)
            && (kind == EventKind::ProjectMove || self.unselected_place(key).is_none())
    }

    /// Returns the first setting that does not select the project, if any.
    fn unselected_place(&self, key: &ProjectKey) -> Option<Mismatch> {
        let is_heard = |name: &str| {
            let repositories = self.repositories.as_ref();
            repositories.is_none_or(|repositories| repositories.contains(name))
        };
        if !key.repository().is_none_or(is_heard) {
            return Some(Mismatch::Repository);
        }
        let projects = self.projects.as_ref();
        let is_selected =
            projects.is_none_or(|projects| projects.is_match(&*composed(&key.path())));
        (!is_selected).then_some(Mismatch::Project)
    }

    /// Returns the first parameter whose value `when` does not select.
    ///
    /// An event without the parameter passes the filter.
    fn unselected_value(&self, event: Properties<'_>) -> Option<Parameter> {
        let mut filters = self.when.iter();
        let is_unselected = |(filtered, filter): &&(Parameter, ValueFilter)| {
            let mut parameters = event.parameters.iter();
            let found = parameters.find(|(parameter, _)| parameter == filtered);
            found.is_some_and(|(_, value)| !filter.selects(value))
        };
        filters.find(is_unselected).map(|(parameter, _)| *parameter)
    }
}

/// Returns the names of the webhooks that receive an event, in the configured order.
///
/// `heard` has the webhooks that earlier events of the project were routed to.
pub fn route<'a>(
    subscriptions: &'a [Subscription],
    event: Properties<'a>,
    heard: &BTreeSet<String>,
) -> impl Iterator<Item = &'a str> {
    subscriptions
        .iter()
        .filter(move |subscription| match subscription.interest(event) {
            Interest::Yes => true,
            Interest::IfHeard(_) => heard.contains(&subscription.webhook),
            Interest::No(_) => false,
        })
        .map(|subscription| subscription.webhook.as_str())
}
