//! The hash of a webhook's settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use project_webhooks::config::{fingerprint, load_str};

#[test]
fn a_fingerprint_depends_on_every_setting_and_on_nothing_else() {
    let settings = [
        "event: project-delete",
        "event: project-delete, projects: ['a/*']",
        "event: project-delete, projects: ['a/*', 'b/*']",
        "event: project-delete, when: { username: ['a/*', 'b/*'] }",
        "event: project-delete, when: { username: ['a/*'] }",
        "event: project-delete, when: { username: ['!a/*'] }",
        "events: [project-delete, project-publish], when: { versionTag: ['a/*'] }",
        "event: project-delete, format: json",
        "event: project-delete, format: template, template: { body: a }",
        "event: project-delete, format: template, template: { body: b }",
        "event: project-delete, format: template, template: { content_type: text/plain, body: b }",
        "event: project-delete, headers: { X: a }",
        "event: project-delete, headers: { X: b }",
        "event: project-delete, headers: { Y: a }",
        "event: project-delete, secret: aaaaaaaaaaaaaaaaaaaaaaaa",
        "event: project-delete, secret: aaaaaaaaaaaaaaaaaaaaaaab",
        "event: project-delete, secret: [aaaaaaaaaaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaaaaaaaaab]",
        "event: project-delete, secret: aaaaaaaaaaaaaaaaaaaaaaaa, signed_headers: true",
        "event: project-delete, auth: { bearer: a }",
        "event: project-delete, auth: { bearer: b }",
        "event: project-delete, auth: { basic: { username: a, password: b } }",
        "event: project-delete, auth: { oauth2: { token_url: 'http://a/', client_id: a, client_secret: b } }",
        "event: project-delete, timeout: 1s",
        "event: project-delete, connect_timeout: 1s",
        "event: project-delete, retry: { schedule: [0s] }",
        "event: project-delete, retry: { schedule: [0s, 0s] }",
        "event: project-delete, concurrency: 1",
        "event: project-delete, rate: 1/s",
        "event: project-delete, rate: 60/m",
        "event: project-delete, enabled: false",
        "event: project-delete, tls: { ca: CA }",
        "event: project-delete, tls: { ca: CA, ca_only: true }",
        "events: [project-delete, project-publish]",
    ];
    let fingerprint_of = |setting: &str| {
        let text = format!(
            "repository: {{ path: /nowhere/r }}\nstate_dir: /nowhere/s\nwebhooks:\n  \
             - {{ name: a, url: 'http://127.0.0.1/', {setting} }}\n"
        );
        let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/configs/files/ca.pem");
        let text = text.replace(" CA", &format!(" '{ca}'"));
        let file = Path::new("/nowhere/config.yaml");
        let loaded = load_str(text.as_bytes(), file, &BTreeMap::new()).unwrap();
        loaded.config.webhooks.first().map(fingerprint)
    };
    let distinct: BTreeSet<_> = settings.iter().map(|text| fingerprint_of(text)).collect();
    assert_eq!(distinct.len(), settings.len());
    assert_eq!(fingerprint_of(settings[0]), fingerprint_of(settings[0]));
}
