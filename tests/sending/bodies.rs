//! The bytes of bodies in every format.

use bytes::Bytes;
use project_webhooks::config::Format;
use project_webhooks::domain::event::{EventId, EventKind, Origin, Parameter};
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::webhook::CallbackContent;
use project_webhooks::webhook::body::{Body, build};
use proptest::prelude::*;

const XML: &[u8] = b"<?xml version=\"1.0\"?>\n<schema name=\"R&amp;D\"/>\n";

fn content(values: [&str; 4], payload: &[u8]) -> CallbackContent {
    let parameters = EventKind::SnapshotRestore.parameters();
    CallbackContent {
        id: EventId("evt_0123456789abcdef0123456789abcdef".to_owned()),
        event: EventKind::SnapshotRestore.into(),
        key: ProjectKey::new("r&d", "Ümsatz plan"),
        occurred_at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        origin: Origin::CatchUp,
        parameters: parameters
            .iter()
            .copied()
            .zip(values.map(str::to_owned))
            .collect(),
        actor: None,
        payload: Bytes::copy_from_slice(payload),
    }
}

fn example() -> CallbackContent {
    content(["al \"x\"", "R&D 100%", "Größe", "a\r\nb: c"], XML)
}

fn text(body: &Body) -> String {
    String::from_utf8(body.bytes.joined().into()).unwrap()
}

#[test]
fn multipart_bytes() {
    let body = build(Format::Multipart, &example());
    let boundary = "project-webhooks-266403bb508e1df51bb35baad6801cd8";
    assert_eq!(
        body.content_type,
        format!("multipart/form-data; boundary={boundary}")
    );
    let field = |name: &str, value: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
    };
    let expected = [
        field("username", "al \"x\""),
        field("projectName", "R&D 100%"),
        field("organizationName", "Größe"),
        field("organizationId", "a\r\nb: c"),
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"payload\"; \
             filename=\"project.xml\"\r\nContent-Type: application/xml\r\n\r\n\
             <?xml version=\"1.0\"?>\n<schema name=\"R&amp;D\"/>\n\r\n--{boundary}--\r\n"
        ),
    ];
    assert_eq!(text(&body), expected.concat());
    assert!(body.query.is_empty() && body.extra_headers.is_empty());
}

#[test]
fn form_bytes() {
    let body = build(Format::Form, &example());
    assert_eq!(body.content_type, "application/x-www-form-urlencoded");
    assert_eq!(
        text(&body),
        "username=al+%22x%22&projectName=R%26D+100%25&organizationName=Gr%C3%B6%C3%9Fe\
         &organizationId=a%0D%0Ab%3A+c&payload=%3C%3Fxml+version%3D%221.0%22%3F%3E%0A\
         %3Cschema+name%3D%22R%26amp%3BD%22%2F%3E%0A"
    );
}

#[test]
fn xml_bytes() {
    let body = build(Format::Xml, &example());
    assert_eq!(body.content_type, "application/xml");
    assert_eq!(body.bytes.joined(), XML);
    let query: Vec<_> = body
        .query
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        query,
        [
            ("username", "al \"x\""),
            ("projectName", "R&D 100%"),
            ("organizationName", "Größe"),
            ("organizationId", "a\r\nb: c"),
        ]
    );
}

#[test]
fn json_bytes() {
    let body = build(Format::Json, &example());
    assert_eq!(body.content_type, "application/json");
    assert_eq!(
        text(&body),
        concat!(
            r#"{"id":"evt_0123456789abcdef0123456789abcdef","event":"snapshot-restore","#,
            r#""label":"Snapshot Restore","occurredAt":"2026-01-02T03:04:05.678Z","#,
            r#""origin":"catch-up","parameters":{"username":"al \"x\"","#,
            r#""projectName":"R&D 100%","organizationName":"Größe","#,
            r#""organizationId":"a\r\nb: c"},"#,
            r#""payload":"<?xml version=\"1.0\"?>\n<schema name=\"R&amp;D\"/>\n"}"#,
        )
    );
    let parsed: serde_json::Value = serde_json::from_slice(&body.bytes.joined()).unwrap();
    assert_eq!(parsed["payload"].as_str().unwrap().as_bytes(), XML);
}

#[test]
fn cloudevents_headers() {
    let body = build(Format::CloudEvents, &example());
    assert_eq!(body.content_type, "application/xml");
    assert_eq!(body.bytes.joined(), XML);
    let headers: Vec<_> = body
        .extra_headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(
        headers,
        [
            "ce-specversion: 1.0",
            "ce-id: evt_0123456789abcdef0123456789abcdef",
            "ce-source: /organizations/r%26d/projects/%C3%9Cmsatz%20plan",
            "ce-type: project-webhooks.snapshot-restore",
            "ce-time: 2026-01-02T03:04:05.678Z",
            "ce-subject: r&d/%C3%9Cmsatz%20plan",
            "ce-username: al%20%22x%22",
            "ce-projectname: R&D%20100%25",
            "ce-organizationname: Gr%C3%B6%C3%9Fe",
            "ce-organizationid: a%0D%0Ab:%20c",
        ]
    );
}

#[test]
fn every_attempt_has_the_same_body() {
    for format in Format::ALL {
        assert_eq!(build(format, &example()), build(format, &example()));
    }
}

#[test]
fn a_boundary_that_occurs_in_the_content_is_not_used() {
    let boundary = |parameter: &str, payload: &str| {
        let content = content(["", parameter, "", ""], payload.as_bytes());
        let content_type = build(Format::Multipart, &content).content_type;
        multer::parse_boundary(content_type).unwrap()
    };
    let first = boundary("", "");
    let payload = format!("<schema>\r\n--{first}--\r\n</schema>");
    let second = boundary("", &payload);
    let third = boundary(&second, &payload);
    assert!(first != second && second != third && first != third);
}

/// Reads a multipart body with `multer`.
fn parse_multipart(body: Body) -> Vec<(String, Option<String>, Bytes)> {
    let boundary = multer::parse_boundary(&body.content_type).unwrap();
    let stream =
        http_body_util::BodyDataStream::new(http_body_util::Full::new(body.bytes.joined()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut multipart = multer::Multipart::new(stream, boundary);
        let mut parts = Vec::new();
        while let Some(field) = multipart.next_field().await.unwrap() {
            let name = field.name().unwrap().to_owned();
            let file = field.file_name().map(str::to_owned);
            parts.push((name, file, field.bytes().await.unwrap()));
        }
        parts
    })
}

proptest! {
    #[test]
    fn any_value_arrives_in_multipart(
        values in prop::array::uniform4("(\r\n|--|\"|;|\\PC|.|project-webhooks-){0,12}"),
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let values = values.each_ref().map(String::as_str);
        let parts = parse_multipart(build(Format::Multipart, &content(values, &payload)));
        let names = ["username", "projectName", "organizationName", "organizationId"];
        prop_assert_eq!(parts.len(), 5);
        for ((name, file, bytes), (expected, value)) in parts.iter().zip(names.iter().zip(values)) {
            prop_assert_eq!(name, expected);
            prop_assert_eq!(file, &None);
            prop_assert_eq!(bytes, value.as_bytes());
        }
        let (name, file, bytes) = &parts[4];
        prop_assert_eq!(name, "payload");
        prop_assert_eq!(file.as_deref(), Some("project.xml"));
        prop_assert_eq!(bytes, &payload);
    }

    #[test]
    fn any_value_arrives_in_a_form(
        values in prop::array::uniform4(".{0,12}"),
        payload in "(<|>|&|=|\\+|%|\r\n|.){0,40}",
    ) {
        let values = values.each_ref().map(String::as_str);
        let body = build(Format::Form, &content(values, payload.as_bytes()));
        let bytes = body.bytes.joined();
        let pairs: Vec<_> = form_urlencoded::parse(&bytes).collect();
        let names = ["username", "projectName", "organizationName", "organizationId", "payload"];
        let values = values.into_iter().chain([payload.as_str()]);
        prop_assert_eq!(pairs.len(), 5);
        for ((name, value), (expected, sent)) in pairs.iter().zip(names.into_iter().zip(values)) {
            prop_assert_eq!(name, expected);
            prop_assert_eq!(value, sent);
        }
    }

    #[test]
    fn any_value_arrives_in_json(
        values in prop::array::uniform4(".{0,12}"),
        payload in "(<|\"|\\\\|\u{0}|\u{2028}|.){0,40}",
    ) {
        // A NUL among the first two bytes is a sign of UTF-16.
        prop_assume!(!payload.bytes().take(2).any(|byte| byte == 0));
        let values = values.each_ref().map(String::as_str);
        let body = build(Format::Json, &content(values, payload.as_bytes()));
        let parsed: serde_json::Value = serde_json::from_slice(&body.bytes.joined()).unwrap();
        prop_assert_eq!(parsed["payload"].as_str(), Some(payload.as_str()));
        for (parameter, value) in [Parameter::Username, Parameter::ProjectName].iter().zip(values) {
            prop_assert_eq!(parsed["parameters"][parameter.as_str()].as_str(), Some(value));
        }
    }
}
