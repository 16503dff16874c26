//! Wrong settings of webhooks: each is one error with its line when the file is loaded.

use std::fmt::Write as _;
use std::path::Path;

use project_webhooks::config::load_str;

use crate::samples::{directory, environment};

/// The line of the wrong setting in [`text`].
const LINE: usize = 7;

/// A configuration with these lines of a webhook. The wrong setting is the last line.
fn text(setting: &str) -> String {
    let (before, setting) = setting.rsplit_once("||").unwrap_or(("", setting));
    let (event, before) = before.split_once("||").unwrap_or(("", before));
    let subscribes = setting.starts_with("event") || before.starts_with("event");
    let event = match event {
        "" if subscribes => "timeout: 15s",
        "" => "event: project-publish",
        event => event,
    };
    let before = if before.is_empty() {
        "enabled: true"
    } else {
        before
    };
    format!(
        "repository: {{ path: ../files/repository }}\nwebhooks:\n  - name: a\n    url: \
         http://127.0.0.1:9/\n    {event}\n    {before}\n    {setting}\n"
    )
}

/// Returns what is wrong with the reaction to a wrong setting.
fn fault(setting: &str) -> Option<String> {
    let file = directory("invalid").join("written_by_a_test.yaml");
    let problems = match load_str(text(setting).as_bytes(), Path::new(&file), &environment()) {
        Ok(_) => return Some("is accepted".to_owned()),
        Err(problems) => problems,
    };
    let shown = problems.to_string();
    let lines: Vec<Option<usize>> = problems
        .errors
        .iter()
        .map(|error| error.position.map(|position| position.line))
        .collect();
    (lines != [Some(LINE)]).then(|| format!("has errors in the lines {lines:?}:\n{shown}"))
}

fn check(settings: &[&str]) {
    let mut faults = String::new();
    for setting in settings {
        if let Some(fault) = fault(setting) {
            let _ = writeln!(faults, "{setting}: {fault}\n");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn wrong_authentication() {
    check(&[
        "auth:",
        "auth: []",
        "auth: {}",
        "auth: a-token",
        "auth: 5",
        "auth: { token: a }",
        "auth: { bearer: }",
        "auth: { bearer: '' }",
        "auth: { bearer: ' ' }",
        "auth: { bearer: 5 }",
        "auth: { bearer: true }",
        "auth: { bearer: [a] }",
        "auth: { bearer: {} }",
        "auth: { bearer: a b }",
        "auth: { bearer: \"a\\nb\" }",
        "auth: { bearer: \u{e4} }",
        "auth: { bearer: { env: NO_SUCH_VARIABLE } }",
        "auth: { bearer: { file: no-such-file } }",
        "auth: { bearer: { file: ../files/empty } }",
        "auth: { bearer: { file: ../files } }",
        "auth: { bearer: { credential: ../token } }",
        "auth: { bearer: { env: A_VARIABLE, file: ../files/token } }",
        "auth: { bearer: { value: a } }",
        "auth: { bearer: a, basic: { username: a, password: b } }",
        "auth: { basic: a }",
        "auth: { basic: { username: a } }",
        "auth: { basic: { password: a } }",
        "auth: { basic: { username: , password: a } }",
        "auth: { basic: { username: a, password: 5 } }",
        "auth: { basic: { username: 'a:b', password: c } }",
        "auth: { basic: { username: \"a\\nb\", password: c } }",
        "auth: { basic: { username: a, password: \"b\\nc\" } }",
        "auth: { basic: { user: a, username: a, password: b } }",
        "auth: { oauth2: a }",
        "auth: { oauth2: { client_id: a, client_secret: b } }",
        "auth: { oauth2: { token_url: 'http://a/', client_secret: b } }",
        "auth: { oauth2: { token_url: 'http://a/', client_id: a } }",
        "auth: { oauth2: { token_url: , client_id: a, client_secret: b } }",
        "auth: { oauth2: { token_url: a, client_id: a, client_secret: b } }",
        "auth: { oauth2: { token_url: 'ftp://a/', client_id: a, client_secret: b } }",
        "auth: { oauth2: { token_url: 'http://a:b@c/', client_id: a, client_secret: b } }",
        "auth: { oauth2: { token_url: 'http://a/#b', client_id: a, client_secret: b } }",
        "auth: { oauth2: { token_url: [], client_id: a, client_secret: b } }",
        "auth: { oauth2: { token_url: 'http://a/', client_id: [a], client_secret: b } }",
        "auth: { oauth2: { token_url: 'http://a/', client_id: a, client_secret: b, scope: } }",
        "auth: { oauth2: { token_url: 'http://a/', client_id: a, client_secret: b, scope: '' } }",
        "auth: { oauth2: { token_url: 'http://a/', client_id: a, client_secret: b, scope: [a] } }",
        "auth: { oauth2: { token_url: 'http://a/', client_id: a, client_secret: b, scope: '\"' } }",
        "auth: { oauth2: { token_url: 'http://a/', client_id: a, client_secret: b, scopes: a } }",
        "headers: { Authorization: a }||auth: { bearer: a }",
        "headers: { authorization: a }||auth: { basic: { username: a, password: b } }",
    ]);
}

#[test]
fn wrong_templates() {
    check(&[
        "template: { body: a }",
        "format: json||template: { body: a }",
        "format: template",
        "format: template||template:",
        "format: template||template: []",
        "format: template||template: a",
        "format: template||template: {}",
        "format: template||template: { content_type: text/plain }",
        "format: template||template: { body: }",
        "format: template||template: { body: '' }",
        "format: template||template: { body: 5 }",
        "format: template||template: { body: [a] }",
        "format: template||template: { body: {} }",
        "format: template||template: { body: { env: A_VARIABLE } }",
        "format: template||template: { body: { file: no-such-file } }",
        "format: template||template: { body: { file: ../files } }",
        "format: template||template: { body: { file: ../files/not-utf8 } }",
        "format: template||template: { body: { file: ../files/empty } }",
        "format: template||template: { body: '{{ label' }",
        "format: template||template: { body: '{% if %}' }",
        "format: template||template: { body: '{% endfor %}' }",
        "format: template||template: { body: '{{ labl }}' }",
        "format: template||template: { body: '{{ label | tojsn }}' }",
        "format: template||template: { body: '{{ label.x.y }}' }",
        "format: template||template: { body: '{{ actor.user }}' }",
        "format: template||template: { body: '{% include \"a\" %}' }",
        "format: template||template: { body: '{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}' }",
        "format: template||template: { body: '{{ \"a\" * 9999999 }}' }",
        "events: [project-import-any, project-publish]||format: template||template: { body: '{{ versionTag }}' }",
        "format: template||template: { body: a, content_type: }",
        "format: template||template: { body: a, content_type: '' }",
        "format: template||template: { body: a, content_type: text }",
        "format: template||template: { body: a, content_type: 5 }",
        "format: template||template: { body: a, content_type: \"text/plain\\nx: y\" }",
        "format: template||template: { body: a, type: text/plain }",
    ]);
}

#[test]
fn wrong_rates() {
    check(&[
        "rate:",
        "rate: ''",
        "rate: 10",
        "rate: 10.5",
        "rate: '10'",
        "rate: true",
        "rate: 0/s",
        "rate: -1/s",
        "rate: +1/s",
        "rate: 1.5/s",
        "rate: 10/d",
        "rate: 10/S",
        "rate: 10 / s",
        "rate: 10/",
        "rate: /s",
        "rate: 10/s/s",
        "rate: 100001/s",
        "rate: 99999999999999999999/s",
        "rate: [10/s]",
        "rate: { n: 10 }",
    ]);
}

#[test]
fn wrong_filters() {
    check(&[
        "when:",
        "when: []",
        "when: {}",
        "when: a",
        "when: { user: a }",
        "when: { username: }",
        "when: { username: '' }",
        "when: { username: [] }",
        "when: { username: 5 }",
        "when: { username: [a, 5] }",
        "when: { username: [a, ''] }",
        "when: { username: [a, '!'] }",
        "when: { username: [[a]] }",
        "when: { username: { not: a } }",
        "when: { username: '[a' }",
        "when: { username: '!{a' }",
        "when: { username: '!*' }",
        "when: { versionTag: ['a', '!a'] }",
        "when: { versionTag: ['a', '!**'] }",
        "event: project-delete||when: { versionTag: a }",
    ]);
}

#[test]
fn wrong_events() {
    check(&[
        "event:",
        "event: ''",
        "event: 5",
        "event: {}",
        "event: [project-publish]",
        "event: project publish",
        "event: project-import",
        "events:",
        "events: []",
        "events: {}",
        "events: true",
        "events: ''",
        "events: [project-publish, project-publish]",
        "events: [project-publish, Project Publish]",
        "events: ['*', '*']",
        "events: ['*', project-publish]",
        "events: [project-save, project-save]",
        "events: [[project-publish]]",
        "events: [project-publish, ]x",
        "event: project-publish||events: project-save",
    ]);
}
