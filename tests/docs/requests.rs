//! The examples of requests: byte for byte the requests of the program.

use bytes::Bytes;
use jiff::Timestamp;
use project_webhooks::config::Format;
use project_webhooks::domain::event::{EventId, EventKind, Origin, Parameter};
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::webhook::request::{
    Callback, CallbackContent, Request, RequestSettings, build,
};
use project_webhooks::webhook::signature::SigningKey;
use secrecy::SecretString;
use url::Url;

use crate::blocks;

fn callback() -> Callback {
    let parameters = [
        (Parameter::Username, "ada"),
        (Parameter::ProjectName, "Orders & Returns"),
        (Parameter::OrganizationName, "Sales"),
        (
            Parameter::OrganizationId,
            "0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10",
        ),
        (Parameter::VersionTag, "2026.1"),
        (Parameter::ProjectId, "6f1f6f3e-4f0a-4f7e-9c55-0c1d6f0f2b11"),
    ];
    Callback {
        traceparent: None,
        content: CallbackContent {
            id: EventId("evt_b0972af8f3820422190274b562e3750e".to_owned()),
            event: EventKind::ProjectPublish.into(),
            key: ProjectKey::new("sales", "orders"),
            occurred_at: Timestamp::from_second(1_777_000_000).unwrap(),
            origin: Origin::Live,
            parameters: parameters.map(|(p, value)| (p, value.to_owned())).to_vec(),
            actor: None,
            payload: Bytes::from_static(
                b"<?xml version=\"1.0\"?>\n<schema name=\"Orders &amp; Returns\"/>\n",
            ),
        },
        attempt: 1,
        origin: Origin::Live,
    }
}

/// The request of the examples.
fn request(format: Format, signed_headers: bool) -> Request {
    let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let settings = RequestSettings {
        url: Url::parse("https://catalog.example.com/hooks/atscale").unwrap(),
        format: format.into(),
        headers: Vec::new(),
        keys: vec![SigningKey::parse(&secret).unwrap()],
        signed_headers,
    };
    let now = Timestamp::from_second(1_777_000_001).unwrap();
    build(&settings, &callback(), now).unwrap()
}

/// The request in HTTP/1.1 as the page shows it, with plain line ends.
fn shown(format: Format) -> String {
    let request = request(format, false);
    let target = match request.url.query() {
        Some(query) => format!("{}?{query}", request.url.path()),
        None => request.url.path().to_owned(),
    };
    let mut text = format!("POST {target} HTTP/1.1\nhost: catalog.example.com\n");
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    let body = String::from_utf8(request.body.joined().into()).unwrap();
    text.push_str(&format!("\n{}\n", body.replace('\r', "").trim_end()));
    text
}

#[test]
fn every_example_of_a_request_is_sent_like_that() {
    for format in Format::ALL {
        blocks::expect_generated("request", format.as_str(), &shown(format));
    }
}

#[test]
fn the_example_of_signed_headers_is_sent_like_that() {
    let request = request(Format::Xml, true);
    let header = request.headers["webhook-signed-headers"].to_str().unwrap();
    let shown = format!("webhook-signed-headers: {header}\n");
    blocks::expect_generated("signed-header", "", &shown);
}
