//! The setting `auth`, values in files that change, and URLs that are secrets.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use project_webhooks::config::{self, Webhook, WithoutSecrets};
use project_webhooks::domain::delivery::Outcome;
use project_webhooks::receiver::{Received, Reply};
use project_webhooks::webhook::Attempt;
use serde_json::Value;

use crate::common::{Endpoint, Home, Run as _, Settings, wait_until, xml};
use crate::harness::{self, REFUSED};
use crate::{printed, start, webhook};

/// The clients of the token endpoint: `client id:client/secret`, encoded as RFC 6749 asks.
const CLIENT: &str = "Basic Y2xpZW50K2lkOmNsaWVudCUyRnNlY3JldA==";

fn authorization(received: &Received) -> &str {
    received.header("authorization").unwrap_or_default()
}

fn json(status: StatusCode, body: &str) -> Reply {
    let mut reply = Reply::status(status);
    reply.body = body.to_owned().into();
    reply
}

/// A token endpoint that issues `token-1`, `token-2`, …, each for this many seconds.
fn token_endpoint(seconds: u32) -> Endpoint {
    let n = AtomicUsize::new(0);
    Endpoint::answering(move |received| {
        let body = String::from_utf8_lossy(&received.body);
        if authorization(received) != CLIENT || body != "grant_type=client_credentials&scope=a+b" {
            return json(StatusCode::BAD_REQUEST, "{\"error\": \"invalid_request\"}");
        }
        let token = format!("token-{}", n.fetch_add(1, Ordering::SeqCst) + 1);
        let body = format!(
            "{{\"access_token\": \"{token}\", \"token_type\": \"bearer\", \"expires_in\": {seconds}}}"
        );
        json(StatusCode::OK, &body)
    })
}

/// A receiver that wants this token.
fn guarded(token: &Arc<Mutex<String>>) -> Endpoint {
    let token = Arc::clone(token);
    Endpoint::answering(move |received| {
        let is_right = authorization(received) == format!("Bearer {}", token.lock().unwrap());
        Reply::status(if is_right {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::UNAUTHORIZED
        })
    })
}

fn oauth2(token_url: &str) -> String {
    format!(
        "auth: {{ oauth2: {{ token_url: '{token_url}', client_id: 'client id', \
         client_secret: client/secret, scope: a b }} }}"
    )
}

/// A webhook with one more setting.
fn with(url: &str, setting: &str) -> Webhook {
    let text = format!(
        "{{ repository: {{ path: /nowhere }}, webhooks: [ {{ name: catalog, events: '*', \
         url: '{url}', timeout: 60s, connect_timeout: 60s, {setting} }} ] }}"
    );
    let loaded = config::load_str(text.as_bytes(), Path::new("config.yaml"), &WithoutSecrets);
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    loaded.config.webhooks.into_iter().next().unwrap()
}

/// Waits for so many requests, which an endpoint may answer before it notes them.
fn expect_requests(endpoint: &Endpoint, n: usize) {
    wait_until("the requests", || (endpoint.n_all() >= n).then_some(()));
    assert_eq!(endpoint.n_all(), n);
}

/// Sends so many callbacks with one client.
fn sent(webhook: &Webhook, n: usize) -> Vec<Attempt> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        let client = harness::client(webhook);
        let mut attempts = Vec::new();
        for _ in 0..n {
            let callback = harness::callback(b"<x/>");
            attempts.push(client.send(&callback, harness::now()).await);
        }
        attempts
    })
}

#[test]
fn fixed_values_are_sent_and_not_shown() {
    let endpoint = Endpoint::new();
    for (setting, expected) in [
        ("auth: { bearer: hush }", "Bearer hush"),
        (
            "auth: { basic: { username: ada, password: 'hu:sh' } }",
            "Basic YWRhOmh1OnNo",
        ),
    ] {
        let attempt = sent(&with(&endpoint.url(), setting), 1).remove(0);
        assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
        let received = endpoint.wait_for(1);
        assert_eq!(authorization(&received[0]), expected);
        endpoint.take();
        let hidden = ("authorization".to_owned(), "(not shown)".to_owned());
        assert!(attempt.request_headers.contains(&hidden), "{attempt:?}");
    }
}

#[test]
fn one_token_is_fetched_for_many_requests_and_another_after_a_401() {
    let wanted = Arc::new(Mutex::new("token-1".to_owned()));
    let (tokens, receiver) = (token_endpoint(3600), guarded(&wanted));
    let to = webhook("catalog", &receiver.url()).with(&oauth2(&tokens.url()));
    let home = Home::new(&Settings::of([to]));
    let _daemon = start(&home, &[]);
    for number in 0..12 {
        let path = format!("sales/p{number}/project.xml");
        home.write(&path, &xml("Orders", "", "one"));
    }
    receiver.wait_for(12);
    expect_requests(&tokens, 1);
    let received = receiver.take();
    let is_right = |one: &Received| authorization(one) == "Bearer token-1";
    assert!(received.iter().all(is_right));

    // The authorization server has revoked the token before its time.
    "token-2".clone_into(&mut wanted.lock().unwrap());
    home.write("sales/late/project.xml", &xml("Late", "", "one"));
    let received = receiver.wait_for(2);
    let sent: Vec<_> = received
        .iter()
        .map(|one| (authorization(one), one.attempt))
        .collect();
    assert_eq!(
        sent,
        [("Bearer token-1", Some(1)), ("Bearer token-2", Some(1))]
    );
    expect_requests(&tokens, 2);
    let listed = wait_until("the delivery", || {
        let listed = home.json(&["deliveries"]);
        let mut all = listed.as_array()?.iter();
        let is_done = |one: &Value| one["state"] == "delivered" && one["attempts"] == 1;
        all.all(is_done).then_some(listed)
    });
    assert!(!listed.to_string().contains("token-"));
}

#[test]
fn an_expired_token_is_replaced_and_a_lasting_one_is_kept() {
    for (seconds, n_fetched) in [(0, 3), (3600, 1)] {
        let endpoint = Endpoint::new();
        let tokens = token_endpoint(seconds);
        let webhook = with(&endpoint.url(), &oauth2(&tokens.url()));
        for sent in sent(&webhook, 3) {
            assert_eq!(sent.outcome, Outcome::Accepted, "{sent:?}");
        }
        expect_requests(&tokens, n_fetched);
    }
}

#[test]
fn a_token_that_is_refused_is_replaced_once_in_an_attempt() {
    let wanted = Arc::new(Mutex::new("another".to_owned()));
    let (tokens, receiver) = (token_endpoint(3600), guarded(&wanted));
    let sent = sent(&with(&receiver.url(), &oauth2(&tokens.url())), 1).remove(0);
    assert_eq!(
        (sent.outcome, sent.status),
        (REFUSED, Some(401)),
        "{sent:?}"
    );
    expect_requests(&tokens, 2);
    expect_requests(&receiver, 2);
}

#[test]
fn an_error_says_that_the_token_is_missing_and_why() {
    let receiver = Endpoint::new();
    let refused = Endpoint::reserved();
    let mut cases = vec![(refused.url(), "connection refused ".to_owned())];
    let mut endpoints = Vec::new();
    for (status, body, expected) in [
        (
            400,
            "{\"error\": \"invalid_client\"}",
            "the answer was 400 Bad Request: invalid_client ",
        ),
        (503, "hush", "the answer was 503 Service Unavailable "),
        (302, "", "the answer was 302 Found "),
        (
            200,
            "hush",
            "the answer is not a JSON object with an access_token ",
        ),
        (
            200,
            "{\"access_token\": \"hush\", \"token_type\": \"mac\"}",
            "the token is not a bearer token ",
        ),
        (
            200,
            "{\"access_token\": \"hu\\nsh\"}",
            "the token cannot be sent in a header ",
        ),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let endpoint = Endpoint::answering(move |_| json(status, body));
        cases.push((endpoint.url(), expected.to_owned()));
        endpoints.push(endpoint);
    }
    for (url, expected) in cases {
        let sent = sent(&with(&receiver.url(), &oauth2(&url)), 1).remove(0);
        assert_eq!(sent.outcome, Outcome::NO_ANSWER);
        let expected = format!("cannot get a token: {expected}({})", harness::host(&url));
        assert_eq!(sent.error, Some(expected));
    }
    assert_eq!(receiver.n_all(), 0);
}

#[test]
fn a_changed_file_is_read_again_after_a_401() {
    let wanted = Arc::new(Mutex::new("new".to_owned()));
    let receiver = guarded(&wanted);
    let header = "headers: { Authorization: { file: header } }";
    let bearer = "auth: { bearer: { file: token } }";
    for (setting, file, prefix) in [(header, "header", "Bearer "), (bearer, "token", "")] {
        let to = webhook("catalog", &receiver.url()).with(setting);
        let home = Home::new(&Settings::of([to]));
        fs::write(home.beside(file), format!("{prefix}old\n")).unwrap();
        let _daemon = start(&home, &[]);
        home.write("sales/first/project.xml", &xml("First", "", "one"));
        wait_until("a failed delivery", || {
            (home.json(&["deliveries"])[0]["lastStatus"] == 401).then_some(())
        });
        // The file did not change, so there was one request.
        expect_requests(&receiver, 1);
        fs::write(home.beside(file), format!("{prefix}new\n")).unwrap();
        home.write("sales/second/project.xml", &xml("Second", "", "one"));
        let received = receiver.wait_for(3);
        let sent: Vec<_> = received.iter().map(authorization).collect();
        assert_eq!(sent, ["Bearer old", "Bearer old", "Bearer new"]);
        receiver.take();
        // Later requests begin with the new value.
        home.write("sales/third/project.xml", &xml("Third", "", "one"));
        receiver.wait_for_one("the new value", |one| authorization(one) == "Bearer new");
        assert_eq!(receiver.n(), 1);
        receiver.take();
    }
}

#[test]
fn a_changed_file_is_read_again_when_the_authorization_server_refuses_the_client() {
    // Servers answer 400 or 401 to a secret that was replaced.
    // Some send the life with a fraction, and none is longer than zero.
    let table = [
        (400, "invalid_client", "0"),
        (401, "hush", "0.0"),
        (403, "hush", "-1"),
    ];
    for (status, error, life) in table {
        let wanted = Arc::new(Mutex::new("old"));
        let known = Arc::clone(&wanted);
        let tokens = Endpoint::answering(move |received| {
            let client = BASE64_STANDARD.encode(format!("client:{}", known.lock().unwrap()));
            if authorization(received) == format!("Basic {client}") {
                let token = format!("{{\"access_token\": \"token\", \"expires_in\": {life}}}");
                return json(StatusCode::OK, &token);
            }
            let status = StatusCode::from_u16(status).unwrap();
            json(status, &format!("{{\"error\": \"{error}\"}}"))
        });
        let receiver = Endpoint::new();
        let auth = format!(
            "auth: {{ oauth2: {{ token_url: '{}', client_id: client, \
             client_secret: {{ file: secret }} }} }}",
            tokens.url()
        );
        let to = webhook("catalog", &receiver.url()).with(&auth);
        let home = Home::new(&Settings::of([to]));
        fs::write(home.beside("secret"), "old\n").unwrap();
        let _daemon = start(&home, &[]);
        home.write("sales/first/project.xml", &xml("First", "", "one"));
        receiver.wait_for(1);
        fs::write(home.beside("secret"), "new\n").unwrap();
        *wanted.lock().unwrap() = "new";
        home.write("sales/second/project.xml", &xml("Second", "", "one"));
        let received = receiver.wait_for(2);
        let attempts: Vec<_> = received.iter().map(|one| one.attempt).collect();
        assert_eq!(attempts, [Some(1), Some(1)], "{status}");
        // The new value is kept.
        home.write("sales/third/project.xml", &xml("Third", "", "one"));
        receiver.wait_for(3);
        expect_requests(&tokens, 4);
    }
}

#[test]
fn a_url_from_a_credential_is_never_printed() {
    let endpoint = Endpoint::new();
    let refused = Endpoint::reserved();
    let [good, bad] = [endpoint.url(), refused.url()].map(|url| format!("{url}services/hush/T0"));
    let to = |name: &str| {
        let yaml = webhook(name, "{ credential: URL }").with("timeout: 20s");
        yaml.with(&format!("headers: {{ X-Name: {name} }}"))
    };
    let mut home = Home::new(&Settings::of([to("good"), to("bad")]));
    let config = fs::read_to_string(home.config()).unwrap();
    let config = config.replacen("credential: URL", "credential: good-url", 1);
    let config = config.replacen("credential: URL", "credential: bad-url", 1);
    fs::write(home.config(), config).unwrap();
    fs::write(home.beside("good-url"), &good).unwrap();
    fs::write(home.beside("bad-url"), &bad).unwrap();
    let directory = home.path().to_str().unwrap().to_owned();
    let daemon = start(&home, &[("CREDENTIALS_DIRECTORY", &directory)]);
    let shown = crate::import(&home, 2);
    assert_eq!(shown["good"].0, "delivered");
    assert_eq!(endpoint.all()[0].target, "/services/hush/T0");
    let (_, text) = &shown["bad"];
    assert!(text.contains("connection refused (the receiver)"), "{text}");

    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
            .arg("--config")
            .arg(home.config())
            .args(arguments)
            .env("CREDENTIALS_DIRECTORY", &directory)
            .run()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8(text).unwrap()
    };
    let mut all = vec![text.clone()];
    for arguments in [
        &["check"][..],
        &["check", "--json"],
        &["webhooks"],
        &["webhooks", "--json"],
        &["webhooks", "test", "good"],
        &["webhooks", "test", "good", "--json"],
        &["webhooks", "test", "bad"],
        &["status"],
        &["deliveries", "--json"],
    ] {
        let text = run(arguments);
        let is_there = ["good", "refused", "(not shown)"];
        assert!(is_there.iter().any(|part| text.contains(part)), "{text}");
        all.push(text);
    }
    // An operator's shell without the credentials lists the webhooks too.
    all.push(printed(&home, &["webhooks"]));
    all.extend(daemon.entries().iter().map(|entry| entry.0.to_string()));
    for secret in ["hush", &endpoint.port().to_string(), &harness::host(&bad)] {
        for text in &all {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    drop(daemon);
    home = Home::new(&Settings::of([webhook("plain", &good)]));
    let listed = printed(&home, &["webhooks"]);
    assert!(listed.contains("/services/…"), "{listed}");
    assert!(!listed.contains("hush"), "{listed}");
}
