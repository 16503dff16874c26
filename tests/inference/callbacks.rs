//! The content of callbacks, and their order.

use std::time::Duration;

use project_webhooks::config::Format;
use project_webhooks::receiver::{Reply, Signature};

use super::pairs;
use crate::common::{Endpoint, Home, Run as _, Settings, Webhook, on_both_backends, sorted, xml};

on_both_backends!(
    names_ids_and_users_come_from_their_documented_sources,
    every_format_carries_the_same_callback_signed,
    one_webhook_never_waits_for_another,
    a_failing_delivery_holds_back_its_project_only_and_repeats_the_same_body,
);

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
