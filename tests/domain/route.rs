//! The webhooks that receive an event.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet};
use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::domain::route::{Subscription, route};

fn subscription(webhook: &str, events: &[EventKind], projects: Option<&[&str]>) -> Subscription {
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
fn an_event_goes_to_subscribed_webhooks_in_configuration_order() {
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
        let found: Vec<&str> = route(&subscriptions, kind, &key, &BTreeSet::new()).collect();
        assert_eq!(found, expected, "{kind} of {key}");
    }
}

#[test]
fn without_webhooks_an_event_goes_nowhere() {
    let key = ProjectKey::new("sales", "orders");
    assert_eq!(
        route(&[], EventKind::ProjectImport, &key, &BTreeSet::new()).count(),
        0
    );
}

#[test]
fn a_delete_goes_also_to_a_webhook_that_heard_of_the_project_under_another_name() {
    let subscriptions = [
        subscription("exact", &EventKind::ALL, Some(&["sales/orders"])),
        subscription("other", &EventKind::ALL, Some(&["sales/other"])),
        subscription("imports", &[EventKind::ProjectImport], Some(&["*/*"])),
    ];
    let renamed = ProjectKey::new("sales", "renamed");
    let heard = ["exact".to_owned(), "imports".to_owned()].into();
    for (kind, expected) in [
        (EventKind::ProjectDelete, &["exact"][..]),
        (EventKind::ProjectDeleteAndUnpublish, &["exact"]),
        (EventKind::ProjectPublish, &[]),
    ] {
        let found: Vec<&str> = route(&subscriptions, kind, &renamed, &heard).collect();
        assert_eq!(found, expected, "{kind}");
    }
}
