//! The model of the filter `when`: which events a webhook receives.
//!
//! The real rule selects by globs on parameters. The model selects by the facts from which the
//! parameters are made. A webhook that received an event of a project receives its delete.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use globset::{Glob, GlobSet};
use project_webhooks::domain::event::{EventKind, InferredEvent, Parameter};
use project_webhooks::domain::route::{Subscription, ValueFilter};

use crate::world::PLACES;

/// Whether the webhooks subscribe to an event. Of the two events of an import they name both in some
/// places, and one in the others, as by default.
fn is_named(kind: EventKind, at: usize) -> bool {
    kind != EventKind::ProjectImport || at.is_multiple_of(3)
}

/// Whether a service made the change, and not a person.
fn is_by_service(event: &InferredEvent) -> bool {
    event.payload().0[0].is_multiple_of(2)
}

/// The parameters of an event that filters select by.
pub fn parameters(event: &InferredEvent) -> Vec<(Parameter, String)> {
    let username = if is_by_service(event) {
        "svc-build"
    } else {
        "ann"
    };
    let tag = event.subject.tag.clone();
    let mut parameters = vec![(Parameter::Username, username.to_owned())];
    parameters.extend(tag.map(|tag| (Parameter::VersionTag, tag)));
    parameters
}

/// The filters of a webhook with `when`. Compiling globs takes longer than recording an event.
static FILTERS: LazyLock<Vec<(Parameter, ValueFilter)>> = LazyLock::new(|| {
    let excluded = |glob: &str| {
        let mut globs = GlobSet::builder();
        globs.add(Glob::new(glob).unwrap());
        ValueFilter {
            included: None,
            excluded: globs.build().unwrap(),
        }
    };
    vec![
        (Parameter::Username, excluded("svc-*")),
        (Parameter::VersionTag, excluded("*1")),
    ]
});

/// Which events a webhook receives, by the rule and by the model.
pub struct Filter {
    has_when: bool,
    /// The subscription for the events of each place.
    subscriptions: Vec<Subscription>,
    /// The places whose project had an event that was routed to the webhook.
    heard: BTreeSet<usize>,
}

impl Filter {
    pub fn new(webhook: &str, has_when: bool) -> Self {
        let subscription = |at| {
            let named = EventKind::ALL
                .into_iter()
                .filter(|kind| is_named(*kind, at));
            Subscription {
                repositories: None,
                webhook: webhook.to_owned(),
                events: named.collect(),
                projects: None,
                when: FILTERS.iter().filter(|_| has_when).cloned().collect(),
            }
        };
        Self {
            has_when,
            subscriptions: (0..PLACES.len()).map(subscription).collect(),
            heard: BTreeSet::new(),
        }
    }

    /// The subscription for the events of a place.
    pub fn subscription(&self, at: usize) -> &Subscription {
        &self.subscriptions[at]
    }

    /// Whether the webhook receives this event of a project that it knows nothing of.
    fn selects(&self, at: usize, event: &InferredEvent) -> bool {
        let path = &event.subject.path;
        let is_second = path.contains("/v1/") || path.ends_with("/s1.xml");
        is_named(event.kind, at) && !(self.has_when && (is_by_service(event) || is_second))
    }

    /// Takes moved projects from their former places. Returns the new places of known ones.
    pub fn leave(&mut self, moves: &[(usize, usize)]) -> BTreeSet<usize> {
        let known = moves.iter().filter(|(from, _)| self.heard.contains(from));
        let arriving = known.map(|(_, to)| *to).collect();
        for (from, _) in moves {
            self.heard.remove(from);
        }
        arriving
    }

    /// Returns whether the webhook receives each of the events of a change.
    ///
    /// `arrives` says whether a project that it knows moved to this place. `kept` says whether the
    /// record has a deleted project before and after the change.
    pub fn receives(
        &mut self,
        at: usize,
        events: &[InferredEvent],
        is_configured: bool,
        mut arrives: bool,
        kept: (bool, bool),
    ) -> Vec<bool> {
        let mut is_deleted = kept == (true, false);
        let mut received = Vec::new();
        for event in events {
            let is_delete = matches!(
                event.kind,
                EventKind::ProjectDelete | EventKind::ProjectDeleteAndUnpublish
            );
            if !is_delete {
                self.end_of_project(at, &mut is_deleted, &mut arrives);
            }
            is_deleted |= is_delete && !kept.1;
            let is_known = is_delete && self.heard.contains(&at);
            let is_received = is_configured && (self.selects(at, event) || is_known);
            if is_received && !is_delete {
                self.heard.insert(at);
            }
            received.push(is_received);
        }
        self.end_of_project(at, &mut is_deleted, &mut arrives);
        received
    }

    /// Forgets a deleted project, and takes the one that moved to its place.
    fn end_of_project(&mut self, at: usize, is_deleted: &mut bool, arrives: &mut bool) {
        if std::mem::take(is_deleted) {
            self.heard.remove(&at);
        }
        if std::mem::take(arrives) {
            self.heard.insert(at);
        }
    }
}
