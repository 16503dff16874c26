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

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;

    use super::*;

    fn subscription(
        webhook: &str,
        events: &[EventKind],
        projects: Option<&[&str]>,
    ) -> Subscription {
        Subscription {
            webhook: webhook.to_owned(),
            events: events.iter().copied().collect(),
            projects: projects.map(|patterns| {
                let globs = patterns.iter().filter_map(|pattern| {
                    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
                    glob.ok()
                });
                let set = globs.fold(GlobSet::builder(), |mut set, glob| {
                    set.add(glob);
                    set
                });
                set.build().unwrap_or_default()
            }),
        }
    }

    #[test]
    fn an_event_goes_to_those_who_want_it_in_the_order_of_the_configuration() {
        use EventKind::{ProjectDelete, ProjectImport, ProjectImportAny, ProjectPublish};
        let subscriptions = [
            subscription("publishes", &[ProjectPublish], None),
            subscription("everything", &EventKind::ALL, None),
            subscription(
                "sales",
                &[ProjectPublish, ProjectDelete],
                Some(&["sales/*"]),
            ),
            subscription("two", &[ProjectPublish], Some(&["hr/payroll", "*/orders"])),
            subscription("orders", &[ProjectImport], Some(&["sales/orders"])),
            subscription("nowhere", &[ProjectPublish], Some(&[])),
            subscription("silent", &[], None),
        ];
        let table: [(EventKind, &str, &str, &[&str]); 7] = [
            (
                ProjectPublish,
                "sales",
                "orders",
                &["publishes", "everything", "sales", "two"],
            ),
            (
                ProjectPublish,
                "sales",
                "leads",
                &["publishes", "everything", "sales"],
            ),
            (
                ProjectPublish,
                "hr",
                "payroll",
                &["publishes", "everything", "two"],
            ),
            (ProjectDelete, "sales", "orders", &["everything", "sales"]),
            (ProjectImport, "sales", "orders", &["everything", "orders"]),
            (ProjectImport, "sales", "leads", &["everything"]),
            (ProjectImportAny, "sales", "orders", &["everything"]),
        ];
        for (kind, organization, project, expected) in table {
            let key = ProjectKey::new(organization, project);
            let found: Vec<&str> = route(&subscriptions, kind, &key).collect();
            assert_eq!(found, expected, "{kind} of {key}");
        }
    }

    #[test]
    fn without_webhooks_an_event_goes_nowhere() {
        let key = ProjectKey::new("sales", "orders");
        assert_eq!(route(&[], EventKind::ProjectImport, &key).count(), 0);
    }
}
