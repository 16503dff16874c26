//! Tests each row of the inference table with the real binary: exactly the expected callbacks, with
//! their parameters in order and their payload byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Daemon, Endpoint, Home, Run as _, Settings, Webhook, on_both_backends, sorted, xml};
use project_webhooks::config::Format;
use project_webhooks::receiver::{Received, Reply, Signature};

/// A test's daemon with its repository and its endpoint.
struct Watched<'a> {
    home: &'a Home,
    daemon: Daemon<'a>,
    endpoint: &'a Endpoint,
}

/// An expected callback: the event, the tag if it has one, the payload.
type Expected<'a> = (&'a str, Option<&'a str>, &'a str);

impl Watched<'_> {
    /// Asserts that exactly these callbacks about this project came since the last call, in order.
    fn expect(&self, organization: &str, name: &str, id: &str, expected: &[Expected<'_>]) {
        if !expected.is_empty() {
            self.endpoint.wait_for(expected.len());
        }
        self.daemon.fence();
        let came = self.endpoint.take();
        let summary: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
        let events: Vec<&str> = expected.iter().map(|(event, ..)| *event).collect();
        assert_eq!(summary, events);
        for (one, (event, tag, payload)) in came.iter().zip(expected) {
            let mut parameters = vec![
                ("username", "tester"),
                ("projectName", name),
                ("organizationName", organization),
                ("organizationId", organization),
            ];
            parameters.extend(tag.map(|tag| ("versionTag", tag)));
            if !event.starts_with("snapshot") {
                parameters.push(("projectId", id));
            }
            assert_eq!(pairs(one), parameters, "{event}");
            assert_eq!(one.payload, payload.as_bytes(), "{event}");
            assert_eq!((one.origin.as_str(), one.attempt), ("live", Some(1)));
        }
    }

    /// Asserts that no callback came since the last call.
    fn expect_nothing(&self) {
        self.expect("", "", "", &[]);
    }
}

fn pairs(one: &Received) -> Vec<(&str, &str)> {
    one.parameters
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// Runs a test with a home that holds these files before the daemon starts.
fn watched(backend: &str, before: &[(&str, &str)], test: impl FnOnce(&Watched<'_>)) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
    for (path, content) in before {
        home.write(path, content);
    }
    let daemon = home.start();
    test(&Watched {
        home: &home,
        daemon,
        endpoint: &endpoint,
    });
}

fn import(payload: &str) -> [Expected<'_>; 2] {
    [
        ("project-import", None, payload),
        ("project-import-any", None, payload),
    ]
}

on_both_backends!(
    an_import_is_a_definition_that_appears_however_it_got_there,
    a_publish_is_a_published_copy_that_appears_or_changes,
    a_snapshot_is_created_when_it_appears_or_changes,
    a_restore_is_the_content_of_a_snapshot_in_the_definition_and_a_save_is_nothing,
    published_copies_distinguish_delete_from_delete_and_unpublish,
    a_delete_and_unpublish_is_one_callback_to_each_of_two_webhooks,
    another_engine_id_is_another_project,
    a_move_within_the_organization_is_nothing_and_to_another_is_delete_and_import,
    a_copied_project_gives_the_same_events_in_the_same_order_however_it_is_seen,
    names_ids_and_users_come_from_their_documented_sources,
    every_format_carries_the_same_callback_signed,
    one_webhook_never_waits_for_another,
    a_failing_delivery_holds_back_its_project_only_and_repeats_the_same_body,
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
        common::write(&w.home.beside("incoming/project.xml"), &b);
        fs::rename(w.home.beside("incoming"), w.home.at("sales/moved")).unwrap();
        w.expect("sales", "Leads", "e-2", &import(&b));
        // A whole organization moved in.
        common::write(&w.home.beside("incoming/inside/project.xml"), &b);
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

fn another_engine_id_is_another_project(backend: &str) {
    let (old, new) = (xml("Orders", "e-1", "one"), xml("Orders II", "e-2", "one"));
    let full = xml("Orders", "e-3", "one");
    let before = [
        ("sales/plain/project.xml", old.as_str()),
        ("sales/full/project.xml", full.as_str()),
        ("sales/full/published/v1/project.xml", full.as_str()),
    ];
    watched(backend, &before, |w| {
        w.home.replace("sales/plain/project.xml", &new);
        let came = w.endpoint.wait_for(3);
        w.daemon.fence();
        let told: Vec<(&str, Option<&str>, &[u8])> = came
            .iter()
            .map(|one| {
                (
                    one.event.as_str(),
                    one.parameter("projectId"),
                    &one.payload[..],
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("project-delete", Some("e-1"), old.as_bytes()),
                ("project-import", Some("e-2"), new.as_bytes()),
                ("project-import-any", Some("e-2"), new.as_bytes()),
            ]
        );
        w.endpoint.take();
        // The published copy is gone as well: unpublished too.
        w.home.remove_all("sales/full/published");
        w.home.replace("sales/full/project.xml", &new);
        assert_eq!(
            w.endpoint.take_events(4),
            [
                "project-delete",
                "project-delete-and-unpublish",
                "project-import",
                "project-import-any"
            ]
        );
        // A definition that loses its engineId, or gains one, is saved.
        let bare = xml("Orders II", "", "one");
        w.home.replace("sales/full/project.xml", &bare);
        w.expect_nothing();
        w.home.replace("sales/full/project.xml", &new);
        w.expect_nothing();
    });
}

fn a_move_within_the_organization_is_nothing_and_to_another_is_delete_and_import(backend: &str) {
    let (a, s, v) = (
        xml("Orders", "e-1", "one"),
        xml("Orders", "e-1", "snapshot"),
        xml("Orders", "e-1", "published"),
    );
    let before = [
        ("sales/orders/project.xml", a.as_str()),
        ("sales/orders/snapshots/s1.xml", s.as_str()),
        ("sales/orders/published/v1/project.xml", v.as_str()),
    ];
    watched(backend, &before, |w| {
        w.home.rename("sales/orders", "sales/renamed");
        w.expect_nothing();
        // It is on record under its new path: new changes are events, existing files are not.
        w.home.write("sales/renamed/project.xml", &s);
        w.expect("sales", "Orders", "e-1", &[("snapshot-restore", None, &s)]);
        w.home.write("sales/renamed/project.xml", &a);
        w.expect_nothing();

        w.home.rename("sales/renamed", "hr/orders");
        let came = w.endpoint.wait_for(6);
        w.daemon.fence();
        assert_eq!(w.endpoint.take().len(), 6);
        let of = |organization: &str| -> Vec<&str> {
            came.iter()
                .filter(|one| one.parameter("organizationName") == Some(organization))
                .map(|one| one.event.as_str())
                .collect()
        };
        assert_eq!(
            of("sales"),
            ["project-delete", "project-delete-and-unpublish"]
        );
        assert_eq!(
            of("hr"),
            [
                "project-import",
                "project-import-any",
                "snapshot-create",
                "project-publish"
            ]
        );
    });
}

fn a_copied_project_gives_the_same_events_in_the_same_order_however_it_is_seen(backend: &str) {
    let content = |body: &str| xml("Orders", "e-1", body);
    let files = [
        ("project.xml", content("one")),
        ("snapshots/s1.xml", content("s1")),
        ("snapshots/s2.xml", content("s2")),
        ("snapshots/s3.xml", content("s3")),
        ("published/v1/project.xml", content("v1")),
    ];
    watched(backend, &[], |w| {
        let expected: Vec<Expected<'_>> =
            import(&files[0].1)
                .into_iter()
                .chain(files[1..4].iter().map(|(path, content)| {
                    ("snapshot-create", Some(&path[10..12]), content.as_str())
                }))
                .chain([("project-publish", Some("v1"), files[4].1.as_str())])
                .collect();
        // In one rename.
        for (path, content) in &files {
            common::write(&w.home.beside("whole").join(path), content);
        }
        fs::create_dir_all(w.home.at("sales")).unwrap();
        fs::rename(w.home.beside("whole"), w.home.at("sales/whole")).unwrap();
        w.expect("sales", "Orders", "e-1", &expected);
        // File by file, without pauses.
        for (path, content) in &files {
            w.home.write(&format!("sales/quick/{path}"), content);
        }
        w.expect("sales", "Orders", "e-1", &expected);
        // File by file, each observed before the next.
        let mut told = 0;
        for (path, content) in &files {
            w.home.write(&format!("sales/slow/{path}"), content);
            told += if *path == "project.xml" { 2 } else { 1 };
            w.endpoint.wait_for(told);
        }
        w.expect("sales", "Orders", "e-1", &expected);
    });
}

fn names_ids_and_users_come_from_their_documented_sources(backend: &str) {
    let endpoint = Endpoint::new();
    let mut settings = Settings::all_to(&endpoint)
        .watch(backend)
        .top("organizations: { sales: { name: Sales, id: 0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 } }");
    settings.username = "[\"annotation:user\", owner]";
    let home = Home::new(&settings);
    let daemon = home.start();
    let owner = String::from_utf8(
        std::process::Command::new("id")
            .arg("-un")
            .run()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let made_up = {
        let namespace =
            uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, b"urn:project-webhooks:project");
        uuid::Uuid::new_v5(&namespace, b"sales/bare").to_string()
    };
    let sales = ("Sales", "0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10");
    let table = [
        (
            "sales/bare",
            "<schema/>".to_owned(),
            owner.trim(),
            "bare",
            sales,
            made_up.as_str(),
        ),
        (
            "hr/by-id",
            "<schema name='N' id='i-1'/>".to_owned(),
            owner.trim(),
            "N",
            ("hr", "hr"),
            "i-1",
        ),
        (
            "hr/annotated",
            "<schema id='i-1'><annotations><annotation name='engineId'>e-1</annotation>\
             <annotation name='user'>ada</annotation></annotations></schema>"
                .to_owned(),
            "ada",
            "annotated",
            ("hr", "hr"),
            "e-1",
        ),
    ];
    for (key, content, user, name, (organization, organization_id), id) in table {
        home.write(&format!("{key}/project.xml"), &content);
        endpoint.wait_for(2);
        let came = endpoint.take();
        for one in came {
            assert_eq!(
                pairs(&one),
                [
                    ("username", user),
                    ("projectName", name),
                    ("organizationName", organization),
                    ("organizationId", organization_id),
                    ("projectId", id),
                ],
                "{key}"
            );
        }
    }
    drop(daemon);
}

fn every_format_carries_the_same_callback_signed(backend: &str) {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const FORMATS: [&str; 5] = ["multipart", "form", "xml", "json", "cloudevents"];
    let endpoints = FORMATS.map(|_| Endpoint::with_secret(SECRET));
    let home = Home::new(
        &Settings::of(FORMATS.iter().zip(&endpoints).map(|(format, endpoint)| {
            Webhook::new(format, &endpoint.url())
                .events("[project-publish]")
                .with(&format!("format: {format}"))
                .with(&format!("secret: {SECRET}"))
        }))
        .watch(backend),
    );
    // Names and bytes that every encoding has to escape.
    let content = xml("Ä&amp;ß &quot;=+%", "e-1", "&#x1f600; ü\r\n\tend ]]&gt;");
    home.write("sales/orders/project.xml", &content);
    let daemon = home.start();
    home.write("sales/orders/published/v 1+ü&/project.xml", &content);
    for (format, endpoint) in FORMATS.iter().zip(&endpoints) {
        let one = &endpoint.wait_for(1)[0];
        assert_eq!(one.format.map(Format::as_str), Some(*format));
        assert_eq!(one.problem, None, "{format}");
        assert_eq!(one.signature, Signature::Verified, "{format}");
        assert_eq!(one.event, "project-publish", "{format}");
        let expected = [
            ("username", "tester"),
            ("projectName", "Ä&ß \"=+%"),
            ("organizationName", "sales"),
            ("organizationId", "sales"),
            ("versionTag", "v 1+ü&"),
            ("projectId", "e-1"),
        ];
        if *format == "cloudevents" {
            // HTTP libraries do not keep the order of headers.
            for (name, value) in expected {
                assert_eq!(one.parameter(name), Some(value), "{format}");
            }
        } else {
            assert_eq!(pairs(one), expected, "{format}");
        }
        assert_eq!(one.payload, content.as_bytes(), "{format}");
        assert!(
            one.id.starts_with("evt_") && !one.id.contains('.'),
            "{format}"
        );
        assert_eq!(one.header("webhook-attempt"), Some("1"), "{format}");
        assert_eq!(one.header("webhook-origin"), Some("live"), "{format}");
        assert!(one.timestamp.is_some(), "{format}");
        let agent = one.header("user-agent").unwrap();
        assert!(agent.starts_with("project-webhooks/"), "{format}: {agent}");
    }
    drop(daemon);
}

fn one_webhook_never_waits_for_another(backend: &str) {
    let hung = Endpoint::answering(|_| Reply {
        delay: Duration::from_secs(3_600),
        ..Reply::status(axum::http::StatusCode::OK)
    });
    let good = Endpoint::new();
    let home = Home::new(
        &Settings::of([
            Webhook::new("hung", &hung.url())
                .with("concurrency: 1")
                .with("timeout: 1h"),
            Webhook::new("good", &good.url()),
        ])
        .watch(backend),
    );
    let daemon = home.start();
    home.write("sales/first/project.xml", &xml("First", "e-0", ""));
    hung.wait_for(1);
    // The first webhook hangs now; the other one goes on.
    for n in 1..=20 {
        home.write(
            &format!("sales/p{n}/project.xml"),
            &xml("P", &format!("e-{n}"), ""),
        );
    }
    good.wait_for(42);
    assert_eq!(hung.n(), 1);
    drop(daemon);
}

fn a_failing_delivery_holds_back_its_project_only_and_repeats_the_same_body(backend: &str) {
    let endpoint = Endpoint::answering(|one| {
        let stuck = one.parameter("projectName") == Some("Stuck");
        let failing = stuck && one.attempt.unwrap_or(0) < 3;
        let status = if failing { 500 } else { 200 };
        Reply::status(axum::http::StatusCode::from_u16(status).unwrap())
    });
    let home = Home::new(
        &Settings::of([
            Webhook::new("all", &endpoint.url()).events("[project-import-any, snapshot-create]")
        ])
        .watch(backend),
    );
    let daemon = home.start();
    home.write("sales/stuck/project.xml", &xml("Stuck", "e-1", "one"));
    home.write("sales/stuck/snapshots/s1.xml", &xml("Stuck", "e-1", "two"));
    home.write("sales/fine/project.xml", &xml("Fine", "e-2", "one"));
    let came = endpoint.wait_for(7);
    let stuck: Vec<(&str, Option<u32>)> = came
        .iter()
        .filter(|one| one.parameter("projectName") == Some("Stuck"))
        .map(|one| (one.event.as_str(), one.attempt))
        .collect();
    assert_eq!(
        stuck,
        [
            ("project-import-any", Some(1)),
            ("project-import-any", Some(2)),
            ("project-import-any", Some(3)),
            ("snapshot-create", Some(1)),
            ("snapshot-create", Some(2)),
            ("snapshot-create", Some(3)),
        ]
    );
    for event in ["project-import-any", "snapshot-create"] {
        let bodies: Vec<_> = came
            .iter()
            .filter(|one| one.event == event && one.attempt.is_some())
            .filter(|one| one.parameter("projectName") == Some("Stuck"))
            .map(|one| (&one.id, &one.body, one.header("content-type")))
            .collect();
        assert_eq!(bodies.len(), 3);
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{event}");
    }
    daemon.fence();
    assert_eq!(endpoint.n(), 7);
    let events = sorted(endpoint.all().iter().map(|one| one.id.clone()));
    assert_eq!(events.len(), 7);
}
