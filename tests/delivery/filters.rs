//! The filter `when`: who receives an event, and what an operator sees of the others.

use project_webhooks::receiver::Received;
use serde_json::Value;

use crate::common::{Endpoint, Home, Settings, Webhook};
use crate::tag;

const PEOPLE: &str = "when: { username: \"!svc-*\" }";
const RELEASES: &str = "when: { versionTag: [\"release-*\"] }";

/// A project.xml by this author.
fn by(author: &str, project: &str, body: &str) -> String {
    format!(
        "<schema name=\"{project}\"><annotations><annotation name=\"engineId\">id-{project}</annotation>\
         <annotation name=\"author\">{author}</annotation></annotations><!-- {body} --></schema>"
    )
}

fn define(home: &Home, author: &str, project: &str) {
    let path = format!("sales/{project}/project.xml");
    home.write(&path, &by(author, project, ""));
}

fn publish(home: &Home, author: &str, project: &str, version: &str) {
    let path = format!("sales/{project}/published/{version}/project.xml");
    home.write(&path, &by(author, project, version));
}

fn settings(people: &Endpoint, releases: &Endpoint, of_people: &str) -> Settings {
    let mut settings = Settings::of([
        Webhook::new("people", &people.url())
            .events("[\"*\", project-save]")
            .with(of_people),
        Webhook::new("releases", &releases.url()).with(RELEASES),
        Webhook::new("off", "http://127.0.0.1:9/").with("enabled: false"),
        Webhook::new("hr", "http://127.0.0.1:9/").projects("[\"hr/*\"]"),
    ]);
    settings.username = "[\"annotation:author\"]";
    settings
}

/// The callbacks of `sales`: the event, and the project with its version tag.
fn came(endpoint: &Endpoint) -> Vec<String> {
    let all = endpoint.all();
    let of_sales = all
        .iter()
        .filter(|one| one.parameter("organizationId") == Some("sales"));
    let text = |one: &Received| {
        let project = one.parameter("projectName").unwrap_or_default();
        format!("{} {project} {}", one.event, tag(one))
            .trim_end()
            .to_owned()
    };
    of_sales.map(text).collect()
}

/// The reasons by webhook of an event, as `events show --json` has them.
fn passed_over(home: &Home, event: &Value) -> Vec<(String, String)> {
    let shown = home.json(&["events", "show", event["id"].as_str().unwrap()]);
    let listed = shown["passedOver"].as_array().unwrap().iter();
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    listed
        .map(|one| (text(one, "webhook"), text(one, "reason")))
        .collect()
}

#[test]
fn when_filters_by_user_and_version_but_no_delete_of_a_known_project() {
    let (people, releases) = (Endpoint::new(), Endpoint::new());
    let home = Home::new(&settings(&people, &releases, PEOPLE));
    let daemon = home.start();
    define(&home, "svc-sync", "known");
    define(&home, "svc-sync", "unknown");
    daemon.fence();
    publish(&home, "ada", "known", "release-1");
    daemon.fence();
    publish(&home, "ada", "known", "draft-2");
    daemon.fence();
    home.replace("sales/known/project.xml", &by("svc-sync", "known", "saved"));
    daemon.fence();
    home.remove_all("sales/known");
    home.remove_all("sales/unknown");
    releases.wait_for_one("the last delete", |one| {
        one.event == "project-delete" && one.parameter("projectName") == Some("unknown")
    });
    daemon.fence();
    people.wait_for(4);
    assert_eq!(
        came(&people),
        [
            "project-publish known release-1",
            "project-publish known draft-2",
            "project-delete known",
            "project-delete-and-unpublish known",
        ]
    );
    let of_releases = came(&releases);
    assert!(of_releases.contains(&"project-publish known release-1".to_owned()));
    assert!(of_releases.contains(&"project-import-any unknown".to_owned()));
    assert!(!of_releases.contains(&"project-publish known draft-2".to_owned()));

    // The output for an operator.
    let listed = home.json(&["events", "--project", "sales/known"]);
    let of = |event: &str, tag: Option<&str>| {
        let mut events = listed.as_array().unwrap().iter();
        let found = events.find(|one| {
            one["event"] == event && tag.is_none_or(|tag| one["parameters"]["versionTag"] == tag)
        });
        passed_over(
            &home,
            found.unwrap_or_else(|| panic!("no {event} in {listed}")),
        )
    };
    let reasons = |reasons: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = reasons
            .iter()
            .map(|(name, why)| ((*name).into(), (*why).into()));
        owned
            .chain([
                ("off".into(), "disabled".into()),
                ("hr".into(), "projects".into()),
            ])
            .collect()
    };
    assert_eq!(
        of("project-import-any", None),
        reasons(&[("people", "when.username")])
    );
    assert_eq!(of("project-publish", Some("release-1")), reasons(&[]));
    assert_eq!(
        of("project-publish", Some("draft-2")),
        reasons(&[("releases", "when.versionTag")])
    );
    assert_eq!(of("project-delete", None), reasons(&[]));
    // Nobody received the save, but one webhook names it. So it is on record, with the reasons.
    let of_save = of("project-save", None);
    assert_eq!(
        of_save[..2],
        [
            ("people".to_owned(), "when.username".to_owned()),
            ("releases".to_owned(), "event".to_owned())
        ]
    );
    let unknown = home.json(&[
        "events",
        "--project",
        "sales/unknown",
        "--event",
        "project-delete",
    ]);
    let id = unknown[0]["id"].as_str().unwrap();
    let text = home.command(&["events", "show", id]);
    let expected = "webhooks without a delivery\n  people  its setting `when.username` does not select \"svc-sync\", and no \
        earlier event of the project was routed to it\n  off     enabled is false\n  hr      \
                    its setting `projects` does not select sales/unknown";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_reload_applies_when_to_later_events_and_a_replay_uses_it() {
    let (people, releases) = (Endpoint::new(), Endpoint::new());
    let home = Home::new(&settings(&people, &releases, PEOPLE));
    let daemon = home.start();
    define(&home, "svc-sync", "orders");
    daemon.fence();
    let listed = home.json(&["webhooks", "list"]);
    assert_eq!(listed[0]["when"]["username"][0], "!svc-*");
    assert_eq!(listed[3].get("when"), None);
    home.reconfigure(&settings(
        &people,
        &releases,
        "when: { username: [\"svc-*\"] }",
    ));
    assert!(daemon.reload());
    publish(&home, "svc-sync", "orders", "v1");
    people.wait_for_one("the publish", |one| tag(one) == "v1");
    publish(&home, "ada", "orders", "v2");
    daemon.fence();
    assert_eq!(came(&people), ["project-publish orders v1"]);
    let before = releases.n();
    let replayed = home.command(&[
        "events",
        "replay",
        "--to",
        "people",
        "--project",
        "sales/orders",
        "--yes",
    ]);
    assert!(replayed.contains('3'), "{replayed}");
    people.wait_for(4);
    daemon.fence();
    assert_eq!(
        came(&people)[1..],
        [
            "project-import orders",
            "project-import-any orders",
            "project-publish orders v1"
        ]
    );
    assert_eq!(releases.n(), before);
}
