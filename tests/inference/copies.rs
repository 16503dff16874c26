//! Imports, publishes, snapshots, restores, and removed copies.

use std::fs;

use std::os::unix::fs::symlink;

use super::{Watched, import, watched};
use crate::common::{Endpoint, Home, Settings, Webhook, on_both_backends, xml};

on_both_backends!(
    an_import_is_a_definition_that_appears_however_it_got_there,
    a_publish_is_a_published_copy_that_appears_or_changes,
    a_snapshot_is_created_when_it_appears_or_changes,
    a_restore_is_the_content_of_a_snapshot_in_the_definition_and_a_save_is_nothing,
    published_copies_distinguish_delete_from_delete_and_unpublish,
    a_delete_and_unpublish_is_one_callback_to_each_of_two_webhooks,
    published_copies_that_cannot_be_read_are_judged_once_they_can,
    a_deleted_project_is_unpublished_after_a_restart,
);

fn an_import_is_a_definition_that_appears_however_it_got_there(backend: &str) {
    let (a, b) = (xml("Orders", "e-1", "one"), xml("Leads", "e-2", "two"));
    watched(backend, &[("sales/orders/project.xml", &a)], |w| {
        w.expect_nothing();
        // Written in place, in new organization and project directories.
        w.home.write("hr/leads/project.xml", &b);
        w.expect("hr", "Leads", "e-2", &import(&b));
        // Written under a temporary name and renamed.
        w.home.replace("hr/other/project.xml", &a);
        w.expect("hr", "Orders", "e-1", &import(&a));
        // A whole directory moved in.
        crate::common::write(&w.home.beside("incoming/project.xml"), &b);
        fs::rename(w.home.beside("incoming"), w.home.at("sales/moved")).unwrap();
        w.expect("sales", "Leads", "e-2", &import(&b));
        // A whole organization moved in.
        crate::common::write(&w.home.beside("incoming/inside/project.xml"), &b);
        fs::rename(w.home.beside("incoming"), w.home.at("finance")).unwrap();
        w.expect("finance", "Leads", "e-2", &import(&b));
        // Copied within its organization: a project of its own.
        fs::create_dir(w.home.at("sales/copy")).unwrap();
        fs::copy(
            w.home.at("sales/orders/project.xml"),
            w.home.at("sales/copy/project.xml"),
        )
        .unwrap();
        w.expect("sales", "Orders", "e-1", &import(&a));
        // Linked into place, which no write and no close reports.
        fs::create_dir(w.home.at("sales/linked")).unwrap();
        fs::hard_link(
            w.home.at("sales/orders/project.xml"),
            w.home.at("sales/linked/project.xml"),
        )
        .unwrap();
        w.expect("sales", "Orders", "e-1", &import(&a));
    });
}

fn a_publish_is_a_published_copy_that_appears_or_changes(backend: &str) {
    let (a, v1, v2) = (
        xml("Orders", "e-1", "one"),
        xml("Orders", "e-1", "v1"),
        xml("Orders", "e-1", "v2"),
    );
    watched(backend, &[("sales/orders/project.xml", &a)], |w| {
        w.home.write("sales/orders/published/v1/project.xml", &v1);
        w.expect(
            "sales",
            "Orders",
            "e-1",
            &[("project-publish", Some("v1"), &v1)],
        );
        w.home.replace("sales/orders/published/v1/project.xml", &v2);
        w.expect(
            "sales",
            "Orders",
            "e-1",
            &[("project-publish", Some("v1"), &v2)],
        );
        w.home.write("sales/orders/published/v1/project.xml", &v1);
        w.expect(
            "sales",
            "Orders",
            "e-1",
            &[("project-publish", Some("v1"), &v1)],
        );
        // The same content once more is no event.
        w.home.write("sales/orders/published/v1/project.xml", &v1);
        w.home.replace("sales/orders/published/v1/project.xml", &v1);
        w.expect_nothing();
        // A second copy.
        w.home.write("sales/orders/published/v2/project.xml", &v1);
        w.expect(
            "sales",
            "Orders",
            "e-1",
            &[("project-publish", Some("v2"), &v1)],
        );
        // Unpublishing one of two is no event.
        w.home.remove_all("sales/orders/published/v1");
        w.expect_nothing();
        // Without a tag in its path: the annotation unless it is the placeholder, else the time.
        let tagged = v1.replace("version-to-be-generated-on-deploy", "2026-04");
        w.home.write("sales/orders/published/project.xml", &tagged);
        w.expect(
            "sales",
            "Orders",
            "e-1",
            &[("project-publish", Some("2026-04"), &tagged)],
        );
        w.home.replace("sales/orders/published/project.xml", &v2);
        let came = w.endpoint.wait_for(1);
        let tag = came[0].parameter("versionTag").unwrap();
        assert!(
            tag.starts_with("Published 20") && tag.ends_with('Z'),
            "{tag}"
        );
    });
}

fn a_snapshot_is_created_when_it_appears_or_changes(backend: &str) {
    let (a, b) = (xml("Orders", "e-1", "one"), xml("Orders", "e-1", "two"));
    watched(backend, &[("sales/orders/project.xml", &a)], |w| {
        let told = |tag, payload: &str| {
            w.expect(
                "sales",
                "Orders",
                "e-1",
                &[("snapshot-create", Some(tag), payload)],
            );
        };
        w.home.write("sales/orders/snapshots/first.xml", &a);
        told("first", &a);
        w.home
            .write("sales/orders/snapshots/second/project.xml", &b);
        told("second", &b);
        w.home.replace("sales/orders/snapshots/first.xml", &b);
        told("first", &b);
        w.home.remove("sales/orders/snapshots/first.xml");
        w.home.remove_all("sales/orders/snapshots/second");
        w.expect_nothing();
        // The same tag again, after its removal was confirmed.
        w.home.write("sales/orders/snapshots/first.xml", &b);
        told("first", &b);
    });
}

fn a_restore_is_the_content_of_a_snapshot_in_the_definition_and_a_save_is_nothing(backend: &str) {
    let (a, b, c) = (
        xml("Orders", "e-1", "one"),
        xml("Orders", "e-1", "two"),
        xml("Orders", "e-1", "three"),
    );
    let definition = "sales/orders/project.xml";
    let before = [
        (definition, a.as_str()),
        ("sales/orders/snapshots/s1.xml", b.as_str()),
        ("sales/orders/snapshots/s2.xml", c.as_str()),
    ];
    watched(backend, &before, |w| {
        let restored = |payload: &str| {
            w.expect(
                "sales",
                "Orders",
                "e-1",
                &[("snapshot-restore", None, payload)],
            );
        };
        // Written over, renamed over.
        w.home.write(definition, &b);
        restored(&b);
        w.home.replace(definition, &c);
        restored(&c);
        // The snapshot itself moved over the definition.
        w.home.rename("sales/orders/snapshots/s1.xml", definition);
        restored(&b);
        // Ordinary saves.
        w.home.write(definition, &a);
        w.home.replace(definition, &xml("Orders", "e-1", "four"));
        w.expect_nothing();
        // A saved definition that is snapshotted afterwards was not restored.
        let five = xml("Orders", "e-1", "five");
        w.home.replace(definition, &five);
        w.home.write("sales/orders/snapshots/s5.xml", &five);
        w.expect(
            "sales",
            "Orders",
            "e-1",
            &[("snapshot-create", Some("s5"), &five)],
        );
        // An automatic snapshot before a restore: one created, then one restored.
        w.home.replace(definition, &a);
        w.home.write("sales/orders/snapshots/auto.xml", &a);
        w.home.replace(definition, &c);
        w.expect(
            "sales",
            "Orders",
            "e-1",
            &[
                ("snapshot-create", Some("auto"), &a),
                ("snapshot-restore", None, &c),
            ],
        );
    });
}

fn published_copies_distinguish_delete_from_delete_and_unpublish(backend: &str) {
    // Each has its own engineId, which is its directory's name here.
    let xml = |project: &str, body| xml("Orders", project, body);
    let definitions = ["plain", "kept", "both", "away"].map(|project| {
        let path = format!("sales/{project}/project.xml");
        (path, xml(project, "one"))
    });
    let published = [
        ("kept", "published/v1/project.xml"),
        ("both", "published/v1/project.xml"),
        ("both", "published/v2/project.xml"),
        ("away", "published/project.xml"),
    ]
    .map(|(project, path)| {
        let path = format!("sales/{project}/{path}");
        (path, xml(project, "published"))
    });
    let before: Vec<(&str, &str)> = definitions
        .iter()
        .chain(&published)
        .map(|(path, content)| (path.as_str(), content.as_str()))
        .collect();
    watched(backend, &before, |w| {
        let told = |project: &str, n: usize| {
            let definition = xml(project, "one");
            let both = [
                ("project-delete", None, definition.as_str()),
                ("project-delete-and-unpublish", None, definition.as_str()),
            ];
            w.expect("sales", "Orders", project, &both[..n]);
        };
        // Never published.
        w.home.remove("sales/plain/project.xml");
        told("plain", 1);
        // A published copy stays.
        w.home.remove("sales/kept/project.xml");
        told("kept", 1);
        // Unpublished and deleted within the settle time, one after the other: two callbacks.
        w.home.remove_all("sales/both");
        told("both", 2);
        // Moved out of the repository as a whole.
        fs::rename(w.home.at("sales/away"), w.home.beside("away")).unwrap();
        told("away", 2);
        // And back in: imported and published once more.
        fs::rename(w.home.beside("away"), w.home.at("sales/away")).unwrap();
        let came = w.endpoint.wait_for(3);
        let events: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
        assert_eq!(
            events,
            ["project-import", "project-import-any", "project-publish"]
        );
    });
}

fn a_delete_and_unpublish_is_one_callback_to_each_of_two_webhooks(backend: &str) {
    let (deletes, unpublishes) = (Endpoint::new(), Endpoint::new());
    let home = Home::new(
        &Settings::of([
            Webhook::new("deletes", &deletes.url()).events("[Project Delete]"),
            Webhook::new("unpublishes", &unpublishes.url())
                .events("[Project Delete and Unpublish]"),
        ])
        .watch(backend),
    );
    let a = xml("Orders", "e-1", "one");
    home.write("sales/orders/project.xml", &a);
    home.write("sales/orders/published/project.xml", &a);
    let daemon = home.start();
    home.remove_all("sales");
    assert_eq!(deletes.take_events(1), ["project-delete"]);
    assert_eq!(unpublishes.take_events(1), ["project-delete-and-unpublish"]);
    daemon.fence();
    assert_eq!((deletes.n(), unpublishes.n()), (0, 0));
}

/// A link in the place of a directory is not followed, so the copies may still be somewhere.
fn published_copies_that_cannot_be_read_are_judged_once_they_can(backend: &str) {
    let projects = ["back", "gone", "imported", "moved", "torn"];
    let files = projects.map(|project| {
        let (definition, copy) = paths(project);
        (definition, copy, xml("Orders", project, ""))
    });
    let before: Vec<(&str, &str)> = files
        .iter()
        .flat_map(|(definition, copy, content)| [(definition, content), (copy, content)])
        .map(|(path, content)| (path.as_str(), content.as_str()))
        .collect();
    watched(backend, &before, |w| {
        for project in projects.into_iter().filter(|project| *project != "torn") {
            hide(w.home, project);
        }
        w.home.write(&paths("torn").1, "<schema>");
        w.expect_nothing();
        for project in projects {
            w.home.remove(&paths(project).0);
            told(w, project, &["project-delete"]);
        }
        // They can be read and are gone. The definition is the last one on record.
        w.home.remove("sales/gone/published");
        told(w, "gone", &["project-delete-and-unpublish"]);
        // A copy that was never written to its end is none.
        w.home.remove(&paths("torn").1);
        told(w, "torn", &["project-delete-and-unpublish"]);
        // They are still there, so their removal afterwards is no event.
        w.home.remove("sales/back/published");
        fs::rename(w.home.beside("back"), w.home.at("sales/back/published")).unwrap();
        w.expect_nothing();
        w.home.remove_all("sales/back");
        w.expect_nothing();
        // The project is there again, in this directory or in another one.
        for (project, directory) in [("imported", "imported"), ("moved", "elsewhere")] {
            let content = xml("Orders", project, "");
            w.home.write(&paths(directory).0, &content);
            w.expect("sales", "Orders", project, &import(&content));
            w.home.remove(&format!("sales/{project}/published"));
            w.expect_nothing();
        }
    });
}

/// The paths of the definition and of the published copy.
fn paths(project: &str) -> (String, String) {
    let copy = format!("sales/{project}/published/v1/project.xml");
    (format!("sales/{project}/project.xml"), copy)
}

/// Puts a link in the place of the directory of published copies.
fn hide(home: &Home, project: &str) {
    let published = home.at(&format!("sales/{project}/published"));
    fs::rename(&published, home.beside(project)).unwrap();
    symlink(home.beside(project), published).unwrap();
}

/// Expects callbacks about a project whose definition is as before.
fn told(w: &Watched<'_>, project: &str, events: &[&str]) {
    let content = xml("Orders", project, "");
    let expected = events.iter().map(|event| (*event, None, content.as_str()));
    w.expect("sales", "Orders", project, &expected.collect::<Vec<_>>());
}

/// A webhook that received an event of the project before its directory was renamed gets the last one.
fn a_deleted_project_is_unpublished_after_a_restart(backend: &str) {
    let endpoint = Endpoint::new();
    let webhook = Webhook::new("all", &endpoint.url()).projects("[sales/former, fence/*]");
    let home = Home::new(&Settings::of([webhook]).watch(backend));
    let daemon = home.start();
    let content = xml("Orders", "e-1", "");
    home.write(&paths("former").0, &content);
    home.write(&paths("former").1, &content);
    assert_eq!(endpoint.take_events(3).len(), 3);
    home.rename("sales/former", "sales/orders");
    daemon.fence();
    hide(&home, "orders");
    home.remove(&paths("orders").0);
    assert_eq!(endpoint.take_events(1), ["project-delete"]);
    daemon.fence();
    assert_eq!(home.json(&["status"])["projects"], 0);
    daemon.terminate();
    home.remove("sales/orders/published");
    let daemon = home.start();
    let came = endpoint.wait_for(1);
    assert_eq!(came[0].event, "project-delete-and-unpublish");
    assert_eq!(came[0].origin, "catch-up");
    assert_eq!(came[0].parameter("projectId"), Some("e-1"));
    assert_eq!(came[0].payload, content.as_bytes());
    daemon.fence();
    assert_eq!(endpoint.n(), 1);
}
