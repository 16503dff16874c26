//! Test events and samples of each event.

use project_webhooks::domain::event::EventKind;
use serde_json::Value;

use super::support::{Endpoint, Place, SECRET, webhook};

#[test]
fn a_test_event_needs_no_daemon_and_its_exchange_is_printed() {
    let endpoint = Endpoint::start(204);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    let text = place.run(&["webhooks", "test", "catalog"]).succeeded();
    for expected in [
        "> webhook-event: test",
        "> webhook-signature: v1,",
        "< 204",
        "delivered after",
    ] {
        assert!(text.contains(expected), "{expected} not in:\n{text}");
    }
    assert!(!text.contains("hidden") && !text.contains(SECRET), "{text}");
    endpoint.set(503);
    let exchange: Value = serde_json::from_str(
        &place
            .run(&["webhooks", "test", "catalog", "--json"])
            .failed(1),
    )
    .unwrap();
    assert_eq!(exchange["status"], 503);
    assert_eq!(exchange["delivered"], false);
    assert!(!place.path("state").exists());
}

#[test]
fn a_sample_of_each_event_has_its_parameters_and_the_origin_test() {
    let endpoint = Endpoint::start(204);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    for kind in EventKind::ALL {
        let sent = place.run(&[
            "webhooks",
            "test",
            "catalog",
            "--event",
            kind.label(),
            "--json",
        ]);
        let exchange = sent.json();
        let headers = exchange["requestHeaders"].as_array().unwrap();
        let has = |name: &str, value: &str| headers.contains(&serde_json::json!([name, value]));
        assert!(has("webhook-event", kind.as_str()), "{exchange}");
        assert!(has("webhook-origin", "test"), "{exchange}");
        assert_eq!(exchange["delivered"], true, "{exchange}");
    }
    let said = place
        .run(&["webhooks", "test", "catalog", "--event", "save"])
        .failed(2);
    assert!(said.contains("did you mean project-save?"), "{said}");
}

#[test]
fn a_test_says_what_the_daemon_would_not_send() {
    let endpoint = Endpoint::start(204);
    let webhooks = format!(
        "  - {{ name: some, event: Project Publish, url: \"{0}\" }}\n  \
         - {{ name: none, events: \"*\", url: \"{0}\", enabled: false }}\n",
        endpoint.url
    );
    let place = Place::new(&webhooks);
    let test = |name: &str, event: &[&str]| {
        let arguments = [&["webhooks", "test", name], event].concat();
        place.run(&arguments).succeeded()
    };
    let said = test("some", &["--event", "project-publish"]);
    assert!(!said.contains("note:"), "{said}");
    let said = test("some", &["--event", "project-import"]);
    let expected =
        "note: some does not subscribe to Project Import, so it gets only samples of this event";
    assert!(said.contains(expected), "{said}");
    let said = test("none", &["--event", "project-publish"]);
    let expected = "note: none has enabled: false, so it gets only tests";
    assert!(said.contains(expected), "{said}");
    assert!(test("some", &[]).contains("--event EVENT"));
}
