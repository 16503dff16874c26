//! The webhooks that receive an event.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet};
use project_webhooks::domain::event::{EventKind, Parameter};
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::domain::route::{
    Interest, Mismatch, Properties, Subscription, ValueFilter, route,
};
use proptest::prelude::*;

fn subscription(webhook: &str, events: &[EventKind], projects: Option<&[&str]>) -> Subscription {
    Subscription {
        repositories: None,
        webhook: webhook.to_owned(),
        events: events.iter().copied().collect(),
        projects: projects.map(|patterns| globs(patterns, true)),
        when: Vec::new(),
    }
}

fn globs(patterns: &[&str], literal_separator: bool) -> GlobSet {
    let mut set = GlobSet::builder();
    for pattern in patterns {
        let mut glob = GlobBuilder::new(pattern);
        set.add(glob.literal_separator(literal_separator).build().unwrap());
    }
    set.build().unwrap()
}

/// A filter by patterns as the configuration writes them.
fn filter(patterns: &[&str]) -> ValueFilter {
    let excluded = patterns.iter().filter_map(|text| text.strip_prefix('!'));
    let included = patterns.iter().filter(|text| !text.starts_with('!'));
    let included: Vec<&str> = included.copied().collect();
    ValueFilter {
        included: (!included.is_empty()).then(|| globs(&included, false)),
        excluded: globs(&excluded.collect::<Vec<_>>(), false),
    }
}

fn of<'a>(
    kind: EventKind,
    key: &'a ProjectKey,
    parameters: &'a [(Parameter, String)],
) -> Properties<'a> {
    Properties {
        kind,
        key,
        parameters,
    }
}

/// The parameters of an event by this user and with this tag, if the event has one.
fn parameters(kind: EventKind, username: &str, tag: &str) -> Vec<(Parameter, String)> {
    let value = |parameter| match parameter {
        Parameter::Username => username.to_owned(),
        Parameter::VersionTag => tag.to_owned(),
        _ => "another".to_owned(),
    };
    let names = kind.parameters().iter();
    names.map(|name| (*name, value(*name))).collect()
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
        let found: Vec<&str> =
            route(&subscriptions, of(kind, &key, &[]), &BTreeSet::new()).collect();
        assert_eq!(found, expected, "{kind} of {key}");
    }
}

#[test]
fn without_webhooks_an_event_goes_nowhere() {
    let key = ProjectKey::new("sales", "orders");
    assert_eq!(
        route(
            &[],
            of(EventKind::ProjectImport, &key, &[]),
            &BTreeSet::new()
        )
        .count(),
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
        let found: Vec<&str> = route(&subscriptions, of(kind, &renamed, &[]), &heard).collect();
        assert_eq!(found, expected, "{kind}");
    }
}

#[test]
fn a_filter_selects_values() {
    let table: [(&[&str], &str, bool); 15] = [
        (&["release-*"], "release-1", true),
        (&["release-*"], "draft-1", false),
        (&["release-*"], "Release-1", false),
        (&["release-*"], "release-2026/11", true),
        (&["release-*", "v?"], "v2", true),
        (&["!svc-*"], "alice", true),
        (&["!svc-*"], "svc-sync", false),
        (&["!svc-*"], "", true),
        (&["?*"], "", false),
        (&["svc-*", "!svc-test"], "svc-sync", true),
        (&["svc-*", "!svc-test"], "svc-test", false),
        (&["!svc-test", "svc-*"], "svc-test", false),
        (&["svc-*", "!svc-test"], "alice", false),
        (&["jos\u{e9}"], "jose\u{301}", true),
        (&["!jos\u{e9}"], "jose\u{301}", false),
    ];
    for (patterns, value, expected) in table {
        assert_eq!(
            filter(patterns).selects(value),
            expected,
            "{patterns:?} {value:?}"
        );
    }
}

#[test]
fn when_selects_events_by_their_parameters() {
    use EventKind::{ProjectDelete, ProjectImport, ProjectMove, ProjectPublish, SnapshotRestore};
    let with = |when: &[(Parameter, &[&str])]| Subscription {
        when: when
            .iter()
            .map(|(parameter, patterns)| (*parameter, filter(patterns)))
            .collect(),
        ..subscription("catalog", &EventKind::ALL, Some(&["sales/*"]))
    };
    let people = with(&[(Parameter::Username, &["!svc-*"])]);
    let releases = with(&[(Parameter::VersionTag, &["release-*"])]);
    let both = with(&[
        (Parameter::Username, &["!svc-*"]),
        (Parameter::VersionTag, &["release-*"]),
    ]);
    let user = Mismatch::Value(Parameter::Username);
    let tag = Mismatch::Value(Parameter::VersionTag);
    let (sales, other) = ("sales/orders", "hr/payroll");
    let table = [
        (&people, ProjectPublish, sales, "alice", "x", Interest::Yes),
        (
            &people,
            ProjectPublish,
            sales,
            "svc-a",
            "x",
            Interest::No(user),
        ),
        (
            &people,
            ProjectImport,
            sales,
            "svc-a",
            "",
            Interest::No(user),
        ),
        (&people, ProjectMove, sales, "svc-a", "", Interest::No(user)),
        // The receiver of an import has to learn of the delete, whoever deletes.
        (
            &people,
            ProjectDelete,
            sales,
            "svc-a",
            "",
            Interest::IfHeard(user),
        ),
        (
            &people,
            ProjectDelete,
            other,
            "svc-a",
            "",
            Interest::IfHeard(Mismatch::Project),
        ),
        (&people, ProjectMove, other, "svc-a", "", Interest::No(user)),
        (
            &people,
            ProjectMove,
            other,
            "alice",
            "",
            Interest::IfHeard(Mismatch::Project),
        ),
        (
            &people,
            ProjectImport,
            other,
            "alice",
            "",
            Interest::No(Mismatch::Project),
        ),
        (
            &releases,
            ProjectPublish,
            sales,
            "svc-a",
            "release-1",
            Interest::Yes,
        ),
        (
            &releases,
            ProjectPublish,
            sales,
            "svc-a",
            "draft",
            Interest::No(tag),
        ),
        // Without the parameter there is nothing to filter.
        (&releases, ProjectImport, sales, "svc-a", "", Interest::Yes),
        (
            &releases,
            SnapshotRestore,
            sales,
            "svc-a",
            "",
            Interest::Yes,
        ),
        (&releases, ProjectDelete, sales, "svc-a", "", Interest::Yes),
        (
            &both,
            ProjectPublish,
            sales,
            "alice",
            "release-1",
            Interest::Yes,
        ),
        (
            &both,
            ProjectPublish,
            sales,
            "svc-a",
            "release-1",
            Interest::No(user),
        ),
        (
            &both,
            ProjectPublish,
            sales,
            "alice",
            "draft",
            Interest::No(tag),
        ),
    ];
    for (subscription, kind, key, username, version, expected) in table {
        let (organization, project) = key.split_once('/').unwrap();
        let key = ProjectKey::new(organization, project);
        let parameters = parameters(kind, username, version);
        let found = subscription.interest(of(kind, &key, &parameters));
        assert_eq!(found, expected, "{kind} of {key} by {username}, {version}");
    }
}

fn patterns() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("!?[ab?*]{1,3}", 1..4)
}

proptest! {
    /// A filter only takes events away, and never the delete of a project that was heard of.
    #[test]
    fn when_only_takes_away(
        kind in prop::sample::select(EventKind::ALL.to_vec()),
        is_selected: bool,
        is_heard: bool,
        username in "[ab]{0,3}",
        version in "[ab]{0,3}",
        names in patterns(),
        tags in patterns(),
    ) {
        let key = ProjectKey::new(if is_selected { "sales" } else { "hr" }, "orders");
        let without = subscription("catalog", &EventKind::ALL, Some(&["sales/*"]));
        let (names, tags): (Vec<&str>, Vec<&str>) = (
            names.iter().map(String::as_str).collect(),
            tags.iter().map(String::as_str).collect(),
        );
        let filters = [(Parameter::Username, filter(&names)), (Parameter::VersionTag, filter(&tags))];
        let parameters = parameters(kind, &username, &version);
        let passes = filters.iter().all(|(parameter, filter)| {
            let value = parameters.iter().find(|(name, _)| name == parameter);
            value.is_none_or(|(_, value)| filter.selects(value))
        });
        let with = Subscription { when: filters.to_vec(), ..without.clone() };
        let heard: BTreeSet<String> = is_heard.then(|| "catalog".to_owned()).into_iter().collect();
        let event = of(kind, &key, &parameters);
        let receives = |subscription| route(&[subscription], event, &heard).count() == 1;
        let is_delete = matches!(
            kind,
            EventKind::ProjectDelete | EventKind::ProjectDeleteAndUnpublish
        );
        let expected = match is_delete && is_heard {
            true => true,
            false => receives(without) && passes,
        };
        prop_assert_eq!(receives(with), expected);
    }
}

/// A webhook hears the repositories that it names, and the delete of a project that it heard of.
#[test]
fn repositories_select_events_of_their_projects() {
    let all = subscription("all", &EventKind::ALL, None);
    let bound = Subscription {
        repositories: Some(BTreeSet::from(["finance".to_owned()])),
        ..subscription("bound", &EventKind::ALL, Some(&["sales/*"]))
    };
    let no = Interest::No(Mismatch::Repository);
    let if_heard = Interest::IfHeard(Mismatch::Repository);
    for (organization, kind, expected) in [
        ("finance//sales", EventKind::ProjectPublish, Interest::Yes),
        ("models//sales", EventKind::ProjectPublish, no),
        ("models//sales", EventKind::ProjectDelete, if_heard),
        (
            "finance//other",
            EventKind::ProjectPublish,
            Interest::No(Mismatch::Project),
        ),
        // The only repository.
        ("sales", EventKind::ProjectPublish, Interest::Yes),
    ] {
        let key = ProjectKey::new(organization, "orders");
        let event = Properties {
            kind,
            key: &key,
            parameters: &[],
        };
        assert_eq!(bound.interest(event), expected, "{kind:?} of {key}");
        assert_eq!(all.interest(event), Interest::Yes);
    }
    let key = ProjectKey::new("models//sales", "orders");
    assert_eq!(key.repository(), Some("models"));
    assert_eq!(
        (key.organization_name(), key.path()),
        ("sales", "sales/orders".to_owned())
    );
}
